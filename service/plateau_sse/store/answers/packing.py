"""How an answer is kept: a short binary head, then its text, compressed with a dictionary.

Invariant: what comes out is byte for byte what went in, or nothing: what cannot be read is a
miss. `FORMAT` changes with the layout and with every byte of the dictionary, and is part of
every key, so an entry is only ever read by code that can read it.

The dictionary (`prose.dict`) is what English answers have in common; `scripts/dictionary` makes
it, and docs/architecture.md says from what and how well it does.

    flags  token  stored_s  duration_ms  [input and output tokens]  [owner]  rest, by zstd
      1      16      4         varint           varint each            12

The rest is the agent's name, 0xff, the text as it is (escapes would hide it from the
dictionary), and where there is more to say 0xff and a JSON array: output, tools, owner.
"""

from __future__ import annotations

import logging
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

import msgspec
import zstandard

from plateau_sse.store.runs.events import FinishReason

log = logging.getLogger("plateau.cache")

LAYOUT = 4
LEVEL = 19
# Neither magic number nor ids nor checksum: the format is in the key. But the size of the
# content, a byte or so: memory for the largest answer there may be costs more than unpacking.
BARE = zstandard.FORMAT_ZSTD1_MAGICLESS

DICTIONARY = files("plateau_sse.store.answers").joinpath("prose.dict").read_bytes()
FORMAT = f"{LAYOUT}:{blake2b(DICTIONARY, digest_size=4).hexdigest()}"

_HEAD = struct.Struct("<B16sI")
_USAGE, _DIGEST, _MORE, _TOOL_CALLS = 1, 2, 4, 8
# No byte of UTF-8.
_END = b"\xff"
# Who everyone is where there are no keys: not worth its letters.
_USUAL_OWNER = "anonymous"
_OWNER_BYTES = 12
_OWNER = re.compile(rf"[0-9a-f]{{{2 * _OWNER_BYTES}}}")


class Answer(msgspec.Struct):
    """What is kept of a run; `token` is one of `ids.new_token`, `tools` are events. It ended
    with `stop` or `tool_calls`: nothing else is kept."""

    text: str
    stored_s: int
    token: str
    duration_ms: int
    usage: dict[str, int] | None = None
    output: str | None = None
    tools: list[msgspec.Raw] = []
    agent: str = ""
    owner: str = _USUAL_OWNER
    finish_reason: FinishReason = "stop"

    @property
    def final(self) -> str:
        return self.text if self.output is None else self.output


def pack(answer: Answer) -> bytes:
    flags, numbers, owner, more = 0, bytearray(), b"", b""
    if answer.finish_reason == "tool_calls":
        flags |= _TOOL_CALLS
    _put(numbers, answer.duration_ms)
    if answer.usage is not None:
        flags |= _USAGE
        _put(numbers, answer.usage["input_tokens"])
        _put(numbers, answer.usage["output_tokens"])
    other_owner: str | None = None
    if _OWNER.fullmatch(answer.owner):
        flags |= _DIGEST
        owner = bytes.fromhex(answer.owner)
    elif answer.owner != _USUAL_OWNER:
        other_owner = answer.owner
    if answer.output is not None or answer.tools or other_owner is not None:
        flags |= _MORE
        more = _END + msgspec.json.encode([answer.output, answer.tools, other_owner])
    head = _HEAD.pack(flags, urlsafe_b64decode(answer.token + "=="), answer.stored_s)
    rest = answer.agent.encode() + _END + answer.text.encode() + more
    return head + numbers + owner + _compressor().compress(rest)


def unpack(packed: bytes) -> Answer | None:
    try:
        return _unpack(packed)
    except (
        zstandard.ZstdError,
        struct.error,
        msgspec.MsgspecError,
        ValueError,
        IndexError,
        # Of what a damaged entry says of its size.
        MemoryError,
    ) as error:
        log.warning("a cached answer cannot be read, taken as a miss: %s", error)
        return None


def _unpack(packed: bytes) -> Answer:
    flags, token, stored_s = _HEAD.unpack_from(packed)
    duration_ms, at = _get(packed, _HEAD.size)
    usage = None
    if flags & _USAGE:
        input_tokens, at = _get(packed, at)
        output_tokens, at = _get(packed, at)
        usage = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    owner, output, tools = _USUAL_OWNER, None, list[msgspec.Raw]()
    if flags & _DIGEST:
        owner = packed[at : at + _OWNER_BYTES].hex()
        at += _OWNER_BYTES
    agent, text, *more = _decompressor().decompress(packed[at:]).split(_END, 2)
    if flags & _MORE:
        output, tools, other_owner = msgspec.json.decode(more[0], type=_More)
        owner = owner if other_owner is None else other_owner
    return Answer(
        text=text.decode(),
        stored_s=stored_s,
        token=urlsafe_b64encode(token).rstrip(b"=").decode(),
        duration_ms=duration_ms,
        usage=usage,
        output=output,
        tools=tools,
        agent=agent.decode(),
        owner=owner,
        finish_reason="tool_calls" if flags & _TOOL_CALLS else "stop",
    )


_More: Any = tuple[str | None, list[msgspec.Raw], str | None]


def _put(into: bytearray, number: int) -> None:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    while number > 0x7F:
        into.append(number & 0x7F | 0x80)
        number >>= 7
    into.append(number)


def _get(packed: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    number = shift = 0
    while packed[at] > 0x7F:
        number |= (packed[at] & 0x7F) << shift
        shift += 7
        at += 1
    return number | packed[at] << shift, at + 1


def compressor(dictionary: bytes) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        format=BARE,
        dict_size=len(dictionary),
        write_checksum=False,
        write_content_size=True,
        write_dict_id=False,
    )
    prepared = zstandard.ZstdCompressionDict(dictionary)
    return zstandard.ZstdCompressor(dict_data=prepared, compression_params=parameters)


@cache
def _compressor() -> zstandard.ZstdCompressor:
    """Made where it is used: a web worker never compresses."""
    return compressor(DICTIONARY)


@cache
def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(zstandard.ZstdCompressionDict(DICTIONARY), format=BARE)
