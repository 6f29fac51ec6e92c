"""The page, over a service that says what a test tells it to, when it is told to.

    with scripted() as service:
        script = service.script(tape.started(), tape.say("a"))
        script.release()

Invariant: pages come with the policy of the service; a run says what was released of its
script, to whoever asks, from wherever they ask.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from plateau_sse.api.pages import DOCS_POLICY, PAGES, POLICY
from tests.handmade import Event

WAIT_S = 20.0
LISTS = {
    "/v1/agents": b'{"agents": []}',
    "/v1/conversations": b'{"conversations": [], "next": null}',
    "/v1/runs": b'{"runs": [], "next": null}',
}
Step = tuple[str, Event]


@dataclass
class Script:
    """A run: its events, and how many of them may be told. Of the answer to its POST `more` is
    what differs from that to a run that begins."""

    steps: list[Step]
    more: Event = field(default_factory=dict)
    released: int = 0
    # Each `Last-Event-ID`, or what stood in its place in the query.
    asked: list[str] = field(default_factory=list)
    cancelled: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)
    connection: int = 0

    def release(self, count: int | None = None) -> None:
        """Up to `count` events in all; all of them."""
        with self.changed:
            self.released = len(self.steps) if count is None else count
            self.changed.notify_all()

    def cut(self) -> None:
        """All connections end, and find the script where it is."""
        with self.changed:
            self.connection += 1
            self.changed.notify_all()

    def after(self, at: int, connection: int) -> list[Step]:
        """What follows, once there is something; nothing where the connection is cut."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.released > at or self.connection != connection, WAIT_S
            )
            return self.steps[at : self.released] if self.connection == connection else []


@dataclass
class Scripted:
    url: str
    scripts: list[Script] = field(default_factory=list)
    posted: list[Event] = field(default_factory=list)
    # Other than the service's own: a page may load nothing from there.
    strangers: list[str] = field(default_factory=list)

    def script(self, *steps: Step, released: int | None = None, **more: Any) -> Script:
        """What the next run is."""
        script = Script(list(steps), more, len(steps) if released is None else released)
        self.scripts.append(script)
        return script


class Server(ThreadingHTTPServer):
    daemon_threads = True
    service: Scripted


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        if split.path in PAGES:
            page = PAGES[split.path]
            content = files("plateau_sse.web").joinpath(page.file).read_bytes()
            policy = DOCS_POLICY if page.file == "docs.html" else POLICY
            return self._answer(200, content, page.media_type, policy)
        if split.path.endswith("/events"):
            return self._follow(self._script(), dict(parse_qsl(split.query)))
        if split.path in LISTS:
            return self._answer(200, LISTS[split.path], "application/json")
        if split.path.startswith("/v1/conversations/"):
            # Of which nothing is kept: each run is followed on its own.
            said = b'{"id": "c", "messages": [], "active_run": null, "events_url": null}'
            return self._answer(200, said, "application/json")
        self.server.service.strangers.append(self.path)
        self._answer(404, b"{}", "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path.endswith("/cancel"):
            self._script().cancelled = True
            return self._answer(202, b'{"id": "run"}', "application/json")
        service = self.server.service
        number = len(service.posted)
        service.posted.append(json.loads(body))
        run = {"id": f"run{number}", "events_url": f"/v1/runs/{number}/events?token=t"}
        run["cancel_url"] = f"/v1/runs/{number}/cancel"
        answer = run | service.scripts[number].more
        self._answer(202, json.dumps(answer).encode(), "application/json")

    def _script(self) -> Script:
        return self.server.service.scripts[int(self.path.split("/")[3])]

    def _follow(self, script: Script, query: dict[str, str]) -> None:
        seen = self.headers["Last-Event-ID"] or query.get("last_event_id", "")
        script.asked.append(seen)
        # A test's positions are those of its script: the rest follows the one that was seen.
        ids = [place for place, _ in script.steps]
        at = ids.index(seen) + 1 if seen and seen in ids else 0
        connection = script.connection
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"retry: 10\n: ping\n")
        self.wfile.flush()
        while at < len(script.steps) and (due := script.after(at, connection)):
            at += len(due)
            try:
                for place, event in due:
                    line = f"id: {place}\n" if place else ""
                    self.wfile.write(f"{line}data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
            except OSError:
                return

    def _answer(
        self, status: int, body: bytes, content_type: str, policy: str = POLICY
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def scripted() -> Iterator[Scripted]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.service = service = Scripted(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield service
        finally:
            for script in service.scripts:
                script.cut()
            server.shutdown()
            thread.join()
