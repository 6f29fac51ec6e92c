"""chat.completions over HTTP, and the models that it may name: OpenAI's packages, unchanged.

Invariant: what is asked here is asked as on `POST /v1/runs`: the same cache, the same runs and
limits. A member that is not known is the agent's to know: it is passed on as an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api import hits
from plateau_sse.api.access import Caller
from plateau_sse.api.asking import ask_of, cancels_when_left, follow_taken, run_headers
from plateau_sse.api.bodies import DEPTH_MOST, decode, invalid, read_body, too_deep
from plateau_sse.api.messages import InputMessage, check_messages
from plateau_sse.api.openai_answers import busy, document_of, refuse
from plateau_sse.api.openai_asked import NOTES, OPENAI, agent_of, flag_of, user_of
from plateau_sse.api.opening import (
    Manner,
    NoRoom,
    Room,
    check_waiting,
    replay,
)
from plateau_sse.api.state import State, state_of
from plateau_sse.api.surfaces import Handler, Surface, elsewhere
from plateau_sse.dialects.chat_completions import (
    ChatCompletions,
    chunks,
    created_of,
    document,
)
from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.jsontext import is_deeper
from plateau_sse.live.paced import paced
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs.ids import NOTHING_SEEN

# What says how the answer is to be told, and has no part in it.
_TOLD = ("model", "messages", "stream", "stream_options", "user", "n", *NOTES)
_MESSAGE = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")


class Wish(NamedTuple):
    """What is asked, and how it is to be told; `model` as it was named."""

    ask: Ask
    model: str
    stream: bool
    usage: bool


async def complete(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`POST /v1/chat/completions`."""
    caller = await state["access"].caller(request, "runs:create")
    body = await read_body(request)
    where = request.scope["path"]
    repeat = await state["repeats"].find(request.scope, caller, where, body)
    if repeat is not None:
        headers |= run_headers(request.scope, repeat.taken, "use")
        return Response(repeat.content, 200, headers, "application/json")
    known = state["repeats"].known
    wish = await _wish(request, state, caller, body)
    try:
        with Room(state, caller.owner) as room:
            check = room.check if wish.stream else partial(check_waiting, state)
            taken = await state["intake"].take(wish.ask, check)
            response = await _tell(request, state, taken, wish, headers, room, caller.until_s)
    except NoRoom:
        return busy(headers)
    if taken.answer is not None and not wish.stream:
        keep = state["repeats"].keep
        scope, ask = request.scope, wish.ask
        keep(scope, caller, where, body, ask, taken, response, known, wish.model)
    return response


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
    if taken.answer is not None:
        return _hit(state, taken.run_id, taken.answer, wish, headers)
    if not wish.stream:
        say = partial(_document, model=wish.model)
        on_left = cancels_when_left(request, state, taken)
        return document_of(request, state, taken, say, on_left, headers)
    manner = Manner(chunks(wish.model, usage=wish.usage), headers, until_s=until_s)
    return await follow_taken(request, state, taken, wish.ask, manner, room)


async def _wish(request: Request, state: State, caller: Caller, content: bytes) -> Wish:
    body = decode(content, dict[str, Any], halves=True)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model", "Name an agent, or a model.")
    stream = flag_of(body.get("stream"), "stream")
    if body.get("n") not in (None, 1):
        raise invalid("n", "There is one choice.")
    user = user_of(body.get("user"))
    messages = messages_of(body.get("messages"))
    options = {
        name: value for name, value in body.items() if name not in _TOLD and value is not None
    }
    if is_deeper(options, DEPTH_MOST):
        raise too_deep("")
    agent = await agent_of(model, state)
    if agent != model:
        options["model"] = model
    told = body.get("stream_options") or {}
    if not isinstance(told, dict):
        raise invalid("stream_options", "Not an object.")
    usage = flag_of(told.get("include_usage"), "stream_options.include_usage")
    ask = ask_of(request, agent, caller, messages, options, user=user)
    return Wish(ask, model, stream, usage)


def messages_of(given: Any) -> list[dict[str, Any]]:
    """The messages, with the members that an agent is given; Problem where they are none."""
    if not isinstance(given, list):
        raise invalid("messages", "A list of messages.")
    messages: list[InputMessage] = []
    for index, message in enumerate(given):
        if not isinstance(message, dict):
            raise invalid(f"messages[{index}]", "Not an object.")
        known = {name: message[name] for name in _MESSAGE if message.get(name) is not None}
        if known.get("role") == "assistant" and not known.get("tool_calls"):
            # A refusal has nothing else.
            known.setdefault("content", message.get("refusal") or "")
        try:
            messages.append(msgspec.convert(known, InputMessage))
        except msgspec.ValidationError as error:
            raise invalid(f"messages[{index}]", str(error)) from None
    check_messages(messages)
    return [message.said() for message in messages]


def _hit(
    state: State, run_id: str, answer: Answer, wish: Wish, headers: dict[str, str]
) -> Response:
    key = hits.key_of(run_id)
    if wish.stream:
        dialect = ChatCompletions(wish.model, usage=wish.usage, created=answer.stored_s)
        manner = Manner(dialect, headers)
        return replay(state, run_id, key, answer, NOTHING_SEEN, manner)

    def say(found: Answer) -> bytes:
        return jsontext.encode(document(hits.record(run_id, found), wish.model))

    whole = Response(say(answer), 200, headers, "application/json")
    return paced(whole, hits.again(state["cache"], key, answer, say), state["pacer"])


def _document(run: Mapping[str, Any], *, model: str) -> dict[str, Any]:
    return document(run, model) | {"created": created_of(run["id"])}


async def models(request: Request) -> Response:
    """`GET /v1/models`."""
    found = [_shown(name) for name in await _names(request)]
    return _json({"object": "list", "data": found})


async def model(request: Request) -> Response:
    """`GET /v1/models/{model}`; the name may hold slashes."""
    name: str = request.path_params["model"]
    if name not in await _names(request):
        raise Problem("unknown_agent", f"There is no model {name[:100]!r}.")
    return _json(_shown(name))


async def _names(request: Request) -> list[str]:
    state = state_of(request.scope)
    await state["access"].caller(request, None)
    agents = await state["intake"].agents()
    names = sorted(agents)
    if OPENAI in agents:
        settings = state["settings"]
        names += [settings.openai_model] * bool(settings.openai_model)
        names += settings.openai_models
    return list(dict.fromkeys(names))


def _shown(name: str) -> dict[str, Any]:
    # When it was made nobody has said.
    return {"id": name, "object": "model", "created": 0, "owned_by": "plateau"}


def _json(content: dict[str, Any]) -> Response:
    return Response(
        jsontext.encode(content), 200, {"Cache-Control": "no-store"}, "application/json"
    )


def _handler(method: str, path: str) -> Handler | None:
    return complete if method == "POST" and path == "/v1/chat/completions" else None


routes = [
    Route("/v1/chat/completions", elsewhere, methods=["POST"]),
    Route("/v1/models", models, methods=["GET"]),
    Route("/v1/models/{model:path}", model, methods=["GET"]),
]

SURFACE = Surface(
    prefixes=("/v1/chat/", "/v1/models"),
    handler=_handler,
    refuse=refuse,
    routes=routes,
)
