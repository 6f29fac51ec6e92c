"""Stock clients, unchanged and as their users run them, at the real service.

One table: each scenario is played once, with all clients side by side, and each cell says
whether this client has read in it the tape that the service has recorded, however it was cut:
nothing lost, nothing twice, the data of every event JSON, and the end known by its terminal
event.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.store.runs import ids
from tests.clients.packages import install
from tests.clients.reading import CLIENTS, Client, Reading, compile_java, folded, tape_of
from tests.clients.said import TEXT
from tests.clients.stage import CONCURRENCY, ENV, Stage, await_all, body_of, run_of
from tests.clients.wire import Wires
from tests.processes import serving

PING = b": ping"
PROGRESS = b'"type":"run.progress"'
RUNS = "/v1/runs"
# The states that there are to tell of, in their order.
QUEUED = {"type": "run.queued"}
TOLD = [
    QUEUED,
    {"type": "run.progress", "step": 1, "total_steps": 2, "current_agent": "said"}
    | {"message": "Größe\u2028\n", "percentage": 50.0},
    {"type": "run.progress", "step": 2, "total_steps": 2, "current_agent": ""}
    | {"message": "🌊", "percentage": 100.0},
]
# Somewhere in the first piece, and not where any delta ends that was ever sent.
HAD = "Größe, Å"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if cause := install():
        pytest.skip(cause)
    folder = tmp_path_factory.mktemp("clients")
    compile_java(folder)
    clients = [client for client in CLIENTS if not client.lacks]
    with serving(folder / "data", env=ENV) as plateau, Wires(plateau.port) as wires:
        yield Stage(plateau, wires, folder, clients)


def asked(stage: Stage) -> None:
    """The answer to a POST is the stream."""
    with stage.gate() as gate:

        def asking(client: Client) -> list[str]:
            return [RUNS, json.dumps(body_of(gate))]

        with stage.reads("asked", "post", asking, who=stage.posters()) as readings:
            await_all(readings, stands_still)
            gate.touch()
    expect_own_runs(stage, readings)


def expect_own_runs(stage: Stage, readings: list[Reading]) -> None:
    for reading in readings:
        if run_id := run_of(reading):
            reading.expected = stage.recorded(run_id)


def hit(stage: Stage) -> None:
    """The answer is there already."""
    body = body_of()
    stage.finish(body)
    cached = stage.ask(body)
    assert cached["cached"], cached
    expected = stage.answered(cached["events_url"])
    with stage.reads("hit", "follow", lambda _: [cached["events_url"]]) as readings:
        pass
    posters = [client for client in stage.posters() if not client.asks_anew]
    with stage.reads(
        "asked hit", "post", lambda _: [RUNS, json.dumps(body)], who=posters
    ) as posted:
        pass
    for reading in readings + posted:
        reading.expected = expected


def resumed(stage: Stage) -> None:
    """Each says in its own way what it has seen before, which ends within a delta."""
    run = stage.finish(body_of())
    recorded = stage.recorded(run["id"])
    (_, started), (_, delta), *_ = recorded
    tag, at = ids.tag_of(run["id"]), 2 + len(HAD.encode())
    had = [(f"{tag}-1-1", started), (f"{tag}-1-{at}", {**delta, "text": HAD})]
    last = had[-1][0]
    with stage.reads("resumed", "resume", lambda _: [run["events_url"], last]) as readings:
        pass
    for reading in readings:
        reading.expected, reading.had = recorded, had


def cut(stage: Stage) -> None:
    """The connection breaks in the middle of an event, and each comes back in its own way."""
    with stage.gate() as gate:
        run = stage.ask(body_of(gate))
        with stage.reads(
            "cut", "follow", lambda _: [run["events_url"]], cutting=True
        ) as readings:
            await_all(readings, stands_still)
            gate.touch()
        expected = stage.recorded(run["id"])
    for reading in readings:
        reading.expected = expected


def left(stage: Stage) -> None:
    """The response ends in good order and the answer has not: its worker is replaced, twice. In
    between there is nothing new to tell but a state, which has no id."""
    with stage.gate() as gate:
        run = stage.ask(body_of(gate))
        with stage.reads("left", "follow", lambda _: [run["events_url"]]) as readings:
            await_all(readings, stands_still)
            for requests in (2, 3):
                (worker,) = stage.plateau.pids("gunicorn: worker")
                os.kill(worker, signal.SIGTERM)
                await_all(readings, came_back(requests))
            gate.touch()
        expected = stage.recorded(run["id"])
    for reading in readings:
        reading.expected = expected


def asked_cut(stage: Stage) -> None:
    """So does that of a POST with an `Idempotency-Key`: some send it again with the id that
    they have seen last, others follow its `Location`."""
    with stage.gate() as gate:

        def asking(client: Client) -> list[str]:
            return [RUNS, json.dumps(body_of(gate)), uuid.uuid4().hex]

        with stage.reads(
            "asked cut", "post", asking, who=stage.posters(), cutting=True
        ) as readings:
            await_all(readings, stands_still)
            gate.touch()
    expect_own_runs(stage, readings)


def pings(stage: Stage) -> None:
    """Each reads a run that has begun and falls silent, and beside it one that waits for a
    place: until it has been sent a ping in either. Then the rest comes as it is said."""
    with stage.gate() as gate:
        runs = [stage.ask(body_of(gate)) for _ in range(CONCURRENCY)]
        live, waiting = runs[0], stage.ask(body_of())
        with (
            stage.reads("live", "follow", lambda _: [live["events_url"]]) as here,
            stage.reads("queued", "follow", lambda _: [waiting["events_url"]]) as there,
        ):
            await_all(here, stands_still)
            await_all(there, lambda reading: reading.heard("run.queued"))
            await_all(here + there, was_pinged)
            gate.touch()
        told, recorded = stage.recorded(live["id"]), stage.recorded(waiting["id"])
    for reading in here:
        reading.expected = told
    for reading in there:
        reading.expected = recorded


def stands_still(reading: Reading) -> bool:
    """Whether it has come to the gate; behind a tape, how far the answer is comes last."""
    return reading.heard("tool.call") and reading.heard("run.progress")


def came_back(requests: int) -> Callable[[Reading], bool]:
    """Whether it has asked so often, and was told each time how far the answer is."""

    def has(reading: Reading) -> bool:
        return min(reading.wire.requests, reading.wire.count(PROGRESS)) >= requests

    return has


def was_pinged(reading: Reading) -> bool:
    return reading.wire.count(PING) > 0


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    "asked": asked,
    "hit": hit,
    "asked hit": hit,
    "resumed": resumed,
    "cut": cut,
    "asked cut": asked_cut,
    "left": left,
    "live": pings,
    "queued": pings,
}
CELLS = [
    pytest.param(scenario, client, id=f"{client.name}-{scenario.replace(' ', '_')}")
    for client in CLIENTS
    for scenario in SCENARIOS
    if client.posts or not scenario.startswith("asked")
    if not (client.asks_anew and scenario == "asked hit")
]


@pytest.mark.parametrize(("scenario", "client"), CELLS)
def test_a_stock_client_reads_what_is_recorded(
    stage: Stage, scenario: str, client: Client
) -> None:
    if client.lacks:
        pytest.skip(client.lacks)
    play = SCENARIOS[scenario]
    if play not in stage.played:
        stage.played.add(play)
        play(stage)
    reading = stage.readings[scenario, client.name]
    reading.check()
    tape = tape_of(reading.read, reading.had)
    assert tape == tape_of(reading.expected, [])
    assert folded(tape) == TEXT
    check_states(scenario, reading.states)
    if scenario in ("live", "queued"):
        assert was_pinged(reading)


def check_states(scenario: str, states: list[dict[str, Any]]) -> None:
    """Told in their order, none that is over, and of one that lasted everybody."""
    places = [TOLD.index(state) for state in states]
    assert places == sorted(places), states
    if scenario in ("hit", "asked hit", "resumed"):
        assert not states
    elif scenario == "queued":
        assert states[0] == QUEUED
    else:
        # The answer stood still behind it.
        assert TOLD[1] in states


def client_called(name: str) -> Client:
    return next(client for client in CLIENTS if client.name == name)


@pytest.mark.parametrize("key", [uuid.uuid4().hex, ""], ids=["with a key", "without"])
def test_fetch_event_source_asks_again_when_its_page_is_shown_again(
    stage: Stage, key: str
) -> None:
    """With a key it goes on where it was. Without one it may be another run: what it had is
    taken back."""
    with stage.gate() as gate:
        body = body_of(gate)
        with stage.reads(
            "shown again",
            "hide",
            lambda _: [RUNS, json.dumps(body), key],
            who=[client_called("fetch-event-source")],
        ) as (reading,):
            await_all([reading], lambda reading: reading.wire.requests > 1)
            gate.touch()
        assert reading.wire.requests == 2
        expected = stage.recorded(run_of(reading))
    assert folded(reading.read) == TEXT
    if key:
        reading.check()
        assert tape_of(reading.read, []) == tape_of(expected, [])


@pytest.mark.parametrize("name", ["fetch-event-source", "eventsource-client"])
def test_who_posts_again_without_a_key_ends_with_the_answer(stage: Stage, name: str) -> None:
    with stage.gate() as gate:
        body = body_of(gate)
        with stage.reads(
            "posted again",
            "post",
            lambda _: [RUNS, json.dumps(body)],
            who=[client_called(name)],
            cutting=True,
        ) as (reading,):
            await_all([reading], stands_still)
            gate.touch()
    assert reading.wire.was_cut and reading.wire.requests == 2
    assert folded(reading.read) == TEXT


def test_the_programs_are_all_in_the_table() -> None:
    programs = Path(__file__).parent / "programs"
    # Of two of them the tests of dialects make use.
    shared = {"__init__.py", "program.py", "program.mjs", "chat.mjs", "agui.mjs"}
    there = {path.name for path in programs.iterdir() if path.is_file()} - shared
    assert len(there) == len(CLIENTS), there
