"""Following a run over broken connections.

Invariant: events come out in order and once each, whatever the connection does, and end with
one terminal event. Whoever stops in the middle and goes on later goes on behind the last one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from urllib.parse import urlsplit, urlunsplit

import httpx

from plateau_sse.client.answer import Answer, Event
from plateau_sse.client.asking import Run
from plateau_sse.client.faults import Refused, not_plateau, object_of, problem_of
from plateau_sse.client.patience import Notice, Patience, unheard
from plateau_sse.client.place import TERMINAL, Hole, Place
from plateau_sse.client.ways import Way, at_once, awaited, blocking
from plateau_sse.eventsource import EventReader, ServerSentMessage, TooLong

# Something in between is away; the service itself says so within a 200.
_PASSING = (429, 500, 502, 503, 504)
# What comes of an object that has the members of an event, and other kinds in them.
_NO_EVENT = (TypeError, AttributeError, LookupError, ValueError)


def follow(
    run: Run | str,
    *,
    last_event_id: str = "",
    retry_for_s: float = 60.0,
    http: httpx.Client | httpx.AsyncClient | None = None,
    notice: Notice = unheard,
) -> Following:
    """The events of a run, given as `ask` gave it or as its `events_url`, for `for` and for
    `async for`; `.answer` is what they have said so far. `last_event_id`: the last one that
    was seen by someone before. `retry_for_s`: how long the service may be away."""
    url = run if isinstance(run, str) else run.events_url
    return Following(url, Place(last_event_id), Patience(url, retry_for_s, notice), http)


class Following:
    """Iterated, it raises Unreachable once the service has been away for too long, Refused
    when it says no for good."""

    def __init__(
        self,
        url: str,
        place: Place,
        patience: Patience,
        http: httpx.Client | httpx.AsyncClient | None,
    ) -> None:
        self.url = url
        self.answer = Answer()
        # The latest event as it came.
        self.data = ""
        self._place = place
        self._patience = patience
        self._http = http

    @property
    def last_event_id(self) -> str:
        return self._place.last_id

    def __iter__(self) -> Iterator[Event]:
        with blocking(self._http) as way:
            told = self._told(way)
            try:
                while True:
                    try:
                        event = at_once(told.__anext__())
                    except StopAsyncIteration:
                        return
                    yield event
            finally:
                at_once(told.aclose())

    async def __aiter__(self) -> AsyncIterator[Event]:
        async with awaited(self._http) as way, aclosing(self._told(way)) as told:
            async for event in told:
                yield event

    async def _told(self, way: Way) -> AsyncGenerator[Event, None]:
        patience = self._patience
        while not self._has_ended():
            reader, torn = EventReader(), False
            try:
                async with aclosing(self._connected(way, reader)) as events:
                    async for event in events:
                        patience.reset()
                        yield event
                why = "the response ended"
            except (httpx.RequestError, TooLong, Hole) as error:
                why = f"{type(error).__name__}: {error}".rstrip(": ")
                torn = isinstance(error, Hole)
            if self._has_ended():
                return
            # One that lives and never says what comes next is no progress.
            if reader.comments and not torn:
                patience.reset()
            if reader.retry_ms is not None:
                patience.retry_ms = reader.retry_ms
            await way.sleep(patience.pause_s(why, "reconnecting"))

    def _has_ended(self) -> bool:
        return self._place.ended

    async def _connected(self, way: Way, reader: EventReader) -> AsyncGenerator[Event, None]:
        """What one connection tells."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._place.last_id:
            headers["Last-Event-ID"] = self._place.last_id
        async with way.opened(self.url, headers, self._patience.begin()) as response:
            if response.status_code == 204:
                yield await self._from_record(way)
                return
            if response.status_code in _PASSING:
                raise httpx.RemoteProtocolError(f"status {response.status_code}")
            if response.status_code != 200:
                await way.read(response)
                raise problem_of(response)
            async for piece in way.pieces(response):
                for message in reader.feed(piece):
                    event = self._taken(message)
                    if event:
                        yield event
                    if self._place.ended:
                        return

    def _taken(self, message: ServerSentMessage) -> Event:
        """The event, empty where it is no news. Raises Hole."""
        event = object_of(message.data)
        # What is no object was said by something in between.
        if not event or event.get("type") == "heartbeat":
            return {}
        if not self._place.take(message.id, event):
            return {}
        try:
            self.answer.take(event)
        except _NO_EVENT as error:
            raise not_plateau(self.url, repr(error)) from None
        self.data = message.data
        return event

    async def _from_record(self, way: Way) -> Event:
        """The terminal event, made from the record where the stream no longer has it."""
        parts = urlsplit(self.url)
        url = urlunsplit(parts._replace(path=parts.path.removesuffix("/events")))
        response = await way.ask("GET", url, {}, within_s=self._patience.begin())
        if response.status_code in _PASSING:
            raise httpx.RemoteProtocolError(f"status {response.status_code}")
        if response.status_code != 200:
            raise problem_of(response)
        record = object_of(response.content)
        event = _end_of(record)
        try:
            if "parts" in record:
                self.answer.take_record(record)
            self.answer.take(event)
        except _NO_EVENT as error:
            raise not_plateau(self.url, repr(error)) from None
        self._place.ended = True
        self.data = json.dumps(event, ensure_ascii=False)
        return event


def _end_of(record: Event) -> Event:
    status, error = record.get("status"), record.get("error")
    event: Event = {"type": f"run.{status}"}
    if event["type"] not in TERMINAL:
        raise Refused("not_finished", f"The stream ended while the run is {status}.")
    if status == "completed":
        names = ("finish_reason", "usage", "model", "cached", "duration_ms", "output")
        return event | {name: record.get(name) for name in names}
    if isinstance(error, dict):
        return event | (error if status == "failed" else {"reason": error.get("message")})
    return event
