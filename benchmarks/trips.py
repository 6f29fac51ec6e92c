"""The way of one cold run, from its POST to the model's request and to the first token: what is
asked of which Redis server, when, and how much of that one after the other.

MONITOR tells each command that a server was sent, and when that was. What comes by itself
(signs of life, leases, figures, what ends the run before) is left out: it is nothing that a run
waits for. How many round trips follow each other is counted with both servers `AWAY_S` away:
that many times as long takes the way to the model.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.processes import Serving

from benchmarks.rows import Row

# More than all that is done between the trips.
AWAY_S = 0.1
TRIPS_MOST = 6
# MONITOR tells of a command a moment later.
TOLD_WITHIN_S = 0.05
# Its time, the database and who sent it, the command and what it was given.
LINE = re.compile(r'\+(\d+\.\d+) \[\d+ (\S+?)\] "([^"]+)" ?(.*)')
# What a cold run's way to its model is made of: by what a command is given.
STEPS = {
    "which agents there are": re.compile(r"^hgetall agents"),
    "is it answered": re.compile(r"^get cache:"),
    "who is answering it": re.compile(r"^get inflight:"),
    "how full the store is": re.compile(r"^info memory"),
    "its record": re.compile(r"^evalsha .*:tokens .* state queued "),
    "its hint": re.compile(r"^evalsha \S+ 1 inflight:\S+ \S+ .*[0-9]+$"),
    "into the queue": re.compile(r"^evalsha .*:waiting:(\S+) [0-9a-f]{32} \1 "),
    "out of the queue": re.compile(r"^evalsha .*:waiting:\S+ \S+:\S+ "),
    "how many wait": re.compile(r"^evalsha \S+ 10 .*:serving [0-9]+$"),
    "its claim": re.compile(r"^evalsha .*:tokens .* claim "),
}


class Asked(NamedTuple):
    """A command, `at` seconds of the wall clock."""

    at: float
    server: str
    what: str
    client: str


class Way(NamedTuple):
    """Of one run, by the wall clock; `asked` are in their order."""

    posted: float
    model_asked: float
    first_token: float
    asked: list[Asked]


@contextmanager
def monitored(service: Serving) -> Iterator[Callable[[], list[Asked]]]:
    """What its servers have been asked since the last call."""
    urls = {"streams": service.streams_url, "cache": service.cache_url}
    heard: list[tuple[str, str]] = []
    with ExitStack() as stack:
        for name, url in urls.items():
            parts = urlsplit(url)
            peer = stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
            if parts.password:
                peer.sendall(f"AUTH {parts.password}\r\n".encode())
            peer.sendall(b"MONITOR\r\n")
            thread = threading.Thread(target=_listen, args=(peer, name, heard))
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(peer.shutdown, socket.SHUT_RDWR)

        def since() -> list[Asked]:
            time.sleep(TOLD_WITHIN_S)
            found = [asked for server, line in heard if (asked := asked_of(server, line))]
            heard.clear()
            return sorted(found)

        yield since


def _listen(peer: socket.socket, server: str, heard: list[tuple[str, str]]) -> None:
    """What it means is looked at later: whoever is measured shares this machine."""
    with suppress(OSError), peer.makefile("r", errors="replace") as lines:
        heard.extend((server, line) for line in lines)


def asked_of(server: str, line: str) -> Asked | None:
    """None for what no run waits for on its way to the model."""
    found = LINE.match(line)
    if found is None or found[2] == "lua":
        return None
    command = f"{found[3].lower()} {found[4]}".replace('"', "")
    step = next((name for name, sign in STEPS.items() if sign.search(command)), None)
    return None if step is None else Asked(float(found[1]), server, step, found[2])


def table(ways: list[Way]) -> str:
    """The median way: when each step was asked for, in ms since the POST."""
    way = sorted(ways, key=lambda it: it.model_asked - it.posted)[len(ways) // 2]
    lines = ["   ms  of the run that is the median"]
    points = [(it.at, f"{it.server}: {it.what}") for it in way.asked if it.at >= way.posted]
    points += [(way.model_asked, "THE MODEL IS ASKED"), (way.first_token, "THE FIRST TOKEN")]
    for at, what in sorted(points):
        if at <= way.first_token:
            lines.append(f"{(at - way.posted) * 1000:5.1f}  {what}")
    return "\n".join(lines)


def trips_of(posted: float, model_asked: float) -> int:
    """With both servers away."""
    return int((model_asked - posted) / AWAY_S)


class Trips(NamedTuple):
    """Of a run while others are asked for, and of the first after a pause. The fewest of some:
    who is asked while the runner, as it does once a second, looks by itself waits for that."""

    steady: int
    first: int


def row_of(now: Trips, before: Trips) -> Row:
    beside = f"{now.first} after a pause; before {before.steady}, {before.first}"
    what = "round trips from the POST to the model's request"
    return Row(what, max(now), "", bound=TRIPS_MOST, peers=beside)
