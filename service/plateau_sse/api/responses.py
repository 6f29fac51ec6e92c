"""OpenAI's Responses over HTTP: ask, retrieve, stream on from a number, cancel, delete.

Invariant: a response is a run, and its id that of the run. What is asked here is asked as on
`POST /v1/runs`; what a response goes on from stands before it as if it had been sent.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api import comebacks, hits
from plateau_sse.api.access import Caller
from plateau_sse.api.asking import ask_of, cancels_when_left, follow_taken, run_headers
from plateau_sse.api.bodies import decode, invalid, read_body
from plateau_sse.api.messages import InputMessage, check_messages
from plateau_sse.api.openai_answers import busy, document_of, leaving, refuse
from plateau_sse.api.openai_asked import agent_of, flag_of, user_of
from plateau_sse.api.opening import (
    Manner,
    NoRoom,
    Room,
    check_waiting,
    follow,
    replay,
)
from plateau_sse.api.previous import Previous
from plateau_sse.api.references import resolved
from plateau_sse.api.requests import check_conversation_id
from plateau_sse.api.responses_request import (
    conversation_of,
    matched,
    messages_of,
    options_of,
)
from plateau_sse.api.runs import ask_to_end, late, owned, run_of
from plateau_sse.api.state import State, state_of
from plateau_sse.api.surfaces import Handler, Surface, elsewhere
from plateau_sse.dialects import responses
from plateau_sse.dialects.chat_completions import created_of
from plateau_sse.dialects.openai_items import document
from plateau_sse.dialects.responses import RESPONSES
from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.live.paced import paced
from plateau_sse.live.waiting import until_ended
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.ids import NOTHING_SEEN

PREFIX = "/v1/responses"
_ID = "resp_"
# What its client wants to find again in the response; more of it is not held for a reader.
_OWN_BYTES = 1024
# For a run that is cancelled to end, which takes a runner less than a second.
_CANCEL_S = 5.0
_NO_STORE = {"Cache-Control": "no-store"}


class Wish(NamedTuple):
    """What is asked, and how it is to be told. `said` is all that a later response goes on
    from, None where none is to; `own` stands in the response as it was asked."""

    ask: Ask
    said: list[dict[str, Any]] | None
    own: dict[str, Any]
    stream: bool
    background: bool


async def create(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`POST /v1/responses`."""
    caller = await state["access"].caller(request, "runs:create")
    wish = await _wish(request, state, caller)
    try:
        with Room(state, caller.owner) as room:
            check = room.check if wish.stream else partial(check_waiting, state)
            taken = await state["intake"].take(wish.ask, check)
            return await _tell(request, state, taken, wish, headers, room, caller.until_s)
    except NoRoom:
        return busy(headers)


async def _tell(
    request: Request,
    state: State,
    taken: Taken,
    wish: Wish,
    headers: dict[str, str],
    room: Room,
    until_s: float | None,
) -> Response:
    headers |= run_headers(request.scope, taken, wish.ask.mode)
    if wish.said is not None:
        await Previous(state).remember(wish.ask.owner, taken.run_id, wish.said)
    if wish.stream:
        return await _streamed(request, state, taken, wish, headers, room, until_s)
    if taken.answer is not None:
        key = hits.key_of(taken.run_id)
        say = partial(_of_hit, taken.run_id, own=wish.own)
        return _answered(state, key, taken.answer, say, headers)
    if wish.background:
        run = await run_of(state, taken.run_id, wish.ask.owner)
        return _json(document(run, wish.own, created_of(taken.run_id)), headers)
    on_left = cancels_when_left(request, state, taken)
    say_run = partial(document, own=wish.own, created=created_of(taken.run_id))
    return document_of(request, state, taken, say_run, on_left, headers)


async def _wish(request: Request, state: State, caller: Caller) -> Wish:
    body = decode(await read_body(request), dict[str, Any], halves=True)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model", "Name an agent, or a model.")
    flags = {name: flag_of(body.get(name), name) for name in ("stream", "background", "store")}
    store = flags["store"] or body.get("store") is None
    previous_id, conversation = (
        body.get("previous_response_id"),
        conversation_of(body.get("conversation")),
    )
    given = await resolved(state, caller.owner, body.get("input"))
    said = messages_of(given)
    if previous_id is not None:
        if conversation or not isinstance(previous_id, str):
            raise invalid("previous_response_id", "The id of a response, and no conversation.")
        said = [*await Previous(state).messages(caller.owner, run_id_of(previous_id)), *said]
    instructions = body.get("instructions")
    messages = matched(said, elsewhere=bool(conversation))
    if isinstance(instructions, str) and instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    if conversation:
        check_conversation_id(conversation)
    _check(messages)
    options = options_of(body)
    agent = await agent_of(model, state)
    if agent != model:
        options["model"] = model
    user = user_of(body.get("user"))
    ask = ask_of(
        request, agent, caller, messages, options, user=user, conversation_id=conversation
    )
    keeps = said if store and not conversation else None
    own = _own(body, model, flags | {"store": store}, conversation)
    return Wish(ask, keeps, own, flags["stream"], flags["background"])


def _check(messages: list[dict[str, Any]]) -> None:
    try:
        check_messages([msgspec.convert(message, InputMessage) for message in messages])
    except msgspec.ValidationError as error:
        raise invalid("input", str(error)) from None
    except Problem as problem:
        # Of `messages` its client knows nothing.
        raise invalid("input", problem.detail) from None


def _own(
    body: dict[str, Any], model: str, flags: dict[str, bool], conversation: str
) -> dict[str, Any]:
    found = {
        "model": model,
        "background": flags["background"],
        "store": flags["store"],
        "previous_response_id": body.get("previous_response_id"),
        "conversation": {"id": conversation} if conversation else None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
    }
    for name in ("instructions", "metadata"):
        if len(jsontext.encode(found)) > _OWN_BYTES:
            found[name] = None if name == "instructions" else {}
    return found


async def _streamed(
    request: Request,
    state: State,
    taken: Taken,
    wish: Wish,
    headers: dict[str, str],
    room: Room,
    until_s: float | None,
) -> Response:
    own = jsontext.encode(wish.own)[1:-1]
    run_id, answer = taken.run_id, taken.answer
    start = _start(run_id, answer)
    manner = Manner(RESPONSES, headers, start, own, until_s)
    if answer is not None:
        return replay(state, run_id, hits.key_of(run_id), answer, NOTHING_SEEN, manner)
    return await follow_taken(request, state, taken, wish.ask, manner, room)


def _start(run_id: str, answer: Answer | None) -> Any:
    created = created_of(run_id) if answer is None else answer.stored_s
    return responses.start_of(run_id, created)


async def retrieve(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`GET /v1/responses/{id}`."""
    caller = await state["access"].caller(request, "runs:read")
    owner = caller.owner
    run_id = run_id_of(request.scope["path"][len(PREFIX) + 1 :])
    headers |= {"X-Plateau-Run": run_id}
    query = request.query_params
    if query.get("stream", "").lower() in ("true", "1"):
        return await _resumed(state, run_id, caller, query.get("starting_after"), headers)

    async def make() -> bytes | None:
        try:
            return jsontext.encode(_shown(await run_of(state, run_id, owner)))
        except Problem:
            return None

    content = jsontext.encode(_shown(await run_of(state, run_id, owner)))
    whole = Response(content, 200, headers | _NO_STORE, "application/json")
    return paced(whole, make, state["pacer"])


async def _resumed(
    state: State, run_id: str, caller: Caller, after: str | None, headers: dict[str, str]
) -> Response:
    """Its events behind the one with the number `after`, or all of them."""
    owner = caller.owner
    place = None if after is None else responses.place_of(_number(after))
    key, answer, agent = "", None, ""
    if is_hit := ids.HIT_ID.fullmatch(run_id) is not None:
        answer = await hits.find(state["cache"], run_id, token="", owner=owner)
        key = hits.key_of(run_id)
    elif outline := await owned(state["streams"].outline(run_id), owner):
        agent = outline.agent
    else:
        key, answer = await late(state, run_id, token="", owner=owner)
    seen, start = NOTHING_SEEN, _start(run_id, answer if is_hit else None)
    own = jsontext.encode(_unasked(answer.agent if answer else agent))[1:-1]
    if answer is not None:
        if place is not None:
            seen, start = comebacks.in_answer(answer, run_id, RESPONSES, start, place)
        return replay(state, run_id, key, answer, seen, Manner(RESPONSES, headers, start, own))
    if place is not None:
        seen, start = await comebacks.in_run(state["streams"], run_id, RESPONSES, start, place)
    manner = Manner(RESPONSES, headers, start, own, caller.until_s)
    try:
        return await follow(state, run_id, seen, "", owner, manner)
    except NoRoom:
        return leaving(headers)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise invalid("starting_after", "The number of an event.")
    return int(text)


async def cancel(request: Request) -> Response:
    """`POST /v1/responses/{id}/cancel`: repeatable."""
    state = state_of(request.scope)
    owner = (await state["access"].caller(request, "runs:create")).owner
    run_id = run_id_of(request.path_params["response_id"])
    await _end(state, run_id, owner)
    return _json(_shown(await run_of(state, run_id, owner)), dict(_NO_STORE))


async def _end(state: State, run_id: str, owner: str) -> None:
    if ids.HIT_ID.fullmatch(run_id):
        return
    status = await ask_to_end(state, run_id, token="", owner=owner)
    if status in ("queued", "running"):
        await until_ended(state["hub"], run_id, timeout_s=_CANCEL_S)


async def delete(request: Request) -> Response:
    """`DELETE /v1/responses/{id}`: its record, what it was asked, and the answer that it left
    in the cache. One that is on is cancelled first."""
    state = state_of(request.scope)
    owner = (await state["access"].caller(request, "runs:create")).owner
    run_id = run_id_of(request.path_params["response_id"])
    await run_of(state, run_id, owner)
    name, key = Previous.name_of(owner, run_id), hits.key_of(run_id)
    if not key:
        found = await state["cache"].of_run(run_id, token="", owner=owner)
        key = "" if found is None else found[0]
        if await state["streams"].outline(run_id) is not None:
            await _end(state, run_id, owner)
            if not await state["streams"].forget(run_id):
                raise Problem(
                    "busy", "It is being cancelled: try again.", headers={"Retry-After": "2"}
                )
    await state["cache"].forget(key, "" if hits.key_of(run_id) else run_id, name)
    content = {"id": _ID + run_id, "object": "response", "deleted": True}
    return _json(content, dict(_NO_STORE))


async def serve(request: Request) -> Response:
    if request.method == "DELETE":
        return await delete(request)
    return await elsewhere(request)


def run_id_of(response_id: str) -> str:
    """The run that a response is; Problem where it is none."""
    run_id = response_id.removeprefix(_ID)
    if response_id.startswith(_ID) and (
        ids.RUN_ID.fullmatch(run_id) or ids.HIT_ID.fullmatch(run_id)
    ):
        return run_id
    raise Problem("run_not_found", "There is no such response.")


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    run_id = run["id"]
    created = None if ids.HIT_ID.fullmatch(run_id) else created_of(run_id)
    return document(run, _unasked(run["agent"]), created)


def _unasked(agent: str) -> dict[str, Any]:
    """What was asked is not kept with a run."""
    return {"model": agent, "metadata": {}}


def _of_hit(run_id: str, answer: Answer, *, own: dict[str, Any]) -> dict[str, Any]:
    return document(hits.record(run_id, answer), own)


def _answered(
    state: State, key: str, answer: Answer, say: Any, headers: dict[str, str]
) -> Response:
    def encoded(found: Answer) -> bytes:
        return jsontext.encode(say(found))

    whole = Response(encoded(answer), 200, headers, "application/json")
    return paced(whole, hits.again(state["cache"], key, answer, encoded), state["pacer"])


def _json(content: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(jsontext.encode(content), 200, headers, "application/json")


def _handler(method: str, path: str) -> Handler | None:
    if method == "POST" and path == PREFIX:
        return create
    rest = path.removeprefix(PREFIX + "/")
    is_one = rest != path and rest and "/" not in rest
    return retrieve if is_one and method in ("GET", "HEAD") else None


routes = [
    Route(PREFIX, elsewhere, methods=["POST"]),
    Route(PREFIX + "/{response_id}", serve, methods=["GET", "DELETE"]),
    Route(PREFIX + "/{response_id}/cancel", cancel, methods=["POST"]),
]

SURFACE = Surface(
    prefixes=(PREFIX,),
    handler=_handler,
    refuse=refuse,
    routes=routes,
)
