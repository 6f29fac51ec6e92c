"""The scripts against a plain model of a run, which Hypothesis drives into every corner."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Claimed, Streams
from tests.store import forget, queued

T = TypeVar("T")
Answer = tuple[str, int, int]

PIECES = st.text(alphabet='ab é雪🏔\u2028"\\\n', max_size=4)
EVENTS = st.one_of(
    PIECES.map(events.delta),
    st.integers(0, 9).map(lambda n: events.progress(n, 9, "", "", 0.0)),
    st.integers(0, 9).map(lambda n: events.tool_call(str(n), "find", None)),
    PIECES.map(lambda text: events.tool_result("1", text)),
)
BATCHES = st.one_of(
    st.lists(EVENTS, max_size=4),
    st.tuples(st.lists(EVENTS, min_size=1, max_size=2), st.integers(40, 120)).map(
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
NEAR = st.sampled_from([1, 1, -1, 0, 2])
RUNNERS = st.sampled_from(["r1", "r2"])


class Model:
    """A run as the contract has it. `history` is every event that ever was, by its number."""

    def __init__(self) -> None:
        self.status, self.runner = "queued", ""
        self.attempt = self.seq = 0
        self.text, self.progress, self.end = "", b"", b""
        self.tools: list[bytes] = []
        self.history: dict[int, bytes] = {}

    @property
    def running(self) -> bool:
        return self.status in ("queued", "running")

    @property
    def number(self) -> int:
        return ids.number(self.attempt, self.seq)

    def answer(self, code: str) -> Answer:
        return code, self.attempt, self.seq

    def append(self, attempt: int, first: int, batch: list[Event]) -> Answer:
        if attempt < self.attempt or attempt < 1:
            return self.answer("fenced")
        if attempt > self.attempt or first > self.seq + 1:
            return self.answer("gap")
        if first and batch and first + len(batch) - 1 <= self.seq:
            return self.answer("dup")
        if not self.running:
            return self.answer("ended")
        return self._write(batch[self.seq + 1 - first if first else 0 :])

    def claim(self, attempt: int, runner: str, first: Event) -> Answer:
        if self.running and (attempt, runner) == (self.attempt, self.runner):
            return self.answer("dup")
        if not self.running:
            return self.answer("ended")
        if attempt != self.attempt + 1:
            return self.answer("fenced")
        self.status, self.runner, self.attempt, self.seq = "running", runner, attempt, 0
        self.text, self.progress, self.tools = "", b"", []
        return self._write([first])

    def end_by_another(self, attempt: int, last: Event) -> Answer:
        if not self.running:
            return self.answer("ended")
        if attempt != self.attempt:
            return self.answer("fenced")
        self.attempt = max(1, self.attempt)
        return self._write([last])

    def _write(self, batch: list[Event]) -> Answer:
        for event in batch:
            self.seq += 1
            self.history[self.number] = event.data
            if event.op == "t":
                self.text += event.arg
            elif event.op == "p":
                self.progress = event.data
            elif event.op == "k" and len(b",".join([*self.tools, event.data])) <= 32768:
                self.tools.append(event.data)
            elif event.op == "e":
                self.status, self.end = event.arg, event.data
        return self.answer("ok")

    def text_at(self, number: int) -> str:
        """What a reader that has had everything up to there shows."""
        reader = Reader(0)
        for at, data in sorted(self.history.items()):
            if at <= number:
                reader.take(at, data)
        return reader.text


class Reader:
    """Folds what `read` gives, as a page does, and accounts for every id of an attempt."""

    def __init__(self, position: int, text: str = "") -> None:
        self.position, self.text = position, text
        self.accounted = set(range(1, ids.split(position)[1] + 1))
        self.ends = 0

    def take(self, number: int, data: bytes) -> None:
        event = msgspec.json.decode(data)
        if ids.split(number)[1] == 1:
            self.accounted = set()
        if event["type"] == "message.delta":
            self.text += event["text"]
        elif event["type"] == "run.restarted":
            self.text = ""
        self.ends += events.is_terminal(data)
        self.accounted.add(ids.split(number)[1])
        self.position = number

    def fold(self, reading: Reading) -> None:
        if reading.snapshot is not None:
            snapshot = msgspec.json.decode(reading.snapshot.data)
            covered_attempt, covered = ids.split(reading.snapshot.number)
            attempt, seen = ids.split(self.position)
            if attempt != covered_attempt or self.position > reading.number:
                seen, self.accounted = 0, set()
            assert snapshot["missed"] == covered - seen
            self.accounted |= set(range(seen + 1, covered + 1))
            self.text, self.position = snapshot["text"], reading.snapshot.number
        for entry in reading.entries:
            assert ids.follows(entry.number, self.position), (entry, self.position)
            self.take(entry.number, entry.data)
        assert self.position == reading.number


class RunMachine(RuleBasedStateMachine):
    def __init__(self, runner: asyncio.Runner, streams: Streams, redis: Any) -> None:
        super().__init__()
        self.runner, self.streams, self.redis = runner, streams, redis
        self.model, self.readers, self.run_id = Model(), [Reader(0)], ""

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    @initialize(claimed=st.sampled_from([True, True, False]))
    def create(self, claimed: bool) -> None:
        self.run_id = self.wait(queued(self.streams))
        if claimed:
            self.claim(1, "r1")

    @rule(step=NEAR, runner=RUNNERS)
    def claim(self, step: int, runner: str) -> None:
        attempt = max(0, self.model.attempt + step)
        first = events.restarted(attempt, "runner_lost")
        if attempt == 1:
            first = events.started(self.run_id, "notes", 1)
        expected = self.model.claim(attempt, runner, first)
        claimed = self.wait(self.streams.claim(self.run_id, attempt, runner, first))
        if expected[0] in ("ok", "dup"):
            assert isinstance(claimed, Claimed)
            assert (claimed.attempt, claimed.seq) == expected[1:]
        else:
            assert claimed == expected

    @rule(
        batch=BATCHES,
        back=st.one_of(st.none(), st.integers(-2, 5), st.integers(0, 120)),
        stale=st.sampled_from([0, 0, 0, 0, 0, -1, 1]),
        last=ENDS,
    )
    def append(
        self, batch: list[Event], back: int | None, stale: int, last: Event | None
    ) -> None:
        """`back` from the next number: a retry or an overlap; ahead of it a gap."""
        if last is not None:
            batch = [*batch, last]
        attempt = self.model.attempt + stale
        first = 0 if back is None else max(1, self.model.seq + 1 - back)
        expected = self.model.append(attempt, first, batch)
        appended = self.wait(self.streams.append(self.run_id, attempt, batch, first_seq=first))
        assert appended == expected
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

    @rule(choice=st.integers(0, 10**6))
    def join_where_one_may_be(self, choice: int) -> None:
        numbers = [0, *self.model.history]
        position = numbers[choice % len(numbers)]
        self.join(Reader(position, self.model.text_at(position)))

    @rule(attempt=st.integers(1, 4), seq=st.integers(1, 400))
    def join_anywhere(self, attempt: int, seq: int) -> None:
        position = ids.number(attempt, seq)
        if position not in self.model.history:
            self.join(Reader(position, "what nobody ever sent"))

    def join(self, reader: Reader) -> None:
        self.follow(reader)
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(choice=st.integers(0, 99))
    def read_on(self, choice: int) -> None:
        self.follow(self.readers[choice % len(self.readers)])

    def follow(self, reader: Reader) -> None:
        reading = self.wait(self.streams.read(self.run_id, reader.position))
        assert reading is not None and reading.status == self.model.status
        reader.fold(reading)
        assert reader.position == self.model.number
        assert reader.text == self.model.text
        assert reader.accounted == set(range(1, self.model.seq + 1))
        assert reader.ends <= 1

    @invariant()
    def record_text_and_stream_are_those_of_the_model(self) -> None:
        if not self.run_id:
            return
        model, (record, text, stream) = self.model, self.wait(self._look())
        assert record[b"state"].decode() == model.status
        assert (int(record[b"attempt"]), int(record[b"seq"])) == (model.attempt, model.seq)
        assert record.get(b"progress", b"") == model.progress
        assert record.get(b"tools", b"") == b",".join(model.tools)
        assert record.get(b"end", b"") == model.end
        assert (text or b"").decode() == model.text
        kept = [(ids.parse(at.decode()), fields[b"e"]) for at, fields in stream]
        assert kept == sorted(model.history.items())[-100:]
        ends = [at for at, data in model.history.items() if events.is_terminal(data)]
        assert ends == ([] if model.running else [model.number])

    async def _look(self) -> Any:
        key = keys.run(self.run_id)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key.record)
            pipe.get(key.text)
            pipe.xrange(key.events)
            return await pipe.execute()

    def teardown(self) -> None:
        if self.run_id:
            for reader in self.readers:
                self.follow(reader)
            self.wait(forget(self.redis, self.run_id))


def test_a_run_is_what_the_model_says(streams_url: str) -> None:
    with asyncio.Runner() as runner:
        redis: Any = connect(streams_url, "test")
        streams = Streams(redis, alive_s=120, record_s=600)
        run_state_machine_as_test(
            cast(Any, lambda: RunMachine(runner, streams, redis)),
            settings=settings(
                max_examples=80,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.reuse, Phase.generate, Phase.shrink),
                report_multiple_bugs=False,
            ),
        )
        runner.run(redis.aclose())
