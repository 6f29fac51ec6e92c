"""The steps that `scripts/bench ttft` shows: what MONITOR tells of a cold run."""

from __future__ import annotations

from benchmarks.trips import asked_of, trips_of

KEYS = '"run:x:tokens" "run:x:marks"'
QUEUE = '"{queue}:2:since" "{queue}:2:back" "{queue}:2:waiting:openai"'
RUN = "01a2259e24f490641753d2626183b9f4"
TOLD = [
    (1.0, "c:1", '"GET" "cache:k"', "is it answered"),
    (2.0, "s:1", '"GET" "inflight:{k}"', "who is answering it"),
    (
        3.0,
        "s:1",
        f'"EVALSHA" "a" "5" {KEYS} "t" "state" "queued" "x"',
        "its record",
    ),
    (3.2, "s:1", f'"EVALSHA" "b" "1" "inflight:{{k}}" "{RUN}" "" "360"', "its hint"),
    (4.0, "s:2", f'"EVALSHA" "c" "9" {QUEUE} "{RUN}" "openai" "ann" "10"', "into the queue"),
    (5.0, "s:3", f'"EVALSHA" "d" "9" {QUEUE} "box:1:f" "6000"', "out of the queue"),
    (6.0, "s:4", f'"EVALSHA" "e" "5" {KEYS} "claim" "1"', "its claim"),
]
NOTHING = [
    '"EVALSHA" "f" "1" "inflight:{k}" "' + RUN + '"',  # the run before lets go of its hint
    f'"EVALSHA" "e" "5" {KEYS} "append" "1"',
    '"XREAD" "BLOCK" "1000" "STREAMS" "{queue}:2:bell" "0-0"',
    '"PING"',
]


def line(at_ms: float, client: str, command: str) -> str:
    return f"+{1000 + at_ms / 1000:.6f} [0 {client}] {command}"


def test_each_step_is_known() -> None:
    asked = [asked_of("streams", line(at, client, it)) for at, client, it, _ in TOLD]
    assert [it and it.what for it in asked] == [what for *_, what in TOLD]
    assert all(asked_of("streams", line(1.0, "s:1", it)) is None for it in NOTHING)
    assert asked_of("streams", "+1000.0 [0 lua] " + '"GET" "cache:k"') is None


def test_a_round_trip_is_one_once_it_is_over() -> None:
    assert [trips_of(1000.0, 1000.0 + s) for s in (0.05, 0.61, 0.69)] == [0, 6, 6]
