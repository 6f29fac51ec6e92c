"""What can be asked of each route, for `GET /openapi.json`.

Invariant: every route of the application is described, and nothing else; a test compares.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.api import pages
from plateau_sse.api.spec import dialect_operations, run_operations
from plateau_sse.api.spec import parameters as given
from plateau_sse.api.spec.event_schemas import ref
from plateau_sse.api.spec.operation import (
    ADMIN,
    JSON,
    NOBODY,
    SSE,
    Operation,
    content,
    operation,
    problems,
    says,
)


def _operators() -> dict[str, Any]:
    picture = says("The picture", "Metrics")
    picture["content"] |= content(ref("Metrics"), SSE)
    return {
        "/api/admin/cache": {
            "delete": operation(
                "operators",
                "clearCache",
                "Forget cached answers",
                "All, or those of one agent.",
                ADMIN,
                {
                    "200": says("How many are gone", "Cleared"),
                    **problems(401, 403, 422, 503),
                },
                parameters=[given.AGENT, given.ADMIN_TOKEN],
            )
        },
        "/api/admin/metrics": {
            "get": operation(
                "operators",
                "getMetrics",
                "Everything that operators look at",
                "With `Accept: text/event-stream` anew every 2 s, until you go; the first "
                "then has `history`, the last ten minutes as this worker has seen them: lists "
                "of the time in seconds, bytes of memory, readers, events a second.",
                ADMIN,
                {"200": picture, **problems(401, 403, 429)},
                parameters=[given.ADMIN_ACCEPT, given.ADMIN_TOKEN],
            )
        },
        "/api/admin/runs": {
            "get": operation(
                "operators",
                "listLiveRuns",
                "Runs that are on or wait, whoever owns them",
                "The longest first, 100 at most; `more` is how many there are beyond them.",
                ADMIN,
                {"200": says("Those that are on", "LiveRuns"), **problems(401, 403, 422, 503)},
                parameters=[given.FIND, given.ADMIN_TOKEN],
            )
        },
        "/api/admin/runs/{run_id}/cancel": {
            "parameters": [given.RUN_ID],
            "post": operation(
                "operators",
                "cancelAnyRun",
                "Cancel a run, whoever owns it",
                "Repeatable. It ends for all who share it.",
                ADMIN,
                {
                    "200": says("Cancelled", "Cancellation"),
                    "202": says("Its agent is being told", "Cancellation"),
                    **problems(401, 403, 404, 409, 410, 503),
                },
                parameters=[given.ADMIN_TOKEN],
            ),
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
                "Is all of it well",
                "A runner or a cache that is down makes it degraded, not down. Figures and "
                "causes are told with `ADMIN_TOKEN` as Bearer, and on a machine's own service "
                "without keys; else the states alone, as they were a second ago at most.",
                says("Up or degraded", "Health"),
                {"503": says(not_now, "Health")},
            )
        },
        "/health/live": {
            "get": _open(
                "getLiveness",
                "Is this process alive",
                "Touches nothing but this process.",
                says("It is", "Probe"),
            )
        },
        "/health/ready": {
            "get": _open(
                "getReadiness",
                "May it get traffic",
                "Asks the streams server, and whether this worker is leaving.",
                says("It may", "Probe"),
                {"503": says(not_now, "Probe")},
            )
        },
    }


def _open(
    name: str,
    summary: str,
    description: str,
    answer: dict[str, Any],
    others: dict[str, Any] | None = None,
) -> Operation:
    """A route that needs no key."""
    tag = "health" if answer.get("content", {}).get(JSON) else "operators"
    responses = {"200": answer, **(others or {})}
    return operation(tag, name, summary, description, NOBODY, responses)


def _file(media_type: str) -> dict[str, Any]:
    return {"description": "The file", "content": content({"type": "string"}, media_type)}


def _files() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, page in (pages.PAGES | pages.FROM_DISK).items():
        # A stem of its own for each: page.js and page.css are two files.
        file = page.file.rpartition("/")[2].replace("-", ".")
        name = "".join(part.capitalize() for part in file.split("."))
        found[path] = {
            "get": operation(
                "pages",
                f"get{name}",
                page.summary,
                "Asked for again with `If-None-Match`, it is sent only where it has changed.",
                NOBODY,
                {
                    "200": _file(page.media_type),
                    "304": says("It is as it was"),
                },
            )
        }
    found["/openapi.json"] = {
        "get": operation(
            "pages",
            "getOpenapi",
            "This document",
            "Its `servers` name the path that you reached it under.",
            NOBODY,
            {"200": {"description": "OpenAPI 3.1", "content": content({"type": "object"})}},
        )
    }
    return found


def paths() -> dict[str, Any]:
    return (
        run_operations.runs()
        | run_operations.conversations()
        | dialect_operations.dialects()
        | _operators()
        | _health()
        | _files()
    )
