"""What can be asked of runs and conversations, for `GET /openapi.json`.

Invariant: the examples are requests that a fresh service answers, where they need no model.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.api.bodies import DEPTH_MOST
from plateau_sse.api.posted import EVENTS_MOST
from plateau_sse.api.spec import parameters as given
from plateau_sse.api.spec.event_schemas import ref
from plateau_sse.api.spec.operation import (
    JSON,
    KEY,
    KEY_OR_TOKEN,
    SSE,
    Operation,
    content,
    operation,
    problems,
    says,
)
from plateau_sse.store.runs.events import MARK_BYTES, TAPE_BYTES


def _events(description: str, **headers: Any) -> dict[str, Any]:
    return {**says(description, **headers), "content": content(ref("Event"), SSE)}


_QUESTION = {"agent": "study", "input": "A plateau is high and flat. It was raised as a whole."}
_EXAMPLES = {
    "question": {"summary": "A text to sum up", "value": _QUESTION},
    "quiz": {
        "summary": "The same as a quiz, answered anew",
        "value": _QUESTION | {"options": {"task": "quiz"}, "cache": {"mode": "refresh"}},
    },
    "conversation": {
        "summary": "One of several, which are remembered",
        "value": {"agent": "openai", "input": "Hi!", "conversation_id": "c1"},
    },
    "messages": {
        "summary": "All that was said before",
        "value": {
            "agent": "openai",
            "messages": [
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "What is a mesa?"},
            ],
        },
    },
    "external": {"summary": "A run that you append to", "value": {"agent": "external"}},
}


def _create() -> Operation:
    return operation(
        "runs",
        "createRun",
        "Ask an agent",
        "Equal requests are answered once: from the cache (`X-Cache: hit`), or by joining the "
        "run that is under way (`joined`). With `Accept: text/event-stream` the answer is the "
        "stream itself. A body may have `MAX_BODY_BYTES` (1 MiB as shipped), and its messages "
        f"and `options` may nest {DEPTH_MOST} levels deep; unknown members are refused. In a "
        "conversation only instructions, calls of tools with their results, and the user's new "
        "message are sent.",
        KEY,
        {
            "200": {
                **says("A cached answer, a run awaited to its end, or the stream"),
                "headers": given.REPLAYED,
                "content": content(ref("Run")) | content(ref("Event"), SSE),
            },
            "202": says("Enqueued, or joined: `X-Cache` tells", "Run", **given.TAKEN),
            "204": says("Nothing follows behind `Last-Event-ID`"),
            **problems(400, 401, 403, 409, 413, 415, 422, 429, 501, 503),
        },
        parameters=[
            given.ACCEPT,
            given.PREFER,
            given.IDEMPOTENCY_KEY,
            given.CACHE_CONTROL,
            given.REQUEST_ID,
            given.LAST_EVENT_ID,
        ],
        requestBody={
            "required": True,
            "content": {JSON: {"schema": ref("RunRequest"), "examples": _EXAMPLES}},
        },
    )


def _append() -> Operation:
    one = ref("PostedEvent")
    many = {"type": "array", "items": one, "maxItems": EVENTS_MOST}
    text = {"type": "message.delta", "text": "Hello"}
    end = {"type": "run.completed", "usage": {"input_tokens": 7, "output_tokens": 1}}
    return operation(
        "runs",
        "appendEvents",
        "Append to an external run",
        "One event or an array, all or nothing; `[]` renews the lease. Nothing can follow the "
        "event that ends the run. Text may have any length; any other event "
        f"{MARK_BYTES // 1024} KiB, an answer {TAPE_BYTES // 1024} KiB of text and thoughts. "
        "A run's token only reads: this takes its owner's key.",
        KEY,
        {
            "200": says("Appended, or there already", "Appended"),
            **problems(400, 401, 403, 404, 409, 410, 413, 415, 422, 501, 503),
        },
        parameters=[given.FIRST_SEQ],
        requestBody={
            "required": True,
            "content": {
                JSON: {
                    "schema": {"oneOf": [one, many]},
                    "examples": {
                        "one": {"summary": "More text", "value": text},
                        "many": {"summary": "More text, and the end", "value": [text, end]},
                        "none": {"summary": "Still there", "value": []},
                    },
                }
            },
        },
    )


def _list() -> Operation:
    return operation(
        "runs",
        "listRuns",
        "What you have asked for lately",
        "The latest 1,000 runs of your key, as far as their records are there. An answer that "
        "came from the cache is no run.",
        KEY,
        {"200": says("A page", "RunList"), **problems(401, 403, 422, 503)},
        parameters=[
            given.OF_STATUS,
            given.OF_AN_AGENT,
            given.IN_CONVERSATION,
            given.USER,
            given.LIMIT,
            given.BEFORE,
            given.ASKED_BEFORE,
        ],
    )


def runs() -> dict[str, Any]:
    own = [given.RUN_ID, given.TOKEN]
    return {
        "/v1/runs": {"post": _create(), "get": _list()},
        "/v1/runs/{run_id}": {
            "parameters": own,
            "get": operation(
                "runs",
                "getRun",
                "A run's record",
                "Kept for `STREAM_TTL_S` after its end; then its answer, while that is cached; "
                "then a 410.",
                KEY_OR_TOKEN,
                {"200": says("The record", "Run"), **problems(401, 403, 404, 409, 410, 503)},
            ),
        },
        "/v1/runs/{run_id}/events": {
            "parameters": own,
            "get": operation(
                "runs",
                "followRun",
                "Follow a run, from the start or from where it was left",
                "Server-sent events, with an `id:` to come back with; each `data:` is an "
                "`Event`. `EventSource` comes back from no status but 200: here only what is "
                "permanent is another one, and a passing fault a 200 that ends at once.",
                KEY_OR_TOKEN,
                {
                    "200": _events("What follows, as it comes, to the terminal event"),
                    "204": says("That event was the last: do not come back"),
                    **problems(400, 401, 403, 404, 409, 410),
                },
                parameters=[*given.POSITION, given.EVENT_NAMES, given.HEARTBEAT],
            ),
            "post": _append(),
        },
        "/v1/runs/{run_id}/cancel": {
            "parameters": own,
            "post": operation(
                "runs",
                "cancelRun",
                "Cancel a run",
                "Repeatable. Of a run that is shared a token gives up its own share; it ends "
                "with the last one.",
                KEY_OR_TOKEN,
                {
                    "200": says("Cancelled", "Cancellation"),
                    "202": says("Its agent is being told", "Cancellation"),
                    **problems(401, 403, 404, 409, 410, 503),
                },
            ),
        },
    }


def conversations() -> dict[str, Any]:
    return {
        "/v1/agents": {
            "get": operation(
                "runs",
                "listAgents",
                "The agents that can be asked",
                "Those that runners say they have, with what is to be known of each.",
                KEY,
                {"200": says("The agents", "Agents"), **problems(401, 403, 503)},
            )
        },
        "/v1/conversations": {
            "get": operation(
                "conversations",
                "listConversations",
                "Your conversations, or those of one `user`",
                "The latest 1,000.",
                KEY,
                {"200": says("A page", "ConversationList"), **problems(401, 403, 422, 503)},
                parameters=[given.USER, given.LIMIT, given.BEFORE, given.ASKED_BEFORE],
            )
        },
        "/v1/conversations/{conversation_id}": {
            "parameters": [given.CONVERSATION_ID, given.USER],
            "get": operation(
                "conversations",
                "getConversation",
                "What was said in a conversation",
                "Its latest messages, whole, and the run that is on, if one is. One that has "
                "not begun is an empty one.",
                KEY,
                {
                    "200": says("The conversation", "Conversation"),
                    **problems(401, 403, 422, 503),
                },
            ),
            "delete": operation(
                "conversations",
                "deleteConversation",
                "Forget a conversation",
                "Repeatable: what is not there is forgotten already.",
                KEY,
                {"204": says("Forgotten"), **problems(401, 403, 422, 503)},
            ),
        },
        "/v1/conversations/{conversation_id}/events": {
            "parameters": [given.CONVERSATION_ID, given.USER, given.CONVERSATION_TOKEN],
            "get": operation(
                "conversations",
                "followConversation",
                "Follow a conversation, run after run",
                "Server-sent events: those of each run that is asked for in it, to its end, "
                "then those of the next, under the ids that they have in their run. "
                '`{"type":"conversation.missed"}`, without an id: what was said behind the id '
                "that you came back with is not told, since the conversation has forgotten "
                "where that was; read it anew.",
                KEY_OR_TOKEN,
                {
                    "200": _events("What runs in it, as it comes"),
                    **problems(400, 401, 403, 422),
                },
                parameters=[
                    *given.POSITION,
                    given.AFTER,
                    given.EVENT_NAMES,
                    given.HEARTBEAT,
                ],
            ),
        },
    }
