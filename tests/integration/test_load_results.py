"""The folder of results: what a load takes from it, and what is in it after Ctrl+C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from locustfiles.__main__ import WRITTEN, _empty, main

from tests.far import skip_unless_asked
from tests.load_server import load_server
from tests.processes import REPOSITORY, environment

THEIRS = ("budget.csv", "package.json", "logo.svg", "index.html", "app.log", "locust.txt")
OURS = ("locust_stats.csv", "locust.log", "verdict.json", "timeline.csv", "plot.svg")


def test_what_a_load_has_not_written_it_does_not_delete(tmp_path: Path) -> None:
    for name in (*THEIRS, *OURS):
        (tmp_path / name).write_text("kept")
    _empty(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(THEIRS)


@pytest.mark.parametrize("folder", ["results", "results/../results"])
def test_a_load_that_cannot_begin_deletes_nothing(
    tmp_path: Path, folder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "verdict.json").write_text("of another load")
    # A relative one is the caller's, wherever the checkout is.
    code = main(["smoke", "--from", str(tmp_path), "--results", folder, "--usrs", "5"])
    assert (code, [file.name for file in results.iterdir()]) == (2, ["verdict.json"])
    assert "--usrs" in capfd.readouterr().err


def test_a_load_ended_by_ctrl_c_is_reported(tmp_path: Path) -> None:
    skip_unless_asked("a load that is broken off")
    with load_server("") as server:
        arguments = ("--from", str(tmp_path), "--results", "here", "--users", "1")
        load = subprocess.Popen(
            [sys.executable, "-m", "locustfiles", "smoke", "--host", server.url, *arguments],
            cwd=REPOSITORY,
            env=environment({"LOCUST_HOST": ""}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        try:
            timeline = tmp_path / "here" / "timeline.csv"
            until = time.monotonic() + 40
            while not (timeline.exists() and len(timeline.read_text().splitlines()) > 2):
                assert load.poll() is None and time.monotonic() < until
                time.sleep(0.1)
            # All that the terminal has in front is told.
            os.killpg(load.pid, signal.SIGINT)
            said, _ = load.communicate(timeout=40)
        finally:
            if load.poll() is None:
                load.kill()
                load.communicate()
    assert load.returncode == 130, said
    assert "Traceback" not in said and "report.html" in said, said
    names = {file.name for file in (tmp_path / "here").iterdir()}
    assert {"verdict.json", "report.html", "plot.svg"} <= names
    known = {file.name for pattern in WRITTEN for file in (tmp_path / "here").glob(pattern)}
    assert names == known
