"""A run that is driven through the real store, and its readers.

Invariant: what the store says is compared with a tape that is made character by character
(`tapes.Atoms`), after every thing that may happen to it; what a reader is told, with what every
other reader was told to stand there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from locustfiles.kit.ledger import Ledger

from plateau_sse.store.answers.answer import answer_of
from plateau_sse.store.answers.packing import pack, unpack
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids, looks
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.records import Record
from plateau_sse.store.runs.streams import Claimed, Streams
from plateau_sse.store.runs.tape import Entry, Tape
from tests.readers import Agreed
from tests.store import admin_url, exchange_server, queued
from tests.tapes import END, LONG_MOVES, MOVES, Atoms, Move, appended, tell, tell_of_a_restart

T = TypeVar("T")

READERS = st.integers(0, 3)
SIZES = st.sampled_from([(8, 8), (13, 8), (100, 40), (700, 500), (16 * 1024, 7936)])
# What follows where the store has come back without its last second: its producer sends it
# again; one that numbers nothing goes on; its runner has died; nobody is there, it is ended.
AFTERWARDS = st.sampled_from(["again", "goes on", "died", "ended"])
BROKE = events.failed("runner_lost", "gone", retryable=True)
CRAMPED = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
)


class Saved:
    """The run as the store had it at one time."""

    def __init__(self, machine: TapeMachine, dumps: list[bytes | None]) -> None:
        self.dumps = dumps
        self.attempt, self.seq = machine.attempt, machine.seq
        self.model = machine.model.copy()


class TapeMachine(RuleBasedStateMachine):
    def __init__(self, runner: asyncio.Runner, store: Streams, redis: Any) -> None:
        super().__init__()
        self.runner, self.store, self.redis = runner, store, redis
        self.model, self.attempt, self.seq = Atoms(), 0, 0
        # What the producer of this attempt has sent, to be sent again.
        self.ring: list[Event] = []
        self.claims, self.has_sent_again, self.came_back = 0, False, False
        self.lost, self.ended = "", False
        self.readers = [Ledger() for _ in range(4)]
        self.agreed = Agreed()
        self.run_id = self.tag = ""

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    @property
    def goes_on(self) -> bool:
        return not self.lost and not self.ended

    @initialize()
    def create(self) -> None:
        self.run_id = self.wait(queued(self.store))
        self.tag = ids.tag_of(self.run_id)
        self._claim(1)
        self.save()

    # What its producers do

    @precondition(lambda self: self.goes_on)
    @rule(moves=st.lists(MOVES, min_size=1, max_size=5), numbered=st.booleans())
    def append(self, moves: list[Move], numbered: bool) -> None:
        # Whoever can send again numbers all that it sends.
        self._append(moves, self.seq + 1 if numbered or self.has_sent_again else 0)

    @precondition(lambda self: self.goes_on and self.model.at < 60_000)
    @rule(move=LONG_MOVES)
    def append_much(self, move: Move) -> None:
        self._append([move], self.seq + 1)

    def _append(self, moves: list[Move], first: int) -> None:
        batch = appended(moves, self.model)
        answer = self.wait(self.store.append(self.run_id, self.attempt, batch, first_seq=first))
        self._note(batch)
        assert answer == ("ok", self.attempt, self.seq, self.model.parts)

    def _note(self, batch: list[Event]) -> None:
        self.ring += batch
        self.seq += sum(event.op not in "TR" for event in batch)

    @precondition(lambda self: self.goes_on)
    @rule()
    def claim_anew(self) -> None:
        """Its runner has died, and another takes over."""
        if self.claims:
            # Of two that were lost in one second only one is told apart.
            self.save()
        self._claim(self.attempt + 1)

    def _claim(self, attempt: int) -> None:
        """Where that number may have been lost, the one that the store names."""
        first = events.started(self.run_id, "notes", attempt)
        claimed = self.wait(self.store.claim(self.run_id, attempt, f"r{attempt}", first))
        if not isinstance(claimed, Claimed):
            assert claimed.code == "skip" and claimed.seq == attempt + 1 and self.came_back
            attempt = claimed.seq
            first = events.started(self.run_id, "notes", attempt)
            claimed = self.wait(self.store.claim(self.run_id, attempt, f"r{attempt}", first))
        assert isinstance(claimed, Claimed) and claimed.attempt == attempt, claimed
        self.came_back = False
        self.model, self.attempt, self.seq, self.ring = Atoms(), attempt, 0, []
        self.has_sent_again = False
        self.claims += 1
        self.model.add(first)
        self._note([first])

    @precondition(lambda self: self.goes_on)
    @rule(last=st.sampled_from([None, None, None, END, BROKE]))
    def end(self, last: Event | None) -> None:
        if last is None:
            return
        self.model.add(last)
        answer = self.wait(
            self.store.finish(self.run_id, self.attempt, [last], first_seq=self.seq + 1)
        )
        assert answer.code == "ok"
        self.ended = True

    # What becomes of the store

    @precondition(lambda self: self.goes_on)
    @rule()
    def save(self) -> None:
        dumps = [self.wait(self.redis.dump(key)) for key in keys.run(self.run_id)]
        self.saved, self.claims = Saved(self, dumps), 0

    @precondition(lambda self: self.goes_on and self.saved.seq)
    @rule(afterwards=AFTERWARDS)
    def lose(self, afterwards: str) -> None:
        """Another server, with what was saved last."""
        self.lost, self.came_back = "died" if self.claims else afterwards, True
        for key, dump in zip(keys.run(self.run_id), self.saved.dumps, strict=True):
            self.wait(self.redis.delete(key))
            if dump is not None:
                self.wait(self.redis.restore(key, 100_000, dump))
        self.wait(exchange_server(self.redis, self.run_id))

    @precondition(lambda self: self.lost)
    @rule(moves=st.lists(MOVES, min_size=1, max_size=3))
    def recover(self, moves: list[Move]) -> None:
        afterwards, self.lost = self.lost, ""
        saved = self.saved
        if afterwards == "again":
            self._send_again(moves)
        elif afterwards == "goes on":
            self.model, self.ring = saved.model.copy(), []
            self.attempt, self.seq = saved.attempt + 2, 0
            batch = appended(moves, self.model)
            answer = self.wait(self.store.append(self.run_id, saved.attempt, batch))
            self._note(batch)
            assert answer == ("ok", self.attempt, self.seq, self.model.parts)
        elif afterwards == "died":
            self._claim(saved.attempt + 1)
            assert self.attempt == saved.attempt + 2
        else:
            self.model, self.attempt = saved.model.copy(), saved.attempt
            answer = self.wait(self.store.end(self.run_id, saved.attempt, BROKE))
            assert answer.code == "ok"
            self.attempt = answer.attempt
            self.model.add(BROKE)
            self.ended = True
        if not self.ended:
            self.save()

    def _send_again(self, moves: list[Move]) -> None:
        """What the store lacks, and what comes next."""
        self.has_sent_again = True
        batch = appended(moves, self.model)
        code, _, seq, _ = self.wait(
            self.store.append(self.run_id, self.attempt, batch, first_seq=self.seq + 1)
        )
        if code == "gap":
            missing, passed = [], 0
            for event in self.ring:
                passed += event.op not in "TR"
                if passed > seq:
                    missing.append(event)
            # Nothing is written twice, whatever comes again.
            missing += batch
            code = self.wait(
                self.store.append(self.run_id, self.attempt, missing, first_seq=seq + 1)
            ).code
        assert code == "ok"
        self._note(batch)

    @rule(most=st.sampled_from([0, 0, 1, 3]))
    def trim(self, most: int) -> None:
        """Entries go early, and all of them expire."""
        self.wait(
            self.redis.xtrim(keys.run(self.run_id).events, maxlen=most, approximate=False)
        )

    # What its readers do

    @rule(who=READERS)
    def newcomer(self, who: int) -> None:
        self.readers[who] = Ledger()

    @rule(who=READERS, most=st.integers(0, 6), sizes=SIZES)
    def read_some(self, who: int, most: int, sizes: tuple[int, int]) -> None:
        """One reading, of which so many events arrive before it breaks off."""
        self._take(self.readers[who], self._read(self.readers[who], sizes), most)

    @rule(who=READERS)
    def follow(self, who: int) -> None:
        """As a hub repairs what its messages have not told."""
        reader = self.readers[who]
        if reader.at.attempt:
            position = ids.number(reader.at.attempt, reader.at.at)
            found = self.wait(self.store.read_log(self.run_id, position))
            assert found is not None
            for entry in found.entries:
                attempt, _ = ids.split(entry.number)
                if attempt > reader.at.attempt:
                    tell_of_a_restart(reader, attempt, "attempt", self.tag)
                self._tell(reader, entry)

    def _read(self, reader: Ledger, sizes: tuple[int, int] | None = None) -> Reading:
        position = ids.number(reader.at.attempt, reader.at.at) if reader.at.attempt else 0
        with pytest.MonkeyPatch.context() as patched:
            if sizes is not None:
                patched.setattr(looks, "READ_BYTES", sizes[0])
                patched.setattr(events, "TEXT_BYTES", sizes[1])
            found = self.wait(self.store.read(self.run_id, position))
        assert found is not None
        assert found.entries or found.is_whole or found.is_ahead or found.restarts
        return found

    def _take(self, reader: Ledger, found: Reading, most: int = 1000) -> None:
        attempt, _ = ids.split(found.head)
        if found.is_ahead:
            # While somebody may send it again it waits.
            if not self.lost:
                tell_of_a_restart(reader, attempt, "rewound", self.tag)
            return
        if found.restarts:
            tell_of_a_restart(reader, attempt, found.restarts, self.tag)
        for entry in found.entries[:most]:
            self._tell(reader, entry)

    def _tell(self, reader: Ledger, entry: Entry) -> None:
        start = reader.at.at
        tell(reader, [entry], self.tag)
        event = msgspec.json.decode(entry.data)
        self.agreed.check(reader.at.attempt, start, reader.at.at, event)

    def teardown(self) -> None:
        if not self.run_id:
            return
        if self.lost:
            self.recover([events.step("last")])
        if not self.ended:
            self.end(END)
        whole = self.model.ledger(self.attempt, self.tag)
        for reader in self.readers:
            before, found = reader.restarts, self._read(reader)
            while found.entries or found.restarts or found.is_ahead:
                self._take(reader, found)
                assert reader.restarts - before <= 2, "it begins anew again and again"
                found = self._read(reader)
            assert found.is_whole and found.ended
            assert reader.close() == {}
            assert (reader.parts, reader.end, reader.at) == (whole.parts, whole.end, whole.at)
        self._look_at_the_record(whole)
        self.wait(self.redis.delete(*keys.run(self.run_id)))

    def _look_at_the_record(self, whole: Ledger) -> None:
        """It has the same parts, and from each position its tape leads on; so does a hit's."""
        record = self.wait(self.store.record(self.run_id))
        assert record is not None and record.parts == whole.parts
        assert record.tape.at == self.model.at == whole.at.at
        assert record.attempt == self.attempt
        if record.status == "completed":
            assert record.output == whole.text
        if len(self.model.atoms) < 2000:
            self._lead_on(record.tape, whole)
            if record.status == "completed":
                self._lead_on(self._hit(record), whole)

    def _lead_on(self, tape: Tape, whole: Ledger) -> None:
        """From each position that a reader can have."""
        for reader in self.model.readers(self.attempt, self.tag):
            tell(reader, tape.entries(reader.at.at), self.tag)
            assert (reader.parts, reader.at) == (whole.parts, whole.at)
            assert reader.end is not None and whole.end is not None
            assert reader.end["type"] == whole.end["type"]

    def _hit(self, record: Record) -> Tape:
        """The tape of the answer once it has been kept in the cache."""
        answer = answer_of(
            tape=record.tape,
            run_id=self.run_id,
            agent=record.agent,
            owner=record.owner,
            output=None,
            usage=None,
            duration_ms=1,
        )
        kept = unpack(pack(answer))
        assert kept is not None and (kept.tag, kept.final) == (self.tag, record.output)
        return kept.tape("hit-" + "a" * 24)


def drive(
    url: str, how: settings = CRAMPED, change: Callable[[Any, Streams], None] | None = None
) -> None:
    """Let it loose on this server; `change` may break what reads and writes."""
    with asyncio.Runner() as runner:
        redis: Any = connect(url, "test")
        looking: Any = connect(admin_url(url), "looking")
        store = Streams(redis, alive_s=120, record_s=600)
        if change is not None:
            change(redis, store)
        try:
            run_state_machine_as_test(
                cast(Any, lambda: TapeMachine(runner, store, looking)), settings=how
            )
        finally:
            runner.run(looking.aclose())
            runner.run(redis.aclose())
