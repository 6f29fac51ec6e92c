"""uvicorn by itself, as one develops with it: open streams hold up no reload."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.faults import start_run
from tests.processes import environment, free_ports, is_listening, wait_until


def test_open_streams_end_when_uvicorn_is_told_to_end(tmp_path: Path, streams_url: str) -> None:
    port = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = "-m uvicorn plateau_sse.app:create_app --factory --no-access-log --port"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, *command.split(), str(port)],
            env=environment({"REDIS_URL": streams_url}),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: is_listening(port), "it listens", timeout_s=30)
            run = start_run(url, "external")
            with httpx.stream("GET", url + run["events_url"], timeout=30) as answer:
                lines = answer.iter_lines()
                assert any("run.started" in line for line in lines)
                began = time.monotonic()
                server.send_signal(signal.SIGTERM)
                # To its end, in good order.
                assert not any("event" in line for line in lines)
                server.wait(20)
                assert time.monotonic() - began < 4
        finally:
            server.kill()
            server.wait(10)
