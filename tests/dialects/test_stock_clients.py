"""What else people point at an OpenAI-compatible server, unchanged, at a service of two
workers: each is a program as its users write it, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from tests.clients.packages import NODE, install
from tests.dialects.agents import TEXT, THOUGHT
from tests.dialects.apart import programs_of
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.processes import environment, wait_until
from tests.scrapes import parsed

HERE = Path(__file__).parent
IN_NODE = HERE / "in_node"
TOKEN = "the-operators-own-token"
Mode = Literal["whole", "streamed", "tools"]


def in_node(program: str) -> list[str]:
    if cause := install(IN_NODE):
        pytest.skip(cause)
    return [str(NODE), str(IN_NODE / program)]


def in_python(name: str, program: str) -> list[str]:
    # -P: only what is in the environment is there to be imported.
    return [str(programs_of(name) / "python"), "-P", str(HERE / "in_python" / program)]


# A row each; whether thoughts are there to be seen is the client's to say.
CLIENTS: dict[str, tuple[Callable[[], list[str]], bool]] = {
    "openai for Node": (lambda: in_node("openai.mjs"), True),
    "@ai-sdk/openai-compatible": (lambda: in_node("openai-compatible.mjs"), True),
    "langchain-openai": (lambda: in_python("langchain", "with_langchain.py"), False),
    "pydantic-ai": (lambda: in_python("pydantic-ai", "with_pydantic_ai.py"), True),
}
EACH = pytest.mark.parametrize("name", CLIENTS)
BOTH = pytest.mark.parametrize("mode", ["whole", "streamed"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("stock"), ADMIN_TOKEN=TOKEN) as found:
        yield found


@dataclass
class Told:
    text: str
    calls: list[list[Any]]
    finish: str | None
    usage: int | None
    error: str
    thoughts: str = ""


class Asking:
    """A client at its question; `told` waits for what it has in the end."""

    def __init__(
        self, stage: Stage, name: str, mode: Mode, model: str, text: str, **body: Any
    ) -> None:
        asked = {
            "url": stage.url,
            "key": KEY["Authorization"].split()[1],
            "model": model,
            "mode": mode,
            "text": text,
            "body": body,
        }
        self._process = subprocess.Popen(
            [*CLIENTS[name][0](), json.dumps(asked)],
            # Ours are not to be imported in theirs.
            env=environment({"PYTHONPATH": "", "LANGSMITH_TRACING": "false"}),
            cwd=stage.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self) -> Told:
        try:
            out, err = self._process.communicate(timeout=60)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        assert self._process.returncode == 0, err
        return Told(**json.loads(out))


def ask(stage: Stage, name: str, mode: Mode, model: str, text: str, **body: Any) -> Told:
    return Asking(stage, name, mode, model, text, **body).told()


def natively(stage: Stage, agent: str, text: str, **options: Any) -> dict[str, Any]:
    """The same question, asked of our own surface."""
    body = {"agent": agent, "input": text, "options": options}
    found: dict[str, Any] = httpx.post(f"{stage.url}/v1/runs", json=body, headers=KEY).json()
    return found


def check_told(told: Told, name: str) -> None:
    assert (told.error, told.text) == ("", TEXT)
    assert (told.finish, told.usage) == ("stop", 3)
    if CLIENTS[name][1]:
        assert told.thoughts == THOUGHT
    # Its agent has executed its tools itself.
    assert told.calls == []


@EACH
@BOTH
def test_an_answer_is_what_the_record_says_and_a_hit_the_same(
    stage: Stage, name: str, mode: Mode
) -> None:
    text = anew()
    check_told(ask(stage, name, mode, "told", text), name)
    check_told(ask(stage, name, mode, "told", text), name)


@EACH
def test_tools_go_round(stage: Stage, name: str) -> None:
    told = ask(stage, name, "tools", "calls", anew())
    assert told.error == ""
    assert told.calls == [["weather", {"city": "Oslo"}], ["weather", {"city": "Rome"}]]
    assert told.text == "Let me see. It is cold in Rome." and told.finish == "stop"


@EACH
@BOTH
def test_who_comes_late_has_the_whole(stage: Stage, name: str, mode: Mode) -> None:
    """Joined, behind more events than are kept one by one."""
    text = anew()
    with stage.gate() as gate:
        before = joined(stage)
        run = natively(stage, "takes_turns", text, gate=str(gate))
        with httpx.stream("GET", stage.url + run["events_url"], timeout=30) as events:
            next(line for line in events.iter_lines() if "word 89" in line)
        asking = Asking(stage, name, mode, "takes_turns", text, gate=str(gate))
        wait_until(lambda: joined(stage) > before, "it has joined", timeout_s=30)
    told = asking.told()
    record = stage.record(run["id"])
    assert (told.error, told.text) == ("", record["output"])
    if CLIENTS[name][1]:
        thoughts = [it["text"] for it in record["parts"] if it["type"] == "reasoning"]
        assert told.thoughts == "".join(thoughts)


@EACH
@BOTH
def test_a_failure_is_an_error_and_no_answer(stage: Stage, name: str, mode: Mode) -> None:
    told = ask(stage, name, mode, "fails", anew(), before=True)
    assert "It broke." in told.error and told.finish != "stop"


@EACH
@BOTH
def test_a_cancelled_answer_is_an_error(stage: Stage, name: str, mode: Mode) -> None:
    text = anew()
    with stage.gate() as gate:
        before = joined(stage)
        run = natively(stage, "told", text, gate=str(gate))
        asking = Asking(stage, name, mode, "told", text, gate=str(gate))
        wait_until(lambda: joined(stage) > before, "it has joined", timeout_s=30)
        httpx.post(f"{stage.url}/v1/runs/{run['id']}/cancel", headers=KEY).raise_for_status()
        told = asking.told()
    assert told.error and told.finish != "stop"


@EACH
@BOTH
def test_a_model_that_is_not_there_is_told_to_be(stage: Stage, name: str, mode: Mode) -> None:
    told = ask(stage, name, mode, "nobody", anew())
    assert "nobody" in told.error and told.text == ""


def test_responses_of_openai_for_node_are_gone_on_with_behind_every_event(stage: Stage) -> None:
    asked = {
        "url": stage.url,
        "key": KEY["Authorization"].split()[1],
        **{"model": "told", "text": anew(), "body": {}},
    }
    done = subprocess.run(
        [*in_node("responses.mjs"), json.dumps(asked)],
        env=environment({}),
        cwd=stage.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    whole, numbers = told["whole"], told["numbers"]
    assert (whole["text"], whole["thoughts"], whole["status"]) == (TEXT, THOUGHT, "completed")
    assert (told["status"], told["output_text"]) == ("completed", TEXT)
    assert len(numbers) > 10 and numbers == sorted(set(numbers))
    assert told["rests"] == [[TEXT, THOUGHT]] * len(numbers)


def joined(stage: Stage) -> float:
    """How many have joined a run so far; it is told within seconds."""
    answer = httpx.get(f"{stage.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    return parsed(answer.text).total("plateau_runs_joined_total")
