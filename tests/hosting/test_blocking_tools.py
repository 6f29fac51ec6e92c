"""Tools that are not asynchronous: one that hangs ends with nobody's place but its own run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosting.graph_scripts import SCRIPTS as GRAPH_SCRIPTS
from tests.hosting.hosts import Host, hosting
from tests.hosting.scripts import SCRIPTS
from tests.processes import wait_until

PLACES = 2
ENV = {"RUNNER_CONCURRENCY": str(PLACES), "RUN_TIMEOUT_S": "3"}


def is_degraded(host: Host) -> bool:
    return bool(host.get("/health").json()["components"]["runner"]["status"] == "degraded")


@pytest.mark.parametrize("framework", ["pydantic-ai", "openai-agents", "langgraph"])
def test_a_tool_that_hangs_is_left_behind(framework: str, tmp_path: Path) -> None:
    scripts = GRAPH_SCRIPTS if framework == "langgraph" else SCRIPTS
    with hosting(framework, tmp_path, scripts, ENV) as host:
        assert host.ask("chat_helper", "block 0").text == "done"
        told = host.ask("chat_helper", "block 3600")
        assert told.end["code"] == "timeout"
        wait_until(lambda: is_degraded(host), "/health says it")
        # As many as ever may be executed at once, in threads.
        runs = [host.start("chat_helper", f"block 0.{number}") for number in range(2 * PLACES)]
        for run in runs:
            wait_until(lambda: host.record(run)["status"] == "completed", "it is done")  # noqa: B023
