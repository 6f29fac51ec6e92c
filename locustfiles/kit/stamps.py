"""When the kernel had what a user reads.

Invariant: a generator that is busy with other users does not lengthen what it measures: the
time of a byte is that of its arrival at this machine, not that at which this process came to
look. Where the kernel does not say (TLS, not Linux) nothing is known, and the look is left.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

import gevent.socket
from geventhttpclient.client import HTTPClient

# Of asm-generic/socket.h; Python's `socket` does not name it. On a stream it is the time of the
# last byte of what is read.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_ROOM = 64


class Stamp:
    """Of what a user has read last: seconds since the epoch, 0 where nobody knows."""

    at_s = 0.0


class _Stamped(gevent.socket.socket):
    stamp: Stamp

    def recv(self, *args: Any) -> bytes:
        data, ancillary, _, _ = self.recvmsg(args[0], _ROOM)
        for _level, kind, stamp in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(stamp)
                self.stamp.at_s = seconds + nanoseconds / 1e9
        return bytes(data)


def keep(stamp: Stamp, client: HTTPClient) -> None:
    """Have `stamp` tell of what comes over the connections that this client makes from now on;
    it must be the client of one user, who reads one thing at a time."""
    if client.ssl or sys.platform != "linux":
        return

    def create(family: int, socktype: int, protocol: int) -> gevent.socket.socket:
        made = _Stamped(family, socktype, protocol)
        made.stamp = stamp
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        return made

    # geventhttpclient's own hook for it is a method of a class that it does not let one choose.
    client._connection_pool._create_tcp_socket = create  # type: ignore[method-assign]
