"""Whom connections over TLS trust, and what they show of themselves.

Invariant: connections of the same options share what was read from files, and one that is made
`LOOK_S` after a file was replaced has what is in it now. redis-py reads them for each: with the
machine's authorities that is 0.8 MiB, and 40 ms of a loop that does nothing else meanwhile.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection, RedisSSLContext, SSLConnection

LOOK_S = 1.0
# A process knows two servers or three; more of them are those of a test.
_KINDS_MOST = 16
_FILES = ("keyfile", "certfile", "ca_certs", "ca_path")
_OPTIONS = tuple(name for name in RedisSSLContext.__slots__ if name != "context")


class _Read(NamedTuple):
    looked_at: float
    stamps: list[Any]
    context: RedisSSLContext


_shared: dict[str, _Read] = {}


class SharingConnection(SSLConnection):
    def _connection_arguments(self) -> Any:
        self.ssl_context = _of(self.ssl_context)
        return super()._connection_arguments()


def sharing(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """redis-py's kind of connection; that over TLS asks for what is shared when it is made."""
    return SharingConnection if kind is SSLConnection else kind


def _of(wanted: RedisSSLContext) -> RedisSSLContext:
    """Raises OSError, of which SSLError is one, where a file cannot be used as it is now."""
    options = {name: getattr(wanted, name) for name in _OPTIONS}
    named = [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
    key, now = repr((options, named)), monotonic()
    found = _shared.get(key)
    if found is not None and now - found.looked_at < LOOK_S:
        return found.context
    stamps = _stamps(wanted)
    if found is None or found.stamps != stamps:
        for name in ("keyfile", "certfile", "ca_certs"):
            _check(name, getattr(wanted, name))
        found = _Read(now, stamps, RedisSSLContext(**options))
        found.context.get()
        if len(_shared) >= _KINDS_MOST:
            _shared.clear()
    _shared[key] = found._replace(looked_at=now)
    return found.context


def _check(name: str, path: str | None) -> None:
    """OpenSSL does not say which file it cannot read."""
    if path:
        try:
            open(path, "rb").close()
        except OSError as error:
            raise OSError(error.errno, f"ssl_{name}={path}: {error.strerror}") from None


def _stamps(wanted: RedisSSLContext) -> list[Any]:
    """Of each file: which it is, and when it was written. Of those in a folder, too: OpenSSL
    looks there for an authority when it is asked for one, and keeps what it found."""
    usual = ssl.get_default_verify_paths()
    folders = os.environ.get(usual.openssl_capath_env, usual.openssl_capath)
    stamps = [_stamp(getattr(wanted, name)) for name in _FILES]
    for folder in (wanted.ca_path or "", *folders.split(os.pathsep)):
        with suppress(OSError):
            stamps += [_stamp(f"{folder}/{name}") for name in sorted(os.listdir(folder or "?"))]
    return [*stamps, _stamp(os.environ.get(usual.openssl_cafile_env, usual.openssl_cafile))]


def _stamp(path: str | None) -> Any:
    try:
        found = os.stat(path or "")
    except OSError:
        return path
    return path, found.st_ino, found.st_mtime_ns, found.st_size
