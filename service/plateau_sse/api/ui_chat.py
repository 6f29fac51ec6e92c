"""AI SDK's chats over HTTP: `useChat`, with nothing changed but its URL.

Invariant: what a chat resumes is the answer that it asked for, from its first chunk on; its
history is what its client sends.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api import chats, hits, problems
from plateau_sse.api.access import Caller
from plateau_sse.api.asking import ask_of, follow_taken, run_headers
from plateau_sse.api.bodies import DEPTH_MOST, decode, invalid, read_body, too_deep
from plateau_sse.api.messages import InputMessage, check_messages
from plateau_sse.api.opening import Manner, NoRoom, Room, follow, replay
from plateau_sse.api.requests import CONVERSATION_ID
from plateau_sse.api.runs import ask_to_end
from plateau_sse.api.state import State, state_of
from plateau_sse.api.surfaces import Handler, Surface, elsewhere
from plateau_sse.api.ui_request import approvals_of, calls_of, messages_of
from plateau_sse.dialects import ui_messages
from plateau_sse.dialects.ui_parts import replayed
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.jsontext import is_deeper
from plateau_sse.owners import account_of
from plateau_sse.store.conversations.chats import Chat, pack, unpack
from plateau_sse.store.conversations.conversations import place_of
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.ids import NOTHING_SEEN

log = logging.getLogger("plateau.api")

PREFIX = "/api/chat"
CHAT_ID_CHARS = 500
_NO_STORE = {"Cache-Control": "no-store"}
# What is the protocol's, and no option of an agent.
_PROTOCOL = ("id", "messages", "message", "trigger", "messageId", "agent")


async def send(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`POST /api/chat`."""
    caller = await state["access"].caller(request, "runs:create")
    owner = caller.owner
    body = decode(await read_body(request), dict[str, Any], halves=True)
    chat_id = body.get("id")
    if not isinstance(chat_id, str) or not 0 < len(chat_id) <= CHAT_ID_CHARS:
        raise invalid("id", f"The chat's id, of at most {CHAT_ID_CHARS} characters.")
    ask, last = _ask(request, body, caller, chat_id)
    place = _place(owner, chat_id)
    manner = _manner(caller, _message_id(last), headers, calls_of(last))
    try:
        with Room(state, owner) as room:
            taken = await state["intake"].take(ask, room.check)
            return await _tell(request, state, taken, ask, last, place, manner, room)
    except NoRoom:
        raise _busy() from None


async def _tell(
    request: Request,
    state: State,
    taken: Taken,
    ask: Ask,
    last: dict[str, Any],
    place: str,
    manner: Manner,
    room: Room,
) -> Response:
    """The answer to `last`, noted as that of the chat at `place`."""
    message_id = _message_id(last)
    manner.headers.update(run_headers(request.scope, taken, ask.mode))
    # Who resumes has nothing of the message any more.
    before = pack(last.get("parts") or []) if message_id else b""
    chat = Chat(taken.run_id, taken.token, message_id, int(time.time() * 1000), before)
    put = state["chats"].put if taken.answer is None else state["chats"].put_whole
    try:
        await put(place, chat)
    except StoreError as error:
        # The answer is on its way; a reload will not find it.
        log.warning("run %s: its chat cannot be noted: %s", taken.run_id, error)
    if taken.answer is not None:
        key = hits.key_of(taken.run_id)
        return replay(state, taken.run_id, key, taken.answer, NOTHING_SEEN, manner)
    try:
        return await follow_taken(request, state, taken, ask, manner, room)
    except NoRoom:
        with suppress(StoreError):
            await state["chats"].drop(place, chat)
        raise


def _ask(
    request: Request, body: dict[str, Any], caller: Caller, chat_id: str
) -> tuple[Ask, dict[str, Any]]:
    """What is asked, and the last message, with which the answer may go on."""
    agent = request.query_params.get("agent") or body.get("agent")
    if not isinstance(agent, str) or not agent:
        raise invalid("agent", "Name an agent: /api/chat?agent=…, or a member of the body.")
    alone = body.get("messages") is None and body.get("message") is not None
    given = [body["message"]] if alone else body.get("messages")
    messages = messages_of(given, alone=alone)
    check_messages([msgspec.convert(message, InputMessage) for message in messages])
    assert isinstance(given, list)
    options = {
        name: value
        for name, value in body.items()
        if name not in _PROTOCOL and value is not None
    }
    if approvals := approvals_of(given):
        options["resume"] = approvals
    if is_deeper(options, DEPTH_MOST):
        raise too_deep("")
    again = body.get("trigger") == "regenerate-message"
    ask = ask_of(
        request,
        agent,
        caller,
        messages,
        options,
        mode="refresh" if again else "use",
        conversation_id=_conversation_of(chat_id) if alone else "",
        again=again and alone,
        # The name of the conversation that it would be.
        thread=place_of(account_of(caller.owner), caller.user, _conversation_of(chat_id)),
    )
    return ask, given[-1]


def _message_id(last: dict[str, Any]) -> str:
    """That of the message that the answer goes on with; '' where it is one of its own, or has
    an id that nobody keeps."""
    found = last.get("id")
    if last.get("role") != "assistant" or not isinstance(found, str):
        return ""
    return found if len(found) <= CHAT_ID_CHARS else ""


def _conversation_of(chat_id: str) -> str:
    if re.fullmatch(CONVERSATION_ID, chat_id):
        return chat_id
    return blake2b(chat_id.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _place(owner: str, chat_id: str) -> str:
    return place_of(owner, "", chat_id)


def _manner(
    caller: Caller,
    message_id: str,
    headers: dict[str, str],
    calls: Sequence[str],
    before: bytes = b"",
) -> Manner:
    """`calls` are those of the message that its client has before the answer comes, or is told
    by `before`."""
    start = ui_messages.going_on(message_id, calls, before) if message_id else None
    return Manner(ui_messages.PLAIN, headers, start, until_s=caller.until_s)


def _busy() -> Problem:
    return Problem("busy", "No room here for now: try again.", headers={"Retry-After": "1"})


async def resume(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`GET /api/chat/{id}/stream`: 204 where nothing is live."""
    caller = await state["access"].caller(request, "runs:read")
    path: str = request.scope["path"]
    chat_id = path[len(PREFIX) + 1 : -len("/stream")]
    chat = await state["chats"].find(_place(caller.owner, chat_id))
    if chat is not None:
        # Who resumes drops what stood in the message before.
        parts = unpack(chat.before) if chat.before else []
        calls, before = calls_of({"parts": parts}), replayed(parts)
        told = headers | {"X-Plateau-Run": chat.run_id}
        manner = _manner(caller, chat.message_id, told, calls, before)
        response = await _replayed(state, chat, manner)
        if response is not None:
            return response
    return Response(status_code=204, headers=headers | _NO_STORE)


async def _replayed(state: State, chat: Chat, manner: Manner) -> Response | None:
    """From the first chunk on; None where it has ended long ago, or is gone."""
    found = await chats.answer_of(state, chat)
    if found is not None:
        return replay(state, chat.run_id, found.key, found.answer, NOTHING_SEEN, manner)
    if not await chats.is_on(state, chat):
        return None
    try:
        return await follow(state, chat.run_id, NOTHING_SEEN, chat.token, "", manner)
    except NoRoom:
        raise _busy() from None


async def stop(request: Request) -> Response:
    """`POST /api/chat/{id}/stop`: repeatable, and nothing is there to be resumed any more."""
    state = state_of(request.scope)
    owner = (await state["access"].caller(request, "runs:create")).owner
    place = _place(owner, request.path_params["chat_id"])
    chat = await state["chats"].find(place)
    if chat is None:
        return Response(status_code=204, headers=_NO_STORE)
    status = "completed"
    if not ids.HIT_ID.fullmatch(chat.run_id):
        try:
            status = await ask_to_end(state, chat.run_id, token=chat.token, owner="")
        except Problem:
            # Expired, or given up before.
            status = "gone"
    await state["chats"].drop(place, chat)
    content = jsontext.encode({"id": chat.run_id, "status": status})
    return Response(content, 200, _NO_STORE, "application/json")


def refuse(problem: Problem, request_id: str) -> Response:
    """A short text: that is what people are shown."""
    field = problem.extra.get("field") if problem.code == "invalid_request" else ""
    content = (f"{field}: {problem.detail}" if field else problem.detail).encode()
    return problems.shaped(problem, request_id, problem.status, content, "text/plain")


def _handler(method: str, path: str) -> Handler | None:
    if method == "POST" and path == PREFIX:
        return send
    is_stream = path.startswith(PREFIX + "/") and path.endswith("/stream")
    return resume if is_stream and method in ("GET", "HEAD") else None


routes = [
    Route(PREFIX, elsewhere, methods=["POST"]),
    Route(PREFIX + "/{chat_id:path}/stream", elsewhere, methods=["GET"]),
    Route(PREFIX + "/{chat_id:path}/stop", stop, methods=["POST"]),
]

SURFACE = Surface(
    prefixes=(PREFIX,),
    handler=_handler,
    refuse=refuse,
    routes=routes,
)
