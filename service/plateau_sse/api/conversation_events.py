"""`GET /v1/conversations/{id}/events`: whatever runs in a conversation, run after run.

Invariant: what is asked in the conversation is told in the order in which it was asked, each
answer once and to its end, on one connection; its events have the ids that they have in their
run, which name it. An answer whose run is there no more is told from what the conversation
keeps. Whoever comes back with an id that the conversation knows no more is told that something
is missing, and what is on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plateau_sse.api import hits, told_later
from plateau_sse.api.bodies import invalid
from plateau_sse.api.conversation_links import PREFIX, SUFFIX
from plateau_sse.api.opening import Manner, NoRoom, check_room, follow, seat_of
from plateau_sse.api.requests import check_conversation_id, place_for, seen_of
from plateau_sse.api.state import State
from plateau_sse.dialects.native import encode, wanted
from plateau_sse.errors import Problem, StoreError
from plateau_sse.live.paced import paced
from plateau_sse.live.response import EventStream, LiveResponse, WholeResponse, start
from plateau_sse.live.sse import Frame, retry
from plateau_sse.live.waiting import Waiter
from plateau_sse.live.wire import Wire
from plateau_sse.owners import account_of
from plateau_sse.store.conversations.conversations import Message
from plateau_sse.store.conversations.openers import Opened
from plateau_sse.store.runs import ids

log = logging.getLogger("plateau.api")

# No event of a run's, and without an id.
_MISSED = b'{"type":"conversation.missed"}'
# Before all that was ever asked: where whoever has found a conversation empty goes on from.
BEGINNING = "0"
_MESSAGE_ID = re.compile(r"([0-9a-f]{32})(-user)?")
# Whoever waits hears something at least so often.
PING_S = 15.0
_INNER: Scope = {"type": "http", "method": "GET"}


class _Listener(Waiter):
    """All that is told of a conversation itself is a reason to look."""

    def push(self, frame: Frame) -> bool:
        self.woken.set()
        return True


class Exchange(NamedTuple):
    """What was asked, by the run that was begun for it: `token` opens that, '' where there is
    none, and `answer` is the message that holds what it said, once it is there."""

    run_id: str
    token: str = ""
    answer: Message | None = None

    @property
    def is_known(self) -> bool:
        """False until there is something to tell: a runner may be here before who has asked."""
        return bool(self.token or self.answer)


def exchanges(messages: Iterable[Message]) -> list[Exchange]:
    """In the order in which they were asked."""
    found: dict[str, Exchange] = {}
    for message in messages:
        one = found.get(message.run_id) or Exchange(message.run_id)
        if message.role == "assistant":
            one = one._replace(answer=message)
        elif message.token:
            one = one._replace(token=message.token)
        found[message.run_id] = one
    return list(found.values())


def is_at(path: str) -> bool:
    """A conversation may be called `events`."""
    inner = path[len(PREFIX) : -len(SUFFIX)]
    return (
        path.startswith(PREFIX)
        and path.endswith(SUFFIX)
        and 0 < len(inner)
        and "/" not in inner
    )


async def resume(request: Request, state: State, headers: dict[str, str]) -> Response:
    conversation_id: str = request.scope["path"][len(PREFIX) : -len(SUFFIX)]
    check_conversation_id(conversation_id)
    query = request.query_params
    token = query.get("token", "")
    caller = await state["access"].reader(request, token, "conversations")
    if caller.owner:
        place = place_for(request, caller, conversation_id)
        whose = Opened(place, account_of(caller.owner), caller.until_s)
        opens = None
    else:
        whose = await _opened(state, token, conversation_id)
        opens = partial(state["openers"].opened, token, conversation_id)
    seen = seen_of(
        request.headers.get("last-event-id"),
        query.get("last_event_id"),
        query.get("lastEventId"),
    )
    after = query.get("after", "")
    if after not in ("", BEGINNING) and not _MESSAGE_ID.fullmatch(after):
        raise invalid("after", "The id of a message, as the conversation has it, or 0.")
    check_room(state)
    manner = Manner(wanted(query), headers, until_s=whose.until_s)
    leave_seat = seat_of(state, whose.account)
    return Conversed(state, whose.place, seen, after, manner, leave_seat, opens)


async def _opened(state: State, token: str, conversation_id: str) -> Opened:
    opened = await state["openers"].opened(token, conversation_id)
    if opened is None:
        raise Problem("invalid_token", "The token is not this conversation's.")
    if opened.until_s is not None and opened.until_s <= time.time():
        raise Problem(
            "token_expired",
            "The URL was good for as long as the token of whoever asked for it: read the "
            "conversation with another for a new one.",
        )
    return opened


class Conversed(EventStream):
    """Has taken its seat, and calls `leave_seat` at the end. `opens`: whether what it was
    opened with still does."""

    def __init__(
        self,
        state: State,
        place: str,
        seen: ids.Seen,
        after: str,
        manner: Manner,
        leave_seat: Callable[[], None] | None,
        opens: Callable[[], Awaitable[Opened | None]] | None,
    ) -> None:
        super().__init__(headers=manner.headers)
        self._telling = Telling(state, place, seen, after, manner, leave_seat, opens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """For whoever wants the head alone."""
        self._telling.close()
        await super().__call__(scope, receive, send)

    async def begin(self, send: Send) -> Telling:
        """Send the head; what is to be driven then needs this response no more."""
        try:
            await send(start(self))
        except BaseException:
            self._telling.close()
            raise
        self._telling.send = send
        return self._telling


class Telling:
    """One reader of one conversation."""

    send: Send

    def __init__(
        self,
        state: State,
        place: str,
        seen: ids.Seen,
        after: str,
        manner: Manner,
        leave_seat: Callable[[], None] | None,
        opens: Callable[[], Awaitable[Opened | None]] | None,
    ) -> None:
        self._state = state
        self._place = place
        self._seen = seen
        self._after = after
        self._dialect = manner.dialect
        self._until_s = manner.until_s
        self._leave_seat = leave_seat
        self._opens = opens
        # By the runs' ids; of what the conversation has forgotten nothing is kept.
        self._told: set[str] = set()

    async def run(self, receive: Receive) -> bool:
        """To the end of the response; whether its reader has left before."""
        wire = Wire(self.send, receive)
        times = 1
        try:
            await wire.say(self._dialect.opening())
            await self._find_place(wire)
            while not wire.left:
                exchange = await self._next(wire)
                if exchange is None or not await self._tell(exchange, wire):
                    break
        except NoRoom as error:
            times = error.times
        except StoreError as error:
            log.warning("the events of a conversation met a store that failed: %s", error)
        finally:
            left = wire.left
            wire.close()
            self.close()
        if not left:
            await wire.say(retry(times), last=True)
        return left

    def close(self) -> None:
        """Nobody is told any more."""
        if self._leave_seat is not None:
            self._leave_seat()
            self._leave_seat = None

    def _left_s(self) -> float:
        """For how long it may be told."""
        return math.inf if self._until_s is None else self._until_s - time.time()

    async def _find_place(self, wire: Wire) -> None:
        """What its reader has had already, and of which answer it may be in the middle."""
        messages = await self._state["conversations"].index(self._place)
        found = exchanges(messages)
        had = await self._had(messages, found)
        if self._seen.tag:
            tags = [ids.tag_of(one.run_id) for one in found]
            if self._seen.tag in tags:
                # Two that have the same tag are told apart by nothing: the later one is it.
                last = len(tags) - 1 - tags[::-1].index(self._seen.tag)
                self._told = {one.run_id for one in found[:last]} | (had or set())
                self._told.discard(found[last].run_id)
                return
        elif had is not None:
            self._told = had
            return
        if self._seen.tag or self._after:
            await wire.say(encode(0, _MISSED))
        self._seen = ids.NOTHING_SEEN
        self._told = await self._ended(found)

    async def _had(
        self, messages: Sequence[Message], found: Sequence[Exchange]
    ) -> set[str] | None:
        """The runs whose answers whoever has read the conversation up to `after` has; None
        where the conversation knows no such message. Two that were on at once are answered in
        any order: an answer that is still to come is not had because a later one was quicker,
        nor does one that has come before come again."""
        if self._after == BEGINNING:
            return set()
        match = _MESSAGE_ID.fullmatch(self._after)
        asked = [one.run_id for one in found]
        if match is None or match[1] not in asked:
            return None
        run_id, is_question = match.groups()
        # Of an answer without a word there is no message, and its question stands for it.
        places = [place for place, it in enumerate(messages) if it.run_id == run_id]
        until = next((it for it in places if messages[it].id == self._after), places[0])
        had = {it.run_id for it in messages[:until] if it.role == "assistant"}
        # What failed without a word never has an answer.
        before = [one for one in found[: asked.index(run_id)] if one.answer is None]
        had |= await self._ended(before)
        return had if is_question else had | {run_id}

    async def _ended(self, found: Sequence[Exchange]) -> set[str]:
        statuses = await self._state["streams"].statuses([one.run_id for one in found])
        return {
            one.run_id
            for one, status in zip(found, statuses, strict=True)
            if status not in ("queued", "running")
        }

    async def _next(self, wire: Wire) -> Exchange | None:
        """What is to be told next, once it has been asked; None where the worker goes, the
        reader has gone, or its token has ended, or opens this no more. Subscribe, then read:
        nothing falls between."""
        hub = self._state["hub"]
        feed = await hub.join(self._place)
        waiter = _Listener()
        hub.waiting.add(waiter.woken)
        try:
            waiter.woken.set()
            clock = asyncio.get_running_loop().time
            heard = clock()
            while not (hub.draining or wire.left or self._left_s() <= 0):
                # A sweep wakes as often, and is not heard.
                if clock() - heard >= PING_S:
                    await wire.say(self._dialect.ping)
                    heard = clock()
                if not waiter.woken.is_set():
                    wait_s = min(heard + PING_S - clock(), self._left_s())
                    await wire.until(waiter.woken, max(0.0, wait_s))
                    continue
                waiter.woken.clear()
                # Each thing that is told has the same count.
                waiter.states = -1
                feed.live.add(waiter)
                found = exchanges(await self._state["conversations"].index(self._place))
                self._told &= {one.run_id for one in found}
                for one in found:
                    if one.is_known and one.run_id not in self._told:
                        # One that was deleted may have a successor of the same name.
                        is_open = self._opens is None or await self._opens() is not None
                        return one if is_open else None
            return None
        finally:
            hub.waiting.discard(waiter.woken)
            feed.live.discard(waiter)
            hub.part(feed)

    async def _tell(self, exchange: Exchange, wire: Wire) -> bool:
        """One answer to its end; False where the response has to end before."""
        is_seen = self._seen.tag == ids.tag_of(exchange.run_id)
        seen, self._seen = self._seen if is_seen else ids.NOTHING_SEEN, ids.NOTHING_SEEN
        response = await self._answer(exchange, seen)
        wire.begin()
        if isinstance(response, LiveResponse):
            subscriber = await response.begin(wire)
            del response
            await subscriber.run(wire.receive)
            if not subscriber.told_all:
                return False
        elif response is not None:
            await response(_INNER, wire.receive, wire)
        self._told.add(exchange.run_id)
        return True

    async def _answer(self, exchange: Exchange, seen: ids.Seen) -> Response | None:
        """None where there is nothing of it to tell any more."""
        if exchange.token:
            manner = Manner(self._dialect, {}, until_s=self._until_s)
            token = exchange.token
            try:
                return await follow(
                    self._state, exchange.run_id, seen, token, "", manner, is_seated=True
                )
            except Problem as problem:
                # It has expired, or whoever asked has given it up.
                log.info("run %s: told as it was kept: %s", exchange.run_id, problem)
        content = await self._kept(exchange, seen)
        if not content:
            return None

        async def make() -> bytes | None:
            return await self._kept(exchange, seen)

        return paced(WholeResponse(content), make, self._state["pacer"])

    async def _kept(self, exchange: Exchange, seen: ids.Seen) -> bytes | None:
        answer = exchange.answer
        if answer is None:
            return None
        whole = await self._state["conversations"].whole(self._place, answer.id)
        if whole is None:
            return None
        tape = told_later.tape_of(exchange.run_id, whole, answer.attempt)
        tag = ids.tag_of(exchange.run_id)
        if whole.truncated and seen.number:
            seen = ids.Seen(ids.number(tape.attempt + 1, 0), tag)
        return hits.told(tape, tag, seen, Manner(self._dialect, {}).stand)
