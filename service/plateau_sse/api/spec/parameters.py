"""The parameters and headers of all routes, for `GET /openapi.json`.

Invariant: whatever of a request's head or query changes its answer is here.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.api.lists import PAGE, PAGE_MOST, STATUSES
from plateau_sse.api.requests import AGENT_CHARS, USER_CHARS, WAIT_MOST_S
from plateau_sse.api.requests import CONVERSATION_ID as CONVERSATION_ID_PATTERN
from plateau_sse.api.spec.event_schemas import Schema, ref

_TEXT: Schema = {"type": "string"}
_EVENT_ID: Schema = {
    "type": "string",
    "pattern": "^([0-9a-f]{6}-)?[1-9][0-9]{0,8}-(0|[1-9][0-9]{0,8})$",
    "examples": ["3fa29c-1-17"],
}


def _in(place: str, name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        **({"required": True} if place == "path" else {}),
        "description": description,
        "schema": schema or _TEXT,
    }


RUN_ID = _in("path", "run_id", "The run, or the cached answer.", **ref("RunId"))
CONVERSATION_ID = _in(
    "path",
    "conversation_id",
    "As in the runs that it was said in.",
    type="string",
    pattern=CONVERSATION_ID_PATTERN,
)
LIMIT = _in(
    "query",
    "limit",
    "So many at most.",
    type="integer",
    minimum=1,
    maximum=PAGE_MOST,
    default=PAGE,
)
BEFORE = _in("query", "before", "The last of the page before, as in its `next`.")
ASKED_BEFORE = _in(
    "query",
    "asked_before",
    "When that was asked, as in `next`: it may have gone, or be the first by now.",
    type="integer",
)
OF_STATUS = _in("query", "status", "Those of this status.", type="string", enum=[*STATUSES])
OF_AN_AGENT = _in("query", "agent", "Those of this agent.")
IN_CONVERSATION = _in("query", "conversation_id", "Those that were asked for in it.")
CONVERSATION_TOKEN = _in(
    "query", "token", "As in `conversation_events_url`: opens this conversation's events only."
)
AFTER = _in(
    "query",
    "after",
    "The latest message that was read, or 0 where there was none: what was asked behind it "
    "is told. Without it, and without the id of an event, what is on, and what comes.",
    type="string",
    pattern="^([0-9a-f]{32}(-user)?|0)$",
)
TOKEN = _in("query", "token", "The run's own token, as in `events_url`: opens this run only.")

ACCEPT = _in(
    "header",
    "Accept",
    "`text/event-stream`: the answer is the stream itself.",
    type="string",
    examples=["application/json", "text/event-stream"],
)
PREFER = _in(
    "header",
    "Prefer",
    f"`wait=N`: answer when the run ends, or after N s, {WAIT_MOST_S} at most (RFC 7240).",
    type="string",
    examples=["wait=10"],
)
IDEMPOTENCY_KEY = _in(
    "header",
    "Idempotency-Key",
    "A repeat under the same key is the same run; the same key with another request is a 422.",
    type="string",
    pattern="^[!-~]{1,255}$",
)
CACHE_CONTROL = _in(
    "header",
    "Cache-Control",
    "`no-cache` is the `cache.mode` refresh, `no-store` is off; the stricter counts.",
    type="string",
    examples=["no-cache", "no-store"],
)
ON_DISCONNECT = _in(
    "header",
    "X-Plateau-On-Disconnect",
    "`cancel`: a client that leaves gives its share of the run up. Else it is finished.",
    type="string",
    enum=["cancel"],
)
MODEL = _in("path", "model", "An agent, or a model of `openai`.")
CHAT_ID = _in("path", "chat_id", "The chat, as its client calls it.")
RESPONSE_ID = _in("path", "response_id", "`resp_` and the run, or the cached answer.")
OF_RESPONSE = (
    _in("query", "stream", "`true`: its events.", type="string", enum=["true", "false"]),
    _in(
        "query",
        "starting_after",
        "Only those behind this `sequence_number`.",
        type="integer",
        minimum=0,
    ),
)
AGENT_NAME = _in("path", "agent", "Who answers.")
THREAD_ID = _in("path", "thread_id", "The thread, as its client calls it.")
_PLACE: Schema = {"type": "string", "examples": ["3fa29c-1-17.15"]}
PLACE = (
    _in("header", "Last-Event-ID", "Go on behind this event.", **_PLACE),
    _in("query", "last_event_id", "The same, for who cannot set headers.", **_PLACE),
)
OF_AGENT = _in("query", "agent", "Who answers, where the body does not say.")
REQUEST_ID = _in(
    "header",
    "X-Request-ID",
    "What this request is called in the service's log; it comes back with the answer.",
    type="string",
    pattern="^[A-Za-z0-9._:/+=-]{1,128}$",
)
LAST_EVENT_ID = _in(
    "header",
    "Last-Event-ID",
    "A stream goes on after this event, as `EventSource` asks by itself. It beats the query.",
    **_EVENT_ID,
)
POSITION = (
    LAST_EVENT_ID,
    _in("query", "last_event_id", "The same, for who cannot set headers.", **_EVENT_ID),
    _in("query", "lastEventId", "The same, as polyfills call it.", **_EVENT_ID),
)
EVENT_NAMES = _in(
    "query", "event_names", "`1`: an `event:` line with each.", type="string", enum=["1"]
)
HEARTBEAT = _in(
    "query",
    "heartbeat",
    '`1`: where nothing was said for 15 s, `{"type": "heartbeat"}` without an id, which pages '
    "see, instead of a comment.",
    type="string",
    enum=["1"],
)
FIRST_SEQ = _in(
    "query",
    "first_seq",
    "The number of the first event: makes a repeat safe. `run.started` is 1, so the first that "
    "is sent is 2; then it is `next_seq`.",
    type="integer",
    minimum=2,
    maximum=10**9 - 1,
)
USER = _in(
    "query", "user", "As in the runs that it was said in.", type="string", maxLength=USER_CHARS
)
AGENT = _in(
    "query", "agent", "Only this agent's.", type="string", minLength=1, maxLength=AGENT_CHARS
)
FIND = _in(
    "query",
    "find",
    "Those whose id, agent or owner has this in it.",
    type="string",
    maxLength=100,
)
ADMIN_TOKEN = _in("query", "admin_token", "ADMIN_TOKEN, for who cannot send it as Bearer.")
ADMIN_ACCEPT = _in(
    "header",
    "Accept",
    "`text/event-stream`: the picture as events, anew every 2 s.",
    type="string",
    examples=["application/json", "text/event-stream"],
)


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": schema or _TEXT}


LOCATION = {"Location": _header("Where the run is.", type="string", format="uri-reference")}
RETRY_AFTER = {
    "Retry-After": _header("After so many seconds try again.", type="integer", minimum=0)
}
OF_PROBLEMS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": _header("How to say who you are.", type="string")},
    415: {"Accept-Encoding": _header("What a body may be sent in.", type="string")},
    429: RETRY_AFTER,
    503: RETRY_AFTER,
}
# Of each answer to `POST /v1/runs`.
TAKEN = LOCATION | {
    "X-Cache": _header(
        "Where the answer is from.", type="string", enum=["hit", "joined", "miss"]
    ),
    "Cache-Status": _header("The same in the words of RFC 9211."),
    "X-Request-ID": _header("What the request is called in the service's log."),
}
# Of each answer in a dialect.
RUN: dict[str, Any] = {name: header for name, header in TAKEN.items() if name != "Location"} | {
    "X-Plateau-Run": _header("The run."),
    "Link": _header("Its `events` and where it is cancelled (`cancel`), with its token."),
}
REPLAYED = TAKEN | {
    "Age": _header("Of a hit: how many seconds old it is.", type="integer", minimum=0),
    "Preference-Applied": _header("The `Prefer` that was heeded."),
    "Content-Location": _header(
        "Of a stream: the URL that it is rejoined at, with its token.",
        type="string",
        format="uri-reference",
    ),
}
