"""A way to a service that breaks as ways do: it is cut, or swallows what is sent.

    with way(service_port) as between:
        between.swallow()

Invariant: what went over it before it broke is unchanged; connections that are made afterwards
are whole.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Way:
    """At `url` is what is at `port`."""

    port: int
    url: str = ""
    made: int = 0
    _pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _swallowed: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        """All connections that are there end."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        _close(pairs)

    def swallow(self) -> None:
        """Over all that are there nothing comes any more, and nobody is told."""
        with self._lock:
            self._swallowed += self._pairs
            self._pairs = []

    def close(self) -> None:
        self._over.set()
        self.cut()
        _close(self._swallowed)

    def serve(self, listening: socket.socket) -> None:
        while not self._over.is_set():
            if not select.select([listening], [], [], 0.1)[0]:
                continue
            client, _ = listening.accept()
            try:
                pair = client, socket.create_connection(("127.0.0.1", self.port), 5)
            except OSError:
                # Where nobody listens, as while a service begins anew.
                client.close()
                continue
            with self._lock:
                self._pairs.append(pair)
                self.made += 1
            for source, target in (pair, pair[::-1]):
                threading.Thread(target=self._carry, args=(pair, source, target)).start()

    def _carry(
        self,
        pair: tuple[socket.socket, socket.socket],
        source: socket.socket,
        target: socket.socket,
    ) -> None:
        with suppress(OSError, ValueError):
            while not self._over.is_set():
                if not select.select([source], [], [], 0.1)[0]:
                    continue
                data = source.recv(65536)
                with self._lock:
                    is_whole = pair in self._pairs
                if not is_whole:
                    # Swallowed: nobody closes it, or hears that somebody has.
                    if not data:
                        return
                    continue
                if not data:
                    break
                target.sendall(data)
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.remove(pair)
        _close([pair])


def _close(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    for pair in pairs:
        for one in pair:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def way(port: int) -> Iterator[Way]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        between = Way(port, f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread = threading.Thread(target=between.serve, args=(listening,))
        thread.start()
        try:
            yield between
        finally:
            between.close()
            thread.join()
