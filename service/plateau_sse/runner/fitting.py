"""Makes values fit into events.

Invariant: what comes out is JSON in valid Unicode, and what is cut says that it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from plateau_sse.store.runs.events import MARK_BYTES, Event

# Of ids, names and messages.
MESSAGE_CHARS = 500

# Levels of a value: whoever reads it has a bound, too, and others stand around it there.
DEPTH = 100

_NO_JSON = (TypeError, ValueError, OverflowError, RecursionError)
# What `_plain` may mend.
_MENDED = (TypeError, UnicodeEncodeError)


def plain(text: str) -> str:
    """Lone surrogates, which no UTF-8 can carry, become U+FFFD; two halves one character. Of a
    subclass, as LangChain's texts are, it is the text itself: msgspec knows no others."""
    try:
        str.encode(text)
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return str.__str__(text)


def short(value: object) -> str:
    return plain(str(value)[:MESSAGE_CHARS])


def short_or_none(value: object) -> str | None:
    return None if value is None else short(value)


def made(make: Callable[[Any], Event], value: Any) -> Event | None:
    """The event with this value in it; None where the value is no JSON, or too deep."""
    try:
        try:
            event = make(value)
        except _MENDED:
            event = make(_plain(value))
    except _NO_JSON:
        return None
    return None if _is_deep(event.data) else event


def _is_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= DEPTH:
        return False
    try:
        level = [msgspec.json.decode(data)]
    except RecursionError:
        return True
    for _ in range(DEPTH + 1):
        inside = [it.values() if isinstance(it, dict) else it for it in level]
        level = [it for found in inside for it in found if isinstance(it, dict | list)]
        if not level:
            return False
    return True


def _plain(value: Any) -> Any:
    """As `plain`, at every depth: also numbers and enumerations as what they are."""
    match value:
        case Enum() if isinstance(value.value, str | int | float):
            return _plain(value.value)
        case str():
            return plain(value)
        case bool():
            return value
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case dict():
            return {_plain(name): _plain(it) for name, it in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(it) for it in value]
    return value


def json_text(value: Any) -> str:
    """The JSON of what is JSON, with its surrogates mended."""
    try:
        return msgspec.json.encode(value).decode()
    except _MENDED:
        return msgspec.json.encode(_plain(value)).decode()


def cut(make: Callable[[Any], Event], text: str) -> Event:
    """As much of the text as the event holds, and a remark on the rest."""
    remark = f" … [cut: it had {len(text.encode()):,} bytes]"

    def size(length: int) -> int:
        return len(make(text[:length] + remark).data)

    longest = bisect_right(range(MARK_BYTES), MARK_BYTES, key=size) - 1
    return make(text[:longest] + remark)
