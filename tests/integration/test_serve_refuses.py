"""`plateau serve` where it cannot run: one line, an exit code, nothing left behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.processes import BANNER_END, free_ports, launch, plateau, serving, wait_until


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = plateau(
            "serve", env={"PORT": port, "DATA_DIR": str(tmp_path / "d")}, cwd=tmp_path
        )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"PORT={port} is taken" in ended.stderr
    assert not (tmp_path / "d").exists()


def test_a_data_dir_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        env = {"PORT": str(free_ports()), "DATA_DIR": str(tmp_path)}
        ended = plateau("serve", env=env, cwd=tmp_path)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
        assert f"pid {running.pid}" in ended.stderr
        assert running.is_ready()


@pytest.mark.parametrize(
    ("command", "env"),
    [
        ("serve", {"PORT": "many"}),
        ("serve", {"WEB_CONCURRENCY": "many"}),
        ("serve", {"HOST": "0.0.0.0"}),
        ("serve", {"REDIS_SERVER_BIN": "no-such-server"}),
        ("web", {}),
        ("runner", {}),
    ],
)
def test_a_wrong_setting_is_said_in_one_line(
    tmp_path: Path, command: str, env: dict[str, str]
) -> None:
    given = {"PORT": str(free_ports()), "DATA_DIR": str(tmp_path / "d"), **env}
    ended = plateau(command, env=given, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert next(iter(env), "REDIS_URL") in ended.stderr


def test_a_locale_that_is_ascii_is_enough(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with serving(tmp_path, env=ascii_only) as running:
        assert running.is_ready()
    assert "Traceback" not in running.stderr + running.stdout
    told = plateau("serve", "--help", env=ascii_only, cwd=tmp_path)
    assert told.returncode == 0, told.stderr


def test_agents_that_are_not_there_end_it(tmp_path: Path) -> None:
    started = launch(tmp_path, env={"AGENTS": "notes=nowhere:notes"})
    try:
        started.tree()
        wait_until(lambda: started.process.poll() is not None, "it ends")
        assert started.process.returncode == 2
        assert "nowhere" in started.stderr
        assert "Traceback" not in started.stderr
        wait_until(lambda: not started.leftovers(), "every process ends")
    finally:
        started.kill()


BROKEN_APP = """
import plateau_sse.app

class Broken:
    def __init__(self, settings, board): pass
    async def __call__(self, scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no such luck"})

plateau_sse.app.create_app = Broken
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""


def test_a_worker_that_cannot_boot_ends_it(tmp_path: Path) -> None:
    started = launch(tmp_path, arguments=["-c", BROKEN_APP])
    try:
        started.tree()
        assert started.process.wait(30) == 1
        wait_until(lambda: not started.leftovers(), "every process ends")
        assert "no such luck" in started.stderr
        assert "A worker failed to boot." in started.stderr
        assert BANNER_END not in started.stdout
    finally:
        started.kill()
