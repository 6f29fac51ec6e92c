"""Plots of what was measured, from the files that the benchmarks keep.

Invariant: a plot shows what a file says and nothing else: its title is the finding, each line
and bar is labelled where it stands, and the colours are told apart by colour-blind readers,
too (Okabe and Ito, https://jfly.uni-koeln.de/color/). matplotlib is imported when one is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sampling import Sample
from benchmarks.trend import Trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, GREY, FAINT = "#222222", "#666666", "#B8B8B8"
WIDTH_IN = 8.0
# Points on a line: more are not to be seen, and make a file large.
POINTS = 180
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    # The same content makes the same file.
    "svg.hashsalt": "plateau",
}


def soak(samples: Sequence[Sample], trend: Trend, warm_s: float, path: Path) -> None:
    """Memory over time with the fitted line, and below it the readers that were open."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = _figure(4.6)
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        shown = samples[:: max(1, len(samples) // POINTS)]
        minutes = [one.at_s / 60 for one in shown]
        labels = []
        for name, what, colour in (
            ("workers, runner, master", "all_but_redis", INK),
            ("two workers", "workers", BLUE),
            ("runner", "runner", GREEN),
            ("Redis: cache", "cache", ORANGE),
            ("Redis: streams", "streams", PURPLE),
        ):
            line = [getattr(one, what) for one in shown]
            above.plot(minutes, line, color=colour, linewidth=1.3)
            labels.append((line[-1], f"{name} {line[-1]:.0f}", colour))
        ends = [warm_s / 60, minutes[-1]]
        above.plot(ends, [trend.at(end) for end in ends], "--", color=VERMILION, linewidth=1.5)
        _label_ends(above, labels)
        above.set_ylim(0, max(one.all_but_redis for one in samples) * 1.12)
        above.set_xlim(0, minutes[-1])
        above.set_ylabel("MiB")
        above.axvspan(0, warm_s / 60, color="#F2F2F2", zorder=0)
        above.text(0.01, 0.95, "warm-up", transform=above.transAxes, color=GREY, va="top")
        sure = f"{trend.slope * 60:+.1f} ± {trend.margin * 60:.1f} MiB an hour"
        _title(
            figure,
            f"{samples[-1].visits:,} readers come and go: over {trend.span:.0f} minutes the "
            f"workers' memory changes by {trend.growth:+.1f} MiB",
            f"PSS; used_memory of Redis. Dashed: the line through the workers, {sure} (95 %).",
        )
        below.fill_between(minutes, [one.open for one in shown], color=BLUE, alpha=0.25, lw=0)
        below.plot(minutes, [one.open for one in shown], color=BLUE, linewidth=1)
        below.set_ylim(0)
        below.set_ylabel("open readers")
        below.set_xlabel("minutes")
        _save(figure, path)


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Beside the last points, moved apart where they would overlap."""
    lowest = float("-inf")
    step = axes.get_ylim()[1] * 0.07
    for value, text, colour in sorted(labels):
        lowest = max(value, lowest + step)
        axes.annotate(
            text,
            (1, lowest),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )


def _figure(height_in: float) -> Figure:
    # Not pyplot: it keeps figures, and asks for a screen.
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def _title(figure: Figure, finding: str, details: str) -> None:
    figure.suptitle(finding, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.axes[0].set_title(details, loc="left", fontsize=9, fontweight="normal", color=GREY)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    dated = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=110, metadata=dated)
