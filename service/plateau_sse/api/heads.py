"""What HTTP asks of the head of every request, whatever its path.

Invariant: a request that two servers may understand in two ways reaches no route.
"""

from __future__ import annotations

import re

from starlette.types import Scope

from plateau_sse.errors import Problem

# RFC 9110, 7.2, without the comma: no host has one in its name, and some proxies join two lines
# with it.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%[\w.~-]+)?\]|(?:[\w.~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)(?::\d{0,5})?"
)
# The parser has refused what is not chunked in the end.
_CHUNKED = re.compile(rb"[\s,]*chunked", re.IGNORECASE)


def fault_of(scope: Scope) -> Problem | None:
    """What is wrong with the head; None for nothing."""
    host: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"host":
            if host is not None:
                return _refused("Send one Host header, not several.")
            host = value
        elif name == b"transfer-encoding" and not _CHUNKED.fullmatch(value):
            # The parser takes the last of several, and reads over the others.
            return Problem(
                "unsupported_transfer_encoding",
                "Send the body in chunks or with its length, and not compressed.",
                headers={"Connection": "close"},
            )
    version = scope["http_version"]
    if version not in ("1.1", "1.0"):
        return _refused("Speak HTTP/1.1.")
    if host is None:
        return _refused("Send a Host header.") if version == "1.1" else None
    if _HOST.fullmatch(host) is None:
        return _refused("The Host header names no host; send host or host:port.")
    return None


def _refused(detail: str) -> Problem:
    # RFC 9112, 3.2.
    return Problem("bad_request", detail, headers={"Connection": "close"})
