"""Rows of our own in locust's tables, in milliseconds, and the faults that are its failures.

Invariant: what is measured there, by the ten thousand a second, is no request: it stays out of
locust's "Aggregated". A fault is a failed request of its row, so that locust's own exit code,
its tables and its CSV know of it.
"""

from __future__ import annotations

from typing import NamedTuple

from locust.env import Environment
from locust.stats import StatsEntry


class Row(NamedTuple):
    """As locust's tables show it."""

    kind: str
    name: str


# From posting a question to the first piece of its answer, in the response to it.
FIRST_TOKEN = Row("SSE", "first token")
# The same of a hit, whose whole text is in the document that comes back.
FIRST_CACHED = Row("SSE", "first token, cached")
# From one event to the next of a reader, whatever it waited for, its own absences excepted.
GAP = Row("SSE", "gap between events")
# From the agent's handing over of a piece to its arrival at a reader who is there.
LAG = Row("SSE", "event lag")
# From asking for what was missed to its first event.
RESUME = Row("SSE", "resume")
# From the kernel's having an event to this process' looking at it: the generator's own delay.
LATE = Row("SSE", "seen late by the generator")
# A kept connection that was closed as the question was on its way: browsers ask once more, and
# nobody sees it. To when it was noticed.
AGAIN = Row("SSE", "asked again")
# Who is told to wait (429), and for how long: `Retry-After`.
LIMITED = Row("SSE", "met a limit")
MEASURED = (FIRST_TOKEN, FIRST_CACHED, GAP, LAG, RESUME, LATE)

# From posting a question to the end of its answer, which was checked; or from coming to a run.
ANSWER = Row("SSE", "whole answer")
SHARED = Row("SSE", "whole answer, among many")
SLOW = Row("SSE", "whole answer, read slowly")
TURN = Row("SSE", "turn of a conversation")
ANSWERS = (ANSWER, SHARED, SLOW, TURN)
# One failure for each faulty event, and for each response that was broken off.
ORDER = Row("SSE", "events in order")
BROKEN = Row("SSE", "connections")
FAULTS_MOST = 100


class Fault(Exception):
    """What a reader must never see. Its text is a kind: locust makes a row of each text."""


class Limited(Exception):
    """A limit that the load is to meet; after `wait_s` the same may be asked again."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


def note(environment: Environment, row: Row, ms: float) -> None:
    """One measured time."""
    # Past the event hook and the total: a tenth of the cost.
    environment.stats.get(row.name, row.kind).log(ms, 0)  # type: ignore[arg-type]


def failed(environment: Environment, row: Row, what: str, count: int = 1) -> None:
    for _ in range(min(count, FAULTS_MOST)):
        environment.events.request.fire(
            request_type=row.kind,
            name=row.name,
            response_time=0,
            response_length=0,
            exception=Fault(what),
            context={},
        )


def found(environment: Environment, row: Row) -> StatsEntry:
    """What is known of a row; an empty one where that is nothing."""
    # `stats.get` would put it into the tables.
    key = (row.name, row.kind)
    return environment.stats.entries.get(key) or StatsEntry(environment.stats, *key)
