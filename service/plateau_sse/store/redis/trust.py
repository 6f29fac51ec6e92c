"""Whom connections over TLS trust, and what they show of themselves.

Invariant: connections of the same options share what was read from files, and one that is made
after a file was replaced has what is in it now. redis-py reads them for each connection: with
the machine's authorities that is 0.8 MiB, and 40 ms of a loop that does nothing else meanwhile.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from redis.asyncio.connection import AbstractConnection, RedisSSLContext, SSLConnection

# A process knows two servers or three; more of them are those of a test.
_KINDS_MOST = 16
_FILES = ("keyfile", "certfile", "ca_certs", "ca_path")
_OPTIONS = tuple(name for name in RedisSSLContext.__slots__ if name != "context")

_shared: dict[str, tuple[list[Any], RedisSSLContext]] = {}


def sharing(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """That kind of connection; over TLS it asks for what is shared each time it is made."""
    if not issubclass(kind, SSLConnection):
        return kind
    usual: Any = kind._connection_arguments

    def arguments(self: Any) -> Any:
        self.ssl_context = _of(self.ssl_context)
        return usual(self)

    return type(kind.__name__, (kind,), {"_connection_arguments": arguments})


def _of(wanted: RedisSSLContext) -> RedisSSLContext:
    """Raises OSError, of which SSLError is one, where a file cannot be used as it is now."""
    options = {name: getattr(wanted, name) for name in _OPTIONS}
    key, stamps = repr(options), _stamps(wanted)
    read, found = _shared.get(key, (None, wanted))
    if read != stamps:
        found = RedisSSLContext(**options)
        found.get()
        if len(_shared) >= _KINDS_MOST:
            _shared.clear()
        _shared[key] = stamps, found
    return found


def _stamps(wanted: RedisSSLContext) -> list[Any]:
    """Of each file: which it is, and when it was written."""
    usual = ssl.get_default_verify_paths()
    named = [getattr(wanted, name) for name in _FILES]
    stamps: list[Any] = []
    for path in (*named, usual.cafile, usual.capath):
        try:
            stat = os.stat(path or "")
        except OSError:
            stamps.append(path)
        else:
            stamps.append((path, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return stamps
