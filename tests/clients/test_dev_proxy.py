"""Behind a development server that compresses: a piece is seen before the next is made.

`compression` holds back what it compresses until there is enough of it, and leaves alone what
says `no-transform`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from plateau_sse.eventsource import EventReader
from tests.clients.packages import HERE, NODE, install
from tests.clients.reading import folded
from tests.clients.said import BEFORE, TEXT
from tests.clients.stage import ENV, body_of
from tests.processes import serving

EVENTS = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}


@contextmanager
def dev_proxy(target: str) -> Iterator[str]:
    with subprocess.Popen(
        [NODE, HERE / "dev_proxy.mjs", target], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    if cause := install():
        pytest.skip(cause)
    with (
        serving(tmp_path_factory.mktemp("plateau"), env=ENV) as plateau,
        dev_proxy(plateau.url) as url,
        # What is held back is held back for ever: it does not take long to see that.
        httpx.Client(base_url=url, headers=EVENTS, timeout=10) as client,
    ):
        yield client


@pytest.mark.parametrize("asked_by", ["POST", "GET"])
def test_the_first_token_comes_at_once(
    proxied: httpx.Client, tmp_path: Path, asked_by: str
) -> None:
    gate = tmp_path / "gate"
    body = body_of(gate)
    # What is no stream is compressed here, as it is there.
    assert proxied.get("/client.js").headers["content-encoding"] == "gzip"
    if asked_by == "POST":
        response = proxied.stream("POST", "/v1/runs", json=body)
    else:
        run = proxied.post("/v1/runs", json=body, headers={"Accept": "application/json"})
        response = proxied.stream("GET", run.json()["events_url"])
    reader, events = EventReader(), []
    try:
        with response as answer:
            for chunk in answer.iter_bytes():
                events += [("", json.loads(message.data)) for message in reader.feed(chunk)]
                if folded(events) == BEFORE:
                    gate.touch()
    finally:
        gate.touch()
    assert folded(events) == TEXT
