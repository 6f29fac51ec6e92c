"""Requests as bytes, and what comes back: for tests of what stock clients send.

Invariant: no client library stands between a test and the socket.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.integration.api_client import unique
from tests.processes import Serving


@contextmanager
def connected(plateau: Serving) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", plateau.port), timeout=20) as peer:
        yield peer


def send_all_and_close_half(peer: socket.socket, data: bytes) -> None:
    """The end of it in the packet of the last bytes, however busy the machine is: behind a
    stream that has begun it would be a reader who goes."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


def read_on(peer: socket.socket, until: bytes) -> bytes:
    """What comes, up to the piece that ends with or holds `until`."""
    read = b""
    while until not in read:
        more = peer.recv(65536)
        assert more, read
        read += more
    return read


def rest_of(peer: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    return b"".join(iter(lambda: peer.recv(65536), b""))


def whole_of(peer: socket.socket) -> bytes:
    """The same, from a service that does not read all that it was sent: it may be cut."""
    read = b""
    with suppress(ConnectionResetError):
        while more := peer.recv(65536):
            read += more
    return read


def statuses(answers: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)


def post(
    *headers: bytes, agent: str = "echo", text: str = "", path: bytes = b"/v1/runs"
) -> bytes:
    body = b'{"agent": "%b", "input": "%b"}' % (agent.encode(), (text or unique()).encode())
    return raw_post(*headers, body=body, path=path)


def raw_post(*headers: bytes, body: bytes, path: bytes = b"/v1/runs") -> bytes:
    head = [b"POST %b HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*head, b"", body])


def get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, b"Host: x", *headers, b"", b""])


def chunked(request: bytes) -> bytes:
    """The same request, its body in chunks of seven bytes."""
    head, _, body = request.partition(b"\r\n\r\n")
    head = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", head)
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"\r\n\r\n" + encoded + b"0\r\n\r\n"
