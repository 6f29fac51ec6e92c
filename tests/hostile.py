"""Hostile bytes, drawn from a seed: what a test of them says can be had again.

Invariant: nothing here knows what is right: it damages what is, and says nothing about it.
"""

from __future__ import annotations

import re
from random import Random

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null')

# What a JSON value may be replaced by,
VALUES = [
    *(b"null", b"true", b"false", b"0", b"-1", b"0.5", b"1e400", b"-1e-999", b"1" * 5000),
    *(
        b"123456789012345678901234567890",
        b'""',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\\udfff\\ud800"',
    ),
    *(
        b'"\\u2028\\u0085\\r\\n\\r\\ndata: x\\n\\n"',
        b'"\\ud83d\\ude00"',
        b'"' + b"x" * 5000 + b'"',
    ),
    *(b'"../../etc/passwd"', b'"%00%0d%0a"', b'"\\u001b[2J\\u0007"', b'"\\u202e"', b'"1"'),
    *(b"[]", b"{}", b"[null]", b'{"":""}', b'{"__proto__":{"a":1}}', b"[[[[{}]]]]"),
    *(b"[" * 964 + b"]" * 964, b'{"a":' * 964 + b"1" + b"}" * 964),
    *(b'"run.completed"', b'"run.failed"', b'"external"', b'"echo"', b'"message.delta"'),
]
# and by what is none.
BROKEN = [
    *(b"NaN", b"-Infinity", b"01", b"0x10", b"+1", b'"\xff\xfe"', b'"\xc0\xaf"', b'"\x00"'),
    *(b'"\x1b[2J\x07"', b'"\xf4\x90\x80\x80"', b"[" * 500, b"", b"'", b'"', b"\\", b",", b"{"),
    *(b"]", b"/**/", b"\x00", b"\xef\xbb\xbf"),
]

# What is put into anything.
PIECES = [
    *(b"\x00", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\t", b" ", b"\x7f", b"\x85", b"\xff"),
    *(
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xe2\x80\xa8",
        b"%",
        b"%00",
        b"%0d%0a",
        b"%2e%2e",
        b"%ff",
    ),
    *(b"..", b"//", b"\\", b"?", b"#", b";", b"&", b"=", b":", b"@", b"{", b"}", b"[", b"]"),
    *(b"*", b"'", b'"', b"<script>", b"${x}", b"-1", b"9" * 40, b"A" * 300, b"\x1b]0;x\x07"),
]


def damaged(draw: Random, data: bytes, most: int = 4) -> bytes:
    """With up to `most` of its bytes gone, others, or more of them."""
    for _ in range(draw.randint(1, most)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            data = data[:at] + draw.choice(PIECES) + data[at:]
        elif kind == 1:
            data = data[:at] + data[at + draw.randint(1, 8) :]
        elif kind == 2:
            data = data[:at] + draw.randbytes(draw.randint(1, 12)) + data[at:]
        elif kind == 3:
            data = data[:at] + data[max(0, at - draw.randint(1, 40)) :]
        elif kind == 4:
            data = data[:at] + draw.choice(PIECES) + data[at + 1 :]
        else:
            data = data[:at]
    return data


def _names(token: re.Match[bytes]) -> bool:
    """Whether it is the name of a member: only a string may stand there."""
    return token.string[token.end() :].lstrip()[:1] == b":"


def misvalued(draw: Random, text: bytes, most: int = 2) -> bytes:
    """JSON of which up to `most` values, or names, are others."""
    for _ in range(draw.randint(1, most)):
        found = [it for it in _TOKENS.finditer(text) if draw.random() < 0.1 or not _names(it)]
        if not found:
            break
        token = draw.choice(found)
        value = draw.choice(VALUES if draw.random() < 0.9 else BROKEN)
        text = text[: token.start()] + value + text[token.end() :]
    return text


def hostile_json(draw: Random, text: bytes) -> bytes:
    """One way or the other, or both."""
    kind = draw.randrange(5)
    if kind:
        text = misvalued(draw, text)
    return damaged(draw, text) if kind in (0, 1) else text


def in_a_header(draw: Random, data: bytes) -> bytes:
    """What may stand in one without ending it."""
    return re.sub(rb"[\x00\r\n]", b".", damaged(draw, data)).strip()


def in_a_target(draw: Random, data: bytes) -> bytes:
    """What may stand in a request's first line without ending it; mostly what a client would
    send."""
    told = re.sub(rb"[\x00-\x20]", b"%20", damaged(draw, data)) or b"/"
    if draw.random() < 0.1:
        return told
    told = re.sub(rb"[\x7f-\xff]", lambda it: b"%%%02x" % it[0][0], told)
    return told if told.startswith((b"/", b"http:", data[:1])) else b"/" + told
