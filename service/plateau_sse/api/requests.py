"""Reading and validating what clients send.

Invariant: a body is bounded before it is parsed, and a value that is not valid is answered with
the name of its field.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.types import Scope

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import EXTERNAL, Mode
from plateau_sse.store.runs import ids

BODY_BYTES = 1024 * 1024
WAIT_MOST_S = 120
MESSAGES_MOST = 1000
AGENT_CHARS = 100
USER_CHARS = 200
TTL_MOST_S = 30 * 86_400
ROLES = ("system", "user", "assistant")
# Far below what the encoders can recurse, on any interpreter.
OPTIONS_DEPTH = 100
DETAIL_CHARS = 200

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# What msgspec's messages say of the place: https://jcristharif.com/msgspec
_AT = re.compile(r" - at `\$\.?([^`]*)`\Z")
_MEMBER = re.compile(r"(?:unknown|required) field `(.*?)`(?: - at `[^`]*`)?\Z", re.DOTALL)
CONVERSATION_ID = "^[A-Za-z0-9][A-Za-z0-9_.:@~-]{0,127}$"
_ID_HEADER = b"x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?:$|[,;\s])", re.IGNORECASE)


def _told(**limits: Any) -> msgspec.Meta:
    """What /openapi.json says of a member; `_check` sees to it, with a sentence for each."""
    return msgspec.Meta(extra_json_schema=limits)


class CacheControl(msgspec.Struct, forbid_unknown_fields=True):
    """How the answer cache is used: `use` it, `refresh` (run, then store) or `off` (neither);
    `ttl_s` is the life of what is stored."""

    mode: Mode = "use"
    ttl_s: Annotated[int, _told(minimum=1, maximum=TTL_MOST_S)] | None = None


class InputMessage(msgspec.Struct, forbid_unknown_fields=True):
    role: Annotated[str, _told(enum=ROLES)]
    content: str


class RunRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/runs`: `input` or `messages`, never both."""

    agent: Annotated[str, _told(minLength=1, maxLength=AGENT_CHARS)]
    # Something that `str.strip` leaves.
    input: Annotated[str, _told(pattern=r"[^\s\x1c-\x1f\x85]")] | None = None
    messages: (
        Annotated[list[InputMessage], _told(minItems=1, maxItems=MESSAGES_MOST)] | None
    ) = None
    conversation_id: Annotated[str, _told(pattern=CONVERSATION_ID)] | None = None
    user: Annotated[str, _told(maxLength=USER_CHARS)] = ""
    options: dict[str, Any] = {}
    cache: CacheControl = msgspec.field(default_factory=CacheControl)

    def exchange(self) -> list[dict[str, str]]:
        """The messages that the agent gets."""
        if self.messages is not None:
            return [{"role": m.role, "content": m.content} for m in self.messages]
        return [{"role": "user", "content": self.input or ""}]


async def read_body(request: Request) -> bytes:
    """The whole body, at most 1 MiB."""
    _check_announced(request.scope)
    body = bytearray()
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            # Nobody is there to read this, and nothing is wrong on our side.
            raise Problem("bad_request", "The body broke off.")
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            raise _too_large()
        more = message.get("more_body", False)
    return bytes(body)


def _check_announced(scope: Scope) -> None:
    """What the head says of the body."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if value.rjust(12, b"0") > b"%012d" % BODY_BYTES:
                raise _too_large()
        elif name == b"content-encoding":
            codings = {coding.strip() for coding in value.lower().split(b",")}
            if not codings <= {b"", b"identity"}:
                # What unpacks to more than it seems needs bounds of its own.
                raise Problem(
                    "unsupported_encoding",
                    "Send the body as it is, without Content-Encoding.",
                    headers={"Accept-Encoding": "identity"},
                )


def _too_large() -> Problem:
    # What the client is still sending will not be read.
    return Problem(
        "too_large",
        f"A body may have {BODY_BYTES} bytes.",
        headers={"Connection": "close"},
    )


def decode(body: bytes, form: Any, *, free: str = "") -> Any:
    """The body as `form`, or Problem `bad_json` or `invalid_request` with its field; `free` is
    the one that may nest freely."""
    if body.startswith(_BYTE_ORDER_MARK):
        # Windows' editors and .NET begin with one (RFC 8259, 8.1).
        body = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        _check_encoding(body)
        text = str(error)
        parts = [found[1] for found in (_AT.search(text), _MEMBER.search(text)) if found]
        raise invalid(".".join(part for part in parts if part), text) from None
    except RecursionError:
        raise _too_deep(free) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _check_encoding(body)
        detail = f"The body is not valid JSON: {str(error)[:DETAIL_CHARS]}"
        raise Problem("bad_json", f"{detail.rstrip('.')}.") from None


def _check_encoding(body: bytes) -> None:
    """Of a body that is not understood: JSON begins with two characters of ASCII, by whose
    zeros the wide encodings are known."""
    encoding = json.detect_encoding(body)[:6]
    if encoding in ("utf-16", "utf-32"):
        raise Problem("bad_json", f"The body seems to be in {encoding.upper()}: send UTF-8.")


def parse_run(body: bytes) -> RunRequest:
    """A valid request; Problems as in `decode`."""
    request: RunRequest = decode(body, RunRequest, free="options")
    _check(request)
    return request


def _check(request: RunRequest) -> None:
    if not request.agent or len(request.agent) > AGENT_CHARS:
        raise invalid("agent", "Name an agent.")
    if request.agent != EXTERNAL and (request.input is None) == (request.messages is None):
        raise invalid("input", "Give either `input` or `messages`.")
    if request.input is not None and not request.input.strip():
        raise invalid("input", "The input is empty.")
    _check_messages(request.messages)
    _check_conversation(request)
    if len(request.user) > USER_CHARS:
        raise invalid("user", f"At most {USER_CHARS} characters.")
    if request.cache.ttl_s is not None and not 1 <= request.cache.ttl_s <= TTL_MOST_S:
        raise invalid("cache.ttl_s", "Between 1 second and 30 days.")
    if _is_deeper(request.options, OPTIONS_DEPTH):
        raise _too_deep("options")


def _check_messages(messages: list[InputMessage] | None) -> None:
    if messages is None:
        return
    if not messages or len(messages) > MESSAGES_MOST:
        raise invalid("messages", f"Between 1 and {MESSAGES_MOST} messages.")
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise invalid(f"messages[{index}].role", "`system`, `user` or `assistant`.")
    last = messages[-1]
    if last.role != "user" or not last.content.strip():
        raise invalid("messages", "The last message must be the user's, and not empty.")


def _check_conversation(request: RunRequest) -> None:
    if request.conversation_id is None:
        return
    check_conversation_id(request.conversation_id)
    if request.agent == EXTERNAL:
        raise invalid("conversation_id", "A run of `external` has no conversation.")
    for index, message in enumerate((request.messages or [])[:-1]):
        if message.role != "system":
            raise invalid(
                f"messages[{index}]",
                "The conversation holds what was said before: send only system messages and "
                "the user's new one.",
            )


def check_conversation_id(conversation_id: str) -> None:
    # `$` alone would let a line end through.
    if not re.fullmatch(CONVERSATION_ID, conversation_id):
        raise invalid(
            "conversation_id",
            "Between 1 and 128 letters, digits and `-_.:@~`, the first a letter or a digit.",
        )


def _is_deeper(value: dict[str, Any], levels: int) -> bool:
    """Whether objects and arrays stand within each other to more than `levels`."""
    layer: list[Any] = [value]
    for _ in range(levels):
        layer = [
            member
            for outer in layer
            for member in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(member, dict | list)
        ]
        if not layer:
            return False
    return True


def _too_deep(field: str) -> Problem:
    return invalid(field, f"They may nest {OPTIONS_DEPTH} levels deep.")


def invalid(field: str, detail: str) -> Problem:
    """`field` is a path such as `messages[0].role`, empty for the document as a whole."""
    return Problem(
        "invalid_request", detail[:DETAIL_CHARS], extra={"field": field[:DETAIL_CHARS]}
    )


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
