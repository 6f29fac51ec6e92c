"""`plateau ask --via`: what the clients of each dialect are told, from the terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from plateau_sse.cli.dialects import SPOKEN, Event, Question
from plateau_sse.content import APART, untold
from plateau_sse.dialects.agui import AGUI
from plateau_sse.dialects.chat_completions import chunks
from plateau_sse.dialects.ui_messages import PLAIN as UI
from plateau_sse.live.dialect import Dialect
from plateau_sse.store.runs.tape import Tape
from tests.dialects.agents import TEXT, THOUGHT, WORDS
from tests.dialects.machines import TAPES, OfARun, blocks, signed, told
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.processes import environment, plateau, wait_until

EACH = pytest.mark.parametrize("via", sorted(SPOKEN))
TOLD: dict[str, Dialect] = {
    "chat": chunks("m", usage=True),
    "ui": UI,
    "responses": OfARun(),
    "agui": AGUI,
}
# The last frame of a whole answer.
LAST = {
    "chat": "[DONE]",
    "ui": "[DONE]",
    "responses": '"response.completed"',
    "agui": '"RUN_FINISHED"',
}
ENDS = {"stop", "length", "content_filter", "tool_calls"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("via")) as found:
        yield found


def arguments(stage: Stage, via: str, agent: str, *more: str, **options: Any) -> list[str]:
    found = ["ask", "--url", stage.url, "--key", KEY["Authorization"].split()[1]]
    found += ["--via", via, "--agent", agent, *more]
    for name, value in options.items():
        found += ["--option", f"{name}={json.dumps(value)}"]
    return found


def asked(
    stage: Stage, via: str, agent: str, *more: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    return plateau(
        *arguments(stage, via, agent, *more, **options), env={}, cwd=stage.folder, timeout_s=60
    )


def heard(via: str, frames: Sequence[str]) -> list[Event]:
    ear = SPOKEN[via].ear()
    return [event for frame in frames for event in ear(frame)]


def text_of(events: Sequence[Event], kind: str) -> str:
    return "".join(event["text"] for event in events if event["type"] == kind)


def test_each_dialect_has_a_row() -> None:
    assert set(SPOKEN) == set(TOLD)


@EACH
@given(tape=TAPES)
def test_what_is_heard_of_any_tape_is_what_it_says(via: str, tape: Tape) -> None:
    entries = tape.entries()
    dialect = TOLD[via]
    content = told(dialect, dialect.start, entries, tape).content
    events = heard(via, blocks(signed(content)))
    ours = [json.loads(entry.data) for entry in entries]
    assert text_of(events, "reasoning.delta") == text_of(ours, "reasoning.delta")
    said, rest = text_of(ours, "message.delta"), untold(tape.shown(), ours[-1].get("output"))
    apart = APART if said and rest and via == "chat" else ""
    assert text_of(events, "message.delta") == f"{said}{apart}{rest}"
    assert events[-1]["type"] == ours[-1]["type"] or ours[-1]["type"] == "run.cancelled"
    assert sum(event["type"].startswith("run.") for event in events) == 1
    if ours[-1].get("finish_reason") in ENDS and via in ("ui", "agui"):
        assert events[-1]["finish_reason"] == ours[-1]["finish_reason"]


@EACH
@given(tape=TAPES)
def test_what_is_cut_off_has_no_end(via: str, tape: Tape) -> None:
    dialect = TOLD[via]
    content = told(dialect, dialect.start, tape.entries()[:-1], tape).content
    if content:
        events = heard(via, blocks(signed(content)))
        assert not [it for it in events if it["type"].startswith("run.")]


@EACH
def test_the_answer_is_on_standard_output_alone(stage: Stage, via: str) -> None:
    text = anew()
    done = asked(stage, via, "told", text)
    assert (done.returncode, done.stdout) == (0, TEXT + "\n"), done.stderr
    assert THOUGHT.partition(" ")[0] in done.stderr
    again = asked(stage, via, "told", "--quiet", text)
    assert (again.returncode, again.stdout, again.stderr) == (0, TEXT + "\n", "")


@EACH
def test_json_prints_the_frames_as_they_came(stage: Stage, via: str) -> None:
    done = asked(stage, via, "told", "--json", anew())
    frames = done.stdout.splitlines()
    assert done.returncode == 0 and LAST[via] in frames[-1]
    assert text_of(heard(via, frames), "message.delta") == TEXT


@EACH
def test_options_and_the_cache_are_the_agents_and_the_servers(stage: Stage, via: str) -> None:
    text = anew()
    done = asked(stage, via, "options", text, made_up={"x": [1]})
    assert "('made_up', {'x': [1]})" in done.stdout and text in done.stdout
    with stage.gate() as gate:
        gate.touch()
        first = asked(stage, via, "options", text, at=str(gate))
        anew_ = asked(stage, via, "options", "--refresh", text, at=str(gate))
    assert first.stdout == anew_.stdout and anew_.returncode == 0


@EACH
def test_a_failure_and_a_refusal_end_with_1(stage: Stage, via: str) -> None:
    done = asked(stage, via, "fails", anew(), before=True)
    assert (done.returncode, done.stdout) == (1, "Half an \n")
    assert "failed: It broke." in done.stderr
    done = asked(stage, via, "nobody", anew())
    assert (done.returncode, done.stdout) == (1, "") and "nobody" in done.stderr


@EACH
def test_what_is_remembered_stands_before_it(stage: Stage, via: str) -> None:
    chat, first, second = anew(), anew(), anew()
    for text in (first, second):
        done = asked(stage, via, "options", "--conversation", chat, text)
        if not SPOKEN[via].remembers:
            assert done.returncode == 2 and "--conversation" in done.stderr
            return
        assert done.returncode == 0, done.stderr
    assert first in done.stdout and second in done.stdout


def test_a_server_that_is_not_there_is_3(stage: Stage, tmp_path: Path) -> None:
    words = ["ask", "--via", "chat", "--url", "http://127.0.0.1:1", "Hi"]
    done = plateau(*words, env={}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr


def test_a_question_knows_no_dialect() -> None:
    question = Question("told", "Hi", {"x": 1}, "c1")
    for spoken in SPOKEN.values():
        asked = json.dumps(spoken.body(question)) + spoken.path_to(question.agent)
        assert '"Hi"' in asked and "told" in asked and '"x": 1' in asked


@EACH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_answer_that_is_cut_off_is_asked_for_again_and_printed_once(
    tmp_path: Path, via: str, number: signal.Signals
) -> None:
    with staged(tmp_path) as stage, stage.gate() as gate:
        command = [sys.executable, "-m", "plateau_sse"]
        asking = subprocess.Popen(
            [*command, *arguments(stage, via, "told", "Hi", gate=str(gate))],
            env=environment({}),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert asking.stdout is not None
            begun = asking.stdout.read(len(WORDS[0]))
            before = stage.plateau.pids("gunicorn: worker")
            for worker in before:
                os.kill(worker, number)
            wait_until(
                lambda: not set(before) & set(stage.plateau.pids("gunicorn: worker")),
                "both have gone",
            )
            gate.touch()
            rest, said = asking.communicate(timeout=60)
        finally:
            asking.kill()
            asking.wait()
    assert (asking.returncode, begun + rest) == (0, TEXT + "\n"), said
    assert "asking again" in said
