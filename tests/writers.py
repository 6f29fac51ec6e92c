"""Writers as tests use them: over the store, or over a stand-in that records what it is sent.

writer = writer_of(streams, run_id)
await say(writer, "text")
await think(writer, "a thought")
await writer.finish(done())
await assert_same_tape(streams, run_id, writer)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plateau_sse.runner.writer import Writer
from plateau_sse.runner.yields import Piece
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams
from plateau_sse.store.runs.tape import Tape


def tape_of(run_id: str, attempt: int = 1) -> Tape:
    """As a claim begins it."""
    tape = Tape(attempt)
    tape.add(events.started(run_id, "notes", attempt))
    return tape


def writer_of(streams: Any, run_id: str, attempt: int = 1) -> Writer:
    return Writer(streams, run_id, 1, tape_of(run_id, attempt))


async def say(writer: Writer, text: str) -> None:
    await writer.say(Piece("t", text))


async def think(writer: Writer, text: str) -> None:
    await writer.say(Piece("r", text))


async def assert_same_tape(streams: Streams, run_id: str, writer: Writer) -> None:
    """What is cached and remembered is what the store has, position by position."""
    record = await streams.record(run_id)
    assert record is not None
    there, here = record.tape, writer.tape
    assert (there.attempt, there.at) == (here.attempt, here.at)
    assert there.entries() == here.entries()


class Recorder:
    """In place of Streams: `batches` are what it was sent, in order; before each it raises the
    next of `faults`, if any is left."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.faults: list[Exception] = []
        self.ends: list[Event] = []

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    async def append(
        self, run_id: str, attempt: int, batch: Sequence[Event], **_: Any
    ) -> Appended:
        if self.faults:
            raise self.faults.pop(0)
        self.batches.append(list(batch))
        return Appended("ok", attempt, 1 + len(self.events))

    finish = append

    async def end(self, run_id: str, attempt: int, last: Event) -> Appended:
        self.ends.append(last)
        return Appended("ok", attempt, 2 + len(self.events))
