"""The text format of Prometheus, read strictly: what it does not know it does not pass over.

scrape = parsed(httpx.get(url + "/metrics").text)
scrape.total("plateau_cache_hits_total")
scrape.total("plateau_runs_failed_total", code="timeout")
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import NamedTuple

_SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? ([-+.0-9eE]+)$")
_LABEL = re.compile(r'([a-z]+)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
_WRITTEN = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

PROMTOOL = shutil.which("promtool")
PROMETHEUS = shutil.which("prometheus")


class Series(NamedTuple):
    name: str
    labels: frozenset[tuple[str, str]]

    def label(self, name: str) -> str:
        return dict(self.labels).get(name, "")


class Scrape(NamedTuple):
    """`kinds` is by the name of the metric, which a histogram's series only begin with."""

    values: dict[Series, float]
    kinds: dict[str, str]

    def total(self, name: str, **labels: str) -> float:
        """Of all series of that name that have these labels; there must be one."""
        wanted = set(labels.items())
        found = [
            value
            for series, value in self.values.items()
            if series.name == name and wanted <= series.labels
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)

    def growing(self) -> dict[Series, float]:
        """What must never fall: counters, and all series of a histogram."""
        return {
            series: value
            for series, value in self.values.items()
            if self.kinds[metric_of(series.name, self.kinds)] != "gauge"
        }


def metric_of(name: str, kinds: dict[str, str]) -> str:
    if name in kinds:
        return name
    bare = re.sub("_(bucket|count|sum)$", "", name)
    assert kinds.get(bare) == "histogram", name
    return bare


def parsed(text: str) -> Scrape:
    """AssertionError for anything that is not in order: no help, a type too late, a series that
    comes twice."""
    assert text.endswith("\n")
    scrape, helped = Scrape({}, {}), set()
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            assert rest
            if word == "HELP":
                assert name not in helped
                helped.add(name)
            else:
                assert word == "TYPE" and name in helped and name not in scrape.kinds, line
                assert rest in ("counter", "gauge", "histogram")
                scrape.kinds[name] = rest
            continue
        match = _SAMPLE.match(line)
        assert match, line
        series = Series(match[1], _labels(match[2] or ""))
        metric_of(series.name, scrape.kinds)
        assert series not in scrape.values, line
        scrape.values[series] = float(match[3])
    return scrape


def _labels(text: str) -> frozenset[tuple[str, str]]:
    found, at = [], 0
    while at < len(text):
        match = _LABEL.match(text, at)
        assert match, text
        written = re.sub(r'\\[\\"n]', lambda it: _WRITTEN[it[0]], match[2])
        found.append((match[1], written))
        at = match.end()
    assert len({name for name, _ in found}) == len(found), text
    return frozenset(found)


def check_with_promtool(text: str) -> None:
    """Whatever its linter has to say fails the test."""
    assert PROMTOOL is not None
    shown = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, text=True, capture_output=True, timeout=30
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")
