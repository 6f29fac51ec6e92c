"""The plot of a load: memory, readers and latency over the same time.

Invariant: it shows what the files beside it say, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, STYLE, VERMILION

from locustfiles.beside.sampling import Sample

WIDTH_IN, HEIGHT_IN = 8.0, 6.2
LATENCIES = (
    ("first token p95", VERMILION),
    ("first token, cached p95", ORANGE),
    ("event lag p95", BLUE),
    ("event lag p50", PURPLE),
    ("resume p95", GREEN),
)
Lines = Sequence[dict[str, str]]


def draw(finding: str, samples: Sequence[Sample], timeline: Lines, path: Path) -> None:
    # Not pyplot: it keeps figures, and asks for a screen.
    import matplotlib
    from matplotlib.figure import Figure

    began = samples[0].at_s if samples else float(timeline[0]["at_s"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        memory, readers, latency = figure.subplots(3, sharex=True, height_ratios=[3, 2, 3])
        for name, what, colour in (
            ("all but Redis", "all_but_redis", INK),
            ("two workers", "workers", BLUE),
            ("runner", "runner", GREEN),
            ("Redis: streams and cache", "redis", GREY),
        ):
            _line(memory, _known(samples, what, began), name, colour)
        memory.set(ylabel="MiB (PSS)")
        users = [(float(one["at_s"]) - began, float(one["users"])) for one in timeline]
        _line(readers, users, "users", GREY)
        _line(readers, _known(samples, "readers", began), "open event streams", BLUE)
        for name, colour in LATENCIES:
            points = [
                (float(one["at_s"]) - began, max(0.5, float(one[name])))
                for one in timeline
                if one[name]
            ]
            _line(latency, points, name, colour)
        latency.set(ylabel="ms", xlabel="seconds", yscale="log")
        memory.set_ylim(0)
        readers.set_ylim(0)
        latency.set_ylim(0.5)
        for axes in (memory, readers, latency):
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
            axes.margins(x=0)
        figure.suptitle(finding, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.savefig(path, dpi=110, metadata={"Date": None})


def _known(samples: Sequence[Sample], what: str, began: float) -> list[tuple[float, float]]:
    return [
        (sample.at_s - began, value)
        for sample in samples
        if (value := getattr(sample, what)) is not None
    ]


def _line(axes: Any, points: Sequence[tuple[float, float]], name: str, colour: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, label=name)
