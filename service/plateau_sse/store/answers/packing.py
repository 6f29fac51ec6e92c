"""How an answer is kept: a short binary head, then its tape, compressed with a dictionary.

Invariant: what comes out is byte for byte what went in, or nothing: what cannot be read is a
miss. `FORMAT` changes with the layout and with every byte of the dictionary, and is part of
every key, so an entry is only ever read by code that can read it.

The dictionary (`prose.dict`) is what English answers have in common; `scripts/dictionary` makes
it, and docs/architecture.md says from what and how well it does.

    flags  token  tag  stored_s  duration_ms  [tokens used]  [owner]  rest, by zstd
      1      16    3      4        varint      varint each      12

The rest is sections with 0xff between them: the agent's name, the model's where it is known,
the text as it is (escapes would hide it from the dictionary), and where there is more to say a
JSON array of output, owner, attempt and the tape's shape, then each mark as it was written.

The *shape* says in order what happens at each point and, before it, how many bytes of text have
been said since the last: `2r 40t m m 7t0` opens a thought two bytes on and a text 40 bytes
behind it, has two marks at once, and 7 bytes later a text that goes on with part 0. Nothing of
this is said of the usual answer, which is one text and a first attempt.
"""

from __future__ import annotations

import logging
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

import msgspec
import zstandard

from plateau_sse.store.answers.answer import USUAL_OWNER, USUAL_POINTS, Answer
from plateau_sse.store.runs.tape import Point

log = logging.getLogger("plateau.cache")

LAYOUT = 5
LEVEL = 19
# Neither magic number nor ids nor checksum: the format is in the key. But the size of the
# content, a byte or so: memory for the largest answer there may be costs more than unpacking.
BARE = zstandard.FORMAT_ZSTD1_MAGICLESS

DICTIONARY = files("plateau_sse.store.answers").joinpath("prose.dict").read_bytes()
FORMAT = f"{LAYOUT}:{blake2b(DICTIONARY, digest_size=4).hexdigest()}"

_HEAD = struct.Struct("<B16s3sI")
_USAGE, _CACHED, _REASONING, _DIGEST, _MODEL, _MORE, _TOOL_CALLS = 1, 2, 4, 8, 16, 32, 64
# No byte of UTF-8.
_END = b"\xff"
_OWNER_BYTES = 12
_OWNER = re.compile(rf"[0-9a-f]{{{2 * _OWNER_BYTES}}}")
_SHAPED = re.compile(r"(\d{0,7})(?:(m)|([tr])(\d{0,4}))")
# Of output, owner, attempt and shape.
_More: Any = tuple[str | None, str | None, int, str]


def pack(answer: Answer) -> bytes:
    flags, numbers, owner = 0, bytearray(), b""
    if answer.finish_reason == "tool_calls":
        flags |= _TOOL_CALLS
    _put(numbers, answer.duration_ms)
    if answer.usage is not None:
        flags |= _put_usage(numbers, answer.usage)
    other_owner: str | None = None
    if _OWNER.fullmatch(answer.owner):
        flags |= _DIGEST
        owner = bytes.fromhex(answer.owner)
    elif answer.owner != USUAL_OWNER:
        other_owner = answer.owner
    sections = [answer.agent.encode()]
    if answer.model is not None:
        flags |= _MODEL
        sections.append(answer.model.encode())
    sections.append(answer.text)
    if _says_more(answer) or other_owner is not None:
        flags |= _MORE
        shape = _shape_of(answer.points)
        more = [answer.output, other_owner, answer.attempt, shape]
        sections.append(msgspec.json.encode(more))
        sections += [point.data for point in answer.points if point.data]
    head = _HEAD.pack(flags, mark_of(answer), bytes.fromhex(answer.tag), answer.stored_s)
    return head + numbers + owner + _compressor().compress(_END.join(sections))


def _says_more(answer: Answer) -> bool:
    is_usual = answer.attempt == 1 and answer.points == USUAL_POINTS
    return answer.output is not None or not is_usual


def _shape_of(points: Sequence[Point]) -> str:
    shape = []
    # `run.started` was the first.
    at = 1
    for point in points:
        gap = point.at - 1 - at
        what = "m" if point.data else f"{point.kind}{point.continues}"
        shape.append(f"{gap or ''}{what}")
        at = point.at
    return " ".join(shape)


def mark_of(answer: Answer) -> bytes:
    """What no other answer has: its token, as it is packed."""
    return urlsafe_b64decode(answer.token + "==")


def is_of(packed: bytes, mark: bytes) -> bool:
    """Whether it is the answer with this mark, by its head alone."""
    return packed.startswith(mark, 1)


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
    flags, token, tag, stored_s = _HEAD.unpack_from(packed)
    duration_ms, at = _get(packed, _HEAD.size)
    usage = None
    if flags & _USAGE:
        usage, at = _get_usage(packed, at, flags)
    owner = USUAL_OWNER
    if flags & _DIGEST:
        owner = packed[at : at + _OWNER_BYTES].hex()
        at += _OWNER_BYTES
    agent, *sections = _decompressor().decompress(packed[at:]).split(_END)
    model = sections.pop(0).decode() if flags & _MODEL else None
    text, *rest = sections
    output, attempt, points = None, 1, USUAL_POINTS
    if flags & _MORE:
        more, *marks = rest
        output, other_owner, attempt, shape = msgspec.json.decode(more, type=_More)
        owner = owner if other_owner is None else other_owner
        points = _points_of(shape, text, marks)
    # Whoever reads it then need not fear that it is none.
    text.decode()
    return Answer(
        text=text,
        stored_s=stored_s,
        token=urlsafe_b64encode(token).rstrip(b"=").decode(),
        tag=tag.hex(),
        duration_ms=duration_ms,
        attempt=attempt,
        points=points,
        usage=usage,
        output=output,
        model=model,
        agent=agent.decode(),
        owner=owner,
        finish_reason="tool_calls" if flags & _TOOL_CALLS else "stop",
    )


def _points_of(shape: str, text: bytes, marks: list[bytes]) -> tuple[Point, ...]:
    """ValueError for what is no tape."""
    points: list[Point] = []
    left = iter(marks)
    at, said, parts, is_open = 1, 0, 0, False
    for what in shape.split():
        match = _SHAPED.fullmatch(what)
        if match is None:
            raise ValueError("no shape of a tape")
        gap = int(match[1] or 0)
        if gap and not is_open:
            raise ValueError("text without a part")
        at += gap + 1
        said += gap
        if said > len(text) or (text[said : said + 1] and text[said] & 0xC0 == 0x80):
            raise ValueError("a point that is in no place of the text")
        if match[2]:
            mark = next(left, b"")
            _check_mark(mark)
            points.append(Point(at, mark))
        else:
            points.append(Point(at, b"", match[3], parts, match[4]))
            parts += 1
        is_open = not match[2]
    if next(left, None) is not None or (said < len(text) and not is_open):
        raise ValueError("more than the shape tells of")
    return tuple(points)


def _check_mark(mark: bytes) -> None:
    """That it can be told: one line of JSON, its type first."""
    msgspec.json.decode(mark, type=dict[str, Any])
    if not mark.startswith(b'{"type":"') or b"\n" in mark or b"\r" in mark:
        raise ValueError("no event")


def _put_usage(into: bytearray, usage: dict[str, int]) -> int:
    """The flags that say which counts there are."""
    flags = _USAGE
    _put(into, usage["input_tokens"])
    _put(into, usage["output_tokens"])
    for flag, name in ((_CACHED, "cached_input_tokens"), (_REASONING, "reasoning_tokens")):
        if name in usage:
            flags |= flag
            _put(into, usage[name])
    return flags


def _get_usage(packed: bytes, at: int, flags: int) -> tuple[dict[str, int], int]:
    usage = {}
    usage["input_tokens"], at = _get(packed, at)
    usage["output_tokens"], at = _get(packed, at)
    if flags & _CACHED:
        usage["cached_input_tokens"], at = _get(packed, at)
    if flags & _REASONING:
        usage["reasoning_tokens"], at = _get(packed, at)
    return usage, at


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
