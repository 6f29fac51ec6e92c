"""A user who asks questions and reads the answers, as a page with an EventSource would.

Invariant: every question ends as one row of an answer, whole or failed; a user who is stopped
in the middle of one has neither. A reader comes back from whatever ends its response too early,
after the server's `retry:`; only what a browser would not come back from is a failure at once.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import gevent
from gevent.lock import BoundedSemaphore
from geventhttpclient.response import HTTPConnectionClosed
from locust import FastHttpUser
from locust.contrib.fasthttp import FastResponse, ResponseContextManager

from locustfiles.agent import STAMP, numbers_of
from locustfiles.kit import rows
from locustfiles.kit.arrivals import AT_A_TIME, Arrivals, Cut, Event, Malformed
from locustfiles.kit.clock import Clock, Exchange
from locustfiles.kit.ledger import Ledger
from locustfiles.kit.rows import Fault, Row

log = logging.getLogger("load")

# A text that the shipped agent `study` has something to say of, too.
QUESTION = (
    "A plateau is a flat, elevated landform that rises sharply above the area around it. "
    "Rivers cut valleys into it, and what is left between them are mesas and buttes. Plateaus "
    "form when magma lifts the crust from below, when lava spreads in layers, or when a "
    "glacier wears mountains down. The largest one, in Asia, is called the roof of the world."
)
OURS = "load"
# What a browser waits where the server has said nothing.
RETRY_S = 1.0
SILENT_MOST = 3
# A slow one takes a minute more than its run.
GIVES_UP_S = 150.0
RUN = "/v1/runs/[id]"
EVENTS = "/v1/runs/[id]/events"


@dataclass
class Asked:
    """A run that was asked for. `posted_s` is when; `pieces` how many its answer has, where
    that is known; `hit` is the answer that came at once."""

    id: str
    events_url: str
    how: str
    posted_s: float
    pieces: int | None
    hit: str | None = None
    ended: bool = False
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


class Asker(FastHttpUser):
    """What all users have in common."""

    abstract = True
    # Three pings missed.
    network_timeout = 45.0
    connection_timeout = 20.0
    # What it must have measured by the end.
    measures: ClassVar[tuple[Row, ...]] = (rows.GAP, rows.LAG, rows.RESUME)
    # One a process, as is the agent that it is compared with.
    clock: ClassVar[Clock] = Clock()

    def on_start(self) -> None:
        if self.agent == OURS:
            self.clock.settle(str(self.host), self._exchange)

    @property
    def agent(self) -> str:
        return str(self.environment.parsed_options.agent)

    def ask(
        self,
        row: Row,
        text: str = "",
        *,
        count: int,
        pause_ms: int,
        width: int = 0,
        **more: Any,
    ) -> Asked | None:
        """Post a question, one that nobody has asked before where `text` is empty. None where
        there is no answer to be had: that is a failure of `row`."""
        body: dict[str, Any] = {
            "agent": self.agent,
            "input": f"{text or uuid.uuid4().hex}: {QUESTION}",
            **more,
        }
        ours = self.agent == OURS
        if ours:
            body["options"] = {"count": count, "pause_ms": pause_ms, "width": width}
        posted_s = time.time()
        with self._post(body) as answer:
            found = _object(answer)
            if answer.status_code in (200, 202) and {"id", "events_url"} <= found.keys():
                hit = found.get("output") if found.get("cached") else None
                how = str(answer.headers.get("x-cache", "")) if answer.headers else ""
                pieces = count if ours else None
                return Asked(found["id"], found["events_url"], how, posted_s, pieces, hit)
            why = found.get("code") or _kind(getattr(answer, "error", None))
            what = f"no run: {answer.status_code} {why}".strip()
            if found.get("code") == "unknown_agent" and ours:
                what += " (start it with AGENTS=load=locustfiles.agent:load, or use --agent)"
            answer.failure(Fault(what))
        rows.failed(self.environment, row, "no run")
        return None

    def _post(self, body: dict[str, Any]) -> ResponseContextManager:
        """The answer, to be judged in a `with` block."""

        def post() -> ResponseContextManager:
            headers = self.authorization()
            return self.client.post("/v1/runs", json=body, headers=headers, catch_response=True)

        began = time.perf_counter()
        answer = post()
        if not isinstance(getattr(answer, "error", None), HTTPConnectionClosed):
            return answer
        # What is never entered locust counts nowhere.
        rows.note(self.environment, rows.AGAIN, (time.perf_counter() - began) * 1000)
        return post()

    def _exchange(self) -> Exchange | None:
        """Ask the agent for the time."""
        body = {"agent": OURS, "input": uuid.uuid4().hex, "options": {"count": 1}}
        headers = self.authorization() | {"Accept": "text/event-stream"}
        asked_s = time.time()
        response = self.client.post(
            "/v1/runs", json=body, headers=headers, stream=True, name="/v1/runs (the time)"
        )
        if response.status_code != 200:
            return None
        arrivals = Arrivals(response)
        try:
            for event in arrivals:
                stamp = STAMP.match(event.data.get("text", ""))
                if stamp is not None:
                    return Exchange(asked_s, int(stamp[2]) / 1e6, event.at_s)
        except (Malformed, OSError) as error:
            log.warning("the time: %s", error)
        finally:
            arrivals.close()
        return None

    def authorization(self) -> dict[str, str]:
        key = self.environment.parsed_options.api_key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def read(self, asked: Asked, manner: Manner) -> Ledger | None:
        """Read the answer to its end and check it; None where it was not whole."""
        came = time.perf_counter()
        reading = Reading(self, asked, manner)
        what = ""
        try:
            with gevent.Timeout(GIVES_UP_S, Fault(f"no end within {GIVES_UP_S:.0f} s")):
                reading.follow()
                reading.check()
        except Fault as fault:
            what = str(fault)
        faults = reading.ledger.close()
        for kind, count in faults.items():
            rows.failed(self.environment, rows.ORDER, kind, count)
        if what or faults:
            log.warning("%s: %s %s", asked.id, what, dict(faults))
            rows.failed(self.environment, manner.row, what or "events out of line")
            return None
        began = asked.posted_s if manner.alone else None
        took_s = time.time() - began if began is not None else time.perf_counter() - came
        rows.note(self.environment, manner.row, took_s * 1000)
        return reading.ledger


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
        self._opened_s = 0.0
        self._last_at_s: float | None = None
        self._again_s: float | None = None
        self._spoken = False

    def follow(self) -> None:
        """Until the terminal event. Raises Fault for what a browser does not come back from."""
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
        """That it has completed, and that what was read is the whole answer."""
        ledger, asked = self.ledger, self._asked
        end = ledger.end or {}
        asked.ended = True
        if end.get("type") != "run.completed":
            raise Fault(f"{end.get('type')} {end.get('code', '')}".strip())
        if asked.hit is None:
            record = asked.record(self._user)
            if record.get("status") != "completed":
                raise Fault(f"its record is {record.get('status')}")
            output = record.get("output")
        else:
            output = asked.hit
        if not output:
            raise Fault("an empty answer")
        if end.get("output", ledger.text) != output:
            raise Fault("another text than its record's")
        if asked.pieces is not None and numbers_of(output) != list(range(asked.pieces)):
            raise Fault("pieces of the text are missing or misplaced")

    def _connect(self) -> float:
        """One response, to its end or ours; after how long to come back."""
        if self.ledger.events:
            self._again_s = time.time()
        response = self._open()
        self._opened_s = time.time()
        arrivals = Arrivals(response, bite=self._manner.bite, rest=self._manner.rest)
        try:
            for event in arrivals:
                self._hear(event)
                if self.ledger.end is None and self._manner.drops():
                    self._last_at_s = None
                    return self._manner.away_s()
            return RETRY_S if arrivals.retry_s is None else arrivals.retry_s
        except Malformed as error:
            log.warning("%s: %s", self._asked.id, error)
            raise Fault("malformed") from None
        except (Cut, OSError) as error:
            if self._timed:
                rows.failed(self._environment, self._manner.row, f"broken off: {_kind(error)}")
            return RETRY_S if arrivals.retry_s is None else arrivals.retry_s
        finally:
            arrivals.close()

    def _open(self) -> FastResponse:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self.ledger.last_id:
            headers["Last-Event-ID"] = self.ledger.last_id
        url = self._asked.events_url
        response = self._user.client.get(url, headers=headers, stream=True, name=EVENTS)
        if response.status_code == 204:
            raise Fault("204 before the end")
        if response.status_code != 200:
            raise Fault(f"its events: {response.status_code}")
        kind = response.headers.get("content-type", "") if response.headers else ""
        if not str(kind).startswith("text/event-stream"):
            raise Fault("its events are no event stream")
        return response

    def _hear(self, event: Event) -> None:
        at_s, environment = event.at_s, self._environment
        news = self.ledger.take(event.id, event.data)
        if not self._timed:
            return
        if event.seen_s > at_s:
            rows.note(environment, rows.LATE, (event.seen_s - at_s) * 1000)
        if not news or event.data["type"] == "run.snapshot":
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
            rows.note(environment, rows.LAG, (at_s - said_s) * 1000)
        if self._last_at_s is not None and (live or self._again_s is not None or not stamp):
            rows.note(environment, rows.GAP, (at_s - self._last_at_s) * 1000)
        self._last_at_s = at_s
        self._resumed(at_s, waited=not live)

    def _first_token(self, at_s: float) -> None:
        asked = self._asked
        if self._manner.alone and asked.how in ("miss", "hit"):
            row = rows.FIRST_TOKEN if asked.how == "miss" else rows.FIRST_CACHED
            rows.note(self._environment, row, (at_s - asked.posted_s) * 1000)

    def _resumed(self, at_s: float, *, waited: bool) -> None:
        """At the first event after coming back; where none had waited, by the head."""
        if self._again_s is not None:
            came_s = at_s if waited else self._opened_s
            rows.note(self._environment, rows.RESUME, (came_s - self._again_s) * 1000)
            self._again_s = None


def _kind(error: Exception | None) -> str:
    """Its class and, where geventhttpclient has wrapped it, that of its cause."""
    if error is None:
        return ""
    cause = error.__cause__ or error.__context__
    return type(error).__name__ + (f" of {type(cause).__name__}" if cause else "")


def _object(answer: FastResponse) -> dict[str, Any]:
    try:
        found = answer.json()
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
