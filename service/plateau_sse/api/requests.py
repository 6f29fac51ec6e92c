"""Reading and validating what clients send.

Invariant: a body is bounded before it is parsed, and a value that is not valid is answered with
the name of its field.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.types import Scope

from plateau_sse.api.state import state_of
from plateau_sse.content import is_blank
from plateau_sse.errors import Problem
from plateau_sse.intake.ask import EXTERNAL, INSTRUCTIONS, Mode
from plateau_sse.store.runs import ids

WAIT_MOST_S = 120
MESSAGES_MOST = 1000
AGENT_CHARS = 100
USER_CHARS = 200
TTL_MOST_S = 30 * 86_400
ROLES = (*INSTRUCTIONS, "user", "assistant", "tool")
# Of messages and options. Far below what the encoders can recurse, on any interpreter.
DEPTH_MOST = 100
DETAIL_CHARS = 200
# Looked at to name what nests too deep.
_TOKENS_MOST = 50_000
# What each part of a known type must have, with the JSON type of it.
_PARTS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "text": ("text", str),
    # Endpoints take both.
    "image_url": ("image_url", (dict, str)),
    "input_audio": ("input_audio", dict),
    "file": ("file", dict),
}

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)

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


InputPart = Annotated[
    dict[str, Any], _told(required=["type"], properties={"type": {"type": "string"}})
]
InputCall = Annotated[
    dict[str, Any], _told(required=["id"], properties={"id": {"type": "string"}})
]


class InputMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message in the shape of chat.completions; its parts and calls are passed on as they
    are. `content` may be null beside `tool_calls`."""

    role: Annotated[str, _told(enum=ROLES)]
    content: str | list[InputPart] | None = None
    tool_calls: list[InputCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def said(self) -> dict[str, Any]:
        """Without what was not said."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        return message


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

    def exchange(self) -> list[dict[str, Any]]:
        """The messages that the agent gets."""
        if self.messages is not None:
            return [message.said() for message in self.messages]
        return [{"role": "user", "content": self.input or ""}]


async def read_body(request: Request) -> bytes:
    """The whole body, of at most MAX_BODY_BYTES."""
    most = state_of(request.scope)["settings"].max_body_bytes
    _check_announced(request.scope, most)
    body = bytearray()
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            # Nobody is there to read this, and nothing is wrong on our side.
            raise Problem("bad_request", "The body broke off.")
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        more = message.get("more_body", False)
    return bytes(body)


def _check_announced(scope: Scope, most: int) -> None:
    """What the head says of the body."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if value.rjust(12, b"0") > b"%012d" % most:
                raise _too_large(most)
        elif name == b"content-encoding":
            codings = {coding.strip() for coding in value.lower().split(b",")}
            if not codings <= {b"", b"identity"}:
                # What unpacks to more than it seems needs bounds of its own.
                raise Problem(
                    "unsupported_encoding",
                    "Send the body as it is, without Content-Encoding.",
                    headers={"Accept-Encoding": "identity"},
                )


def _too_large(most: int) -> Problem:
    # What the client is still sending will not be read.
    return Problem(
        "too_large",
        f"A body may have {most} bytes.",
        headers={"Connection": "close"},
    )


def decode(body: bytes, form: Any, *, free: Collection[str] = (), halves: bool = False) -> Any:
    """The body as `form`, or Problem `bad_json` or `invalid_request` with its field. `free` are
    the members that may nest freely. With `halves` half a surrogate pair becomes U+FFFD,
    else it is what is invalid."""
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
        member = _deepest(body)
        raise _too_deep(member if member in free else "") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _check_encoding(body)
        mended = _mended(body) if _SURROGATE_ESCAPE.search(body) else None
        if mended is not None:
            found = decode(mended, form, free=free)
            if not halves:
                raise invalid("", "Half a character: both go in one text.") from None
            return found
        detail = f"The body is not valid JSON: {str(error)[:DETAIL_CHARS]}"
        raise Problem("bad_json", f"{detail.rstrip('.')}.") from None


def _check_encoding(body: bytes) -> None:
    """Of a body that is not understood: JSON begins with two characters of ASCII, by whose
    zeros the wide encodings are known."""
    encoding = json.detect_encoding(body)[:6]
    if encoding in ("utf-16", "utf-32"):
        raise Problem("bad_json", f"The body seems to be in {encoding.upper()}: send UTF-8.")


def _mended(body: bytes) -> bytes | None:
    """The body with U+FFFD for each half of a surrogate pair; None where that is not what is
    wrong with it. A client that cuts a text by JavaScript's count of its length sends such
    halves. Nobody else pays for the second parser."""
    try:
        value = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _SURROGATES.sub("\ufffd", text).encode()


def _deepest(body: bytes) -> str:
    """The member of the document that nests too deep, '' where none does or it is too far to
    look for."""
    depth, member = 0, b""
    for found in islice(_TOKEN.finditer(body), _TOKENS_MOST):
        token = found[0]
        if token in b"[{":
            depth += 1
            if depth > DEPTH_MOST:
                return member[1:-1].decode("utf-8", "replace")
        elif token in b"]}":
            depth -= 1
        elif depth == 1:
            member = token
    return ""


def parse_run(body: bytes) -> RunRequest:
    """A valid request; Problems as in `decode`."""
    request: RunRequest = decode(body, RunRequest, free=("messages", "options"), halves=True)
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
    if _is_deeper(request.options, DEPTH_MOST):
        raise _too_deep("options")


def _check_messages(messages: list[InputMessage] | None) -> None:
    if messages is None:
        return
    if not messages or len(messages) > MESSAGES_MOST:
        raise invalid("messages", f"Between 1 and {MESSAGES_MOST} messages.")
    for index, message in enumerate(messages):
        _check_message(f"messages[{index}]", message)
    last = messages[-1]
    if last.role not in ("user", "tool") or is_blank(last.content):
        detail = "The last message must be the user's or a tool's, and not empty."
        raise invalid("messages", detail)


def _check_message(at: str, message: InputMessage) -> None:
    if message.role not in ROLES:
        raise invalid(f"{at}.role", f"One of {', '.join(ROLES)}.")
    if not message.content and not isinstance(message.content, str) and not message.tool_calls:
        raise invalid(f"{at}.content", "A text or parts; beside `tool_calls` it may be null.")
    if isinstance(message.content, list):
        _check_parts(f"{at}.content", message.content)
    if message.tool_calls:
        _check_calls(f"{at}.tool_calls", message)
    if bool(message.tool_call_id) != (message.role == "tool"):
        detail = "The id of the call that a message of a `tool` answers; others have none."
        raise invalid(f"{at}.tool_call_id", detail)


def _check_parts(at: str, parts: list[dict[str, Any]]) -> None:
    for index, part in enumerate(parts):
        kind = part.get("type")
        if not isinstance(kind, str):
            raise invalid(f"{at}[{index}].type", "A string that says what the part is.")
        member, form = _PARTS.get(kind, ("type", str))
        if not isinstance(part.get(member), form):
            raise invalid(f"{at}[{index}].{member}", f"Missing in this part, or no {member}.")
    if _is_deeper(parts, DEPTH_MOST):
        raise _too_deep(at)


def _check_calls(at: str, message: InputMessage) -> None:
    if message.role != "assistant":
        raise invalid(at, "Only an `assistant` calls tools.")
    calls = message.tool_calls or []
    for index, call in enumerate(calls):
        if not isinstance(call.get("id"), str):
            raise invalid(f"{at}[{index}].id", "A string: what the tool's message refers to.")
        function = call.get("function", {"name": ""})
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f"{at}[{index}].function", "An object with `name` and `arguments`.")
    if _is_deeper(calls, DEPTH_MOST):
        raise _too_deep(at)


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


def _is_deeper(value: dict[str, Any] | list[Any], levels: int) -> bool:
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
    return invalid(field, f"Messages and options may nest {DEPTH_MOST} levels deep.")


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
