"""docs/agents.md is true: its graph is served as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from tests.dialects.apart import programs_of
from tests.hosting.endpoint import scripted_model
from tests.hosting.graph_scripts import SCRIPTS
from tests.processes import REPOSITORY, serving, wait_until

PAGE = (REPOSITORY / "docs" / "agents.md").read_text()


def test_the_example_of_langgraph(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(# app\.py\n.*?)```", PAGE, re.DOTALL)
    (agents,) = re.findall(r'```sh\nAGENTS="([^"]*)" plateau serve\n```\n\n- \*\*What', PAGE)
    (tmp_path / "app.py").write_text(code)
    python = programs_of("langgraph") / "python"
    with scripted_model(**SCRIPTS) as model:
        env = {
            "AGENTS": agents,
            "MODEL": "approve",
            "MODEL_URL": model.base_url,
            "OPENAI_API_KEY": "sk-none",
            "WEB_CONCURRENCY": "1",
        }
        with serving(
            tmp_path / "data", env=env, python=python, cwd=tmp_path, timeout_s=60
        ) as plateau:
            client = httpx.Client(base_url=plateau.url, headers={"Prefer": "wait=30"})
            with client:
                wait_until(
                    lambda: client.get("/v1/agents").json()["agents"],
                    "it is there",
                    timeout_s=60,
                )
                asked = {"agent": "support", "conversation_id": "c1"}
                first = client.post("/v1/runs", json=asked | {"input": "Delete it."}).json()
                assert first["finish_reason"] == "input_required", first
                (request,) = [it for it in first["parts"] if it["type"] == "input.request"]
                resume = [{"id": request["id"], "payload": {"approved": True}}]
                then = client.post("/v1/runs", json=asked | {"resume": resume}).json()
                assert (then["output"], then["finish_reason"]) == ("Done.", "stop")
