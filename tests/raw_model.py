"""A model's endpoint in bytes: a TCP server that says what it is told to say, when it is told.

The first request gets the steps of a script, the next ones those of `then`, every other one a
plain answer that says "second".

    with raw_model([answer("first"), GO, answer("nobody asked")]) as model:
        ...
        model.go.set()
        model.said.wait(10)
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

# Steps of a script that are no bytes.
GO, CLOSE, ENDLESS, PINGS = "go", "close", "endless", "pings"
Step = bytes | str
WAIT_S = 20.0


@dataclass(slots=True)
class RawModel:
    """`requests` are the number of the connection and the body of each, `heads` what stands
    before these; `go` lets a script go on, `said` is set when the first has come to its end."""

    base_url: str = ""
    heads: list[str] = field(default_factory=list)
    requests: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    connections: int = 0
    go: threading.Event = field(default_factory=threading.Event)
    said: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> list[int]:
        """Over which connections the requests came."""
        return [number for number, _ in self.requests]


def event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def stream_of(text: str) -> bytes:
    """A whole answer, as the events of its body."""
    delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return event(delta) + event(end) + b"data: [DONE]\n\n"


def head_of(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([status, "Content-Type: text/event-stream", *lines, "", ""]).encode()


def sized(body: bytes, *lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return head_of(*lines, f"Content-Length: {len(body)}", status=status) + body


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def chunked(*pieces: bytes) -> bytes:
    """Without the last chunk, which ends it."""
    return head_of("Transfer-Encoding: chunked") + b"".join(map(chunk, pieces))


LAST = b"0\r\n\r\n"
SECOND = sized(stream_of("second"))


def _request_of(
    peer: socket.socket, received: bytearray, model: RawModel
) -> dict[str, Any] | None:
    while b"\r\n\r\n" not in received or len(received) < _length_of(received):
        data = peer.recv(65536)
        if not data:
            return None
        received += data
    whole = _length_of(received)
    model.heads.append(received[: received.index(b"\r\n\r\n")].decode("latin-1"))
    body = json.loads(received[received.index(b"\r\n\r\n") + 4 : whole])
    del received[:whole]
    return dict(body)


def _length_of(received: bytearray) -> int:
    """Of the request, its head included."""
    head, _, _ = bytes(received).lower().partition(b"\r\n\r\n")
    return len(head) + 4 + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])


def _follow(script: Sequence[Step], peer: socket.socket, model: RawModel) -> None:
    for step in script:
        if isinstance(step, bytes):
            peer.sendall(step)
        elif step == GO:
            model.go.wait(WAIT_S)
        elif step == PINGS:
            while not model.go.wait(0.05):
                peer.sendall(chunk(b": ping\n\n"))
        elif step == CLOSE:
            peer.shutdown(socket.SHUT_RDWR)
        else:
            while True:
                peer.sendall(b": and so on\n\n" * 100)


def _serve(
    scripts: Sequence[Sequence[Step]], peer: socket.socket, model: RawModel, number: int
) -> None:
    received = bytearray()
    with peer, suppress(OSError, ValueError):
        while (body := _request_of(peer, received, model)) is not None:
            model.requests.append((number, body))
            at = len(model.requests) - 1
            try:
                _follow(scripts[at] if at < len(scripts) else [SECOND], peer, model)
            finally:
                model.said.set()


@contextmanager
def raw_model(
    script: Sequence[Step],
    secure: ssl.SSLContext | None = None,
    *,
    then: Sequence[Sequence[Step]] = (),
) -> Iterator[RawModel]:
    """Serves in threads; every connection is closed on leaving. Speaks TLS where `secure`."""
    model, peers, threads = RawModel(), [], []
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = "localhost" if secure else "127.0.0.1"
        scheme = "https" if secure else "http"
        model.base_url = f"{scheme}://{host}:{server.getsockname()[1]}/v1"

        def accept() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    peers.append(peer)
                    model.connections += 1
                    said = secure.wrap_socket(peer, server_side=True) if secure else peer
                    peers.append(said)
                    about = ([script, *then], said, model, model.connections)
                    threads.append(threading.Thread(target=_serve, args=about))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield model
        finally:
            model.go.set()
            for found in [server, *peers]:
                with suppress(OSError):
                    found.shutdown(socket.SHUT_RDWR)
            for thread in [accepting, *threads]:
                thread.join(WAIT_S)
            for found in peers:
                found.close()
