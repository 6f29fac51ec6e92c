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
    parse_id,
)

from tests.processes import REPOSITORY, environment

Entry = tuple[str, dict[str, Any]]


def delta(event_id: str) -> Entry:
    return event_id, {"type": "message.delta", "text": f"{event_id} "}


def snapshot(event_id: str, text: str, missed: int) -> Entry:
    return event_id, {"type": "run.snapshot", "text": text, "missed": missed}


START: Entry = ("1-1", {"type": "run.started"})
QUEUED = snapshot("", "", 0)
END: Entry = ("1-4", {"type": "run.completed"})
RESTARTED: Entry = ("2-1", {"type": "run.restarted", "attempt": 2})


def told(*entries: Entry) -> Ledger:
    ledger = Ledger()
    for event_id, event in entries:
        ledger.take(event_id, event)
    return ledger


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ((START, delta("1-2"), delta("1-3"), END), "1-2 1-3 "),
        ((QUEUED, START, delta("1-2"), delta("1-3"), END), "1-2 1-3 "),
        # Late: the snapshot stands for what came before.
        ((snapshot("1-3", "all of it", 3), END), "all of it"),
        ((START, snapshot("1-3", "all of it", 2), END), "all of it"),
        # Of the attempt that was broken off nothing counts, what is missing neither.
        ((START, delta("1-2"), RESTARTED, delta("2-2")), "2-2 "),
        ((START, delta("1-3"), RESTARTED, delta("2-2")), "2-2 "),
        ((START, delta("1-2"), snapshot("2-3", "anew", 3)), "anew"),
    ],
)
def test_what_is_whole_has_no_fault(entries: tuple[Entry, ...], text: str) -> None:
    ledger = told(*entries)
    assert ledger.close() == {}
    assert ledger.text == text


@pytest.mark.parametrize(
    ("entries", "faults"),
    [
        ((START, delta("1-3"), END), {LOST: 1}),
        ((START, END), {LOST: 2}),
        ((delta("1-3"), END), {LOST: 2}),
        ((START, RESTARTED, delta("2-4")), {LOST: 2}),
        ((START, delta("1-2"), delta("1-2"), delta("1-3"), END), {REPEATED: 1}),
        ((START, delta("1-2"), START, delta("1-3"), END), {REPEATED: 1}),
        ((START, delta("1-2"), RESTARTED, delta("1-3")), {REPEATED: 1}),
        ((START, delta("1-3"), delta("1-2"), END), {OUT_OF_ORDER: 1}),
        (
            (START, delta("1-3"), delta("1-2"), delta("1-2"), END),
            {OUT_OF_ORDER: 1, REPEATED: 1},
        ),
        ((START, delta("1-2"), delta("1-3"), END, END), {AFTER_THE_END: 1}),
        ((START, delta("1-2"), snapshot("1-2", "1-2 ", 0)), {REPEATED: 1}),
        ((START, delta("1-2"), snapshot("1-4", "1-2 on", 1)), {CONTRADICTION: 1}),
        ((START, delta("1-2"), snapshot("1-3", "other", 1)), {CONTRADICTION: 1}),
        ((snapshot("", "too early", 0),), {CONTRADICTION: 1}),
        ((START, delta(""), delta("1-2")), {NO_ID: 1}),
        ((START, delta("1-x"), delta("0-2")), {NO_ID: 2}),
    ],
)
def test_what_is_not_whole_has_a_name(
    entries: tuple[Entry, ...], faults: dict[str, int]
) -> None:
    assert told(*entries).close() == faults


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-0", "0-1", "1-2-3", "a-1", "１-1"])
def test_an_id_is_two_counts_from_one(text: str) -> None:
    assert parse_id(text) is None
    assert parse_id("12-345") == (12, 345)


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
