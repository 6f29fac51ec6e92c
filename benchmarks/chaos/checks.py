"""What must hold in the end, whatever was done.

Invariant: every check says how much it has looked at; one that has looked at nothing fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from benchmarks.chaos.crowd import Asked, Follower
from benchmarks.chaos.storm import ENV, Left, Outcome
from plateau_sse.store.runs import ids

T = TypeVar("T")

STREAM_CAP = 100
SHOWN_CHARS = 4000
SOON_S = 15
# What no fault explains.
UNEXPECTED = ("Traceback (most recent call last)", "WORKER TIMEOUT", "SIGABRT")


class Check(NamedTuple):
    """`failures` in words; `readers` are those whose histories tell more."""

    name: str
    looked_at: int
    failures: list[str]
    readers: list[Follower]

    @property
    def ok(self) -> bool:
        return self.looked_at > 0 and not self.failures


def check_all(outcome: Outcome) -> list[Check]:
    asked, followers = outcome.asked, outcome.followers
    ended = [one for one in followers if one.reader.end is not None]
    return [
        _each("every run was taken on", asked, _taken_on),
        _each(
            "every run completed with its answer", asked, partial(_completed, _kills(outcome))
        ),
        _each(
            f"every run began and ended within {SOON_S} s of its faults",
            [one for one in asked if one.record],
            partial(_in_time, outcome.faults_over_at),
        ),
        _each("every reader came to an end", followers, lambda one: one.failure),
        _each("nothing lost, repeated or out of order", ended, _ids_whole),
        _each("one terminal event, as in the record", ended, _as_recorded),
        _each("whoever comes back is told to stop", outcome.rejoined, _told_to_stop),
        _each("no stream is ever longer than 100", outcome.lengths, _bounded),
        *(_store(outcome.left, outcome.made, outcome.earlier) if outcome.left else ()),
        _each("no log tells of the unexpected", outcome.logs.items(), _calm),
    ]


def _each(name: str, items: Iterable[T], judge: Callable[[T], str]) -> Check:
    looked_at = 0
    failures: list[str] = []
    readers: list[Follower] = []
    for item in items:
        looked_at += 1
        if failure := judge(item):
            failures.append(failure)
            if isinstance(item, Follower):
                readers.append(item)
    return Check(name, looked_at, failures, readers)


def _taken_on(asked: Asked) -> str:
    return "" if asked.answer else f"{asked.text}: {dict(asked.refusals)}"


def _kills(outcome: Outcome) -> int:
    """How many runners were killed."""
    return sum(
        one.hit and one.fault.kind == "kill" and one.fault.target.startswith("runner")
        for one in outcome.happened
    )


def _completed(kills: int, asked: Asked) -> str:
    record = asked.record
    if not asked.answer:
        return ""
    shown = f"{asked.answer['id']} {asked.text}"
    if record.get("status") == "failed":
        # Only a run that has used up its attempts may be lost, each for the death of a runner.
        error, most = record["error"], int(ENV["MAX_ATTEMPTS"])
        if error["code"] == "runner_lost" and record["attempt"] >= most <= kills:
            return ""
        return f"{shown}: attempt {record['attempt']} failed: {error}"
    if record.get("status") != "completed":
        return f"{shown}: {record}"
    return "" if record["output"] == asked.output else f"{shown}: another answer"


def _in_time(over_at: float, asked: Asked) -> str:
    """Of faults that still went on, one is always the last."""
    record, shown = asked.record, f"{asked.answer['id']} {asked.text}"
    if record.get("ended_at") is None:
        return f"{shown}: has not ended: {record}"
    began_at = record["started_at"] or record["ended_at"]
    late_s = began_at - max(over_at, record["created_at"])
    if late_s > SOON_S:
        return f"{shown}: began {late_s:.1f} s after the last fault"
    late_s = record["ended_at"] - max(over_at, began_at) - asked.length_s
    return f"{shown}: ended {late_s:.1f} s late" if late_s > SOON_S else ""


def _ids_whole(follower: Follower) -> str:
    try:
        follower.reader.check_ids()
    except AssertionError as error:
        return f"{follower.asked.text}, {follower.kind}: {error}"
    return ""


def _as_recorded(follower: Follower) -> str:
    reader, record = follower.reader, follower.asked.record
    shown = f"{follower.asked.text}, {follower.kind}"
    if reader.end is None or reader.end["type"] != f"run.{record.get('status')}":
        return f"{shown}: {reader.end}, the record says {record.get('status')}"
    if ids.split(reader.last)[0] != record["attempt"]:
        return f"{shown}: {ids.show(reader.last)}, the record says attempt {record['attempt']}"
    if record["status"] == "completed" and reader.text != record["output"]:
        return f"{shown}: {len(reader.text)} characters, not {len(record['output'])}"
    if reader.books.parts != record["parts"]:
        return f"{shown}: other parts, {len(reader.books.parts)} of {len(record['parts'])}"
    error = record["error"] or {}
    return "" if reader.end.get("code") == error.get("code") else f"{shown}: {error}"


def _told_to_stop(status: int) -> str:
    return "" if status == 204 else f"{status}, not 204"


def _bounded(length: int) -> str:
    return "" if length <= STREAM_CAP else f"{length} entries"


def _store(left: Left, made: frozenset[str], earlier: frozenset[str]) -> Iterator[Check]:
    found = {key[5:-1] for key in left.records} - earlier
    extra = [f"extra {run}" for run in sorted(found - made)]
    gone = [f"gone {run}" for run in sorted(made - found)]
    yield Check("no run was started twice, none is gone", len(found), extra + gone, [])
    yield _each("one terminal event in each stream", left.ends.items(), _ended_once)
    rest = {
        "in the queue": left.queue,
        "pending": left.pending,
        "channels followed": left.channels,
        "keys without a life": len(left.immortal),
    }
    yield _each("nothing is left behind", rest.items(), lambda one: _none(*one))


def _ended_once(found: tuple[str, int]) -> str:
    run_id, ends = found
    return "" if ends == 1 else f"{run_id}: {ends}"


def _none(what: str, count: int) -> str:
    return f"{count} {what}" if count else ""


def _calm(log: tuple[str, str]) -> str:
    name, text = log
    counts = {word: text.count(word) for word in UNEXPECTED if word in text}
    if not counts:
        return ""
    # The first of them, and what came with it.
    at = min(text.index(word) for word in counts)
    return f"{name}: {counts}\n{text[at : at + SHOWN_CHARS]}"
