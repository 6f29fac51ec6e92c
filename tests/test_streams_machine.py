"""The scripts against a plain model of a run, which Hypothesis drives into every corner."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from copy import deepcopy
from itertools import accumulate
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FailedHealthCheck
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from locustfiles.kit.ledger import Ledger
from redis import Redis
from redis.exceptions import ResponseError

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import appending, events, ids, looks, writing
from plateau_sse.store.runs import streams as streams_module
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Claimed, Streams
from tests.run_model import Model, copied
from tests.store import exchange_server, forget, queued
from tests.tapes import MOVES, Atoms, Move, appended, tell, tell_of_a_restart

T = TypeVar("T")

BATCHES = st.one_of(
    st.lists(MOVES, max_size=4),
    st.tuples(st.lists(MOVES, min_size=1, max_size=2), st.integers(40, 120)).map(
        lambda pair: pair[0] * pair[1]
    ),
)
LAST = st.sampled_from(
    [
        events.completed(None, cached=False, duration_ms=1),
        events.failed("agent_error", "broke", retryable=False),
        events.cancelled("asked"),
    ]
)
# Mostly it goes on: a run that ends at once has little to get wrong.
ENDS = st.integers(0, 9).flatmap(lambda n: LAST if n == 9 else st.none())
# A number may be left out.
NEAR = st.sampled_from([1, 1, 2, 5, -1, 0])
RUNNERS = st.sampled_from(["r1", "r2"])


class RunMachine(RuleBasedStateMachine):
    def __init__(self, runner: asyncio.Runner, streams: Streams, redis: Any) -> None:
        super().__init__()
        self.runner, self.streams, self.redis = runner, streams, redis
        self.model, self.readers, self.run_id = Model(), [Ledger()], ""

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    @initialize(
        claimed=st.sampled_from([1, 1, 1, 2, 0]), moves=st.lists(MOVES, min_size=3, max_size=9)
    )
    def create(self, claimed: int, moves: list[Move]) -> None:
        """Mostly with something on its tape, whatever is done to it then."""
        self.run_id = self.wait(queued(self.streams))
        if claimed:
            self.claim_anew(claimed, "r1")
            self.append_more(moves)

    @rule(step=NEAR, runner=RUNNERS, rarely=st.integers(0, 3))
    def claim(self, step: int, runner: str, rarely: int) -> None:
        if self.model.status != "running" or rarely == 3:
            self.claim_anew(step, runner)

    def claim_anew(self, step: int, runner: str) -> None:
        attempt = max(0, self.model.attempt + step)
        first = events.started(self.run_id, "notes", attempt)
        expected = self.model.claim(attempt, runner, first)
        claimed = self.wait(self.streams.claim(self.run_id, attempt, runner, first))
        if expected[0] in ("ok", "dup"):
            assert isinstance(claimed, Claimed)
            assert (claimed.attempt, claimed.seq) == expected[1:3]
        else:
            assert claimed == expected

    @rule(
        moves=BATCHES,
        back=st.one_of(st.none(), st.integers(-2, 5), st.integers(0, 120)),
        stale=st.sampled_from([0, 0, 0, 0, 0, -1, 1]),
        last=ENDS,
    )
    def append(
        self, moves: list[Move], back: int | None, stale: int, last: Event | None
    ) -> None:
        """`back` from the next number: a retry or an overlap; ahead of it a gap. Its parts have
        the numbers that they would have if all of it were new."""
        batch = appended(moves, copied(self.model.atoms))
        if last is not None:
            batch.append(last)
        self.append_these(batch, back, stale)

    @rule(moves=st.lists(MOVES, min_size=1, max_size=6))
    def append_more(self, moves: list[Move]) -> None:
        self.append_these(appended(moves, copied(self.model.atoms)), None, 0)

    @rule(moves=st.lists(MOVES, min_size=1, max_size=6))
    def append_in_line(self, moves: list[Move]) -> None:
        self.append_these(appended(moves, copied(self.model.atoms)), 0, 0)

    @rule(
        part=st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 4))),
        kind=st.sampled_from(["t", "r"]),
        before=st.lists(MOVES, max_size=2),
    )
    def append_a_part_of_any_number(
        self, part: tuple[int, int | None], kind: events.Kind, before: list[Move]
    ) -> None:
        told = copied(self.model.atoms)
        batch = appended(before, told)
        number, continues = part
        number += max(0, told.parts - 3)
        shown = str(number) if continues is None else f"{number} {continues}"
        self.append_these([*batch, events.delta("x", kind, shown)], None, 0)

    def append_these(self, batch: list[Event], back: int | None, stale: int) -> None:
        attempt = self.model.attempt + stale
        first = 0 if back is None else max(1, self.model.seq + 1 - back)
        expected = self.model.append(attempt, first, batch)
        answer = self.wait(self.streams.append(self.run_id, attempt, batch, first_seq=first))
        assert answer == expected
        if expected[0] == "ok" and first and batch:
            # Its answer was lost, so the producer sends it again.
            again = self.streams.append(self.run_id, attempt, batch, first_seq=first)
            assert self.wait(again) == self.model.answer("dup")

    @rule(step=st.sampled_from([-1, 1, 0]), last=ENDS)
    def end_by_another(self, step: int, last: Event | None) -> None:
        if last is None:
            return
        attempt = max(0, self.model.attempt + step)
        expected = self.model.end_by_another(attempt, last)
        assert self.wait(self.streams.end(self.run_id, attempt, last)) == expected

    @rule(queued_too=st.integers(0, 3))
    def cancel(self, queued_too: int) -> None:
        if self.model.status == "queued":
            if queued_too < 3:
                return
            self.model.end_by_another(0, events.cancelled("asked"))
        status = self.wait(self.streams.ask_to_cancel(self.run_id, "asked"))
        assert status == self.model.status

    @rule(chance=st.integers(0, 4))
    def another_server(self, chance: int) -> None:
        if chance == 4:
            self.model.other_server = True
            self.wait(exchange_server(self.redis, self.run_id))

    @rule(rarely=st.integers(0, 2))
    def the_stream_expires(self, rarely: int) -> None:
        if rarely < 2:
            return
        self.model.history = []
        self.wait(self.redis.delete(keys.run(self.run_id).events))

    @rule(choice=st.integers(0, 10**6))
    def join_where_one_may_be(self, choice: int) -> None:
        positions = self.model.positions
        self.join(deepcopy(positions[choice % len(positions)]))

    @rule(choice=st.integers(0, 10**6))
    def join_within_the_tape(self, choice: int) -> None:
        """At any place at which some reader could have been cut off."""
        if self.model.attempt:
            self.join(self.reader_behind(choice % (len(self.model.atoms.atoms) + 1)))

    def reader_behind(self, count: int) -> Ledger:
        """One that has had so many atoms of the tape as it is."""
        some = Atoms()
        some.atoms = self.model.atoms.atoms[:count]
        return some.ledger(self.model.attempt)

    @rule(attempt=st.integers(1, 9), at=st.integers(0, 2000))
    def join_anywhere(self, attempt: int, at: int) -> None:
        """Also ahead, or within a character: then it is said, and nothing is made up."""
        reading = self.wait(self.streams.read(self.run_id, ids.number(attempt, at)))
        assert reading is not None
        model = self.model
        places = {0, *accumulate(atom.width for atom in model.atoms.atoms)}
        assert reading.is_ahead == ((attempt, at) > (model.attempt, model.atoms.at))
        if reading.is_ahead:
            assert reading.entries == []
        elif attempt < model.attempt:
            assert reading.restarts == "attempt"
        else:
            assert reading.restarts == ("" if at in places else "rewound")
            assert at in places or reading.entries == []

    def join(self, reader: Ledger) -> None:
        self.follow(reader)
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(choice=st.integers(0, 99), log=st.booleans())
    def read_on(self, choice: int, log: bool) -> None:
        self.follow(self.readers[choice % len(self.readers)], log=log)

    def follow(self, reader: Ledger, *, log: bool = False) -> None:
        for _ in range(1000):
            if self.read_once(reader, log=log):
                break
        model = self.model
        assert reader.close() == {}
        assert (reader.at.attempt, reader.at.at) == ids.split(model.number) or not model.attempt
        assert reader.parts == model.ledger.parts
        assert (reader.end is None) == model.running

    def read_once(self, reader: Ledger, *, log: bool) -> bool:
        """Whether that was all."""
        position = ids.number(reader.at.attempt, reader.at.at)
        read = self.streams.read_log if log else self.streams.read
        reading: Reading | None = self.wait(read(self.run_id, position))
        assert reading is not None and reading.status == self.model.status
        assert not reading.is_ahead and reading.head == self.model.number
        assert reading.states == self.model.states
        assert reading.progress == self.model.progress
        if log:
            # The hub says it where the attempt changes.
            for entry in reading.entries:
                attempt, _ = ids.split(entry.number)
                if 0 < reader.at.attempt < attempt:
                    tell_of_a_restart(reader, attempt, "attempt")
                tell(reader, [entry])
        else:
            if reading.restarts:
                assert reading.restarts == "attempt"
                tell_of_a_restart(reader, ids.split(reading.head)[0], "attempt")
            tell(reader, reading.entries)
        assert reading.is_whole or reading.entries
        assert not reading.entries or reading.reached == reading.entries[-1].number
        return reading.is_whole

    @invariant()
    def record_text_marks_and_stream_are_those_of_the_model(self) -> None:
        if not self.run_id:
            return
        model, (row, text, stream, marks) = self.model, self.wait(self._look())
        assert row[b"state"].decode() == model.status
        assert (int(row[b"attempt"]), int(row[b"seq"])) == (model.attempt, model.seq)
        assert row.get(b"progress", b"") == model.progress
        at, kind, open_, parts, points, mark_bytes, held, states, _ = row[b"tape"].split()
        assert (int(at), int(parts), int(states)) == (
            *(model.atoms.at, model.atoms.parts, model.states),
        )
        if model.atoms.open is None:
            assert kind == b"-"
        else:
            assert (kind.decode(), int(open_)) == model.atoms.open
        # The guard: bytes, marks and openings are the position.
        assert len(text or b"") + len(marks) == int(at) and len(marks) == int(points)
        assert sum(len(fields.get(b"m", b"")) for _, fields in marks) - int(mark_bytes) <= 1
        kept = [
            (int(fields[b"b"]), ids.parse(where.decode()).number, fields[b"e"])
            for where, fields in stream
        ]
        size = sum(len(data) for _, _, data in kept)
        assert size <= 256 * 1024 and (size <= int(held) or not kept)
        assert len(kept) == min(100, len(model.history)) or size > 100_000
        assert kept == model.history[len(model.history) - len(kept) :]
        record = self.wait(self.streams.record(self.run_id))
        assert record is not None and record.parts == model.ledger.parts
        assert record.tape.at == model.atoms.at

    async def _look(self) -> Any:
        key = keys.run(self.run_id)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key.record)
            pipe.get(key.text)
            pipe.xrange(key.events)
            pipe.xrange(key.marks)
            return await pipe.execute()

    def teardown(self) -> None:
        if self.run_id:
            for reader in self.readers:
                self.follow(reader)
            count = len(self.model.atoms.atoms)
            for behind in range(0, count + 1, 1 + count // 6):
                if self.model.attempt:
                    self.follow(self.reader_behind(behind), log=behind % 2 == 1)
            self.wait(forget(self.redis, self.run_id))


def drive(url: str, examples: int, *, replicas: int = 0, **changed: Any) -> None:
    with asyncio.Runner() as runner:
        redis: Any = connect(url, "test")
        streams = Streams(redis, alive_s=120, record_s=600, replicas=replicas)
        try:
            run_state_machine_as_test(
                cast(Any, lambda: RunMachine(runner, streams, redis)),
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    report_multiple_bugs=False,
                    **changed,
                ),
            )
        finally:
            runner.run(redis.aclose())


@pytest.mark.timeout(300)
def test_a_run_is_what_the_model_says(streams_url: str) -> None:
    drive(streams_url, 60, phases=(Phase.reuse, Phase.generate, Phase.shrink))


@pytest.mark.timeout(300)
def test_a_run_is_the_same_where_its_end_waits_for_replicas(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which are there at once."""

    async def replicated(_: Redis, script: Any, names: Any, args: Any, replicas: int) -> Any:
        assert replicas == 1
        return await script(keys=names, args=args)

    for module in (streams_module, writing):
        monkeypatch.setattr(module, "replicated", replicated)
    drive(streams_url, 60, replicas=1, phases=(Phase.reuse, Phase.generate, Phase.shrink))


BROKEN = {
    "off by one at an opening": (
        "append",
        "parts, points, at = op, opened, opened + 1, points + 1, at + 1",
        "parts, points, at = op, opened, opened + 1, points + 1, at",
    ),
    "a mark forgotten": (
        "append",
        "if op == 'e' then\n      redis.call('HSET', record, 'state', arg)",
        "if at % 3 == 0 then\n      redis.call('XDEL', marks, prefix .. at)\n    end\n"
        "    if op == 'e' then\n      redis.call('HSET', record, 'state', arg)",
    ),
    "a piece that ends within a character": (
        "read",
        "redis.call('GETRANGE', KEYS[2], start, until_ - 1)",
        "redis.call('GETRANGE', KEYS[2], start, until_ - 2)",
    ),
    "what was seen, once more": ("read", "local start = wanted - passed", "local start = 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_on_purpose_is_found(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script, old, new = BROKEN[name]
    module, attribute = {
        "append": (appending, "SCRIPT"),
        "read": (looks, "_READ"),
    }[script]
    whole = getattr(module, attribute)
    assert whole.count(old) == 1
    monkeypatch.setattr(module, attribute, whole.replace(old, new))
    with pytest.raises(Exception) as caught:
        drive(streams_url, 40, phases=(Phase.generate,), database=None)
    assert not isinstance(caught.value, FailedHealthCheck | ResponseError)
    with Redis.from_url(streams_url) as client:
        client.flushall()
