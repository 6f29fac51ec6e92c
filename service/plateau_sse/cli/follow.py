"""The client side of a run: create it, follow it over broken connections, cancel it.

Invariant: events come out in order and once each, whatever the connection does, and end with
one terminal event. An event that is not next in line on the tape is not taken: it connects
again, from where it was.
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from plateau_sse.eventsource import EventReader, TooLong

# The server pings every 15 s: three pings missed, and the connection is dead.
SILENCE_S = 45.0
MAX_WAIT_S = 10.0
RETRY_MS = 1000

DELTAS = ("message.delta", "reasoning.delta")
_EVENT_ID = re.compile(r"(?:([0-9a-f]{6})-)?([0-9]{1,9})-([0-9]{1,9})")
TERMINAL = {
    "run.completed": "completed",
    "run.failed": "failed",
    "run.cancelled": "cancelled",
}


class Unreachable(Exception):
    """The server could not be reached, or not any more."""


class Refused(Exception):
    """The server answered with a problem; `code` and `detail` are what it said."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class Client:
    """A server at `url`. `retry_for_s`: how long it may be away; `notice` is told of it."""

    url: str
    http: httpx.Client
    key: str = ""
    retry_for_s: float = 60.0
    notice: Callable[[str], None] = lambda _: None
    _wait: _Wait = field(init=False)

    def __post_init__(self) -> None:
        self._wait = _Wait(self.retry_for_s)

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Starts a run (POST /v1/runs) and gives what the server said of it. A repeat after a
        lost answer cannot start a second one. Raises Unreachable, Refused."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        while True:
            try:
                response = self.http.post(self._at(""), json=body, headers=headers)
            except (
                httpx.ConnectError,
                httpx.ConnectTimeout,
                httpx.UnsupportedProtocol,
            ) as error:
                raise Unreachable(f"Could not reach {self.url}: {error}") from None
            except httpx.InvalidURL as error:
                raise Unreachable(f"{self.url} is no address: {error}") from None
            except httpx.TransportError as error:
                self._pause(f"{type(error).__name__}, asking again")
                continue
            if response.status_code not in (200, 202):
                raise problem_of(response)
            created = _object(response.content)
            if "id" not in created or "events_url" not in created:
                raise Refused("not_plateau", f"{self.url} does not answer as Plateau does.")
            self._wait.reset()
            return created

    def cancel(self, created: Mapping[str, Any]) -> None:
        """Best effort: the run ends by itself if nobody can be told."""
        try:
            self.http.post(self._at(str(created.get("cancel_url", ""))), timeout=5.0)
        except httpx.HTTPError as error:
            self.notice(f"could not cancel: {type(error).__name__}")

    def follow(self, events_url: str) -> Iterator[str]:
        """The run's events, each as its JSON, to the terminal one. Raises Unreachable once the
        server has been away for `retry_for_s`, Refused when it says no for good."""
        position = _Position()
        while True:
            reader, torn = EventReader(), False
            try:
                for event in self._connected(events_url, reader, position):
                    self._wait.reset()
                    yield event
                    if position.ended:
                        return
            except (httpx.TransportError, TooLong, _Hole) as error:
                why = f"{type(error).__name__.lstrip('_')}: {error}".rstrip(": ")
                torn = isinstance(error, _Hole)
            else:
                why = "the response ended"
            if position.over:
                yield self._from_record(events_url)
                return
            # One that lives and never says what comes next is no progress.
            if reader.comments and not torn:
                self._wait.reset()
            if reader.retry_ms is not None:
                self._wait.retry_ms = reader.retry_ms
            self._pause(f"{why}, reconnecting")

    def _connected(
        self, events_url: str, reader: EventReader, position: _Position
    ) -> Iterator[str]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if position.last_id:
            headers["Last-Event-ID"] = position.last_id
        with self.http.stream("GET", self._at(events_url), headers=headers) as response:
            if response.status_code == 204:
                position.over = True
                return
            if response.status_code in (429, 500, 502, 503, 504):
                # Something in between is away; the server itself says so within a 200.
                raise httpx.RemoteProtocolError(f"status {response.status_code}")
            if response.status_code != 200:
                response.read()
                raise problem_of(response)
            for chunk in response.iter_bytes():
                for message in reader.feed(chunk):
                    event = _object(message.data.encode())
                    if position.take(message.id, event):
                        yield message.data

    def _from_record(self, events_url: str) -> str:
        """The terminal event, made from the record where the stream no longer has it."""
        parts = urlsplit(self._at(events_url))
        url = urlunsplit(parts._replace(path=parts.path.removesuffix("/events")))
        try:
            response = self.http.get(url)
        except httpx.TransportError as lost:
            raise Unreachable(f"Lost {self.url}: {lost}") from None
        if response.status_code != 200:
            raise problem_of(response)
        record = _object(response.content)
        error = record.get("error")
        event: dict[str, Any] = {"type": f"run.{record.get('status')}"}
        if record.get("status") == "completed":
            names = ("finish_reason", "usage", "model", "output")
            event |= {name: record.get(name) for name in names}
        elif isinstance(error, dict):
            event |= error
        if event["type"] not in TERMINAL:
            raise Refused(
                "not_finished", f"The stream ended while the run is {record.get('status')}."
            )
        return json.dumps(event, ensure_ascii=False)

    def _at(self, path: str) -> str:
        """URLs in answers are resolved against the one that was posted to."""
        return urljoin(self.url.rstrip("/") + "/v1/runs", path)

    def _pause(self, why: str) -> None:
        pause_s = self._wait.next_s()
        if pause_s is None:
            raise Unreachable(f"Gave up on {self.url} after {self.retry_for_s:g} s: {why}.")
        self.notice(f"{why} in {pause_s:.1f} s")
        time.sleep(pause_s)


class _Wait:
    """Pauses that double from the server's `retry:` up to MAX_WAIT_S, for `most_s` in all."""

    def __init__(self, most_s: float) -> None:
        self.retry_ms = RETRY_MS
        self._most_s = most_s
        self.reset()

    def reset(self) -> None:
        self._tries = 0
        self._since: float | None = None

    def next_s(self) -> float | None:
        """The next pause, or None once the time is up."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left_s = self._since + self._most_s - now
        if left_s <= 0:
            return None
        longest_s = min(MAX_WAIT_S, max(0.05, self.retry_ms / 1000) * 2.0**self._tries)
        self._tries = min(self._tries + 1, 16)
        # Jittered: many clients of one server must not come back in step.
        return min(left_s, longest_s * random.uniform(0.6, 1.0))


class _Hole(Exception):
    """Something is missing before an event."""


class _Position:
    """How far on the tape a reader has come. `ended`: the terminal event was read; `over`: it
    is past."""

    def __init__(self) -> None:
        self.last_id = ""
        self.ended = False
        self.over = False
        self._tag = ""
        self._at = (0, 0)
        # The number of the part that goes on, if its next delta comes now.
        self._open: Any = None

    def take(self, event_id: str | None, event: Mapping[str, Any]) -> bool:
        """Whether the event is news. Raises _Hole where another has to come before it."""
        kind = event.get("type")
        place = _EVENT_ID.fullmatch(event_id or "")
        if kind == "run.restarted":
            # Without a place there is none to come back to.
            self.last_id = event_id if place and event_id else ""
            self._stand(place)
            self._open = None
            return True
        # What is state has no id, and takes no place.
        if place is not None and event_id is not None:
            tag, at = place[1] or "", (int(place[2]), int(place[3]))
            other = bool(self._tag and tag and tag != self._tag)
            if not other and at <= self._at:
                return False
            anew = other or at[0] != self._at[0]
            before = at[1] - self._width(event, None if anew else self._open)
            if self.last_id and before != (0 if anew else self._at[1]):
                raise _Hole(f"something is missing before {event_id}")
            self.last_id = event_id
            self._stand(place)
            self._open = event.get("part") if kind in DELTAS else None
        self.ended = kind in TERMINAL
        return True

    def _stand(self, place: re.Match[str] | None) -> None:
        self._tag = (place[1] or "") if place else ""
        self._at = (int(place[2]), int(place[3])) if place else (0, 0)

    @staticmethod
    def _width(event: Mapping[str, Any], open_part: Any) -> int:
        """How much further the tape is behind the event than before it."""
        if event.get("type") not in DELTAS:
            return 1
        text = str(event.get("text", "")).encode("utf-8", "surrogatepass")
        return len(text) + int(event.get("part") != open_part)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def problem_of(response: httpx.Response) -> Refused:
    """What a response that is none of the expected says."""
    problem = _object(response.content)
    code = problem.get("code") or f"status {response.status_code}"
    detail = problem.get("detail") or problem.get("title") or response.text.strip()[:200]
    return Refused(str(code), str(detail or response.reason_phrase))
