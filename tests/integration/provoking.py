"""What tests of alerts share that are provoked for real: a Prometheus with our rules, and what
the runbook tells to run.

    with alarmed(tmp_path, running.url) as alarm:
        alarm.fires("PlateauDeaf", "plateau_workers_deaf > 0")
        runbook("PlateauDeaf", running.url, env)
        alarm.rests("PlateauDeaf")

Invariant: of a rule nothing is changed but for how long its fault has to last, so what fires
here within seconds fires there after minutes.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.integration.test_alerting import RULES, alerts
from tests.integration.test_scraped import prometheus, queried
from tests.processes import REPOSITORY, environment, wait_until

log = logging.getLogger(__name__)

# Of a fault, and of a scrape.
LASTS, EVERY = "1s", "1s"
# On a busy machine; on a quiet one it takes a few seconds.
WITHIN_S = 60.0
RUNBOOK = REPOSITORY / "docs" / "runbook.md"


class Alarm:
    """`url` is that of the Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def firing(self) -> set[str]:
        return alerts(self.url, "firing")

    def value(self, query: str) -> float | None:
        """Of the one series that is found; None where none is."""
        found = queried(self.url, query)
        return float(found[0]["value"][1]) if found else None

    def shows(self, query: str) -> None:
        """Something is found."""
        self._wait(lambda: bool(queried(self.url, query)), f"{query} is seen")

    def fires(self, alert: str, shown: str) -> None:
        """Once the metric shows it: `shown` is a query that finds nothing before."""
        self.shows(shown)
        self._wait(lambda: alert in self.firing(), f"{alert} fires")

    def rests(self, *alerts: str) -> None:
        """None of them fires; all of them where none is named."""
        self._wait(
            lambda: not (self.firing() & set(alerts) if alerts else self.firing()),
            f"{alerts or 'nothing'} does not fire",
        )

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        began = time.monotonic()
        try:
            wait_until(condition, what, timeout_s=WITHIN_S)
            log.info("after %.1f s: %s", time.monotonic() - began, what)
        except AssertionError as error:
            error.add_note(f"it fires: {sorted(self.firing())}")
            raise


@contextmanager
def alarmed(tmp_path: Path, url: str) -> Iterator[Alarm]:
    """A Prometheus that scrapes the service at `url`, once nothing fires."""
    folder = tmp_path / "rules"
    folder.mkdir()
    rules = [_hurried(path, folder / path.name) for path in RULES]
    target = urlsplit(url).netloc
    with prometheus(tmp_path / "prometheus", target, rules=rules, every=EVERY) as found:
        alarm = Alarm(found)
        wait_until(lambda: alarm.value("plateau:memory_bytes"), "it is scraped", timeout_s=60)
        alarm.rests()
        yield alarm


def _hurried(path: Path, copy: Path) -> Path:
    copy.write_text(re.sub(r"(?m)^( +for:) \w+$", rf"\1 {LASTS}", path.read_text()))
    return copy


def runbook(alert: str, url: str, env: Mapping[str, str], log: Path | None = None) -> str:
    """What is said by the commands of the alert's section, which must do without an error. They
    are run as they stand there, but for the address of the service and the place of its log."""
    section = re.split(rf"(?m)^## {alert}$", RUNBOOK.read_text())[1].partition("\n## ")[0]
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", section)
    assert blocks, f"{alert} has no command"
    commands = "set -eu\n" + "".join(blocks)
    commands = commands.replace("localhost:8000", urlsplit(url).netloc)
    commands = commands.replace("journalctl -u plateau", f"cat {log}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    port = str(urlsplit(url).port)
    said = subprocess.run(
        ["bash", "-c", commands],
        env=environment({"PATH": path, "PORT": port, **env}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert said.returncode == 0, f"{commands}\n{said.stdout}{said.stderr}"
    return said.stdout
