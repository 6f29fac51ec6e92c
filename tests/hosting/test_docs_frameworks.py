"""The pages of both frameworks are true: their examples are run as they stand there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dialects.apart import programs_of
from tests.dialects.stage import KEY
from tests.hosting.endpoint import Asked, scripted_model
from tests.hosting.scripts import plain
from tests.hosting.wires import Call, Piece, Say
from tests.processes import REPOSITORY, environment, serving, wait_until

PAGES = {"pydantic-ai": "agents-pydantic-ai.md", "openai-agents": "agents-openai-agents.md"}


def customer(asked: Asked) -> list[Piece]:
    """Looks at what was ordered, then wants to pay it back."""
    if not asked.outputs:
        return [Call("orders", {})]
    if len(asked.outputs) == 1:
        return [Call("refund", {"order": "the kettle"})]
    return [Say(" and ".join(asked.outputs))]


@pytest.mark.parametrize("framework", PAGES)
def test_the_example_answers_and_waits_for_a_person(framework: str, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / PAGES[framework]).read_text()
    (app,) = re.findall(r"```python\n(# app\.py\n.*?)```", page, re.DOTALL)
    (agents,) = re.findall(r'AGENTS="(.*?)" plateau serve', page)
    (tmp_path / "app.py").write_text(app)
    with scripted_model(customer=customer, plain=plain) as model:
        env = {
            "AGENTS": agents,
            "API_KEYS": "the-key-of-ann",
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_API_KEY": "-",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
        }
        python = programs_of(framework) / "python"
        local = ["-m", "plateau_sse", "ask", "--local", agents.partition("=")[2], "plain"]
        done = subprocess.run(
            [python, *local],
            env=environment(env),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout.strip(), done.returncode) == ("Plain words.", 0), done.stderr
        with serving(
            tmp_path / "data", env=env, python=python, cwd=tmp_path, timeout_s=60
        ) as plateau:
            body: dict[str, Any] = {"agent": "support", "conversation_id": "c1"}

            def ask(**more: Any) -> dict[str, Any]:
                url = f"{plateau.url}/v1/runs"
                found = httpx.post(url, json=body | more, headers=KEY)
                assert found.status_code == 202, found.text
                at = f"{url}/{found.json()['id']}"

                def record() -> Any:
                    return httpx.get(at, headers=KEY).json()

                wait_until(lambda: record()["status"] not in ("queued", "running"), "it ends")
                ended: dict[str, Any] = record()
                return ended

            def agents() -> Any:
                return httpx.get(f"{plateau.url}/v1/agents", headers=KEY).json()["agents"]

            wait_until(agents, "the runner has its agents", timeout_s=60)
            first = ask(input="customer", options={"customer": "Ann"})
            assert first["finish_reason"] == "input_required", first
            (request,) = [it for it in first["parts"] if it["type"] == "input.request"]
            resume = {"id": request["id"], "status": "resolved", "payload": {"approved": True}}
            second = ask(resume=[resume])
            assert second["output"] in (
                '["a kettle for Ann"] and paid back: the kettle',
                "['a kettle for Ann'] and paid back: the kettle",
            )
