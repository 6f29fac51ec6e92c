"""A real Prometheus with our rules, over a service that is used: each panel of the dashboard
has something to show, and what is broken on purpose is alerted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_model import fake_model
from tests.integration.test_scraped import prometheus, queried
from tests.processes import REPOSITORY, Serving, serving, wait_until
from tests.scrapes import PROMETHEUS

FOLDER = REPOSITORY / "deploy" / "prometheus"
RULES = [FOLDER / "recording.yml", FOLDER / "alerts.yml"]
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "plateau.json"
# What a machine without a control group of its own does not have.
MAY_BE_EMPTY = {"What the host bills"}

SERVE = ("-m", "plateau_sse", "serve")
AGENTS = """
import asyncio


async def broken(run):
    raise ValueError("broken")
    yield ""


async def slow(run):
    await asyncio.sleep(11)
    yield "at last"
"""

pytestmark = [
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus (Debian's package) is not installed"
    ),
    pytest.mark.timeout(240),
]


@contextmanager
def watched(
    tmp_path: Path,
    every: str,
    *,
    env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = SERVE,
) -> Iterator[tuple[Serving, str]]:
    """A service, and the URL of the Prometheus that scrapes it so often."""
    (tmp_path / "alerting_agents.py").write_text(AGENTS)
    with fake_model() as model:
        settings = {
            "AGENTS": "broken=alerting_agents:broken,slow=alerting_agents:slow",
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_MODEL": "normal",
            **(env or {}),
        }
        with (
            serving(
                tmp_path / "data", arguments=arguments, env=settings, cwd=tmp_path
            ) as running,
            prometheus(
                tmp_path / "prometheus",
                f"127.0.0.1:{running.port}",
                rules=RULES,
                every=every,
            ) as url,
        ):
            yield running, url


def ask(running: Serving, agent: str, text: str) -> dict[str, Any]:
    body = {"agent": agent, "input": text}
    answer = httpx.post(
        f"{running.url}/v1/runs", json=body, headers={"Prefer": "wait=20"}, timeout=30
    )
    found: dict[str, Any] = answer.json()
    return found


def panels() -> dict[str, str]:
    """What each query of each panel asks, as Grafana would ask it."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            name = f"{panel['title']} / {target['legendFormat']}"
            if panel["title"] not in MAY_BE_EMPTY:
                found[name] = target["expr"].replace("$__rate_interval", "30s")
    return found


def test_each_panel_has_something_to_show(tmp_path: Path) -> None:
    with watched(tmp_path, "1s") as (running, url):
        # First something of all there is, so that it is seen to grow.
        for number in range(2):
            ask(running, "openai", "Why?")
            ask(running, "study", f"Water {number} is wet. It flows.")
            ask(running, "broken", f"{number}")
            ask(running, "nobody", "x")
        wait_until(lambda: queried(url, "plateau_agent_runs_total"), "the first scrape")
        empty = set(panels())

        def all_shown() -> bool:
            number = os.urandom(4).hex()
            ask(running, "openai", number)
            ask(running, "openai", "Why?")
            ask(running, "broken", number)
            ask(running, "nobody", "x")
            for name in tuple(empty):
                if queried(url, panels()[name]):
                    empty.discard(name)
            return not empty

        try:
            wait_until(all_shown, "each panel has data", timeout_s=60)
        except AssertionError as error:
            error.add_note(f"nothing to show: {sorted(empty)}")
            raise


def alerts(url: str, state: str = "pending|firing") -> set[str]:
    """Those whose fault is there, also where they wait for it to last."""
    found = queried(url, f'ALERTS{{alertstate=~"{state}"}}')
    return {it["metric"]["alertname"] for it in found}


def kill_a_worker(running: Serving) -> None:
    victim = running.pids("gunicorn: worker")[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in running.pids("gunicorn: worker"), "it is gone")
    wait_until(running.is_ready, "another serves")


def test_what_is_broken_on_purpose_is_alerted(tmp_path: Path) -> None:
    """A server that is frozen looks for 2 s before it says so, so it is scraped less often."""
    with watched(tmp_path, "3s") as (running, url):

        def appears(*names: str) -> None:
            wait_until(lambda: set(names) <= alerts(url), f"{names}", timeout_s=60)

        ask(running, "study", "Water is wet. It flows.")
        # Each group of rules is evaluated at a time of its own: when one of them has its first
        # figures, the other may still say what it found before the first scrape, which is that
        # nobody answers.
        wait_until(
            lambda: queried(url, "plateau:memory_bytes"),
            "the rules are evaluated",
            timeout_s=60,
        )
        wait_until(lambda: not alerts(url), "nothing is wrong", timeout_s=60)

        for number in range(25):
            ask(running, "broken", f"{number}")
        appears("PlateauRunsFail")
        cache, streams = (running.pids(f"[plateau {role}]") for role in ("cache", "streams"))
        os.kill(cache[0], signal.SIGSTOP)
        try:
            appears("PlateauCacheDown")
        finally:
            os.kill(cache[0], signal.SIGCONT)
        wait_until(lambda: "PlateauCacheDown" not in alerts(url), "it is over", timeout_s=60)
        for _ in range(4):
            kill_a_worker(running)
        appears("PlateauProcessesDie")
        # On a busy machine others may wait: a scrape that met the worker that was killed, or
        # took too long. Nobody is called for that.
        assert alerts(url, "firing") == {"PlateauProcessesDie"}
        os.kill(streams[0], signal.SIGSTOP)
        try:
            appears("PlateauStreamsDown")
        finally:
            os.kill(streams[0], signal.SIGCONT)
        wait_until(running.is_ready, "it serves again", timeout_s=60)
