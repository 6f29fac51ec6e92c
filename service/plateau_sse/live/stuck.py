"""Peers that take nothing of what they were sent.

Invariant: whoever takes none of it for `STUCK_S` is cut, and told of it by a reset; whoever
takes some of it, however slowly, is not.

The kernel's own clock, `TCP_USER_TIMEOUT`, keeps neither half of that. What a peer takes does
not set it back while its window is smaller than the next segment, so that a slow reader is cut
who reads all the time; and one that is cut so is sent nothing: it hears of it when it next says
something, and a reader of events that has read all it was sent says nothing any more.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Protocol, TypeVar

STUCK_S = 30.0
# Each connection is looked at once in so many looks.
TURNS = 5
# On, and for no time: what is closed then is reset.
_NO_LINGER = struct.pack("ii", 1, 0)
# Where `tcpi_bytes_acked` stands in what the kernel says of a connection, since Linux 4.1.
_ACKED = struct.Struct("=120xQ")


class Taking(Protocol):
    """What is asked of a connection."""

    def taken(self) -> int | None:
        """A number that changes as its peer takes what it was sent; None where that is all."""


C = TypeVar("C", bound=Taking)


class Stuck:
    """One a worker, which looks once a second."""

    def __init__(self) -> None:
        self._turn = 0
        # What the peer had taken, and since when no more: of those who have not taken all.
        self._since: dict[Any, tuple[int, float]] = {}

    def look(self, connections: Collection[C], now: float) -> list[C]:
        """Those of this turn that are to be cut."""
        self._turn = (self._turn + 1) % TURNS
        return [
            it
            for it in connections
            if hash(it) % TURNS == self._turn and self._is_stuck(it, now)
        ]

    def _is_stuck(self, connection: Taking, now: float) -> bool:
        taken = connection.taken()
        if taken is None:
            self._since.pop(connection, None)
            return False
        before, since = self._since.get(connection, (-1, now))
        if before != taken:
            self._since[connection] = (taken, now)
            return False
        return now - since >= STUCK_S

    def forget(self, connection: Taking) -> None:
        self._since.pop(connection, None)


def taken_of(connection: socket.socket) -> int | None:
    """As `Taking.taken`, of a socket; None also where this system does not say."""
    try:
        left = int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), "little")
    except OSError:
        return None
    if not left:
        return None
    try:
        said = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        # 0 also where it is not counted.
        return int(_ACKED.unpack(said)[0]) or left
    except (AttributeError, OSError, struct.error):
        # A Unix socket, another system.
        return left


def reset(transport: Any) -> None:
    """End it at once, so that its peer knows; what was not taken is gone."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        # It may have gone already.
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
