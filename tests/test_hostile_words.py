"""What agents, endpoints and clients say: no order to a terminal, no line of a log, no code."""

from __future__ import annotations

import json
import logging
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plateau_sse.agents import AgentError
from plateau_sse.agents.registry import load_agents
from plateau_sse.agents.study import INPUT_BYTES
from plateau_sse.api.posted import CODE, Code
from plateau_sse.cli.screen import Screen
from plateau_sse.errors import SettingsError
from plateau_sse.owners import FOR_ALL_USERS
from plateau_sse.serve.logs import JsonFormatter, TextFormatter
from plateau_sse.settings import Settings
from tests.processes import plateau

HOSTILE = "\x1b]0;PWN\x07\x1b[2Jsafe\x9b31m\r\tline\nnext\x00"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("out", "is_terminal"), [(Terminal(), True), (StringIO(), False)])
def test_an_answer_gives_a_terminal_no_orders(out: StringIO, is_terminal: bool) -> None:
    screen = Screen(out, StringIO(), events=False, quiet=True)
    screen.show(json.dumps({"type": "message.delta", "text": HOSTILE}))
    screen.show(json.dumps({"type": "run.completed"}))
    if is_terminal:
        shown = "\\x1b]0;PWN\\x07\\x1b[2Jsafe\\x9b31m\\x0d\tline\nnext\\x00\n"
        assert out.getvalue() == shown
    else:
        # A file gets what was said.
        assert out.getvalue() == HOSTILE + "\n"


def record(message: str, *, raised: str = "") -> logging.LogRecord:
    info: Any = None
    if raised:
        try:
            raise ValueError(raised)
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("plateau", logging.ERROR, "x", 1, message, (), info)


FORGED = "2026-11-28 09:00:00 CRITICAL [1] forged"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\x0b", "\x0c"])
def test_nobody_writes_a_line_of_the_log(end: str) -> None:
    for said in (record(f"a{end}{FORGED}\x1b[31m"), record("a", raised=f"b{end}{FORGED}")):
        text = TextFormatter().format(said)
        assert "forged" in text and "\x1b" not in text
        for line in text.splitlines()[1:]:
            assert line.startswith("    "), text
        line = JsonFormatter().format(said)
        assert len(line.splitlines()) == 1 and "\x1b" not in line
        assert FORGED in line and json.loads(line)


def test_the_code_of_an_error_is_a_word() -> None:
    for code in ("bad code", "x\n", "X", "", "a" * 65, "bad\nX: 1", "ä"):
        assert AgentError(code, "why").code == "agent_error"
        assert not re.search(CODE, code)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(code, Code)
    for code in ("x", "upstream_error", "a" * 64, "a1_"):
        assert AgentError(code, "why").code == msgspec.convert(code, Code) == code


def test_a_shipped_agent_can_be_left_out() -> None:
    assert set(load_agents(Settings.from_env({"AGENTS": "-study"}))) == {"openai"}
    assert not load_agents(Settings.from_env({"AGENTS": "-study, -openai"}))
    with pytest.raises(SettingsError, match="no agent 'studdy'"):
        load_agents(Settings.from_env({"AGENTS": "-studdy"}))
    with pytest.raises(SettingsError, match="-name"):
        Settings.from_env({"AGENTS": "-"})


def test_which_agents_answer_all_users_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scoped.py").write_text(
        "async def mine(run):\n    yield 'x'\n"
        "async def ours(run):\n    yield 'x'\nours.cache_scope = 'owner'\n"
        "async def wrong(run):\n    yield 'x'\nwrong.cache_scope = 'all'\n"
        "from plateau_sse.agents import hosted\n"
        "kept = hosted(mine, cache=True, cache_scope='owner')\n"
        "own = hosted(mine, cache=True)\n"
    )
    names = ("mine", "ours", "kept", "own")
    yours = ",".join(f"{name}=scoped:{name}" for name in names)
    agents = load_agents(Settings.from_env({"AGENTS": yours}))
    shared = {name for name, it in agents.items() if it.version.endswith(FOR_ALL_USERS)}
    assert shared == {"study", "openai", "ours", "kept"}
    with pytest.raises(SettingsError, match="cache_scope"):
        load_agents(Settings.from_env({"AGENTS": "wrong=scoped:wrong"}))


def test_study_says_how_much_it_reads(tmp_path: Path) -> None:
    (tmp_path / "fits").write_text(("A plateau is high and flat. " * 9000)[:INPUT_BYTES])
    (tmp_path / "long").write_text("ä" * (INPUT_BYTES // 2 + 1))
    ask = ("ask", "--local", "study", "--option", "pace_ms=0", "--quiet", "--file")
    fits = plateau(*ask, "fits", env={}, cwd=tmp_path)
    assert fits.returncode == 0 and fits.stdout, fits.stderr
    long = plateau(*ask, "long", env={}, cwd=tmp_path)
    assert long.returncode == 1 and "study reads 64 KiB" in long.stderr, long.stderr


def test_an_option_may_be_kept_from_callers(tmp_path: Path) -> None:
    env = {
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_MODEL": "small-1",
        "OPENAI_OPTIONS_DENY": "service_tier, max_tokens",
    }
    ask = ("ask", "--local", "openai", "--quiet", "Why?", "--option")
    denied = plateau(*ask, "service_tier=priority", env=env, cwd=tmp_path)
    assert denied.returncode == 1 and "service_tier is not open" in denied.stderr
    open_one = plateau(*ask, "temperature=1", env=env, cwd=tmp_path)
    assert "could not be reached" in open_one.stderr, open_one.stderr


def test_what_is_not_utf_8_is_asked_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"Ein Plateau ist h\xf6her als die Ebene.")
    for arguments in (
        ["--file", "latin"],
        [b"A plateau is h\xf6h.".decode("utf-8", "surrogateescape")],
    ):
        done = plateau("ask", "--local", "study", "--quiet", *arguments, env={}, cwd=tmp_path)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"ADMIN_TOKEN": "1"}, "at least 8 characters"),
        ({"ADMIN_TOKEN": "sesam-öffne-dich"}, "ASCII"),
        (
            {"ADMIN_TOKEN": "the-same-key", "API_KEYS": "the-same-key"},
            "none of API_KEYS|not be",
        ),
        ({"ALLOWED_HOSTS": "https://ai.example"}, "ai.example"),
        ({"ALLOWED_HOSTS": "ai.example:8000"}, "without scheme or port"),
        ({"OPENAI_BASE_URL": "http://h:99999/v1"}, "OPENAI_BASE_URL"),
        ({"RATE_LIMIT": "-1"}, "RATE_LIMIT"),
    ],
)
def test_settings_that_cannot_be_meant(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings.from_env(env)
