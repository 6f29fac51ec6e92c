"""Messages as people see them: whole, with their parts, compressed.

Invariant: what is kept of one message has a bound; where it does not fit, what fits of its text
is kept, and it says so. What cannot be read is none.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import msgspec
import zstandard

from plateau_sse.content import text_of
from plateau_sse.store.conversations.graphemes import cut

log = logging.getLogger("plateau.conversations")

# Of one message as it is kept; and of one where the store is nearly full.
WHOLE_BYTES, TIGHT_BYTES = 64 * 1024, 2 * 1024
# Of one as it is shown: a megabyte of one letter packs to nothing.
SHOWN_BYTES = 1024**2
# What is shorter gains nothing.
PLAIN_BYTES = 200
LEVEL = 3
_PLAIN, _COMPRESSED = b"j", b"z"

# How the run of an answer ended.
Status = Literal["completed", "failed", "cancelled"]


class Whole(msgspec.Struct, omit_defaults=True):
    """`text` is None where it is that of the parts; `truncated`: parts and text beyond it are
    not kept."""

    parts: list[Any]
    text: str | None = None
    status: Status = "completed"
    truncated: bool = False

    @property
    def content(self) -> str:
        return text_of(self.parts) if self.text is None else self.text


def pack(whole: Whole, words: str, most: int = WHOLE_BYTES) -> bytes:
    """`words` is what is kept of it where all is too much."""
    data = msgspec.json.encode(whole)
    packed, chars = _packed(data), len(words)
    while len(data) > SHOWN_BYTES or len(packed) > most:
        parts = [{"type": "text", "text": cut(words, chars)}]
        data = msgspec.json.encode(Whole(parts, None, whole.status, truncated=True))
        packed = _packed(data)
        # Less than the share that would fit if each part of it compressed as well.
        chars = int(chars * 0.95 * min(SHOWN_BYTES / len(data), most / len(packed), 1))
    return packed


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


def _packed(data: bytes) -> bytes:
    if len(data) <= PLAIN_BYTES:
        return _PLAIN + data
    # Made anew each time: one that is kept holds a megabyte.
    return _COMPRESSED + zstandard.ZstdCompressor(level=LEVEL).compress(data)
