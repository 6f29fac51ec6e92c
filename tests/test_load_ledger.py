"""The ledger of the load's readers: what it takes for whole, and what it calls a fault."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from locustfiles.agent import numbers_of, piece
from locustfiles.kit.clock import Exchange, is_here, offset
from locustfiles.kit.ledger import (
    AFTER_THE_END,
    CONTRADICTION,
    LOST,
    NO_ID,
    OUT_OF_ORDER,
    REPEATED,
    Ledger,
    Place,
    parse_id,
)

from tests.processes import REPOSITORY, environment

Entry = tuple[str, dict[str, Any]]


def delta(event_id: str, text: str, part: int = 0, **more: Any) -> Entry:
    return event_id, {"type": "message.delta", "part": part, "text": text, **more}


def thought(event_id: str, text: str, part: int, **more: Any) -> Entry:
    return event_id, {"type": "reasoning.delta", "part": part, "text": text, **more}


def restarted(event_id: str, reason: str, attempt: int) -> Entry:
    return event_id, {"type": "run.restarted", "attempt": attempt, "reason": reason}


START: Entry = ("1-1", {"type": "run.started"})
QUEUED: Entry = ("", {"type": "run.queued"})
PROGRESS: Entry = ("", {"type": "run.progress"})
CALL: Entry = ("1-5", {"type": "tool.call", "id": "c"})
END: Entry = ("1-6", {"type": "run.completed"})
AGAIN = restarted("2-0", "attempt", 2)
START_AGAIN: Entry = ("2-1", {"type": "run.started"})
# Two pieces of one part; the first has its opening, too.
ONE, TWO = delta("1-4", "a "), delta("1-5", "b")


def told(*entries: Entry) -> Ledger:
    ledger = Ledger()
    for event_id, event in entries:
        ledger.take(event_id, event)
    return ledger


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ((START, ONE, TWO, END), "a b"),
        ((QUEUED, START, PROGRESS, ONE, TWO, PROGRESS, END), "a b"),
        # However it is cut, and where an opening stands alone.
        ((START, delta("1-5", "a b"), END), "a b"),
        ((START, delta("1-2", ""), delta("1-5", "a b"), END), "a b"),
        # In bytes, not in characters.
        ((START, delta("1-6", "🏔")), "🏔"),
        # A mark ends a part; what goes on behind it has another number.
        ((START, delta("1-4", "ab"), CALL, delta("1-7", "c", 1, continues=0)), "abc"),
        ((START, delta("1-3", "a"), thought("1-5", "b", 1), delta("1-7", "c", 2)), "ac"),
        # Of the attempt that was broken off nothing counts, what is missing neither.
        ((START, ONE, AGAIN, START_AGAIN, delta("2-3", "n")), "n"),
        ((START, TWO, AGAIN, START_AGAIN), ""),
        ((START, ONE, restarted("1-0", "rewound", 1), START, ONE), "a "),
        ((("2-1", {"type": "run.started"}), delta("2-3", "n")), "n"),
        # Another run's tape, and one that nobody has claimed.
        (
            (
                ("aaaaaa-1-1", {"type": "run.started"}),
                restarted("bbbbbb-1-0", "other", 1),
                ("bbbbbb-1-1", {"type": "run.started"}),
            ),
            "",
        ),
        ((START, restarted("", "other", 1), QUEUED, START, ONE), "a "),
        (
            (START, ("", {"type": "data", "transient": True}), delta("1-3", "a"), PROGRESS),
            "a",
        ),
    ],
)
def test_what_is_whole_has_no_fault(entries: tuple[Entry, ...], text: str) -> None:
    ledger = told(*entries)
    assert ledger.close() == {}
    assert ledger.text == text


def test_parts_are_those_of_a_record() -> None:
    found = {"type": "tool.result", "id": "c", "output": 1}
    ledger = told(
        START,
        thought("1-3", "h", 0),
        thought("1-5", "mm", 0),
        ("1-6", found),
        delta("1-8", "a", 1),
        thought("1-9", "", 2, continues=0),
        ("1-10", {"type": "run.completed"}),
    )
    assert ledger.close() == {}
    assert ledger.parts == [
        {"type": "reasoning", "part": 0, "text": "hmm"},
        found,
        {"type": "text", "part": 1, "text": "a"},
        {"type": "reasoning", "part": 2, "text": "", "continues": 0},
    ]


@pytest.mark.parametrize(
    ("entries", "faults"),
    [
        ((START, ONE, END), {LOST: 1}),
        ((START, TWO, END), {LOST: 1}),
        ((TWO, END), {LOST: 1}),
        ((ONE, TWO, END), {LOST: 1}),
        ((START, END), {LOST: 1}),
        # An opening, or a mark, that is not there; a byte that is not counted.
        ((START, delta("1-3", "a ")), {REPEATED: 1}),
        ((START, ONE, delta("1-6", "b")), {LOST: 1}),
        ((START, ONE, delta("1-7", "b", 1)), {LOST: 1}),
        ((START, ONE, delta("1-6", "bb"), delta("1-7", "c", 1)), {REPEATED: 1}),
        ((START, AGAIN, delta("2-4", "n")), {LOST: 1}),
        ((START, ONE, ONE, TWO, END), {REPEATED: 1}),
        ((START, ONE, delta("1-5", " b"), END), {REPEATED: 1, LOST: 1}),
        ((START, ONE, START, TWO, END), {REPEATED: 1}),
        ((START, ONE, AGAIN, TWO), {REPEATED: 1}),
        ((START, ONE, delta("1-6", "c"), TWO), {OUT_OF_ORDER: 1}),
        ((START, ONE, delta("1-7", "c"), TWO), {OUT_OF_ORDER: 1, LOST: 1}),
        ((START, ONE, TWO, END, END), {AFTER_THE_END: 1}),
        # What has begun anew says so, once, and from the beginning.
        ((START, ONE, START_AGAIN), {CONTRADICTION: 1}),
        ((START, ONE, restarted("2-1", "attempt", 2)), {CONTRADICTION: 1}),
        ((START, ONE, restarted("1-0", "attempt", 1)), {CONTRADICTION: 1}),
        ((START, ONE, restarted("2-0", "attempt", 3)), {CONTRADICTION: 1}),
        ((START, ONE, restarted("", "attempt", 2)), {CONTRADICTION: 1}),
        ((("aaaaaa-1-1", {"type": "run.started"}), ONE), {CONTRADICTION: 1}),
        # A number that is left out, one that is behind it, and a part that goes on twice.
        ((START, delta("1-3", "a", 1)), {CONTRADICTION: 1}),
        ((START, delta("1-3", "a", 0, continues=0)), {CONTRADICTION: 1}),
        ((START, ONE, delta("1-5", "b", 0, continues=0)), {CONTRADICTION: 1}),
        (((START[0], {"type": "run.progress"}),), {CONTRADICTION: 1}),
        ((START, delta("", "a"), ONE), {NO_ID: 1}),
        ((START, delta("1-x", "a"), delta("0-2", "a")), {NO_ID: 2}),
    ],
)
def test_what_is_not_whole_has_a_name(
    entries: tuple[Entry, ...], faults: dict[str, int]
) -> None:
    assert told(*entries).close() == faults


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "0-1", "1-2-3", "a-1", "\uff11-1", "1-01"]
)
def test_an_id_is_a_tag_an_attempt_and_a_position(text: str) -> None:
    assert parse_id(text) is None
    assert parse_id("12-345") == Place("", 12, 345)
    assert parse_id("0a1b2c-1-0") == Place("0a1b2c", 1, 0)


def test_pieces_say_their_number_and_their_time() -> None:
    text = piece(7, 1234.5, 40) + piece(8, 1234.6, 0)
    assert numbers_of(text) == [7, 8]
    assert text.startswith("7@0000001234500000 ") and len(piece(7, 1234.5, 40)) == 40


def test_the_shortest_exchange_tells_the_offset_best() -> None:
    """The agent's clock is 10 s ahead; the long exchange spent its time on one way."""
    ahead, sure = offset([Exchange(0, 10.9, 1.0), Exchange(5.0, 15.02, 5.04)])
    assert ahead == pytest.approx(10.0) and sure == pytest.approx(0.02)


def test_only_this_machine_has_this_clock() -> None:
    here = "http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"
    assert all(map(is_here, here))
    assert not any(map(is_here, ("http://10.1.2.3:8000", "https://plateau.example", "")))


IMPORTS = """
import sys
import plateau_sse.app, plateau_sse.cli
import locustfiles.agent, locustfiles.__main__, locustfiles.beside.lone
found = {name.partition(".")[0] for name in sys.modules} & {"locust", "gevent"}
assert not found, found
"""


def test_neither_service_nor_agent_nor_what_runs_beside_imports_locust() -> None:
    command = [sys.executable, "-c", IMPORTS]
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment({}), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def test_the_suite_is_not_changed_by_locust() -> None:
    """gevent may be imported; nothing of the standard library may be its."""
    assert "locust" not in sys.modules
    monkey = sys.modules.get("gevent.monkey")
    assert monkey is None or not monkey.saved
