"""What the tape costs in Redis: an append, beside the release before it had one.

Both scripts get the same answers, on two servers of the same kind, configured as `plateau
serve` does, in turn and one call after the other, as runners make them; CPU is what the system
accounts the two servers. Then the bytes of a finished run, in both; and what a reader of 200 KB
is sent who has all but the last KB, long after the stream was trimmed.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from tests.conftest import Server, end_server, start_server
from tests.readers import get

from benchmarks.measuring import cpu_s
from benchmarks.rows import Row, report
from benchmarks.stages import PlateauStage, plateau
from plateau_sse.jsontext import encode
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import appending, events, ids
from plateau_sse.store.runs.appending import append_args
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams

BOUND, MORE_BYTES, SENT_BYTES = 1.2, 300, 4096
# The last one without a tape.
BEFORE = "76e7dec"
BEFORE_PATH = "service/plateau_sse/store/runs/append.lua"
# Short rounds: what else the machine does meanwhile meets both sides of a pair.
ROUNDS, RUNS, CALLS = 25, 12, 300
LIVES = (180, 600, 60)
# As models say it, and 2 KB of it.
PIECE, PIECES = "20 characters of it ", 100
LONG, HAS_NOT = 200 * 1024, 1024

Batch = list[Event]
# Of one run: what its runner appends, call by call.
Answer = list[Batch]


def pieces() -> Answer:
    return [[events.delta(PIECE)] for _ in range(CALLS)]


def mixed() -> Answer:
    """Several pieces a call, and tools and progress between."""
    found: Answer = []
    for call in range(CALLS):
        if call % 10 == 9:
            found.append(
                [
                    events.tool_call(f"call-{call}", "search", {"query": PIECE}),
                    events.tool_result(f"call-{call}", [PIECE] * 5),
                ]
            )
        elif call % 10 == 4:
            found.append([events.progress(call, CALLS, "agent", PIECE, 50.0)])
        else:
            found.append([events.delta(PIECE)] * (1 + call % 3))
    return found


ANSWERS: dict[str, Callable[[], Answer]] = {
    "pieces of 20 characters, one a call": pieces,
    "several pieces a call, tools and progress between": mixed,
}


class Side(NamedTuple):
    """A server, and how a release appends to it: `args_of` makes what its script takes of the
    run's first event (verb `claim`) and of the rest."""

    server: Server
    client: Any
    script: Any
    args_of: Callable[..., list[Any]]
    record: dict[str, Any]

    def run(self, answer: Answer, *, numbered: bool = True) -> str:
        """From its creation to its end: the run."""
        run_id = ids.new_run_id()
        names = list(keys.run(run_id))
        self.client.hset(names[0], mapping=self.record)
        self.client.sadd(names[3], "token-of-the-first-caller")
        claim = events.started(run_id, "bench", 1)
        last = events.completed(
            {"input_tokens": 9, "output_tokens": 9}, cached=False, duration_ms=9
        )
        self._call(names, "claim", 0, [claim], ("runner", "bench", "started_ms", 1))
        seq = 2
        for batch in answer:
            self._call(names, "append", seq if numbered else 0, batch)
            seq += len(batch)
        self._call(names, "append", seq, [last], ("ended_ms", 1))
        return run_id

    def _call(
        self, names: list[str], verb: str, first: int, batch: Batch, fields: Any = ()
    ) -> None:
        code, *_ = self.script(names, self.args_of(verb, 1, first, LIVES, batch, fields))
        if code != b"ok":
            raise RuntimeError(f"{verb}: {code}")

    def bytes_of(self, run_id: str) -> int:
        """Once its entries have gone, a minute after the end."""
        names = keys.run(run_id)
        found = (
            self.client.memory_usage(name, samples=0) for name in names if name != names.events
        )
        return sum(size or 0 for size in found)


def args_before(
    verb: str, attempt: int, first: int, lives: Any, batch: Batch, fields: Any
) -> list[Any]:
    """As the release before made them: whole events, of one kind of text."""
    args = [verb, attempt, first, *lives, len(batch)]
    for event in batch:
        # It folded the text and the state, and kept what tools said.
        data, op = event.data, {"t": "t", "p": "p", "e": "e"}.get(event.op, "k")
        if op == "t":
            data = encode({"type": "message.delta", "text": event.arg})
        args += (op if verb == "append" else "-", data, event.arg)
    return [*args, *fields]


def script_before() -> str | None:
    """None where this clone does not reach back so far."""
    shown = subprocess.run(
        ["git", "show", f"{BEFORE}:{BEFORE_PATH}"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return shown.stdout if shown.returncode == 0 else None


@contextmanager
def sides(folder: Path, before: str) -> Iterator[tuple[Side, Side]]:
    """Ours, and the release before."""
    ours, theirs = (start_server("streams", folder / name) for name in ("ours", "before"))
    try:
        with ours.client() as one, theirs.client() as other:
            script: Any = one.register_script(appending.SCRIPT)
            script_of_theirs: Any = other.register_script(before)
            record = asyncio.run(_record(ours))
            yield (
                Side(ours, one, script, append_args, record),
                Side(theirs, other, script_of_theirs, args_before, _without_tape(record)),
            )
    finally:
        end_server(ours)
        end_server(theirs)


async def _record(server: Server) -> dict[str, Any]:
    """Of a run that waits, as it is created."""
    redis: Any = connect(server.url, "bench", connections=1)
    try:
        run_id = ids.new_run_id()
        await Streams(redis, alive_s=120, record_s=600).create(
            run_id, agent="bench", owner="anonymous", token="t" * 22, request=b"{}" * 100
        )
        found: dict[bytes, bytes] = await redis.hgetall(keys.run(run_id).record)
        return {name.decode(): value for name, value in found.items()}
    finally:
        await redis.aclose()


def _without_tape(record: dict[str, Any]) -> dict[str, Any]:
    """As it was: a status under its old name, and nothing of the tape."""
    found = {name: value for name, value in record.items() if name not in ("tape", "server")}
    return {"status" if name == "state" else name: value for name, value in found.items()}


def spent(side: Side, answer: Answer, *, numbered: bool, runs: int) -> float:
    """Microseconds of its server an append."""
    before = cpu_s([side.server.process.pid])
    for _ in range(runs):
        side.run(answer, numbered=numbered)
    return (cpu_s([side.server.process.pid]) - before) / (runs * len(answer)) * 1e6


class Cost(NamedTuple):
    ratio: float
    ours: float
    before: float
    ratios: list[float]


def compared(
    ours: Side,
    before: Side,
    answer: Answer,
    *,
    numbered: bool = True,
    rounds: int = ROUNDS,
    runs: int = RUNS,
) -> Cost:
    """In turn, and who comes first in turn, too."""
    pairs = []
    for number in range(rounds):
        costs = {}
        for side in (ours, before)[:: -1 if number % 2 else 1]:
            side.client.flushall()
            costs[side.server.port] = spent(side, answer, numbered=numbered, runs=runs)
        pairs.append((costs[ours.server.port], costs[before.server.port]))
    ratios = [one / other for one, other in pairs]
    return Cost(
        median(ratios),
        median(one for one, _ in pairs),
        median(other for _, other in pairs),
        ratios,
    )


def two_kilobytes(ours: Side, before: Side) -> tuple[int, int]:
    answer = [[events.delta(PIECE)] for _ in range(PIECES)]
    return ours.bytes_of(ours.run(answer)), before.bytes_of(before.run(answer))


async def sent_late(stage: PlateauStage) -> int:
    """What a reader is sent who comes back after the end, with all but the last KB."""
    (run,) = await stage.start(1)
    redis: Any = connect(stage.service.streams_url, "bench", connections=1)
    try:
        store = Streams(redis, alive_s=600, record_s=600)
        count = LONG // len(PIECE)
        for start in range(0, count, 500):
            batch = [events.delta(PIECE)] * min(500, count - start)
            await store.append(run, 1, batch)
        await stage.finish([run])
        (end,) = await store.last_numbers([run])
        assert end is not None
    finally:
        await redis.aclose()
        await stage.close()
    attempt, at = ids.split(end)
    has = f"{ids.tag_of(run)}-{attempt}-{at - HAS_NOT}"
    sent = 0
    url = stage.service.url + stage.target(run)
    async for status, body in get(url, {"Last-Event-ID": has}):
        if status is not None and status != 200:
            raise RuntimeError(f"answered {status}")
        sent += len(body)
    return sent


def rows(costs: dict[str, Cost], took: tuple[int, int] | None, sent: int) -> list[Row]:
    found = []
    for what, cost in costs.items():
        low, _, high = quantiles(cost.ratios, n=4)
        found.append(
            Row(
                f"Redis an append: {what}",
                cost.ratio,
                "x",
                BOUND if what in ANSWERS else None,
                peers=f"{cost.ours:.1f} us, {cost.before:.1f} before; "
                f"median of {len(cost.ratios)} rounds, half of them {low:.2f} to {high:.2f}",
            )
        )
    if took is None:
        found.append(
            Row("Redis an append", None, "x", BOUND, peers=f"this clone has no {BEFORE}")
        )
    else:
        now, before = took
        found.append(
            Row(
                "a finished 2 KB run, over the release before",
                now - before,
                "bytes",
                MORE_BYTES,
                peers=f"{now:,} bytes, {before:,} before",
            )
        )
    found.append(
        Row(
            "a late reader of 200 KB with all but the last KB: is sent",
            sent,
            "bytes",
            SENT_BYTES,
            peers="the whole text before",
        )
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench append", description=__doc__)
    parser.parse_args(arguments)
    costs: dict[str, Cost] = {}
    took = None
    before = script_before()
    if before is not None:
        with tempfile.TemporaryDirectory() as folder, sides(Path(folder), before) as both:
            for what, make in ANSWERS.items():
                costs[what] = compared(*both, make())
            unnumbered = "pieces, by a producer that numbers nothing"
            costs[unnumbered] = compared(*both, pieces(), numbered=False)
            took = two_kilobytes(*both)
    with plateau() as stage:
        sent = asyncio.run(sent_late(stage))
    return report("append", rows(costs, took, sent))


if __name__ == "__main__":
    sys.exit(main())
