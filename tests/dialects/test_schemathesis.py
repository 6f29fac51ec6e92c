"""schemathesis over `/openapi.json`: whatever is sent to a route, the answer is none of our
faults, and of a status and a form that the document has."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dialects.apart import programs_of
from tests.dialects.stage import KEY, Stage, staged
from tests.processes import environment

SEED, EXAMPLES = 20_260_101, 40
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
# What an answer takes that waits for its run, and no more; who watches reads no more events.
LONGEST_S, EVENTS = 20, 3
TOKEN = "the-operators-own-token"
DIALECTS, OPERATORS = ("--include-tag", "dialects"), ("--include-tag", "operators")
# A conversation's events go on for ever, and nothing of them is to be heard where nothing runs.
ENDLESS = ("--exclude-operation-id", "followConversation")
OTHERS = ("--exclude-tag", "dialects", "--exclude-tag", "operators", *ENDLESS)
# All routes, each asked by who may.
WHICH = {
    "dialects": (*DIALECTS, "--header", f"Authorization: {KEY['Authorization']}"),
    "operators": (*OPERATORS, "--header", f"Authorization: Bearer {TOKEN}"),
    "others": (*OTHERS, "--header", f"Authorization: {KEY['Authorization']}"),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("schemathesis")
    with staged(folder, QUEUE_LIMIT="100000", ADMIN_TOKEN=TOKEN) as found:
        yield found


def document(stage: Stage) -> dict[str, Any]:
    """With the schema of a stream as schemathesis reads it: that of one event and all its
    fields, where ours is that of its data."""
    found: dict[str, Any] = httpx.get(f"{stage.url}/openapi.json").json()
    for path in found["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values() if "responses" in operation else ():
                told = response.get("content", {}).get("text/event-stream")
                if told and told["schema"] != {"type": "string"}:
                    data = {"contentMediaType": "application/json"}
                    fields = {"data": data | {"contentSchema": told["schema"]}}
                    told["schema"] = {"type": "object", "properties": fields}
                elif told:
                    told["schema"] = {"type": "object"}
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("which", WHICH.values(), ids=list(WHICH))
def test_nothing_is_our_fault_and_all_is_as_documented(
    stage: Stage, which: tuple[str, ...], tmp_path: Path
) -> None:
    described, settings = tmp_path / "openapi.json", tmp_path / "schemathesis.toml"
    described.write_text(json.dumps(document(stage)))
    settings.write_text(f"max-stream-events = {EVENTS}\n")
    done = subprocess.run(
        [
            programs_of("schemathesis") / "schemathesis",
            *("--config-file", str(settings)),
            *("run", str(described), "--url", stage.url, *which),
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
            *("--seed", str(SEED), "--max-examples", str(EXAMPLES)),
            *("--request-timeout", str(LONGEST_S), "--continue-on-failure", "--no-color"),
            *("--warnings", "off", "--suppress-health-check", "all"),
            *("--generation-database", "none"),
        ],
        env=environment({"PYTHONPATH": ""}),
        # It leaves a folder where it runs.
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "Traceback" not in stage.plateau.stderr, stage.plateau.stderr[-4000:]
