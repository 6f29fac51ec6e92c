"""Stock clients, and what each of them has read.

Invariant: a program that a test starts is ended by its id when the `with` block ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from locustfiles.kit.ledger import DELTAS, STATES, Ledger

from tests.clients.packages import HERE, NODE
from tests.clients.said import BEFORE
from tests.clients.wire import Wire
from tests.processes import environment

PROGRAMS = HERE / "programs"
# Quick to start, and nothing else. What it runs is compiled once, to where the clients run.
JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", ".")

# As (id, data) stand in the stream.
Events = list[tuple[str, dict[str, Any]]]

# Cut here, a client has the id of an event and half of its data.
IN_AN_EVENT = b'"tool.call"'
BETWEEN_EVENTS = BEFORE[-3:].encode() + b'"}\n\n'


class Client(NamedTuple):
    """A program. `posts`: it can read the answer to a POST; `asks_anew`: it sends
    `Cache-Control` with whatever it asks, so a POST of it is never a hit; `cut_after` is
    where its connection breaks; `needs` is what it runs on."""

    name: str
    command: tuple[str, ...]
    posts: bool = True
    asks_anew: bool = False
    cut_after: bytes = IN_AN_EVENT
    needs: str = ""

    @property
    def lacks(self) -> str:
        """Why it cannot run here; empty where it can."""
        if self.needs and shutil.which(self.needs) is None:
            return f"no {self.needs} on the PATH (Debian: default-jdk-headless)"
        return ""


def _node(name: str) -> tuple[str, ...]:
    return (str(NODE), str(PROGRAMS / f"{name}.mjs"))


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"tests.clients.programs.{module}")


CLIENTS = (
    Client("eventsource", _node("eventsource"), posts=False),
    Client("reconnecting-eventsource", _node("reconnecting-eventsource"), posts=False),
    Client("event-source-polyfill", _node("event-source-polyfill"), posts=False),
    # It takes an event for seen when it has its id, and would lose what is cut behind that.
    Client("fetch-event-source", _node("fetch-event-source"), cut_after=BETWEEN_EVENTS),
    Client("eventsource-client", _node("eventsource-client"), asks_anew=True),
    Client("eventsource-parser", _node("eventsource-parser")),
    Client("httpx-sse", _python("with_httpx_sse"), asks_anew=True),
    Client("httpx", _python("with_httpx")),
    Client("requests", _python("with_requests")),
    Client("jdk", (*JAVA, "JdkHttpClient"), needs="javac"),
)


@dataclass
class Reading:
    """A client on its way over `wire`; `told` is what it has printed, line by line."""

    client: Client
    wire: Wire
    process: subprocess.Popen[bytes]
    errors: Path
    told: list[dict[str, str]] = field(default_factory=list)
    # The tape that it must have read, once that is known, and what it said it had of it before.
    expected: Events = field(default_factory=list)
    had: Events = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def heard(self, kind: str) -> bool:
        """Whether it has read an event of that type, or will read none any more."""
        return self.is_over or any(f'"type":"{kind}"' in told["data"] for told in self.told)

    @property
    def read(self) -> Events:
        return [(told["id"], json.loads(told["data"])) for told in self.told]

    @property
    def states(self) -> list[dict[str, Any]]:
        """What it was told that stands at no place on the tape."""
        return [event for _, event in self.read if is_state(event)]

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._thread.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def check(self) -> None:
        """It was never given empty data, and has known its end by itself."""
        said = self.errors.read_text()
        assert all(told["data"] for told in self.told), f"empty data: {self.told}\n{said}"
        assert self.process.returncode == 0, f"{self.told}\n{said}"
        assert self.wire.was_cut == bool(self.wire.cut_after), "the wire was not cut"


def compile_java(folder: Path) -> None:
    if javac := shutil.which("javac"):
        programs = map(str, PROGRAMS.glob("*.java"))
        subprocess.run([javac, "-d", str(folder), *programs], check=True)


def start(
    client: Client, wire: Wire, folder: Path, mode: str, path: str, *more: str
) -> Reading:
    """Run its program on `path` of the service."""
    errors = folder / f"{client.name}-{mode}-{wire.url.rpartition(':')[2]}.stderr"
    with errors.open("wb") as err:
        process = subprocess.Popen(
            [*client.command, mode, wire.url + path, *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            cwd=folder,
            env=environment({}),
        )
    return Reading(client, wire, process, errors)


def folded(events: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The answer, as someone sees it who starts anew at each `run.restarted`."""
    text = ""
    for _, event in events:
        if event["type"] == "run.restarted":
            text = ""
        elif event["type"] == "message.delta":
            text += event["text"]
    return text


def is_state(event: dict[str, Any]) -> bool:
    return event["type"] in STATES


def tape_of(read: Events, before: Events) -> Events:
    """What was read, behind `before`, as a tape whose deltas are not cut: each part in one,
    with the id of its last piece. Fails where an event does not begin where the last ended."""
    books, tape = Ledger(), Events()
    for event_id, event in [*before, *read]:
        # To many libraries what has no id has the one before.
        own = "" if is_state(event) and event_id in ("", books.last_id) else event_id
        assert books.take(own, event), (dict(books.faults), books.at, event_id, event)
        assert not books.holes, (books.holes, event_id, event)
        if is_state(event):
            continue
        last = tape[-1][1] if tape else {}
        if event["type"] in DELTAS and last.get("part") == event["part"]:
            tape[-1] = (event_id, {**last, "text": last["text"] + event["text"]})
        else:
            tape.append((event_id, event))
    return tape
