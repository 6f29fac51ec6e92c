"""Reading and validating what clients ask: the request for a run, ids, positions, preferences.

Invariant: what is returned is valid; what is not is answered with the name of its field.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.types import Scope

from plateau_sse.api.access import Caller
from plateau_sse.api.bodies import DEPTH_MOST, decode, invalid, too_deep
from plateau_sse.api.messages import MESSAGES_MOST, InputMessage, check_messages, told
from plateau_sse.api.resuming import MOST as RESUME_MOST
from plateau_sse.api.resuming import Answered, message_of, resume_of
from plateau_sse.errors import Problem
from plateau_sse.intake.ask import INSTRUCTIONS, Mode
from plateau_sse.jsontext import is_deeper
from plateau_sse.owners import account_of
from plateau_sse.store.conversations.conversations import place_of
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.streams import EXTERNAL

WAIT_MOST_S = 120
AGENT_CHARS = 100
USER_CHARS = 200
TTL_MOST_S = 30 * 86_400
CONVERSATION_ID = "^[A-Za-z0-9][A-Za-z0-9_.:@~-]{0,127}$"
_ID_HEADER = b"x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?:$|[,;\s])", re.IGNORECASE)


class CacheControl(msgspec.Struct, forbid_unknown_fields=True):
    """How the answer cache is used: `use` it, `refresh` (run, then store) or `off` (neither);
    `ttl_s` is the life of what is stored."""

    mode: Mode = "use"
    ttl_s: Annotated[int, told(minimum=1, maximum=TTL_MOST_S)] | None = None


class RunRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/runs`: `input` or `messages`, never both; with `resume`, which
    answers what the run before in the conversation has asked for, neither need be there."""

    agent: Annotated[str, told(minLength=1, maxLength=AGENT_CHARS)]
    # Something that `str.strip` leaves.
    input: Annotated[str, told(pattern=r"[^\s\x1c-\x1f\x85]")] | None = None
    messages: Annotated[list[InputMessage], told(minItems=1, maxItems=MESSAGES_MOST)] | None = (
        None
    )
    conversation_id: Annotated[str, told(pattern=CONVERSATION_ID)] | None = None
    user: Annotated[str, told(maxLength=USER_CHARS)] = ""
    options: dict[str, Any] = {}
    resume: Annotated[list[Answered], told(maxItems=RESUME_MOST)] = []
    cache: CacheControl = msgspec.field(default_factory=CacheControl)

    def all_options(self) -> dict[str, Any]:
        """With what a person has answered."""
        return (
            self.options | {"resume": resume_of(self.resume)} if self.resume else self.options
        )

    def exchange(self) -> list[dict[str, Any]]:
        """The messages that the agent gets."""
        if self.messages is not None:
            return [message.said() for message in self.messages]
        if self.input is None and self.resume:
            return [message_of(resume_of(self.resume))]
        return [{"role": "user", "content": self.input or ""}]


def parse_run(body: bytes) -> RunRequest:
    """A valid request; Problems as in `decode`."""
    request: RunRequest = decode(
        body, RunRequest, free=("messages", "options", "resume"), halves=True
    )
    _check(request)
    return request


def _check(request: RunRequest) -> None:
    if not request.agent or len(request.agent) > AGENT_CHARS:
        raise invalid("agent", "Name an agent.")
    given = [it for it in (request.input, request.messages) if it is not None]
    if len(given) > 1 or (request.agent != EXTERNAL and not (given or request.resume)):
        raise invalid("input", "Give either `input` or `messages`.")
    if request.input is not None and not request.input.strip():
        raise invalid("input", "The input is empty.")
    check_messages(request.messages)
    _check_conversation(request)
    if len(request.user) > USER_CHARS:
        raise invalid("user", f"At most {USER_CHARS} characters.")
    if request.cache.ttl_s is not None and not 1 <= request.cache.ttl_s <= TTL_MOST_S:
        raise invalid("cache.ttl_s", "Between 1 second and 30 days.")
    if is_deeper(request.options, DEPTH_MOST):
        raise too_deep("options")
    if "resume" in request.options:
        raise invalid("options.resume", "Send `resume` beside the options, not in them.")
    resume_of(request.resume)


def _check_conversation(request: RunRequest) -> None:
    if request.conversation_id is None:
        return
    check_conversation_id(request.conversation_id)
    if request.agent == EXTERNAL:
        raise invalid("conversation_id", "A run of `external` has no conversation.")
    for index, message in enumerate((request.messages or [])[:-1]):
        if not (message.role in (*INSTRUCTIONS, "tool") or message.tool_calls):
            raise invalid(
                f"messages[{index}]",
                "The conversation holds what was said before: send only instructions, calls of "
                "tools with their results, and the user's new message.",
            )


def check_conversation_id(conversation_id: str) -> None:
    # `$` alone would let a line end through.
    if not re.fullmatch(CONVERSATION_ID, conversation_id):
        raise invalid(
            "conversation_id",
            "Between 1 and 128 letters, digits and `-_.:@~`, the first a letter or a digit.",
        )


def place_for(request: Request, caller: Caller, conversation_id: str) -> str:
    """The name in the store of this conversation of the caller's owner and `user_of`."""
    user = user_of(request, caller)
    return place_of(account_of(caller.owner), user, conversation_id)


def user_of(request: Request, caller: Caller) -> str:
    """The user whose conversations are meant: the query's `user`, or the only one that the
    caller speaks for; '' for none."""
    user = request.query_params.get("user", "")
    if len(user) > USER_CHARS:
        raise invalid("user", f"At most {USER_CHARS} characters.")
    return caller.speaks_for(user)


def request_id_of(scope: Scope) -> str:
    """What this request is called in logs: the client's `X-Request-ID` where it is a plain
    word, else one of ours."""
    found: str | None = scope.get("plateau.request_id")
    if found is None:
        found = next((v.decode("latin-1") for n, v in scope["headers"] if n == _ID_HEADER), "")
        if not _REQUEST_ID.fullmatch(found):
            # To be told apart, not to be secret: the kernel's randomness costs a hit 6 %.
            found = f"{random.getrandbits(64):016x}"
        scope["plateau.request_id"] = found
    return found


def run_id_of(request: Request) -> str:
    """The run's id in the path; a malformed one names no run."""
    run_id: str = request.path_params["run_id"]
    check_run_id(run_id)
    return run_id


def check_run_id(run_id: str) -> None:
    if not (ids.RUN_ID.fullmatch(run_id) or ids.HIT_ID.fullmatch(run_id)):
        raise Problem("run_not_found", "No run has an id of this form.")


def seen_of(*said: str | None) -> ids.Seen:
    """The event after which to go on: the first that a client says, from its header on; none
    is the start."""
    try:
        found = (ids.seen(text) for text in said if text)
        return next((seen for seen in found if seen.number), ids.NOTHING_SEEN)
    except ValueError:
        raise Problem(
            "bad_event_id", "An event id is <tag>-<attempt>-<at>, as it was sent: 3fa29c-1-17."
        ) from None


def wait_of(prefer: str) -> int | None:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most two minutes; None without it."""
    found = _PREFER_WAIT.search(prefer)
    return None if found is None else min(int(found[1]), WAIT_MOST_S)


def cache_mode_of(mode: Mode, headers: Sequence[str]) -> Mode:
    """The stricter of the body's mode and what `Cache-Control` says (RFC 9111, 5.2.1):
    `no-cache` wants an answer that is new, `no-store` none that is kept."""
    said = {part.strip().lower() for header in headers for part in header.split(",")}
    if mode == "off" or "no-store" in said:
        return "off"
    return "refresh" if mode == "refresh" or "no-cache" in said else "use"


def idempotency_key_of(header: str | None) -> str:
    """The `Idempotency-Key`, '' for none; at most 255 visible characters."""
    if header is None:
        return ""
    if not re.fullmatch(r"[!-~]{1,255}", header.strip()):
        raise invalid("Idempotency-Key", "Between 1 and 255 visible ASCII characters.")
    return header.strip()
