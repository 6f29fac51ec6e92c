"""The webhook: the end of each run reaches a receiver that fails, signed, at least once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from plateau_sse.errors import SettingsError
from plateau_sse.settings import Settings
from tests.deployment import Deployment, deployed
from tests.integration.api_client import unique
from tests.processes import free_ports, wait_until

SECRET = "whsec_" + "c29tZSByYW5kb20gYnl0ZXMgb2Ygb3Vycy4="


@dataclass
class Receiver:
    """Answers with the next of `answers`, then with 204; keeps what it was posted."""

    port: int
    answers: list[int] = field(default_factory=list)
    had: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def of(self, run_id: str) -> list[tuple[dict[str, str], bytes]]:
        return [it for it in list(self.had) if it[0]["webhook-id"] == run_id]


@contextmanager
def receiving(receiver: Receiver) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.had.append((headers, body))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Nothing to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", receiver.port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def posting(
    folder: Path, streams_url: str, port: int, runners: int = 1
) -> Iterator[Deployment]:
    env = {
        "AGENTS": "counted=tests.flight_agents:counted,parrot=tests.flight_agents:parrot",
        "WEBHOOK_URL": f"http://127.0.0.1:{port}/runs",
        "WEBHOOK_SECRET": SECRET,
    }
    with deployed(folder, streams_url=streams_url, webs=1, runners=runners, env=env) as running:
        yield running


def ask(deployment: Deployment, agent: str = "parrot", **more: Any) -> dict[str, Any]:
    body = {"agent": agent, **({} if agent == "external" else {"input": unique()}), **more}
    response = httpx.post(f"{deployment.urls[0]}/v1/runs", json=body, timeout=20)
    assert response.status_code == 202, response.text
    run: dict[str, Any] = response.json()
    return run


def ended_at(record: str) -> object:
    return httpx.get(record).json()["ended_at"]


def verified(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = Webhook(SECRET).verify(body, headers)
    return found


def test_a_receiver_that_fails_three_times_gets_the_end(
    tmp_path: Path, streams_url: str
) -> None:
    receiver = Receiver(free_ports(1), [500, 404])
    with posting(tmp_path, streams_url, receiver.port) as deployment:
        # At first nobody is there at all.
        run = ask(deployment)
        record = f"{deployment.urls[0]}/v1/runs/{run['id']}"
        wait_until(lambda: httpx.get(record).json()["status"] == "completed", "it has ended")
        with receiving(receiver):
            wait_until(lambda: len(receiver.of(run["id"])) == 3, "it was taken", timeout_s=40)
            told = [verified(*one) for one in receiver.of(run["id"])]
            assert told[0] == told[1] == told[2]
            assert told[0]["type"] == "run.completed"
            data, of_record = told[0]["data"], httpx.get(record).json()
            for name in ("id", "status", "agent", "output", "usage", "ended_at"):
                assert data[name] == of_record[name], name
            assert data["output_omitted"] is False
            headers, body = receiver.of(run["id"])[0]
            with pytest.raises(WebhookVerificationError):
                verified(headers, body.replace(b"parrot", b"falcon"))
            # What was taken is not posted again, and the next is.
            other = ask(deployment, input="x" * 9000)
            wait_until(lambda: receiver.of(other["id"]), "the next was posted")
            data = verified(*receiver.of(other["id"])[0])["data"]
            assert (data["output"], data["output_omitted"]) == (None, True)
            assert len(receiver.of(run["id"])) == 3


def test_an_end_is_posted_by_another_runner_where_one_dies(
    tmp_path: Path, streams_url: str
) -> None:
    receiver = Receiver(free_ports(1))
    with posting(tmp_path, streams_url, receiver.port, runners=2) as deployment:
        runs = [ask(deployment)["id"] for _ in range(3)]
        for run_id in runs:
            record = f"{deployment.urls[0]}/v1/runs/{run_id}"
            wait_until(partial(ended_at, record), "it has ended")
        deployment.runners[0].kill()
        with receiving(receiver):
            # One that the dead had taken waits for its lease to end.
            wait_until(
                lambda: all(receiver.of(run_id) for run_id in runs),
                "all were posted",
                timeout_s=90,
            )


def test_whoever_else_ends_a_run_its_end_is_posted(tmp_path: Path, streams_url: str) -> None:
    receiver = Receiver(free_ports(1))
    with posting(tmp_path, streams_url, receiver.port) as deployment, receiving(receiver):
        run = ask(deployment, "external")
        events = [{"type": "message.delta", "text": "x"}, {"type": "run.completed"}]
        at = f"{deployment.urls[0]}/v1/runs/{run['id']}/events"
        assert httpx.post(at, json=events).status_code == 200
        options = {"note": str(tmp_path / "note"), "gate": str(tmp_path / "gate")}
        cancelled = ask(deployment, "counted", options=options)
        wait_until((tmp_path / "note").exists, "it is on")
        httpx.post(f"{deployment.urls[0]}{cancelled['cancel_url']}")
        wait_until(lambda: receiver.of(cancelled["id"]), "the cancelled one was posted")
        assert json.loads(receiver.of(cancelled["id"])[0][1])["type"] == "run.cancelled"
        wait_until(lambda: receiver.of(run["id"]), "the other one was posted", timeout_s=45)


@pytest.mark.parametrize(
    "environ",
    [
        {"WEBHOOK_URL": "http://x/"},
        {"WEBHOOK_SECRET": SECRET},
        {"WEBHOOK_URL": "http://x/", "WEBHOOK_SECRET": "whsec_c2hvcnQ="},
        {"WEBHOOK_URL": "http://x/", "WEBHOOK_SECRET": "no base64 at all"},
        {"WEBHOOK_URL": "x", "WEBHOOK_SECRET": SECRET},
    ],
)
def test_what_cannot_be_posted_to_is_refused_at_the_start(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"WEBHOOK_(URL|SECRET)") as refused:
        Settings.from_env(environ)
    assert "c2hvcnQ" not in str(refused.value)
