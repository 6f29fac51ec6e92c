"""What a request is called goes with it: into the answer, the queue and the runner's log."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.integration.api_client import api_serving, unique
from tests.processes import wait_until


def test_a_request_is_found_in_the_runners_log(tmp_path: Path) -> None:
    with (
        api_serving(tmp_path, {"LOG_FORMAT": "json"}) as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client,
    ):
        secret = unique()
        body = {"agent": "failing", "input": secret}
        named = {"X-Request-ID": "order-17/4", "Prefer": "wait=20"}
        answer = client.post("/v1/runs", json=body, headers=named)
        assert answer.json()["status"] == "failed"
        assert answer.headers["x-request-id"] == "order-17/4"

        def lines() -> list[dict[str, str]]:
            found = [json.loads(line) for line in running.stderr.splitlines() if line[0] == "{"]
            return [line for line in found if line.get("request") == "order-17/4"]

        wait_until(lines, "the failure is logged")
        (line,) = lines()
        assert line["run"] == answer.json()["id"]
        assert line["level"] == "error" and "Traceback" in line["exception"]
        # What was asked is nobody's business; what an agent says in its own error is its own.
        assert secret in line.pop("exception")
        assert secret not in json.dumps(lines()[0] | {"exception": ""})

        for sent in ("", "two words", "x" * 129, "né"):
            problem = client.post(
                "/v1/runs", json={}, headers=[(b"X-Request-ID", sent.encode())]
            )
            assert problem.status_code == 422
            assert len(problem.headers["x-request-id"]) == 16
        missing = client.get(f"/v1/runs/{'0' * 32}", headers={"X-Request-ID": "mine"})
        assert (missing.status_code, missing.headers["x-request-id"]) == (410, "mine")
