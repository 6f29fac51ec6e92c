"""docs/events.md is true: it has every event, and its example keeps the arithmetic."""

from __future__ import annotations

import re

import msgspec

from plateau_sse.api.spec.event_schemas import EVENTS
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.tape import Tape
from tests.processes import REPOSITORY

PAGE = (REPOSITORY / "docs" / "events.md").read_text()
TYPES = {schema["properties"]["type"]["const"]: schema for schema in EVENTS.values()}
# What is in the example and on no tape.
STATES = ("run.queued", "run.progress", "tool.delta")


def _example() -> list[tuple[str, dict[str, object]]]:
    """The ids and events of the whole tape."""
    block = PAGE.partition("## A whole tape")[2].split("```")[1]
    found = []
    for line in block.strip("\n").splitlines():
        event_id, brace, rest = line.partition("{")
        found.append((event_id.strip(), msgspec.json.decode(brace + rest)))
    return found


def test_every_event_is_in_the_table_with_its_fields() -> None:
    own = PAGE.partition("## In other dialects")[0]
    rows = re.findall(r"^\| `([a-z]+(?:\.[a-z]+)?)` \| (.+?) \| ", own, re.MULTILINE)
    told = dict(rows)
    assert set(TYPES) <= set(told)
    for kind, schema in TYPES.items():
        fields = set(re.findall(r"`([a-z_]+)`", told[kind].partition(" (")[0]))
        fields |= set(re.findall(r"`([a-z_]+)`\??(?=,|$| |\?)", told[kind]))
        assert set(schema["properties"]) - {"type"} <= fields, kind


def test_the_example_keeps_the_arithmetic_of_positions() -> None:
    tape = Tape(1)
    for event_id, event in _example():
        kind = str(event["type"])
        assert (event_id == "") == (kind in STATES)
        assert set(TYPES[kind]["required"]) <= set(event), kind
        if not event_id:
            continue
        encoded = msgspec.json.encode(event)
        if kind.endswith(".delta"):
            delta_kind: events.Kind = "t" if kind.startswith("message") else "r"
            tape.add(events.delta(str(event["text"]), delta_kind, str(event["part"])))
        else:
            tape.add(events.Event(encoded, "e" if events.is_terminal(encoded) else "m"))
        assert ids.parse(event_id) == (ids.number(1, tape.at), "3fa29c")
    # As the page says of a reader that comes back in the middle.
    (delta, end) = tape.entries(39)
    assert ids.split(delta.number) == (1, 52) and ids.split(end.number) == (1, 53)
    told = '{"type":"message.delta","part":1,"text":" läuft aus. "}'
    assert msgspec.json.decode(delta.data) == msgspec.json.decode(told)
    assert f"`{told}`" in PAGE


def test_the_bounds_are_those_of_the_code() -> None:
    script = (REPOSITORY / "service/plateau_sse/store/runs/append.lua").read_text()
    found = re.search(r"TEXT_MOST, MARKS_MOST, POINTS_MOST = (\d+), (\d+), (\d+)", script)
    assert found is not None
    bounds = (events.TAPE_BYTES, events.MARKS_BYTES, events.POINTS_MOST)
    assert tuple(map(int, found.groups())) == bounds
    assert "| text and thoughts of a run, with its `output` | 256 KiB |" in PAGE
    assert "| marks and openings of a run | 1,000 |" in PAGE
    assert events.MARK_BYTES == 32 * 1024 and "as JSON | 32 KiB" in PAGE
