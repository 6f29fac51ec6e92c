"""AG-UI over HTTP: its clients with nothing changed but their URL, and a way back for those
that want one.

Invariant: a thread's history is what its client sends; of a thread Plateau knows which run
answers in it, and under which ids its client has asked for that.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api import chats, comebacks, hits, problems
from plateau_sse.api.access import Caller
from plateau_sse.api.agui_request import for_model, messages_of, options_of, resume_of
from plateau_sse.api.asking import ask_of, follow_taken, run_headers
from plateau_sse.api.bodies import decode, invalid, read_body
from plateau_sse.api.messages import InputMessage, check_messages
from plateau_sse.api.openai_asked import OPENAI
from plateau_sse.api.opening import Manner, NoRoom, Room, follow, replay
from plateau_sse.api.state import State
from plateau_sse.api.surfaces import Handler, Surface, elsewhere
from plateau_sse.dialects import agui
from plateau_sse.dialects.agui import AGUI
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.store.conversations.chats import Chat
from plateau_sse.store.conversations.conversations import place_of
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.ids import NOTHING_SEEN

log = logging.getLogger("plateau.api")

PREFIX = "/agui"
_EVENTS = "/events"
ID_CHARS = 500
_NO_STORE = {"Cache-Control": "no-store"}
# No chat's: the two kinds of ids are apart.
_KIND = "agui"


async def ask(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`POST /agui`, `POST /agui/{agent}`."""
    caller = await state["access"].caller(request, "runs:create")
    owner = caller.owner
    body = decode(await read_body(request), dict[str, Any], halves=True)
    thread_id, run_id = (_id(body.get(name), name) for name in ("threadId", "runId"))
    place = _place(owner, thread_id)
    asked = _ask(request, body, caller, place)
    manner = Manner(AGUI, headers, None, agui.own_of(thread_id, run_id), caller.until_s)
    try:
        with Room(state, owner) as room:
            taken = await state["intake"].take(asked, room.check)
            return await _tell(request, state, taken, asked, (place, run_id), manner, room)
    except NoRoom:
        raise _busy() from None


async def _tell(
    request: Request,
    state: State,
    taken: Taken,
    asked: Ask,
    named: tuple[str, str],
    manner: Manner,
    room: Room,
) -> Response:
    """The answer, noted as the thread's; `named`: the thread's place, and the run as its client
    calls it."""
    place, run_id = named
    manner.headers.update(run_headers(request.scope, taken, asked.mode))
    chat = Chat(taken.run_id, taken.token, run_id, int(time.time() * 1000))
    put = state["chats"].put if taken.answer is None else state["chats"].put_whole
    try:
        await put(place, chat)
    except StoreError as error:
        # The answer is on its way; who is cut off will not find it by its thread.
        log.warning("run %s: its thread cannot be noted: %s", taken.run_id, error)
    if taken.answer is not None:
        key = hits.key_of(taken.run_id)
        return replay(state, taken.run_id, key, taken.answer, NOTHING_SEEN, manner)
    try:
        return await follow_taken(request, state, taken, asked, manner, room)
    except NoRoom:
        with suppress(StoreError):
            await state["chats"].drop(place, chat)
        raise


def _id(value: Any, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= ID_CHARS:
        raise invalid(name, f"An id of at most {ID_CHARS} characters.")
    return value


def _ask(request: Request, body: dict[str, Any], caller: Caller, thread: str) -> Ask:
    agent = request.scope["path"][len(PREFIX) + 1 :] or request.query_params.get("agent")
    if not agent:
        raise invalid("agent", "Name an agent: /agui/…, or /agui?agent=….")
    resume = resume_of(body.get("resume"))
    messages = messages_of(body.get("messages"), resume)
    options = options_of(body, resume)
    if agent == OPENAI:
        messages, options = for_model(messages, options)
    try:
        check_messages([msgspec.convert(message, InputMessage) for message in messages])
    except msgspec.ValidationError as error:
        raise invalid("messages", str(error)) from None
    return ask_of(request, agent, caller, messages, options, thread=thread)


def _place(owner: str, thread_id: str) -> str:
    return place_of(owner, _KIND, thread_id)


def _busy() -> Problem:
    return Problem("busy", "No room here for now: try again.", headers={"Retry-After": "1"})


async def resume(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`GET /agui/{thread}/events`: behind `Last-Event-ID`, or from the run's start; 204 where
    nothing is live."""
    caller = await state["access"].caller(request, "runs:read")
    thread_id: str = request.scope["path"][len(PREFIX) + 1 : -len(_EVENTS)]
    chat = await state["chats"].find(_place(caller.owner, thread_id))
    nothing = Response(status_code=204, headers=headers | _NO_STORE)
    if chat is None:
        return nothing
    own = agui.own_of(thread_id, chat.message_id)
    headers |= {"X-Plateau-Run": chat.run_id}
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    known = agui.seen(last or "")
    found = await chats.answer_of(state, chat)
    if found is not None:
        place = _place_in(known, found.answer.tag)
        seen, start = NOTHING_SEEN, AGUI.start
        if place is not None:
            seen, start = comebacks.in_answer(found.answer, chat.run_id, AGUI, start, place)
        manner = Manner(AGUI, headers, start, own)
        return replay(state, chat.run_id, found.key, found.answer, seen, manner)
    if not await chats.is_on(state, chat):
        return nothing
    seen, start = NOTHING_SEEN, AGUI.start
    if (place := _place_in(known, ids.tag_of(chat.run_id))) is not None:
        seen, start = await comebacks.in_run(state["streams"], chat.run_id, AGUI, start, place)
    manner = Manner(AGUI, headers, start, own, caller.until_s)
    try:
        return await follow(state, chat.run_id, seen, chat.token, "", manner)
    except NoRoom:
        raise _busy() from None


def _place_in(known: tuple[str, int] | None, tag: str) -> int | None:
    """The place that its client has seen of what has this tag; None for nothing: what it has
    may be an earlier run's."""
    if known is None or known[0] not in ("", tag):
        return None
    return known[1]


def refuse(problem: Problem, request_id: str) -> Response:
    """Clients show the document as it is."""
    told = {"message": problem.detail, "code": problem.code}
    # What else names one, as an agent that is not there, names one of ours.
    if problem.code == "invalid_request" and (field := problem.extra.get("field")):
        told["field"] = field
    content = jsontext.encode(told)
    return problems.shaped(problem, request_id, problem.status, content, "application/json")


def _handler(method: str, path: str) -> Handler | None:
    if path == PREFIX:
        return ask if method == "POST" else None
    rest = path.removeprefix(PREFIX + "/")
    if rest == path:
        return None
    if rest.endswith(_EVENTS):
        return resume if method in ("GET", "HEAD") else None
    return ask if method == "POST" and rest and "/" not in rest else None


routes = [
    Route(PREFIX, elsewhere, methods=["POST"]),
    Route(PREFIX + "/{thread_id:path}/events", elsewhere, methods=["GET"]),
    Route(PREFIX + "/{agent}", elsewhere, methods=["POST"]),
]

SURFACE = Surface(
    prefixes=(PREFIX,),
    handler=_handler,
    refuse=refuse,
    routes=routes,
)
