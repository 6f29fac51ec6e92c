"""Messages as people see them: whole, with their parts, compressed.

Invariant: what is kept of one message has a bound; where it does not fit, remarks stand for the
largest of what is no text; where that is not enough what fits of its text is kept. Either says
so. What cannot be read is none.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from typing import Any, Literal

import msgspec
import zstandard
from msgspec.structs import replace

from plateau_sse.content import text_of
from plateau_sse.store.conversations.graphemes import cut
from plateau_sse.store.redis.fullness import CLOSED, TIGHT
from plateau_sse.store.runs.events import FinishReason

log = logging.getLogger("plateau.conversations")

# Of one message as it is kept: an answer has 256 KiB of text and 256 KiB of marks at most, of
# which letters at random pack to 60 %, and base64 to 75.
WHOLE_BYTES = 384 * 1024
# Of one where half of the store is taken, by those of whose answers this may be a copy; and of
# one where it is nearly full.
HALF_BYTES, TIGHT_BYTES = 64 * 1024, 2 * 1024
# Of one as it is shown: a megabyte of one letter packs to nothing.
SHOWN_BYTES = 1024**2
# A member of a part that is longer, as JSON, gives way to a remark; but for those that say what
# it is, and to what it belongs.
REMARK_BYTES = 100
NAMES = ("type", "id", "name")
# What is shorter gains nothing.
PLAIN_BYTES = 200
LEVEL = 3
_PLAIN, _COMPRESSED = b"j", b"z"

# How the run of an answer ended.
Status = Literal["completed", "failed", "cancelled"]


class Whole(msgspec.Struct, omit_defaults=True):
    """`text` is None where it is that of the parts; `truncated`: not all of it is kept. Of an
    answer: who gave it, why it ended, and whether it came from the cache."""

    parts: list[Any]
    text: str | None = None
    status: Status = "completed"
    truncated: bool = False
    agent: str = ""
    finish_reason: FinishReason = "stop"
    cached: bool = False

    @property
    def content(self) -> str:
        return text_of(self.parts) if self.text is None else self.text


def most_at(share: float) -> int:
    """What one may take where so much of the store is taken."""
    if share >= CLOSED:
        return TIGHT_BYTES
    return HALF_BYTES if share >= TIGHT else WHOLE_BYTES


def pack(whole: Whole, words: str, most: int = WHOLE_BYTES) -> bytes:
    """`words` is what is kept of it where all is too much, even without what is no text."""
    packed = _packed(whole, most)
    if packed is not None:
        return packed
    large = [it for it, part in enumerate(whole.parts) if part.get("type") != "text"]
    large.sort(key=lambda it: len(msgspec.json.encode(whole.parts[it])), reverse=True)

    def without(count: int) -> bytes | None:
        parts = list(whole.parts)
        for index in large[:count]:
            parts[index] = _remarked(parts[index])
        return _packed(replace(whole, parts=parts, truncated=True), most)

    packed = without(len(large))
    if packed is None:
        return _cut(words, whole, most)
    fewest = bisect_left(range(len(large)), True, key=lambda count: without(count) is not None)
    return without(fewest) or packed


def _remarked(part: dict[str, Any]) -> dict[str, Any]:
    remarked = dict(part)
    for name in part.keys() - NAMES:
        if (size := len(msgspec.json.encode(part[name]))) > REMARK_BYTES:
            remarked[name] = f"[cut: it had {size:,} bytes]"
    return remarked


def _cut(words: str, whole: Whole, most: int) -> bytes:
    chars = len(words)
    while True:
        parts = [{"type": "text", "text": cut(words, chars)}]
        whole = replace(whole, parts=parts, text=None, truncated=True)
        packed = _packed(whole, most)
        if packed is not None:
            return packed
        # Less than the share that would fit if each part of it compressed as well.
        data = msgspec.json.encode(whole)
        share = min(SHOWN_BYTES / len(data), most / len(_compressed(data)), 1)
        chars = int(chars * 0.95 * share)


def unpack(packed: bytes) -> Whole | None:
    try:
        data = packed[1:]
        if packed[:1] == _COMPRESSED:
            data = zstandard.ZstdDecompressor().decompress(data)
        return msgspec.json.decode(data, type=Whole)
    except (
        zstandard.ZstdError,
        msgspec.MsgspecError,
        UnicodeDecodeError,
        MemoryError,
    ) as error:
        log.warning("a message of a conversation cannot be read: %s", error)
        return None


def _packed(whole: Whole, most: int) -> bytes | None:
    """None where it does not fit."""
    data = msgspec.json.encode(whole)
    if len(data) > SHOWN_BYTES:
        return None
    packed = _compressed(data)
    return packed if len(packed) <= most else None


def _compressed(data: bytes) -> bytes:
    if len(data) <= PLAIN_BYTES:
        return _PLAIN + data
    # Made anew each time: one that is kept holds a megabyte.
    return _COMPRESSED + zstandard.ZstdCompressor(level=LEVEL).compress(data)
