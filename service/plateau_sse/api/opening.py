"""Opening the stream of a run, or saying an answer that is there already, in any dialect.

Invariant: what a reader was given and what it will be given meet without a hole: the run is
followed before it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from starlette.responses import Response

from plateau_sse.api import hits
from plateau_sse.api.runs import late, other_release
from plateau_sse.api.state import State
from plateau_sse.errors import PlateauError, Problem, StoreError
from plateau_sse.live.dialect import Dialect, Stand, beginning
from plateau_sse.live.feed import Feed
from plateau_sse.live.hub import Hub
from plateau_sse.live.paced import paced
from plateau_sse.live.response import LiveResponse, WholeResponse
from plateau_sse.live.sse import signed
from plateau_sse.owners import account_of, sees
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.looks import OtherRelease
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.shares import Denied

# Who finds no room comes back less soon.
BUSY_TIMES = 5


class Manner(NamedTuple):
    """How the client that asked is told a run: in which dialect and under which headers, from
    which state of the dialect on, None for its own start, and what is its own in that; until
    when it may be told, since the epoch."""

    dialect: Dialect
    headers: dict[str, str]
    start: Any = None
    own: bytes = b""
    until_s: float | None = None

    @property
    def stand(self) -> Stand:
        return (
            beginning(self.dialect) if self.start is None else Stand(self.dialect, self.start)
        )


class NoRoom(PlateauError):
    """This worker takes no stream now: another does, or it does so later. `times`: so many
    times as long as usual is to be waited."""

    def __init__(self, times: int = 1) -> None:
        super().__init__("no room for another stream")
        self.times = times


def replay(
    state: State, run_id: str, key: str, answer: Answer, seen: ids.Seen, manner: Manner
) -> Response:
    """A cached answer, behind what was seen of it; 204 where that was its end."""
    dialect = manner.dialect
    opening = dialect.opening()

    def say(found: Answer) -> bytes:
        return opening + signed(hits.frames(run_id, found, seen, manner.stand), manner.own)

    content = say(answer)
    if len(content) == len(opening):
        return Response(status_code=204, headers=manner.headers)
    make = hits.again(state["cache"], key, answer, say)
    whole = WholeResponse(content, {**manner.headers, **dialect.headers})
    return paced(whole, make, state["pacer"])


def check_staying(state: State) -> None:
    """Raises NoRoom where this worker is about to go: whoever waits here would be sent away."""
    if state["hub"].draining:
        raise NoRoom


class Room:
    """For one stream. Held from the check on until the stream follows its run, or the `with`
    block ends: others who check meanwhile find so much less."""

    def __init__(self, state: State, owner: str) -> None:
        self._state = state
        self._owner = owner
        self._is_held = False

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def check(self) -> None:
        """Raises NoRoom, and Problem where its owner has too many streams already. To be asked
        before a run is begun for a stream: what nobody can be told need not be executed.
        Harmless where it was asked before."""
        self.leave()
        check_seats(self._state, self._owner)
        check_room(self._state)
        self._state["guard"].promised += 1
        self._is_held = True

    def leave(self) -> None:
        """Without a break before the stream is counted among the others."""
        if self._is_held:
            self._state["guard"].promised -= 1
            self._is_held = False


def check_room(state: State) -> None:
    """Raises NoRoom where this worker takes no stream now."""
    check_staying(state)
    if not state["guard"].takes_stream(state["hub"].following):
        raise NoRoom(BUSY_TIMES)


def check_waiting(state: State) -> None:
    """Raises NoRoom where nobody is to wait here for a run's end."""
    check_staying(state)
    if not state["guard"].takes_wait(state["hub"].following):
        raise NoRoom(BUSY_TIMES)


def check_seats(state: State, owner: str) -> None:
    """Raises Problem where the owner has as many streams open as it may."""
    seats = state["seats"]
    if seats is not None and not seats.has_room(account_of(owner)):
        raise _too_many_readers(seats.most)


def _too_many_readers(most: int) -> Problem:
    return Problem(
        "too_many_readers",
        f"{most} streams may be open at once, for all that is asked with your keys and tokens: "
        "close one.",
        headers={
            "Retry-After": "5",
            "RateLimit-Policy": f'"streams";q={most}',
            "RateLimit": '"streams";r=0;t=5',
        },
    )


def seat_of(state: State, owner: str) -> Callable[[], None] | None:
    """Counts a stream; what is returned counts it no more. None where nobody counts. Raises
    Problem where the owner has as many as it may."""
    seats, account = state["seats"], account_of(owner)
    if seats is None:
        return None
    if not seats.take(account):
        raise _too_many_readers(seats.most)
    return partial(seats.leave, account)


async def follow(
    state: State,
    run_id: str,
    seen: ids.Seen,
    token: str,
    owner: str,
    manner: Manner,
    room: Room | None = None,
    *,
    is_seated: bool = False,
) -> Response:
    """Subscribe, then read: what the reading lacks will come as messages. `is_seated`: its
    reader is counted by whoever calls. Raises NoRoom, Problem and StoreError."""
    hub, streams = state["hub"], state["streams"]
    if room is not None:
        room.leave()
    check_room(state)
    is_other = seen.tag not in ("", ids.tag_of(run_id))
    position = 0 if is_other else seen.number
    feed = await hub.join(run_id)
    generation = feed.generation
    try:
        reading = await _first_reading(hub, feed, position, token, owner)
    except BaseException:
        hub.part(feed)
        raise
    if reading is None:
        hub.part(feed)
        key, answer = await late(state, run_id, token=token, owner=owner)
        return replay(state, run_id, key, answer, seen, manner)
    if is_other:
        reading = reading.begun_anew()
    elif reading.ended and reading.is_whole and not reading.entries and not reading.restarts:
        hub.part(feed)
        return Response(status_code=204, headers=manner.headers)
    try:
        if seen.number:
            await _trace_resumed(state, run_id, manner.dialect.name)
        leave_seat = None if is_seated else seat_of(state, reading.owner)
    except BaseException:
        hub.part(feed)
        raise
    return LiveResponse(
        hub,
        streams,
        feed,
        reading,
        position=position,
        generation=generation,
        stand=manner.stand,
        own=manner.own,
        headers=manner.headers,
        until_s=manner.until_s,
        leave_seat=leave_seat,
    )


async def _first_reading(
    hub: Hub, feed: Feed, position: int, token: str, owner: str
) -> Reading | None:
    try:
        reading = await hub.read_first(feed, position, token, owner)
    except Denied:
        raise Problem("invalid_token", "The token is not this run's.") from None
    except OtherRelease:
        raise other_release() from None
    if reading is not None and owner and not sees(reading.owner, owner):
        raise Problem("run_not_found", "There is no such run.")
    return reading


async def _trace_resumed(state: State, run_id: str, dialect: str) -> None:
    tracing = state["tracing"]
    if tracing is None:
        return
    asked = ""
    with suppress(StoreError):
        asked = await state["placement"].traceparent_of(run_id)
    tracing.resumed(run_id, asked, dialect)
