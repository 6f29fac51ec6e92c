"""The load against a real service: from start to report, and from several generators.

Invariant: locust runs in a process of its own, since it changes the one that imports it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from plateau_sse.cli.dialects import SPOKEN
from tests.far import skip_unless_asked
from tests.integration.test_load_broken import failures, missed
from tests.processes import REPOSITORY, environment, free_ports, scripts_load, serving

FIGURES = ("idle", "ten users", "under load", "when all have gone", "whole answers")
LOAD = {"AGENTS": "load=locustfiles.agent:load", "ADMIN_TOKEN": "sesame-open"}


def test_smoke_passes_and_is_reported(tmp_path: Path) -> None:
    """50 questions of 10 users, all answered whole: what `scripts/load` does."""
    code, said = scripts_load("smoke", "--results", str(tmp_path))
    verdict = msgspec.json.decode((tmp_path / "verdict.json").read_bytes())
    late = {what for what in missed(verdict) if what.endswith(" within")}
    assert code == (75 if late and verdict["busy_elsewhere"] else 0), said
    assert (missed(verdict) - late, failures(verdict)) == (set(), {})
    page = (tmp_path / "report.html").read_text()
    assert all(f"<td>{figure}</td>" in page for figure in FIGURES)
    assert "<td>50 of 50</td>" in page and "not measured" not in page
    assert "<svg" in page and (tmp_path / "plot.svg").stat().st_size > 10_000
    for name in ("samples", "timeline", "lone", "locust_stats", "locust_stats_history"):
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) > 2, name


@pytest.mark.parametrize("dialect", sorted(SPOKEN))
def test_smoke_passes_in_each_dialect(tmp_path: Path, dialect: str) -> None:
    """Asked, broken off and asked again in it, and compared with the record."""
    skip_unless_asked("a load in each dialect")
    code, said = scripts_load("smoke", "--results", str(tmp_path), "--dialect", dialect)
    verdict = msgspec.json.decode((tmp_path / "verdict.json").read_bytes())
    late = {what for what in missed(verdict) if what.endswith(" within")}
    assert code == (75 if late and verdict["busy_elsewhere"] else 0), said
    assert (missed(verdict) - late, failures(verdict)) == (set(), {}), said
    counts = {row["name"]: row["count"] for row in verdict["rows"] + verdict["requests"]}
    asked = counts[f"POST {SPOKEN[dialect].path}"]
    assert counts["SSE whole answer"] == 50 and counts["SSE resume"] and asked > 50


def test_every_kind_of_user_passes_elsewhere_too(tmp_path: Path) -> None:
    """A `--host`: memory comes from its metrics. Two generators, and a load of their own."""
    skip_unless_asked("a load of a minute")
    with serving(tmp_path / "data", env=LOAD, cwd=REPOSITORY) as plateau:
        more = ("--users", "40", "--run-time", "36s", "--processes", "2")
        results = tmp_path / "results"
        code, said = scripts_load(
            "ramp", "--host", plateau.url, "--results", str(results), *more, **LOAD
        )
    verdict = msgspec.json.decode((results / "verdict.json").read_bytes())
    # How quick it is says nothing here, where other tests want the same cores.
    slow = {what for what in missed(verdict) if what.endswith(" within")}
    assert (missed(verdict) - slow, failures(verdict)) == (set(), {}), said
    assert code == (0 if not slow else 75 if verdict["busy_elsewhere"] else 1), said
    counts = {row["name"]: row["count"] for row in verdict["rows"] + verdict["requests"]}
    assert counts["SSE whole answer, among many"] and counts["SSE first token, cached"]
    assert counts["SSE turn of a conversation"] and counts["GET /v1/conversations/[id]"]
    assert "not measured" not in (results / "report.html").read_text()


@pytest.mark.timeout(180)
def test_several_generators_make_one_verdict(tmp_path: Path) -> None:
    """As on several machines: a master, and workers that know nothing but where it is."""
    skip_unless_asked("a load of several processes")
    port = free_ports(1)
    locust = [sys.executable, "-m", "locust", "-f", "locustfiles/smoke.py", "--headless"]
    with serving(tmp_path / "data", env=LOAD, cwd=REPOSITORY) as plateau:
        workers = [
            subprocess.Popen(
                [*locust, "--worker", "--master-host", "127.0.0.1", "--master-port", str(port)],
                cwd=REPOSITORY,
                env=environment({}),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(3)
        ]
        try:
            master = ["--master", "--master-bind-port", str(port), "--expect-workers", "3"]
            ended = subprocess.run(
                [*locust, *master, "--host", plateau.url, "--results", str(tmp_path)],
                cwd=REPOSITORY,
                env=environment({}),
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert [worker.wait(20) for worker in workers] == [0, 0, 0]
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdict = msgspec.json.decode((tmp_path / "verdict.json").read_bytes())
    assert (missed(verdict), failures(verdict)) == (set(), {})
