"""One operation, for `GET /openapi.json`: who may, and what may come back.

Invariant: a status that is a problem names the codes that it may have.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.api.spec import parameters as given
from plateau_sse.api.spec.event_schemas import ref
from plateau_sse.errors import PROBLEMS

Operation = dict[str, Any]

JSON, SSE = "application/json", "text/event-stream"
# Where there are no keys nobody needs one.
KEY: list[dict[str, list[str]]] = [{"key": []}, {}]
KEY_OR_TOKEN: list[dict[str, list[str]]] = [{"run": []}, {"key": []}, {}]
ADMIN: list[dict[str, list[str]]] = [{"admin": []}]
NOBODY: list[dict[str, list[str]]] = []


def content(schema: dict[str, Any], media_type: str = JSON) -> dict[str, Any]:
    return {media_type: {"schema": schema}}


def says(description: str, name: str = "", **headers: Any) -> dict[str, Any]:
    """An answer; `name` is that of its schema."""
    said: dict[str, Any] = {"description": description}
    if headers:
        said["headers"] = headers
    if name:
        said["content"] = content(ref(name))
    return said


def problems(*statuses: int) -> dict[str, Any]:
    found = {}
    if 401 in statuses and 429 not in statuses:
        # Whoever sends many wrong keys.
        statuses = tuple(sorted((*statuses, 429)))
    for status in statuses:
        codes = [code for code, (of, _) in PROBLEMS.items() if of == status]
        problem = says("Problem: " + ", ".join(f"`{code}`" for code in codes))
        problem["content"] = content(ref("Problem"), "application/problem+json")
        if status in given.OF_PROBLEMS:
            problem["headers"] = given.OF_PROBLEMS[status]
        found[str(status)] = problem
    return found


def operation(
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
