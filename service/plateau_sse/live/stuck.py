"""Peers that take nothing of what they were sent.

Invariant: whose kernel acknowledges none of it for `STUCK_S` is cut, and told of it by a reset;
whose does some of it, however slowly, is not.

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

# There is a look each second, at each connection once in so many; after so many in a row that
# find nothing new it is cut. Looks, and not the time: a machine that was frozen has had none.
TURNS, LOOKS = 5, 6
STUCK_S = TURNS * LOOKS
# Of what is closed with something unacknowledged, which is the kernel's alone from then on.
TAIL_S = 60
# On, and for no time: what is closed then is reset.
_NO_LINGER = struct.pack("ii", 1, 0)
# Where the bytes that its peer has acknowledged, and those received, stand in what the kernel
# says of a connection, since Linux 4.1.
_ACKED = struct.Struct("=120xQQ")


class Taking(Protocol):
    """What is asked of a connection."""

    def taken(self) -> int | None:
        """A number that changes as its peer takes what it was sent; None where that is all."""


C = TypeVar("C", bound=Taking)


class Stuck:
    """One a worker, which looks once a second."""

    def __init__(self) -> None:
        self._turn = 0
        # What the peer had taken, and how many looks have found that since: of those who have
        # not taken all.
        self._found: dict[Any, tuple[int, int]] = {}

    def look(self, connections: Collection[C]) -> list[C]:
        """Those of this turn that are to be cut."""
        self._turn = (self._turn + 1) % TURNS
        return [
            it for it in connections if hash(it) % TURNS == self._turn and self._is_stuck(it)
        ]

    def _is_stuck(self, connection: Taking) -> bool:
        taken = connection.taken()
        if taken is None:
            self._found.pop(connection, None)
            return False
        before, looks = self._found.get(connection, (taken, -1))
        looks = looks + 1 if before == taken else 0
        self._found[connection] = (taken, looks)
        return looks >= LOOKS

    def forget(self, connection: Taking) -> None:
        self._found.pop(connection, None)


def taken_of(connection: socket.socket) -> int | None:
    """As `Taking.taken`, of a socket; None also where this system does not say. Where it does
    not count what was acknowledged (a Unix socket) it is what is left, which changes with each
    write as well: such a peer is found once its buffer is full."""
    try:
        left = int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), "little")
    except (OSError, ValueError):
        # It has gone, or is of another system.
        return None
    if not left:
        return None
    try:
        said = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        acked, received = _ACKED.unpack(said)
    except (AttributeError, OSError, ValueError, struct.error):
        return left
    # Whoever is sent something has asked for it.
    return int(acked) if received else left


def reset(transport: Any) -> None:
    """End it at once, so that its peer knows; what was not taken is gone. Harmless where it
    has ended."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        # ValueError is uvloop's, of one that has gone.
        with suppress(OSError, ValueError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def leave_tail(connection: socket.socket) -> None:
    """It is closed with something unacknowledged: the kernel is to keep that for `TAIL_S`, not
    for the minutes in which it asks a closed window to open, at its process's expense."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A Unix socket has none.
        with suppress(OSError, ValueError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * TAIL_S)
