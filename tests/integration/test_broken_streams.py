"""A fault that nobody has thought of, on a stream: its reader is told to come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.api_client import SSE
from tests.processes import Serving, serving

# Each place that stands between a request and its first event, broken in turn.
BROKEN = """
import os
from plateau_sse.live.hub import Hub
from plateau_sse.store.runs.streams import Streams

async def broken(*_, **__):
    raise RuntimeError("nobody has thought of this")

where = os.environ["BROKEN"]
setattr(Hub if where == "join" else Streams, where, broken)
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""


@pytest.fixture(scope="module", params=["join", "read"])
def plateau(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    # The canary of a broken worker never sings: it is never ready, and serves all the same.
    env = {"BROKEN": request.param, "WEB_CONCURRENCY": "1"}
    folder: Path = tmp_path_factory.mktemp("broken")
    with serving(folder, arguments=["-c", BROKEN], env=env) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_reader_is_told_to_come_back(plateau: Serving, method: str) -> None:
    with httpx.Client(base_url=plateau.url, timeout=20, trust_env=False) as client:
        body = {"agent": "study", "input": "The cell is the unit of life."}
        run = client.post("/v1/runs", json=body | {"cache": {"mode": "off"}})
        assert run.status_code == 202
        said = len(plateau.stderr)
        response = client.request(method, run.json()["events_url"])
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    expected = r"retry: \d+\n" if method == "GET" else ""
    assert re.fullmatch(expected, response.text)
    assert "nobody has thought of this" in plateau.stderr[said:]


def test_whoever_asks_for_a_stream_is_told_where_it_is(plateau: Serving) -> None:
    body = {"agent": "study", "input": "A leaf has cells.", "cache": {"mode": "off"}}
    response = httpx.post(plateau.url + "/v1/runs", json=body, headers=SSE, timeout=20)
    assert response.status_code == 200
    assert re.fullmatch(r"retry: \d+\n", response.text)
    assert "/events?token=" in response.headers["location"]


def test_what_is_permanent_is_still_a_status(plateau: Serving) -> None:
    response = httpx.get(plateau.url + "/v1/runs/x/events", timeout=20)
    assert (response.status_code, response.json()["code"]) == (404, "run_not_found")
