"""What `/openapi.json` says of posted events is what is taken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plateau_sse.api.posted import batch_of
from plateau_sse.api.spec.event_schemas import posted
from plateau_sse.errors import Problem
from plateau_sse.store.runs.events import MARK_BYTES, TAPE_BYTES

# What each needs beside the member that is tried.
REST: dict[str, dict[str, Any]] = {
    "message.delta": {"text": "t"},
    "run.progress": {"message": "m"},
    "tool.call": {"id": "i", "name": "n"},
    "source": {"id": "i", "url": "u"},
    "file": {"media_type": "m", "url": "u"},
    "data": {"name": "n", "value": 1},
    "step": {"name": "n"},
    "run.completed": {"model": "m", "output": "o"},
    "run.failed": {"code": "c", "message": "m"},
}


def _members() -> list[tuple[str, str, int]]:
    found = []
    for schema in posted().values():
        kind = schema.get("properties", {}).get("type", {}).get("const")
        kind = kind or (schema.get("properties", {}).get("type", {}).get("enum") or [None])[0]
        for member, form in schema.get("properties", {}).items():
            forms = (form, *form.get("anyOf", ()))
            most = [it["maxLength"] for it in forms if "maxLength" in it]
            if kind in REST and member != "type" and most:
                found.append((kind, member, most[0]))
    return found


def _taken(kind: str, member: str, length: int) -> bool:
    event = {"type": kind, **REST[kind], member: "x" * length}
    try:
        batch_of(msgspec.json.encode(event))
    except Problem:
        return False
    return True


@pytest.mark.parametrize(("kind", "member", "most"), _members())
def test_a_text_may_be_as_long_as_it_says(kind: str, member: str, most: int) -> None:
    assert _taken(kind, member, most)
    # What is bounded as a whole is refused once it is made into an event.
    if most not in (MARK_BYTES, TAPE_BYTES):
        assert not _taken(kind, member, most + 1)


def test_each_kind_of_bound_is_there() -> None:
    assert {most for _, _, most in _members()} == {500, MARK_BYTES, TAPE_BYTES}
