"""One client's way through one answer in the dialect of others.

Invariant: who has broken off, or was, asks the same again under the same key, and is told the
same run from its first word; what it has in the end is checked against that run's record.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

import gevent
from locust.contrib.fasthttp import FastResponse

from locustfiles.agent import STAMP
from locustfiles.kit import rows
from locustfiles.kit.arrivals import Arrivals, Cut, Malformed
from locustfiles.kit.hearing import Hearing
from locustfiles.kit.hearing import Malformed as NoFrame
from locustfiles.kit.reading import RETRY_S, RUN, SILENT_MOST, STREAM, Manner, kind_of
from locustfiles.kit.rows import Fault
from plateau_sse.cli.dialects import Event, Question, Spoken

if TYPE_CHECKING:
    from locustfiles.kit.asking import Asker

log = logging.getLogger("load")

# Asked for later: a worker that leaves.
LEAVING = 503


class DialectReading:
    """From the question to the checked answer."""

    def __init__(self, user: Asker, spoken: Spoken, question: Question, manner: Manner) -> None:
        self.hearing = Hearing(spoken)
        self.run = ""
        self._user = user
        self._spoken = spoken
        self._path = spoken.path_to(question.agent)
        self._posted_s = time.time()
        # Where its agent is ours.
        self._pieces = question.options.get("count")
        self._manner = manner
        self._body = spoken.body(question)
        self._headers = STREAM | {"Idempotency-Key": uuid.uuid4().hex}
        self._record_url = ""
        self._how = ""
        self._opened_s = 0.0
        self._last_at_s: float | None = None
        self._again_s: float | None = None
        self._spoke = False

    def follow(self) -> None:
        """Until the dialect says that it has ended. Raises Fault, and Limited, behind which it
        may be called again."""
        if not self.run:
            self._posted_s = time.time()
        silent = 0
        while self.hearing.end is None:
            before = self.hearing.events
            wait_s = self._once()
            silent = silent + 1 if self.hearing.events == before else 0
            if silent >= SILENT_MOST:
                raise Fault("responses without events")
            if self.hearing.end is None:
                gevent.sleep(wait_s)
                self._last_at_s, self._again_s = None, time.time()

    def check(self) -> None:
        """That it is whole, and the answer of the run."""
        end = self.hearing.end or {}
        if end.get("type") != "run.completed":
            raise Fault(f"{end.get('type')} {end.get('code', '')}".strip())
        answer = self._user.client.get(self._record_url, name=RUN)
        if answer.status_code != 200:
            raise Fault(f"its record: {answer.status_code}")
        if what := self.hearing.differs(answer.json(), self._pieces):
            raise Fault(what)

    def _once(self) -> float:
        """One response, to its end or ours; after how long to ask again."""
        response = self._open()
        if isinstance(response, float):
            return response
        self._opened_s = time.time()
        self.hearing.begin_anew()
        arrivals = Arrivals(response, self._user.stamp)
        try:
            for frame, at_s, seen_s in arrivals.frames():
                events = self.hearing.take(frame)
                if seen_s > at_s:
                    rows.note(self._user.environment, rows.LATE, (seen_s - at_s) * 1000)
                for event in events:
                    self._hear(event, at_s)
                if events and self.hearing.end is None and self._manner.drops():
                    return self._manner.away_s()
            return RETRY_S
        except (Malformed, NoFrame) as error:
            log.warning("%s: %s", self.run, error)
            raise Fault("malformed") from None
        except (Cut, OSError) as error:
            # So a worker leaves whose clients would take a clean end for the answer's.
            log.info("%s: broken off: %s", self.run, kind_of(error))
            return RETRY_S
        finally:
            arrivals.close()

    def _open(self) -> FastResponse | float:
        """The response, or after how long to ask again. Raises Fault."""
        with self._user.post(
            self._path, self._body, self._headers, name=self._spoken.path, streamed=True
        ) as answer:
            head = answer.headers or {}
            if answer.status_code == 200:
                self.run, self._how = str(head["x-plateau-run"]), str(head["x-cache"])
                link = str(head["link"]).partition("<")[2].partition(">")[0]
                events, _, query = link.partition("?")
                self._record_url = f"{events.removesuffix('/events')}?{query}"
                opened: FastResponse = answer
                return opened
            self._user.check_limit(answer)
            if answer.status_code == LEAVING and "retry-after" in head:
                answer.success()
                return float(head["retry-after"])
            what = f"no answer: {answer.status_code} {kind_of(answer)}".strip()
            answer.failure(Fault(what))
        raise Fault(what)

    def _hear(self, event: Event, at_s: float) -> None:
        environment = self._user.environment
        stamp = STAMP.match(event["text"]) if event["type"] == "message.delta" else None
        if stamp and not self._spoke:
            self._spoke = True
            if self._how == "miss":
                rows.note(environment, rows.FIRST_TOKEN, (at_s - self._posted_s) * 1000)
        said_s = int(stamp[2]) / 1e6 - self._user.clock.ahead_s if stamp else None
        # What was said before this response was open waited for us, not we for it.
        live = said_s is not None and said_s > self._opened_s
        if said_s is not None and live:
            rows.note(environment, rows.LAG, max(0.0, at_s - said_s) * 1000)
        if self._last_at_s is not None and (live or not stamp):
            rows.note(environment, rows.GAP, (at_s - self._last_at_s) * 1000)
        self._last_at_s = at_s
        if self._again_s is not None:
            came_s = self._opened_s if not live else at_s
            rows.note(environment, rows.RESUME, (came_s - self._again_s) * 1000)
            self._again_s = None
