"""Conversations over HTTP: what has been said, and forgetting it.

Invariant: people see whole messages, as far as they are kept, whatever a model is given of
them. One that has not begun is an empty one. The same id of another owner or `user` is another
conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from plateau_sse import jsontext
from plateau_sse.api.access import Caller
from plateau_sse.api.conversation_links import events_url
from plateau_sse.api.requests import check_conversation_id, place_for, user_of
from plateau_sse.api.runs import links_of, run_url_of
from plateau_sse.api.state import State, state_of
from plateau_sse.content import parts_of
from plateau_sse.live.paced import paced
from plateau_sse.owners import account_of
from plateau_sse.store.conversations.conversations import Message

_HEADERS = {"Cache-Control": "no-store"}


async def show(request: Request) -> Response:
    state = state_of(request.scope)
    caller, conversation_id, place = await _place(request, state)
    scope = request.scope
    url = await events_url(state, scope, caller, place, conversation_id)

    async def make() -> bytes:
        messages = await state["conversations"].read_whole(place)
        content = {
            "id": conversation_id,
            "messages": [_shown(message) for message in messages],
            "active_run": await _active_run(scope, state, messages),
            "events_url": url,
        }
        return jsontext.encode(content)

    # Up to ten megabytes, and no reader is to hold them. One that is slow while somebody speaks
    # is cut off, and asks again.
    whole = Response(await make(), 200, _HEADERS, "application/json")
    return paced(whole, make, state["pacer"])


async def delete(request: Request) -> Response:
    """Repeatable: what is not there is forgotten already."""
    state = state_of(request.scope)
    caller, conversation_id, place = await _place(request, state)
    await state["conversations"].delete(place, remember_s=state["settings"].run_life_s)
    account, user = account_of(caller.owner), user_of(request, caller)
    await state["listed"].forget_conversation(account, user, conversation_id)
    return Response(status_code=204, headers=_HEADERS)


async def _place(request: Request, state: State) -> tuple[Caller, str, str]:
    """Who asks, the conversation's id, and its name in the store."""
    caller = await state["access"].caller(request, "conversations")
    conversation_id: str = request.path_params["conversation_id"]
    check_conversation_id(conversation_id)
    return caller, conversation_id, place_for(request, caller, conversation_id)


def _shown(message: Message) -> dict[str, Any]:
    whole = message.whole
    if whole is None:
        # A release before has kept what a model was given.
        content = message.content
        parts: list[Any] = parts_of(content)
        truncated = content is None or len(content) < message.length
    else:
        content, parts, truncated = whole.content, whole.parts, whole.truncated
    is_answer = message.role == "assistant"
    return {
        "id": message.id,
        "role": message.role,
        "status": (whole.status if whole else "completed") if is_answer else None,
        "content": content,
        "parts": parts,
        "length": message.length,
        "truncated": truncated,
        "reply_to": message.reply_to or None,
        "created_at": message.at_ms / 1000,
    }


async def _active_run(
    scope: Scope, state: State, messages: Sequence[Message]
) -> dict[str, Any] | None:
    """The latest run that is still on, with the URLs that its caller was given."""
    answered = {message.reply_to for message in messages}
    open_ones = [
        (message.run_id, message.token)
        for message in reversed(messages)
        if message.token and message.id not in answered
    ]
    statuses = await state["streams"].statuses([run_id for run_id, _ in open_ones])
    for (run_id, token), status in zip(open_ones, statuses, strict=True):
        if status in ("queued", "running"):
            return {
                "id": run_id,
                "status": status,
                **links_of(run_url_of(scope, run_id), token),
            }
    return None


async def serve(request: Request) -> Response:
    # One route for both: of two, the first would name its own methods alone in `Allow`.
    return await (delete if request.method == "DELETE" else show)(request)


async def _elsewhere(_: Request) -> Response:
    raise AssertionError("dispatched ahead of the routes")


routes = [
    Route("/v1/conversations/{conversation_id}", serve, methods=["GET", "DELETE"]),
    Route("/v1/conversations/{conversation_id}/events", _elsewhere, methods=["GET"]),
]
