"""A proxy between this machine and the others: it makes tunnels, and passes requests on.

with forward_proxy() as proxy:
    proxy.url                     # http://127.0.0.1:port
    proxy.asked                   # ["CONNECT localhost:443 HTTP/1.1", …]
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

JOIN_S = 20.0


@dataclass(slots=True)
class ForwardProxy:
    """`asked` are the first lines of requests, `heads` all of them; `answer` is what is said in
    place of a tunnel."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _serve(peer: socket.socket, proxy: ForwardProxy) -> None:
    with peer, suppress(OSError, ValueError):
        received = b""
        while b"\r\n\r\n" not in received:
            data = peer.recv(65536)
            if not data:
                return
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        proxy.heads.append(head.decode("latin-1"))
        line = proxy.heads[-1].partition("\r\n")[0]
        proxy.asked.append(line)
        method, target, _ = line.split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        if method == "CONNECT":
            peer.sendall(proxy.answer)
            if b" 200 " not in proxy.answer:
                return
        with socket.create_connection((parts.hostname or "", parts.port or 80), 10) as other:
            if method != "CONNECT":
                path = f"{method} {parts.path} HTTP/1.1\r\n"
                other.sendall(path.encode() + received.partition(b"\r\n")[2])
            elif rest:
                other.sendall(rest)
            back = threading.Thread(target=_pass_on, args=(other, peer))
            back.start()
            _pass_on(peer, other)
            back.join(JOIN_S)


@contextmanager
def forward_proxy() -> Iterator[ForwardProxy]:
    """Serves in threads, of one request a connection; all are closed on leaving."""
    proxy, peers, threads = ForwardProxy(), [], []
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy.url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def accept() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    peers.append(peer)
                    threads.append(threading.Thread(target=_serve, args=(peer, proxy)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield proxy
        finally:
            for found in [server, *peers]:
                with suppress(OSError):
                    found.shutdown(socket.SHUT_RDWR)
            for thread in [accepting, *threads]:
                thread.join(JOIN_S)
