"""`GET /openapi.json`: the spec of what exists.

Invariant: every route of the application is described, and nothing else; a test compares.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import __version__
from plateau_sse.api.external import EVENTS_MOST, ExternalEvent
from plateau_sse.api.prefix import url_of
from plateau_sse.api.requests import CONVERSATION_ID, RunRequest
from plateau_sse.api.schemas import CONVERSATION, PROBLEM, RUN
from plateau_sse.errors import PROBLEMS

_JSON = "application/json"


def _content(schema: dict[str, Any], media_type: str = _JSON) -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _says(
    description: str, schema: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {"description": description, **(_content(schema) if schema else {}), **more}


def _problems(*statuses: int) -> dict[str, Any]:
    found = {}
    for status in statuses:
        codes = [code for code, (of, _) in PROBLEMS.items() if of == status]
        found[str(status)] = {
            "description": "Problem: " + ", ".join(f"`{code}`" for code in codes),
            **_content(_ref("Problem"), "application/problem+json"),
        }
    return found


def _header(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "description": description,
        "schema": {"type": "string"},
    }


def _query(name: str, description: str) -> dict[str, Any]:
    return {**_header(name, description), "in": "query"}


_RUN_ID = {
    "name": "run_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^([0-9a-f]{32}|hit-[0-9A-Za-z_-]{24})$"},
}
_CONVERSATION_ID = {
    "name": "conversation_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": CONVERSATION_ID},
}
_TOKEN = _query("token", "The run's own token, as in `events_url`; opens this run only.")
_EVENTS = {
    "description": "Server-sent events",
    **_content({"type": "string"}, "text/event-stream"),
}


def _create() -> dict[str, Any]:
    return {
        "summary": "Ask an agent",
        "description": "With `Accept: text/event-stream` the answer is the stream itself.",
        "parameters": [
            _header("Prefer", "`wait=N`: answer when the run ends, or after N s."),
            _header("Idempotency-Key", "A repeat under the same key is the same run."),
            _header("Cache-Control", "`no-cache` is `cache.mode` refresh, `no-store` is off."),
        ],
        "requestBody": {"required": True, **_content(_ref("RunRequest"))},
        "responses": {
            "200": {
                "description": "A cached answer, a run awaited to its end, or the stream",
                "content": _content(_ref("Run"))["content"] | _EVENTS["content"],
            },
            "202": _says("Enqueued, or joined: `X-Cache` tells", _ref("Run")),
            **_problems(400, 401, 403, 413, 422, 429, 503),
        },
    }


def _paths() -> dict[str, Any]:
    up = {"type": "object"}
    one = _ref("ExternalEvent")
    many = {"type": "array", "items": one, "maxItems": EVENTS_MOST}
    key_or_token: list[dict[str, Any]] = [{"key": []}, {}]
    return {
        "/v1/runs": {"post": _create()},
        "/v1/runs/{run_id}": {
            "parameters": [_RUN_ID, _TOKEN],
            "get": {
                "summary": "A run's record",
                "security": key_or_token,
                "responses": {
                    "200": _says("The record", _ref("Run")),
                    **_problems(401, 404, 410, 503),
                },
            },
        },
        "/v1/runs/{run_id}/events": {
            "parameters": [_RUN_ID, _TOKEN],
            "get": {
                "summary": "Follow a run, from the start or from where it was left",
                "security": key_or_token,
                "parameters": [
                    _header("Last-Event-ID", "Go on after this event: `<attempt>-<seq>`."),
                    _query("last_event_id", "The same, for clients that cannot set headers."),
                    _query("event_names", "`1`: add `event:` lines."),
                ],
                "responses": {
                    "200": _EVENTS,
                    "204": _says("That event was the last: do not come back"),
                    **_problems(400, 401, 404, 410),
                },
            },
            "post": {
                "summary": "Append to an external run",
                "description": "One event or an array, all or nothing; `[]` renews the lease.",
                "parameters": [
                    _query("first_seq", "The number of the first event: makes a repeat safe.")
                ],
                "requestBody": {"required": True, **_content({"anyOf": [one, many]})},
                "responses": {
                    "200": _says("Appended, or there already", up),
                    **_problems(400, 401, 404, 409, 410, 413, 422, 503),
                },
            },
        },
        "/v1/runs/{run_id}/cancel": {
            "parameters": [_RUN_ID, _TOKEN],
            "post": {
                "summary": "Cancel a run",
                "security": key_or_token,
                "responses": {
                    "200": _says("Cancelled", up),
                    "202": _says("Its agent is being told", up),
                    **_problems(401, 404, 409, 410, 503),
                },
            },
        },
        "/v1/conversations/{conversation_id}": {
            "parameters": [
                _CONVERSATION_ID,
                _query("user", "As in the runs that it was said in."),
            ],
            "get": {
                "summary": "What is remembered of a conversation",
                "responses": {
                    "200": _says("As an agent is given it", _ref("Conversation")),
                    **_problems(401, 403, 404, 422, 503),
                },
            },
            "delete": {
                "summary": "Forget a conversation",
                "responses": {
                    "204": _says("Forgotten"),
                    **_problems(401, 403, 422, 503),
                },
            },
        },
        "/api/admin/cache": {
            "delete": {
                "summary": "Forget cached answers",
                "security": [{"admin": []}],
                "parameters": [
                    _query("agent", "Only this agent's."),
                    _query("admin_token", "ADMIN_TOKEN, for clients that cannot set headers."),
                ],
                "responses": {
                    "200": _says("How many are gone", up),
                    **_problems(401, 403, 422, 503),
                },
            }
        },
        "/api/admin/metrics": {
            "get": {
                "summary": "Everything that operators look at; as events anew every 2 s",
                "security": [{"admin": []}],
                "parameters": [
                    _query("admin_token", "ADMIN_TOKEN, for clients that cannot set headers.")
                ],
                "responses": {
                    "200": {
                        "description": "The picture",
                        "content": {
                            _JSON: {"schema": up},
                            "text/event-stream": {"schema": {"type": "string"}},
                        },
                    },
                    **_problems(401, 403, 429),
                },
            }
        },
        "/metrics": {"get": _open("For Prometheus", _file("text/plain"), False)},
        "/health": {"get": _open("The whole picture", _says("Up or degraded", up), True)},
        "/health/live": {"get": _open("Is this process alive", _says("It is", up), False)},
        "/health/ready": {"get": _open("May it get traffic", _says("It may", up), True)},
        "/": {"get": _open("A page to try it on", _file("text/html"), False)},
        "/page.css": {"get": _open("Its style", _file("text/css"), False)},
        "/page.js": {"get": _open("Its script", _file("text/javascript"), False)},
        "/answer.js": {"get": _open("Its renderer", _file("text/javascript"), False)},
        "/client.js": {"get": _open("`follow` and `fold`", _file("text/javascript"), False)},
        "/ops": {"get": _open("A live page for operators", _file("text/html"), False)},
        "/ops.css": {"get": _open("Its style", _file("text/css"), False)},
        "/ops.js": {"get": _open("Its script", _file("text/javascript"), False)},
        "/figures.js": {"get": _open("Its figures", _file("text/javascript"), False)},
        "/chart.js": {"get": _open("Its charts", _file("text/javascript"), False)},
        "/icon.svg": {"get": _open("The icon", _file("image/svg+xml"), False)},
        "/openapi.json": {"get": _open("This document", _says("OpenAPI 3.1", up), False)},
    }


def _file(media_type: str) -> dict[str, Any]:
    return {"description": "The file", **_content({"type": "string"}, media_type)}


def _open(summary: str, says: dict[str, Any], may_fail: bool) -> dict[str, Any]:
    """A route that needs no key."""
    responses = {"200": says}
    if may_fail:
        responses["503"] = _says("Not now; the cause is in the body", {"type": "object"})
    return {"summary": summary, "security": [], "responses": responses}


@cache
def document() -> bytes:
    """All of it but `servers`, without its first brace."""
    (_, external), schemas = msgspec.json.schema_components(
        [RunRequest, ExternalEvent], ref_template="#/components/schemas/{name}"
    )
    return msgspec.json.encode(
        {
            "info": {"title": "Plateau", "version": __version__},
            "paths": _paths(),
            "components": {
                "schemas": {
                    **schemas,
                    "ExternalEvent": external,
                    "Run": RUN,
                    "Problem": PROBLEM,
                    "Conversation": CONVERSATION,
                },
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer"},
                    "admin": {"type": "http", "scheme": "bearer"},
                },
            },
            "security": [{"key": []}],
        }
    )[1:]


async def openapi(request: Request) -> Response:
    # Never kept by prefix: a hop may name any number of them.
    server = url_of(request.scope, "").encode() or b"/"
    content = b'{"openapi":"3.1.0","servers":[{"url":"%b"}],%b' % (server, document())
    return Response(content, headers={"Cache-Control": "no-cache"}, media_type=_JSON)


routes = [Route("/openapi.json", openapi, methods=["GET"])]
