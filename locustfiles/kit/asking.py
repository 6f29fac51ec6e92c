"""A user who asks questions and reads the answers.

Invariant: every question ends as one row of an answer, whole or failed; a user who is stopped
in the middle of one has neither.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urljoin

import gevent
from geventhttpclient.response import HTTPConnectionClosed
from locust import FastHttpUser
from locust.contrib.fasthttp import FastResponse, ResponseContextManager

from locustfiles.agent import STAMP
from locustfiles.kit import options, rows, stamps
from locustfiles.kit.arrivals import Arrivals, Malformed
from locustfiles.kit.clock import Clock, Exchange
from locustfiles.kit.dialects import DialectReading
from locustfiles.kit.hearing import Hearing
from locustfiles.kit.ledger import Ledger
from locustfiles.kit.reading import RUNS, STREAM, Asked, Manner, Reading, kind_of
from locustfiles.kit.rows import Fault, Limited, Row
from locustfiles.kit.stamps import Stamp
from plateau_sse.cli.dialects import SPOKEN, Question, Spoken

log = logging.getLogger("load")

# A text that the shipped agent `study` has something to say of, too.
QUESTION = (
    "A plateau is a flat, elevated landform that rises sharply above the area around it. "
    "Rivers cut valleys into it, and what is left between them are mesas and buttes. Plateaus "
    "form when magma lifts the crust from below, when lava spreads in layers, or when a "
    "glacier wears mountains down. The largest one, in Asia, is called the roof of the world."
)
OURS = "load"
# A slow one takes 110 s, and as long again where its worker is recycled in the middle of it.
GIVES_UP_S = 300.0
TOO_MANY = 429
# For a limit, at a time.
WAITS_S = 60.0


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
    # By which users have the keys; those of other processes do not all begin with the first.
    key_turns: ClassVar[Iterator[int]] = itertools.count(random.randrange(2**16))

    def on_start(self) -> None:
        keys = options.keys_of(self.environment.parsed_options.api_key)
        self.key = keys[next(self.key_turns) % len(keys)] if keys else ""
        # One a user: it reads one thing at a time.
        self.stamp = Stamp()
        stamps.keep(self.stamp, self.client.client.clientpool.get_client(str(self.host)))
        if self.agent == OURS:
            self.clock.settle(str(self.host), self._exchange)

    @property
    def agent(self) -> str:
        return str(self.environment.parsed_options.agent)

    @property
    def spoken(self) -> Spoken | None:
        """The dialect to be asked in, None for our own."""
        return SPOKEN.get(str(self.environment.parsed_options.dialect))

    def question(
        self, text: str = "", *, count: int, pause_ms: int, width: int = 0
    ) -> Question:
        """One that nobody has asked before where `text` is empty."""
        options = {"count": count, "pause_ms": pause_ms, "width": width}
        text = f"{text or uuid.uuid4().hex}: {QUESTION}"
        return Question(
            self.agent, text, options if self.agent == OURS else {}, uuid.uuid4().hex
        )

    def ask(
        self,
        row: Row,
        text: str = "",
        *,
        count: int,
        pause_ms: int,
        width: int = 0,
        streamed: bool = False,
        **more: Any,
    ) -> Asked | None:
        """Post that question; `streamed` has the stream as the answer. None where there is none
        to be had: a failure of `row`."""
        question = self.question(text, count=count, pause_ms=pause_ms, width=width)
        body: dict[str, Any] = {"agent": question.agent, "input": question.text, **more}
        if self.agent == OURS:
            body["options"] = question.options
        while True:
            try:
                asked = self._ask(question, body, streamed=streamed)
            except Limited as limit:
                gevent.sleep(limit.wait_s)
                continue
            if asked is None:
                rows.failed(self.environment, row, "no run")
            return asked

    def _ask(self, question: Question, body: dict[str, Any], *, streamed: bool) -> Asked | None:
        """As `ask`. Raises Limited."""
        ours = self.agent == OURS
        posted_s = time.time()
        with self._post(body, streamed=streamed) as answer:
            came_s = self.stamp.at_s or time.time()
            if answer.status_code in (200, 202):
                pieces = question.options["count"] if ours else None
                asked = _asked(answer, f"{self.host}{RUNS}", posted_s, pieces)
                if asked is not None:
                    asked.question = question
                    if asked.hit is not None:
                        # The text is there.
                        rows.note(
                            self.environment, rows.FIRST_CACHED, (came_s - posted_s) * 1000
                        )
                    return asked
            self.check_limit(answer)
            code = _object(answer).get("code")
            what = f"no run: {answer.status_code} {code or kind_of(answer)}".strip()
            if code == "unknown_agent" and ours:
                what += " (start it with AGENTS=load=locustfiles.agent:load, or use --agent)"
            answer.failure(Fault(what))
        return None

    def check_limit(self, answer: ResponseContextManager) -> None:
        """Raises Limited where that is one and the load is to meet it, which is then no failure
        and counts for itself; a limit that does not say how long to wait is one."""
        said = _header(answer, "retry-after")
        if (
            answer.status_code == TOO_MANY
            and self.environment.parsed_options.expect_limits
            and said.isdigit()
            and int(said) > 0
        ):
            answer.success()
            rows.note(self.environment, rows.LIMITED, float(said) * 1000)
            raise Limited(min(float(said), WAITS_S))

    def _post(self, body: dict[str, Any], *, streamed: bool) -> ResponseContextManager:
        """The answer, to be judged in a `with` block."""
        name = RUNS + (" (streamed)" if streamed else "")
        return self.post(RUNS, body, STREAM if streamed else {}, name=name, streamed=streamed)

    def post(
        self,
        path: str,
        body: dict[str, Any],
        headers: dict[str, str],
        *,
        name: str,
        streamed: bool,
    ) -> ResponseContextManager:
        """As browsers do: asked once more where a kept connection is closed just then."""

        def post() -> ResponseContextManager:
            return self.client.post(
                path,
                name=name,
                json=body,
                headers=self.authorization() | headers,
                stream=streamed,
                catch_response=True,
            )

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
        headers = self.authorization() | STREAM
        asked_s = time.time()
        response = self.client.post(
            RUNS, json=body, headers=headers, stream=True, name=f"{RUNS} (the time)"
        )
        if response.status_code != 200:
            return None
        arrivals = Arrivals(response, self.stamp)
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
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def read(self, asked: Asked, manner: Manner) -> Ledger | None:
        """Read the answer to its end and check it; None where it was not whole."""
        reading = Reading(self, asked, manner)
        is_whole = self._read(reading, reading.ledger, asked.posted_s, manner)
        return reading.ledger if is_whole else None

    def read_in(self, spoken: Spoken, question: Question, manner: Manner) -> None:
        """Ask in a dialect, read the answer to its end and check it."""
        reading = DialectReading(self, spoken, question, manner)
        self._read(reading, reading.hearing, time.time(), manner)

    def _read(
        self,
        reading: Reading | DialectReading,
        had: Ledger | Hearing,
        posted_s: float,
        manner: Manner,
    ) -> bool:
        """Whether it was whole."""
        came = time.perf_counter()
        what, waited_s = "", 0.0
        while True:
            try:
                with gevent.Timeout(GIVES_UP_S, Fault(f"no end within {GIVES_UP_S:.0f} s")):
                    reading.follow()
                    reading.check()
            except Limited as limit:
                gevent.sleep(limit.wait_s)
                waited_s += limit.wait_s
                continue
            except Fault as fault:
                what = str(fault)
            break
        faults = had.close()
        for kind, count in faults.items():
            rows.failed(self.environment, rows.ORDER, kind, count)
        if what or faults:
            log.warning("%s: %s %s", reading.run, what, dict(faults))
            rows.failed(self.environment, manner.row, what or "events out of line")
            return False
        took_s = time.time() - posted_s if manner.alone else time.perf_counter() - came
        rows.note(self.environment, manner.row, (took_s - waited_s) * 1000)
        return True


def _asked(
    answer: FastResponse, posted_to: str, posted_s: float, pieces: int | None
) -> Asked | None:
    """The run that an answer tells of, in its document or its head; None where in neither. Its
    URL is whole: what is handed out has the path of `--host` in it already."""
    how, kind = _header(answer, "x-cache"), _header(answer, "content-type")
    if kind.startswith("text/event-stream"):
        url = urljoin(posted_to, _header(answer, "content-location"))
        run_id = url.rpartition("/events")[0].rpartition("/")[2]
        return Asked(run_id, url, how, posted_s, pieces, opened=answer) if run_id else None
    found = _object(answer)
    if not {"id", "events_url"} <= found.keys():
        return None
    hit = found.get("output") if found.get("cached") else None
    parts = found.get("parts") if hit is not None else None
    url = urljoin(posted_to, found["events_url"])
    return Asked(found["id"], url, how, posted_s, pieces, hit, parts)


def _header(answer: FastResponse, name: str) -> str:
    return str(answer.headers.get(name, "")) if answer.headers else ""


def _object(answer: FastResponse) -> dict[str, Any]:
    try:
        found = answer.json()
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
