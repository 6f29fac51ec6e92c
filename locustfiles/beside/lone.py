"""A lone reader beside the crowd: one stream after the other, in a process of its own.

    python -m locustfiles.beside.lone http://127.0.0.1:8000 lone.csv

Invariant: it shares nothing with the load but the service: neither process nor library, and its
times are those at which it has read, whatever the kernel may say. Where the crowd's figures are
its own, the generator has not been in the way of what it measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from locustfiles.agent import STAMP
from plateau_sse.eventsource import EventReader

OPTIONS = {"count": 60, "pause_ms": 150, "width": 40}
WAIT_S = 1.0


def texts(response: HTTPResponse) -> Iterator[tuple[str, float]]:
    """Each piece of text, and when it was read."""
    events = EventReader()
    while chunk := response.read1(65_536):
        read_s = time.time()
        for message in events.feed(chunk):
            event = json.loads(message.data)
            if event["type"] == "message.delta":
                yield event["text"], read_s


def read_one(url: str, file: TextIO) -> None:
    """Ask, and write a line for each piece: when it came, how late (ms), and for the first one
    how long after asking."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=60)
    body = {"agent": "load", "input": uuid.uuid4().hex, "options": OPTIONS}
    headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
    if keys := os.environ.get("LOAD_API_KEY", "").replace(",", " ").split():
        headers["Authorization"] = f"Bearer {keys[0]}"
    try:
        asked_s = time.time()
        connection.request("POST", f"{parts.path}/v1/runs", json.dumps(body), headers)
        response = connection.getresponse()
        first = True
        for text, read_s in texts(response):
            stamp = STAMP.match(text)
            if stamp is None:
                continue
            lag_ms = (read_s - int(stamp[2]) / 1e6) * 1000
            token = f"{(read_s - asked_s) * 1000:.2f}" if first else ""
            first = False
            file.write(f"{read_s:.3f},{lag_ms:.2f},{token}\n")
    finally:
        connection.close()


def main(url: str, path: Path) -> None:
    """Until it is ended."""
    # A line at a time: it is ended in the middle of a stream.
    with path.open("w", buffering=1) as file:
        file.write("at_s,lag_ms,first_token_ms\n")
        while True:
            try:
                read_one(url, file)
            except (OSError, HTTPException) as error:
                sys.stderr.write(f"the lone reader: {type(error).__name__}: {error}\n")
            time.sleep(WAIT_S)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
