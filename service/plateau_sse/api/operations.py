"""What can be asked of each route, for `GET /openapi.json`.

Invariant: every route of the application is described, and nothing else; a test compares.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.api import pages
from plateau_sse.api import parameters as given
from plateau_sse.api.event_schemas import ref
from plateau_sse.api.external import EVENT_BYTES, EVENTS_MOST
from plateau_sse.api.requests import BODY_BYTES, OPTIONS_DEPTH
from plateau_sse.errors import PROBLEMS

Operation = dict[str, Any]

JSON, SSE = "application/json", "text/event-stream"
# Where there are no keys nobody needs one.
KEY: list[dict[str, list[str]]] = [{"key": []}, {}]
KEY_OR_TOKEN: list[dict[str, list[str]]] = [{"run": []}, {"key": []}, {}]
ADMIN: list[dict[str, list[str]]] = [{"admin": []}]
NOBODY: list[dict[str, list[str]]] = []


def _content(schema: dict[str, Any], media_type: str = JSON) -> dict[str, Any]:
    return {media_type: {"schema": schema}}


def _says(description: str, name: str = "", **headers: Any) -> dict[str, Any]:
    """An answer; `name` is that of its schema."""
    said: dict[str, Any] = {"description": description}
    if headers:
        said["headers"] = headers
    if name:
        said["content"] = _content(ref(name))
    return said


def _problems(*statuses: int) -> dict[str, Any]:
    found = {}
    for status in statuses:
        codes = [code for code, (of, _) in PROBLEMS.items() if of == status]
        says = _says("Problem: " + ", ".join(f"`{code}`" for code in codes))
        says["content"] = _content(ref("Problem"), "application/problem+json")
        if status in (429, 503):
            says["headers"] = given.RETRY_AFTER
        found[str(status)] = says
    return found


def _operation(
    tag: str,
    name: str,
    summary: str,
    description: str,
    security: list[dict[str, list[str]]],
    responses: dict[str, Any],
    **more: Any,
) -> Operation:
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "description": description,
        "security": security,
        **more,
        "responses": responses,
    }


def _events(description: str, **headers: Any) -> dict[str, Any]:
    return {**_says(description, **headers), "content": _content(ref("Event"), SSE)}


_QUESTION = {"agent": "study", "input": "A plateau is high and flat. It was raised as a whole."}
_EXAMPLES = {
    "question": {"summary": "A text to sum up", "value": _QUESTION},
    "quiz": {
        "summary": "The same as a quiz, answered anew",
        "value": _QUESTION | {"options": {"task": "quiz"}, "cache": {"mode": "refresh"}},
    },
    "conversation": {
        "summary": "One of several, which are remembered",
        "value": {"agent": "openai", "input": "Hi!", "conversation_id": "c1"},
    },
    "messages": {
        "summary": "All that was said before",
        "value": {
            "agent": "openai",
            "messages": [
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "What is a mesa?"},
            ],
        },
    },
    "external": {"summary": "A run that you append to", "value": {"agent": "external"}},
}


def _create() -> Operation:
    return _operation(
        "runs",
        "createRun",
        "Ask an agent",
        "Equal requests are answered once: from the cache (`X-Cache: hit`), or by joining the "
        "run that is under way (`joined`). With `Accept: text/event-stream` the answer is the "
        f"stream itself. A body may have {BODY_BYTES // 1024} KiB, and its `options` may nest "
        f"{OPTIONS_DEPTH} levels deep; unknown members are refused. In a conversation only "
        "system messages and the user's new one are sent.",
        KEY,
        {
            "200": {
                **_says("A cached answer, a run awaited to its end, or the stream"),
                "headers": given.REPLAYED,
                "content": _content(ref("Run")) | _content(ref("Event"), SSE),
            },
            "202": _says("Enqueued, or joined: `X-Cache` tells", "Run", **given.TAKEN),
            **_problems(400, 401, 403, 413, 415, 422, 429, 501, 503),
        },
        parameters=[
            given.ACCEPT,
            given.PREFER,
            given.IDEMPOTENCY_KEY,
            given.CACHE_CONTROL,
            given.REQUEST_ID,
        ],
        requestBody={
            "required": True,
            "content": {JSON: {"schema": ref("RunRequest"), "examples": _EXAMPLES}},
        },
    )


def _append() -> Operation:
    one = ref("PostedEvent")
    many = {"type": "array", "items": one, "maxItems": EVENTS_MOST}
    text = {"type": "message.delta", "text": "Hello"}
    end = {"type": "run.completed", "usage": {"input_tokens": 7, "output_tokens": 1}}
    return _operation(
        "runs",
        "appendEvents",
        "Append to an external run",
        "One event or an array, all or nothing; `[]` renews the lease. Nothing can follow the "
        f"event that ends the run. An event may have {EVENT_BYTES // 1024} KiB, an answer 256. "
        "A run's token only reads: this takes its owner's key.",
        KEY,
        {
            "200": _says("Appended, or there already", "Appended"),
            **_problems(400, 401, 403, 404, 409, 410, 413, 415, 422, 501, 503),
        },
        parameters=[given.FIRST_SEQ],
        requestBody={
            "required": True,
            "content": {
                JSON: {
                    "schema": {"oneOf": [one, many]},
                    "examples": {
                        "one": {"summary": "More text", "value": text},
                        "many": {"summary": "More text, and the end", "value": [text, end]},
                        "none": {"summary": "Still there", "value": []},
                    },
                }
            },
        },
    )


def _runs() -> dict[str, Any]:
    own = [given.RUN_ID, given.TOKEN]
    return {
        "/v1/runs": {"post": _create()},
        "/v1/runs/{run_id}": {
            "parameters": own,
            "get": _operation(
                "runs",
                "getRun",
                "A run's record",
                "Kept for `STREAM_TTL_S` after its end; then a 410.",
                KEY_OR_TOKEN,
                {"200": _says("The record", "Run"), **_problems(401, 403, 404, 410, 503)},
            ),
        },
        "/v1/runs/{run_id}/events": {
            "parameters": own,
            "get": _operation(
                "runs",
                "followRun",
                "Follow a run, from the start or from where it was left",
                "Server-sent events, with an `id:` to come back with; each `data:` is an "
                "`Event`. `EventSource` comes back from no status but 200: here only what is "
                "permanent is another one, and a passing fault a 200 that ends at once.",
                KEY_OR_TOKEN,
                {
                    "200": _events("What follows, as it comes, to the terminal event"),
                    "204": _says("That event was the last: do not come back"),
                    **_problems(400, 401, 403, 404, 410),
                },
                parameters=[*given.POSITION, given.EVENT_NAMES],
            ),
            "post": _append(),
        },
        "/v1/runs/{run_id}/cancel": {
            "parameters": own,
            "post": _operation(
                "runs",
                "cancelRun",
                "Cancel a run",
                "Repeatable. Of a run that is shared a token gives up its own share; it ends "
                "with the last one.",
                KEY_OR_TOKEN,
                {
                    "200": _says("Cancelled", "Cancellation"),
                    "202": _says("Its agent is being told", "Cancellation"),
                    **_problems(401, 403, 404, 409, 410, 503),
                },
            ),
        },
    }


def _conversations() -> dict[str, Any]:
    return {
        "/v1/conversations/{conversation_id}": {
            "parameters": [given.CONVERSATION_ID, given.USER],
            "get": _operation(
                "conversations",
                "getConversation",
                "What is remembered of a conversation",
                "As its next run's agent is given it, and the run that is on, if one is.",
                KEY,
                {
                    "200": _says("The conversation", "Conversation"),
                    **_problems(401, 403, 404, 422, 503),
                },
            ),
            "delete": _operation(
                "conversations",
                "deleteConversation",
                "Forget a conversation",
                "Repeatable: what is not there is forgotten already.",
                KEY,
                {"204": _says("Forgotten"), **_problems(401, 403, 422, 503)},
            ),
        }
    }


def _operators() -> dict[str, Any]:
    picture = _says("The picture", "Metrics")
    picture["content"] |= _content(ref("Metrics"), SSE)
    return {
        "/api/admin/cache": {
            "delete": _operation(
                "operators",
                "clearCache",
                "Forget cached answers",
                "All, or those of one agent.",
                ADMIN,
                {
                    "200": _says("How many are gone", "Cleared"),
                    **_problems(401, 403, 422, 503),
                },
                parameters=[given.AGENT, given.ADMIN_TOKEN],
            )
        },
        "/api/admin/metrics": {
            "get": _operation(
                "operators",
                "getMetrics",
                "Everything that operators look at",
                "With `Accept: text/event-stream` anew every 2 s, until you go.",
                ADMIN,
                {"200": picture, **_problems(401, 403, 429)},
                parameters=[given.ADMIN_ACCEPT, given.ADMIN_TOKEN],
            )
        },
        "/metrics": {
            "get": _open(
                "getExposition", "For Prometheus", "Its text format.", _file("text/plain")
            )
        },
    }


def _health() -> dict[str, Any]:
    not_now = "Not now; the cause is in the body"
    return {
        "/health": {
            "get": _open(
                "getHealth",
                "The whole picture",
                "A runner or a cache that is down makes it degraded, not down.",
                _says("Up or degraded", "Health"),
                {"503": _says(not_now, "Health")},
            )
        },
        "/health/live": {
            "get": _open(
                "getLiveness",
                "Is this process alive",
                "Touches nothing but this process.",
                _says("It is", "Probe"),
            )
        },
        "/health/ready": {
            "get": _open(
                "getReadiness",
                "May it get traffic",
                "Asks the streams server, and whether this worker is leaving.",
                _says("It may", "Probe"),
                {"503": _says(not_now, "Probe")},
            )
        },
    }


def _open(
    name: str,
    summary: str,
    description: str,
    says: dict[str, Any],
    others: dict[str, Any] | None = None,
) -> Operation:
    """A route that needs no key."""
    tag = "health" if says.get("content", {}).get(JSON) else "operators"
    responses = {"200": says, **(others or {})}
    return _operation(tag, name, summary, description, NOBODY, responses)


def _file(media_type: str) -> dict[str, Any]:
    return {"description": "The file", "content": _content({"type": "string"}, media_type)}


def _files() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, page in (pages.PAGES | pages.FROM_DISK).items():
        # A stem of its own for each: page.js and page.css are two files.
        name = "".join(part.capitalize() for part in page.file.replace("-", ".").split("."))
        found[path] = {
            "get": _operation(
                "pages",
                f"get{name}",
                page.summary,
                "Asked for again with `If-None-Match`, it is sent only where it has changed.",
                NOBODY,
                {
                    "200": _file(page.media_type),
                    "304": _says("It is as it was"),
                },
            )
        }
    found["/openapi.json"] = {
        "get": _operation(
            "pages",
            "getOpenapi",
            "This document",
            "Its `servers` name the path that you reached it under.",
            NOBODY,
            {"200": {"description": "OpenAPI 3.1", "content": _content({"type": "object"})}},
        )
    }
    return found


def paths() -> dict[str, Any]:
    return _runs() | _conversations() | _operators() | _health() | _files()
