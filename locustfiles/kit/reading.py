"""One reader's way through one run, as a page with an EventSource would go it.

Invariant: a reader comes back from whatever ends its response too early, after the server's
`retry:`; only what a browser would not come back from is a failure at once. What had waited for
the reader, and what it reads slowly on purpose, counts in no latency.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import gevent
from gevent.lock import BoundedSemaphore
from locust.contrib.fasthttp import FastResponse

from locustfiles.agent import STAMP, numbers_of
from locustfiles.kit import rows
from locustfiles.kit.arrivals import AT_A_TIME, Arrivals, Cut, Event, Malformed
from locustfiles.kit.ledger import Ledger
from locustfiles.kit.rows import Fault, Row
from plateau_sse.cli.dialects import Question

if TYPE_CHECKING:
    from locustfiles.kit.asking import Asker

log = logging.getLogger("load")

# What a browser waits where the server has said nothing.
RETRY_S = 1.0
SILENT_MOST = 3
# By which one clock may be put right in between.
CLOCK_S = 0.002
RUNS = "/v1/runs"
RUN = "/v1/runs/[id]"
EVENTS = "/v1/runs/[id]/events"
STREAM = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


@dataclass
class Asked:
    """A run that was asked for. `posted_s` is when; `pieces` how many its answer has, where
    that is known; `hit` is the answer that came at once, with its parts, `opened` the stream
    that did; `question` is what was asked, for who asks the same in another dialect."""

    id: str
    events_url: str
    how: str
    posted_s: float
    pieces: int | None
    hit: str | None = None
    hit_parts: list[dict[str, Any]] | None = None
    opened: FastResponse | None = None
    ended: bool = False
    question: Question | None = None
    _record: dict[str, Any] | None = None
    _one_asks: BoundedSemaphore = field(default_factory=BoundedSemaphore)

    @property
    def record_url(self) -> str:
        path, _, query = self.events_url.partition("?")
        return path.removesuffix("/events") + (f"?{query}" if query else "")

    def record(self, user: Asker) -> dict[str, Any]:
        """What the service says of it after its end; asked for once, however many read it."""
        with self._one_asks:
            if self._record is None:
                answer = user.client.get(self.record_url, name=RUN)
                if answer.status_code != 200:
                    raise Fault(f"its record: {answer.status_code}")
                self._record = cast(dict[str, Any], answer.json())
            return self._record


@dataclass
class Manner:
    """How one reads. `drops()` is asked after each event whether to break off there, `away_s()`
    for how long; with a `bite` so many bytes are taken at a time, and `rest()` is called before
    each. `alone`: it asked for the run itself, so the first piece is a first token."""

    row: Row = rows.ANSWER
    drops: Callable[[], bool] = lambda: False
    away_s: Callable[[], float] = lambda: 0.5
    bite: int = AT_A_TIME
    rest: Callable[[], None] | None = None
    alone: bool = True


class Reading:
    """One reader's way through one run."""

    def __init__(self, user: Asker, asked: Asked, manner: Manner) -> None:
        self.ledger = Ledger()
        self._user = user
        self._asked = asked
        self._manner = manner
        self._environment = user.environment
        # A slow one's times are its own doing.
        self._timed = manner.rest is None
        self._streamed = asked.opened is not None
        self._opened_s = 0.0
        self._last_at_s: float | None = None
        self._again_s: float | None = None
        self._spoken = False

    @property
    def run(self) -> str:
        return self._asked.id

    def follow(self) -> None:
        """Until the terminal event. Raises Fault for what a browser does not come back from,
        and Limited, behind which it may be called again."""
        silent = 0
        while self.ledger.end is None:
            before = self.ledger.events
            wait_s = self._connect()
            silent = silent + 1 if self.ledger.events == before else 0
            if silent >= SILENT_MOST:
                raise Fault("responses without events")
            if self.ledger.end is None:
                gevent.sleep(wait_s)

    def check(self) -> None:
        """That it has completed, and that what was read is the whole answer, in its parts."""
        ledger, asked = self.ledger, self._asked
        end = ledger.end or {}
        asked.ended = True
        if end.get("type") != "run.completed":
            raise Fault(f"{end.get('type')} {end.get('code', '')}".strip())
        if asked.hit is None:
            record = asked.record(self._user)
            if record.get("status") != "completed":
                raise Fault(f"its record is {record.get('status')}")
            output, parts = record.get("output"), record.get("parts")
        else:
            output, parts = asked.hit, asked.hit_parts
        if not output:
            raise Fault("an empty answer")
        if end.get("output", ledger.text) != output:
            raise Fault("another text than its record's")
        if parts is not None and parts != ledger.parts:
            raise Fault("other parts than its record's")
        if asked.pieces is not None and numbers_of(output) != list(range(asked.pieces)):
            raise Fault("pieces of the text are missing or misplaced")

    def _connect(self) -> float:
        """One response, to its end or ours; after how long to come back."""
        if self.ledger.events:
            self._again_s = time.time()
        response = self._asked.opened
        self._asked.opened = None
        if response is None:
            response = self._open()
        self._opened_s = time.time()
        arrivals = Arrivals(
            response, self._user.stamp, bite=self._manner.bite, rest=self._manner.rest
        )
        try:
            for event in arrivals:
                self._hear(event)
                if self.ledger.end is None and self._manner.drops():
                    # Nobody waits for what comes meanwhile.
                    self._last_at_s, self._streamed = None, False
                    return self._manner.away_s()
            return RETRY_S if arrivals.retry_s is None else arrivals.retry_s
        except Malformed as error:
            log.warning("%s: %s", self._asked.id, error)
            raise Fault("malformed") from None
        except (Cut, OSError) as error:
            if self._timed:
                rows.failed(self._environment, rows.BROKEN, f"broken off: {kind_of(error)}")
            return RETRY_S if arrivals.retry_s is None else arrivals.retry_s
        finally:
            arrivals.close()

    def _open(self) -> FastResponse:
        headers = dict(STREAM)
        if self.ledger.last_id:
            headers["Last-Event-ID"] = self.ledger.last_id
        response = self._get(headers)
        if response.status_code == 204:
            raise Fault("204 before the end")
        if response.status_code != 200:
            raise Fault(f"its events: {response.status_code}")
        kind = response.headers.get("content-type", "") if response.headers else ""
        if not str(kind).startswith("text/event-stream"):
            raise Fault("its events are no event stream")
        return response

    def _get(self, headers: dict[str, str]) -> FastResponse:
        with self._user.client.get(
            self._asked.events_url,
            headers=headers,
            stream=True,
            name=EVENTS,
            catch_response=True,
        ) as response:
            self._user.check_limit(response)
            found: FastResponse = response
            return found

    def _hear(self, event: Event) -> None:
        at_s, environment = event.at_s, self._environment
        in_order = self.ledger.take(event.id, event.data)
        if not self._timed:
            return
        if event.seen_s > at_s:
            rows.note(environment, rows.LATE, (event.seen_s - at_s) * 1000)
        if not in_order:
            self._last_at_s = None
            self._resumed(at_s, waited=True)
            return
        stamp = None
        if event.data["type"] == "message.delta":
            stamp = STAMP.match(event.data["text"])
            if not self._spoken:
                self._spoken = True
                self._first_token(at_s)
        said_s = int(stamp[2]) / 1e6 - self._user.clock.ahead_s if stamp else None
        # What was said before this response was open waited for us, not we for it.
        live = said_s is not None and said_s > self._opened_s
        if said_s is not None and live:
            self._lag(at_s - said_s)
        if self._last_at_s is not None and (live or self._again_s is not None or not stamp):
            rows.note(environment, rows.GAP, (at_s - self._last_at_s) * 1000)
        self._last_at_s = at_s
        self._resumed(at_s, waited=not live)

    def _lag(self, lag_s: float) -> None:
        if lag_s < -(self._user.clock.sure_s or 0.0) - CLOCK_S:
            rows.failed(self._environment, rows.ORDER, "came before it was said: other clocks")
            return
        rows.note(self._environment, rows.LAG, max(0.0, lag_s) * 1000)

    def _first_token(self, at_s: float) -> None:
        """Of whom nothing has kept: between the two requests of the others the generator may
        have been busy with somebody else."""
        if self._streamed and self._asked.how == "miss":
            rows.note(self._environment, rows.FIRST_TOKEN, (at_s - self._asked.posted_s) * 1000)

    def _resumed(self, at_s: float, *, waited: bool) -> None:
        """At the first event after coming back; where none had waited, by the head."""
        if self._again_s is not None:
            came_s = at_s if waited else self._opened_s
            rows.note(self._environment, rows.RESUME, (came_s - self._again_s) * 1000)
            self._again_s = None


def kind_of(answer: object) -> str:
    """What an answer that never came, or a broken connection, has died of."""
    error = getattr(answer, "error", answer)
    if not isinstance(error, BaseException):
        return ""
    cause = error.__cause__ or error.__context__
    return type(error).__name__ + (f" of {type(cause).__name__}" if cause else "")
