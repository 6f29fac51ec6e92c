"""What can be asked in the dialects of others, for `GET /openapi.json`.

Invariant: of their bodies and frames only that is told which is ours: the rest is described by
whoever made them.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.api.spec import parameters as given
from plateau_sse.api.spec.event_schemas import Schema
from plateau_sse.api.spec.operation import JSON, KEY, SSE, Operation, content, operation, says
from plateau_sse.api.spec.schemas import object_of

_TEXT: Schema = {"type": "string"}
_ANYTHING: Schema = {"type": "object"}
_ERROR: Schema = object_of(
    {
        "error": object_of(
            {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": _TEXT,
            }
        )
    }
)
_MODEL: Schema = object_of(
    {"id": _TEXT, "object": _TEXT, "created": {"type": "integer"}, "owned_by": _TEXT}
)
_MODELS: Schema = object_of({"object": _TEXT, "data": {"type": "array", "items": _MODEL}})
_ASKED = [given.IDEMPOTENCY_KEY, given.CACHE_CONTROL, given.REQUEST_ID, given.ON_DISCONNECT]
_WHY = {
    "400": "It cannot be read, or is not valid",
    "401": "A valid key or token is needed",
    "403": "The page, or the token, may not do this",
    "404": "There is no such model",
    "409": "The answer was cancelled, is another release's, or its conversation is busy",
    "413": "Too large",
    "415": "The body is compressed",
    "422": "It is not valid",
    "429": "Too much at once: try again later",
    "500": "Something broke on our side",
    "501": "The body is sent in a way that is not understood",
    "502": "The agent failed",
    "503": "Not now: try again",
    "504": "The agent, or what it asked, took too long",
}


def _refused(schema: Schema, media_type: str, *statuses: int) -> dict[str, Any]:
    found = {}
    for status in map(str, statuses):
        found[status] = says(_WHY[status]) | {"content": content(schema, media_type)}
        if int(status) in given.OF_PROBLEMS:
            found[status]["headers"] = given.OF_PROBLEMS[int(status)]
    return found


def _errors(*statuses: int) -> dict[str, Any]:
    return _refused(_ERROR, JSON, *statuses)


def _documents(*statuses: int) -> dict[str, Any]:
    return _refused(object_of({"message": _TEXT, "code": _TEXT}), JSON, *statuses)


def _texts(*statuses: int) -> dict[str, Any]:
    return _refused(_TEXT, "text/plain", *statuses)


def _body(example: dict[str, Any]) -> dict[str, Any]:
    examples = {"one": {"summary": "A text to sum up", "value": example}}
    return {
        "required": True,
        "content": {JSON: {"schema": _ANYTHING, "examples": examples}},
    }


_SUM_UP = "A plateau is high and flat. It was raised as a whole."


def _complete() -> Operation:
    message = {"role": "user", "content": _SUM_UP}
    return operation(
        "dialects",
        "createChatCompletion",
        "chat.completions, as OpenAI's packages ask",
        "`model` is an agent, or a model that `openai` may be asked for (`OPENAI_MODEL`, "
        "`OPENAI_MODELS`). Members that are not known are options of the agent. Streamed "
        "(`stream`) or not; what takes long is preceded by white space.",
        KEY,
        {
            "200": {
                **says("The answer", "", **given.RUN),
                "content": content(_ANYTHING) | content(_TEXT, SSE),
            },
            **_errors(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504),
        },
        parameters=_ASKED,
        requestBody=_body({"model": "study", "messages": [message]}),
    )


def _send() -> Operation:
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": _SUM_UP}]}
    return operation(
        "dialects",
        "sendChat",
        "AI SDK's chat, as `useChat` asks",
        "With all messages (`messages`), or with the last one (`message`) behind what is "
        "remembered. Other members are options of the agent.",
        KEY,
        {
            "200": {
                **says("The UI message stream", "", **given.RUN),
                "content": content(_TEXT, SSE),
            },
            **_texts(400, 401, 403, 409, 413, 415, 422, 429, 500, 501, 503),
        },
        parameters=[given.OF_AGENT, *_ASKED],
        requestBody=_body({"id": "c1", "agent": "study", "messages": [message]}),
    )


def _respond() -> Operation:
    return operation(
        "dialects",
        "createResponse",
        "OpenAI's Responses, as its packages ask",
        "`model` as for chat.completions. Streamed (`stream`), in the `background`, or whole. "
        "What it goes on from (`previous_response_id`, `conversation`) stands before `input`.",
        KEY,
        {
            "200": {
                **says("The response", "", **given.RUN),
                "content": content(_ANYTHING) | content(_TEXT, SSE),
            },
            **_errors(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504),
        },
        parameters=_ASKED,
        requestBody=_body({"model": "study", "input": _SUM_UP}),
    )


def _response() -> dict[str, Any]:
    """One that is there."""
    return {
        "parameters": [given.RESPONSE_ID],
        "get": operation(
            "dialects",
            "getResponse",
            "A response, or its events",
            "As it stands now; with `stream` its events, from its first or behind a number.",
            KEY,
            {
                "200": says("It") | {"content": content(_ANYTHING) | content(_TEXT, SSE)},
                "204": says("Nothing follows behind that number"),
                **_errors(400, 401, 403, 404, 409, 429, 503),
            },
            parameters=list(given.OF_RESPONSE),
        ),
        "delete": operation(
            "dialects",
            "deleteResponse",
            "Forget a response",
            "Its record, what it was asked, and the answer that it left in the cache. One that "
            "is on is cancelled first.",
            KEY,
            {
                "200": says("It is gone") | {"content": content(_ANYTHING)},
                **_errors(401, 403, 404, 409, 429, 503),
            },
        ),
    }


def _cancel() -> Operation:
    return operation(
        "dialects",
        "cancelResponse",
        "Cancel a response",
        "Repeatable: it comes back as it stands then.",
        KEY,
        {
            "200": says("It") | {"content": content(_ANYTHING)},
            **_errors(401, 403, 404, 409, 429, 503),
        },
    )


def _run_agent(name: str, title: str, parameters: list[dict[str, Any]]) -> Operation:
    message = {"id": "m1", "role": "user", "content": _SUM_UP}
    return operation(
        "dialects",
        name,
        title,
        "What the application forwards (`forwardedProps`) are options of the agent; so are "
        "`tools`, `context` and `state`. What a person has answered is `resume`.",
        KEY,
        {
            "200": {
                **says("The run's events", "", **given.RUN),
                "content": content(_TEXT, SSE),
            },
            **_documents(400, 401, 403, 409, 413, 415, 422, 429, 500, 501, 503),
        },
        parameters=[*parameters, *_ASKED],
        requestBody=_body({"threadId": "t1", "runId": "r1", "messages": [message]}),
    )


def _connect() -> Operation:
    return operation(
        "dialects",
        "connectThread",
        "Go on with a thread's run",
        "Behind `Last-Event-ID`, or from its first event: that of one that is on, or has ended "
        "within the last minute.",
        KEY,
        {
            "200": says("The run's events") | {"content": content(_TEXT, SSE)},
            "204": says("Nothing is live, or follows"),
            **_documents(401, 403, 409, 429, 503),
        },
        parameters=list(given.PLACE),
    )


def dialects() -> dict[str, Any]:
    model = {"parameters": [given.MODEL]}
    chat = {"parameters": [given.CHAT_ID]}
    return {
        "/v1/chat/completions": {"post": _complete()},
        "/v1/models": {
            "get": operation(
                "dialects",
                "listModels",
                "The agents, as models",
                "And the models that `openai` may be asked for.",
                KEY,
                {
                    "200": says("All of them") | {"content": content(_MODELS)},
                    **_errors(401, 403, 429, 503),
                },
            )
        },
        "/v1/models/{model}": model
        | {
            "get": operation(
                "dialects",
                "getModel",
                "One of them",
                "Its name may hold slashes.",
                KEY,
                {
                    "200": says("It") | {"content": content(_MODEL)},
                    **_errors(401, 403, 404, 429, 503),
                },
            )
        },
        "/v1/responses": {"post": _respond()},
        "/v1/responses/{response_id}": _response(),
        "/v1/responses/{response_id}/cancel": {
            "parameters": [given.RESPONSE_ID],
            "post": _cancel(),
        },
        "/agui": {
            "post": _run_agent("runAgent", "AG-UI, as its clients ask", [given.OF_AGENT])
        },
        "/agui/{agent}": {
            "parameters": [given.AGENT_NAME],
            "post": _run_agent("runThatAgent", "The same, of this agent", []),
        },
        "/agui/{thread_id}/events": {
            "parameters": [given.THREAD_ID],
            "get": _connect(),
        },
        "/api/chat": {"post": _send()},
        "/api/chat/{chat_id}/stream": chat
        | {
            "get": operation(
                "dialects",
                "resumeChat",
                "Resume a chat's answer, from its first chunk on",
                "That of one that is on, or has ended within the last minute.",
                KEY,
                {
                    "200": says("The UI message stream") | {"content": content(_TEXT, SSE)},
                    "204": says("Nothing is live"),
                    **_texts(401, 403, 429, 503),
                },
            )
        },
        "/api/chat/{chat_id}/stop": chat
        | {
            "post": operation(
                "dialects",
                "stopChat",
                "Stop a chat's answer",
                "Repeatable. A run that is shared goes on for the others.",
                KEY,
                {
                    "200": says("It stops, or had ended") | {"content": content(_ANYTHING)},
                    "204": says("Nothing was to be stopped"),
                    **_texts(401, 403, 429, 503),
                },
            )
        },
    }
