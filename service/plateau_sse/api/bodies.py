"""Reading bodies: bounded, decoded, and what is wrong with them named.

Invariant: a body is bounded before it is parsed, and a value that is not valid is answered with
the name of its field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from itertools import islice
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import Scope

from plateau_sse.api.state import state_of
from plateau_sse.errors import Problem
from plateau_sse.live.guard import BODY_FREE_BYTES

# Of messages and options. Far below what the encoders can recurse, on any interpreter.
DEPTH_MOST = 100
DETAIL_CHARS = 200
# Looked at to name what nests too deep.
_TOKENS_MOST = 50_000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The first half of a surrogate pair without the second, or the second without the first. What
# both begin with comes first, since that is found quickly.
_HALF = re.compile(
    rb"\\u[dD](?:"
    rb"[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)

# What msgspec's messages say of the place: https://jcristharif.com/msgspec
_AT = re.compile(r" - at `\$\.?([^`]*)`\Z")
_MEMBER = re.compile(r"(?:unknown|required) field `(.*?)`(?: - at `[^`]*`)?\Z", re.DOTALL)


async def read_body(request: Request) -> bytes:
    """The whole body, of at most MAX_BODY_BYTES; and of all that are on their way a worker
    holds so much."""
    state = state_of(request.scope)
    most = state["settings"].max_body_bytes
    _check_announced(request.scope, most)
    piece, more = await _next(request)
    if not more and len(piece) <= min(most, BODY_FREE_BYTES):
        # As most are: nothing is waited for, and nothing counted.
        return piece
    body = bytearray()
    with state["guard"].body() as is_held:
        while True:
            body += piece
            if len(body) > most:
                raise _too_large(most)
            if not is_held(len(body)):
                raise Problem(
                    "too_many_bodies",
                    "Large bodies of others are on their way: try again in a moment.",
                    headers={"Retry-After": "2", "Connection": "close"},
                )
            if not more:
                return bytes(body)
            piece, more = await _next(request)


async def _next(request: Request) -> tuple[bytes, bool]:
    """A piece of the body, and whether there is more."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        # Nobody is there to read this, and nothing is wrong on our side.
        raise Problem("bad_request", "The body broke off.")
    return message.get("body", b""), message.get("more_body", False)


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
        raise too_deep(member if member in free else "") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _check_encoding(body)
        mended = _mended(body)
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
    halves. In passes of C's speed, each over the whole: it may be a hostile megabyte."""
    if b"\0" in body:
        return None
    # What no JSON has stands for an escaped backslash: `\\ud800` is none of the halves.
    found = _HALF.sub(rb"\\ufffd", body.replace(rb"\\", b"\\\0")).replace(b"\\\0", rb"\\")
    return None if found == body else found


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


def too_deep(field: str) -> Problem:
    return invalid(field, f"Values may nest {DEPTH_MOST} levels deep.")


def invalid(field: str, detail: str) -> Problem:
    """`field` is a path such as `messages[0].role`, empty for the document as a whole."""
    return Problem(
        "invalid_request", detail[:DETAIL_CHARS], extra={"field": field[:DETAIL_CHARS]}
    )
