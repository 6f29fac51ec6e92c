"""`plateau ask --via`: an answer as a client of another dialect is given it.

Invariant: an answer is whole where its dialect says so. One that is cut off is asked for again
under the same `Idempotency-Key`, which is the same run, told from its first word.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urljoin

import httpx

from plateau_sse.cli.dialects import INTERRUPTED, Ear, Event, Question, Spoken
from plateau_sse.client.faults import Refused, Unreachable, shown
from plateau_sse.client.patience import RETRY_MS, Patience
from plateau_sse.client.place import TERMINAL
from plateau_sse.client.ways import addressed, prepared, unbound
from plateau_sse.eventsource import EventReader, TooLong

_PASSING = (429, 502, 503, 504)


class Heard(NamedTuple):
    """One frame as it came, "" where it is none, and the events that it tells of."""

    data: str
    events: list[Event]


class _Cut(Exception):
    """The answer is not whole; `after_s`: when to ask again, 0 where that was not said."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Via:
    """One question; `headers` say what the cache is to do. `cancel_url` is "" before there is
    a run."""

    def __init__(
        self,
        url: str,
        spoken: Spoken,
        question: Question,
        http: httpx.Client,
        patience: Patience,
        key: str,
        headers: Mapping[str, str],
    ) -> None:
        self.cancel_url = ""
        self._url = url
        self._spoken = spoken
        self._http = http
        self._patience = patience
        self._path = spoken.path_to(question.agent)
        self._body = spoken.body(question)
        self._headers = {"Idempotency-Key": uuid.uuid4().hex, **headers}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def follow(self) -> Iterator[Heard]:
        """To the terminal event. Where an answer is told anew a `run.restarted` says so. Raises
        Unreachable, Refused."""
        patience, most = self._patience, 0
        while True:
            frames, after_s = 0, 0.0
            try:
                for heard in self._told():
                    frames += 1
                    if frames > most:
                        # What has been told before is no progress.
                        most = frames
                        patience.reset()
                    yield heard
                    if any(event["type"] in TERMINAL for event in heard.events):
                        return
                why = "the response ended before the answer did"
            except _Cut as cut:
                why, after_s = str(cut), cut.after_s
            patience.retry_ms = int(1000 * after_s) or RETRY_MS
            time.sleep(patience.pause_s(why, "asking again"))
            if most:
                yield Heard("", [{"type": "run.restarted", "reason": "asked again"}])

    def _told(self) -> Iterator[Heard]:
        """One response. Raises _Cut, Refused, and Unreachable where none has come so far."""
        url = self._url
        try:
            yield from self._ask()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if not self.cancel_url:
                raise Unreachable(f"Could not reach {shown(url)}: {error}") from None
            raise _Cut(type(error).__name__) from None
        except (httpx.RequestError, TooLong) as error:
            raise _Cut(f"{type(error).__name__}: {error}".rstrip(": ")) from None

    def _ask(self) -> Iterator[Heard]:
        ear, reader = self._spoken.ear(), EventReader()
        url = self._url.rstrip("/") + self._path
        within_s = self._patience.begin()
        request = prepared(self._http, "POST", url, self._headers, self._body, within_s)
        with addressed(url):
            answer = self._http.send(request, stream=True)
        with closing(answer):
            unbound(request)
            if answer.status_code in _PASSING:
                after = answer.headers.get("retry-after", "")
                after_s = float(after) if after.isdigit() else 0.0
                raise _Cut(f"status {answer.status_code}", after_s)
            if answer.status_code != 200:
                answer.read()
                raise refusal_of(answer)
            link = answer.links.get("cancel", {}).get("url", "")
            self.cancel_url = urljoin(url, link) if link else ""
            for chunk in answer.iter_bytes():
                for message in reader.feed(chunk):
                    yield self._heard(ear, message.data)
                if reader.comments:
                    # A run that waits in line is told of by nothing else.
                    reader.comments = 0
                    self._patience.reset()

    def _heard(self, ear: Ear, data: str) -> Heard:
        try:
            events = list(ear(data))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Refused("no_frame", f"not a frame of this dialect: {error!r}") from None
        for event in events:
            if event["type"] == "run.failed" and event["code"] in INTERRUPTED:
                raise _Cut(str(event["message"]))
        return Heard(data, events)


def refusal_of(answer: httpx.Response) -> Refused:
    """What a dialect says instead of an answer: an object `error`, or a text."""
    try:
        error = answer.json()["error"]
        return Refused(str(error["code"]), str(error["message"]))
    except (ValueError, LookupError, TypeError):
        text = answer.text.strip()[:200]
        return Refused(f"status {answer.status_code}", text or answer.reason_phrase)
