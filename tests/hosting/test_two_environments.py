"""Two runners with different agents, in different environments, on one Redis."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.dialects.apart import programs_of
from tests.hosting.endpoint import scripted_model
from tests.hosting.graph_scripts import SCRIPTS
from tests.processes import launch, serving, wait_until

RUNS = 200


def test_each_executes_its_own_and_none_is_lost(tmp_path: Path) -> None:
    python = programs_of("langgraph") / "python"
    own = {"AGENTS": "words=tests.sample_agents:words"}
    with scripted_model(**SCRIPTS) as model, serving(tmp_path / "one", env=own) as plateau:
        env = {
            "AGENTS": "plain=tests.hosting.apart.graphs:plain",
            "MODEL_URL": model.base_url,
            "REDIS_URL": plateau.streams_url,
            "CACHE_REDIS_URL": plateau.cache_url,
        }
        runner = ("-m", "plateau_sse", "runner")
        other = launch(tmp_path / "two", arguments=runner, env=env, python=python)
        try:
            with httpx.Client(base_url=plateau.url, timeout=90) as client:

                def known() -> dict[str, str]:
                    found = client.get("/v1/agents").json()["agents"]
                    return {it["name"]: it["kind"] for it in found}

                wait_until(lambda: {"words", "plain"} <= known().keys(), "both", timeout_s=60)
                assert (known()["words"], known()["plain"]) == ("generator", "langgraph")

                def ended(number: int) -> tuple[str, str]:
                    agent = ("words", "plain")[number % 2]
                    body = {"agent": agent, "input": f"{number}", "options": {"count": 2}}
                    asked = client.post(
                        "/v1/runs", json=body, headers={"Prefer": "wait=60"}
                    ).json()
                    return agent, str(asked.get("status")) + str(asked.get("error"))

                with ThreadPoolExecutor(16) as pool:
                    told = Counter(pool.map(ended, range(RUNS)))
            assert told == {
                ("words", "completedNone"): RUNS // 2,
                ("plain", "completedNone"): RUNS // 2,
            }
            other.stop()
        finally:
            other.kill()
