"""A collector for traces, as a real HTTP server in a process of its own: it decodes what comes
by the protocol's own definitions, and says each span as a line of JSON.

    python tests/collector.py    # with a Python that has opentelemetry-proto; prints its URL

    with collecting(folder) as collector:
        … OTEL_EXPORTER_OTLP_ENDPOINT=collector.url …
        (ask,) = collector.spans("ask")
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple


class Span(NamedTuple):
    """Ids in hex, '' for no parent; `links` are spans of other traces, as trace and span."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    part: str
    service: str
    attributes: dict[str, Any]
    events: list[str]
    links: list[list[str]]
    is_error: bool
    began_ns: int
    ended_ns: int


class Collector:
    """What a collector has said so far, into `file`."""

    def __init__(self, url: str, file: Path) -> None:
        self.url = url
        self._file = file

    def spans(self, name: str = "") -> list[Span]:
        lines = self._file.read_text().splitlines()[1:]
        found = [Span(**json.loads(line)) for line in lines]
        return [span for span in found if name in ("", span.name)]


@contextmanager
def collecting(folder: Path, python: Path) -> Iterator[Collector]:
    file = folder / "spans"
    with file.open("wb") as out:
        process = subprocess.Popen([python, __file__], stdout=out, stdin=subprocess.DEVNULL)
    # Imported here: who runs this file has no such package.
    from tests.processes import wait_until

    try:
        wait_until(lambda: "\n" in file.read_text(), "the collector listens", timeout_s=30)
        yield Collector(file.read_text().splitlines()[0], file)
    finally:
        process.terminate()
        process.wait(10)


def _spans_of(request: Any) -> Iterator[Span]:
    for group in request.resource_spans:
        about = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    about["plateau.part"],
                    about["service.name"],
                    _attributes(span.attributes),
                    [event.name for event in span.events],
                    [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
                    span.status.code == 2,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in pairs}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        assert self.path == "/v1/traces"
        lines = [json.dumps(span._asdict()) + "\n" for span in _spans_of(request)]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
