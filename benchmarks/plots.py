"""Plots of what was measured, from the files that the benchmarks keep.

Invariant: a plot shows what a file says and nothing else: its title is the finding, each line
and bar is labelled where it stands, and the colours are told apart by colour-blind readers,
too (Okabe and Ito, https://jfly.uni-koeln.de/color/). matplotlib is imported when one is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
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
    with _drawn(4.6, path) as figure:
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        shown = samples[:: -(-len(samples) // POINTS)]
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
        above.set(xlim=(0, minutes[-1]), ylabel="MiB")
        above.set_ylim(0, max(one.all_but_redis for one in samples) * 1.12)
        _label_ends(above, labels)
        above.axvspan(0, warm_s / 60, color="#F2F2F2", zorder=0)
        above.text(0.01, 0.95, "warm-up", transform=above.transAxes, color=GREY, va="top")
        slope, growth = _signed(trend.slope * 60), _signed(trend.growth)
        sure = f"{slope} ± {trend.margin * 60:.1f} MiB an hour"
        _title(
            figure,
            f"{samples[-1].visits:,} readers come and go: over {trend.span:.0f} minutes the "
            f"workers' memory changes by {growth} MiB",
            f"PSS; used_memory of Redis. Dashed: the line through the workers, {sure} (95 %).",
        )
        below.fill_between(minutes, [one.open for one in shown], color=BLUE, alpha=0.25, lw=0)
        below.plot(minutes, [one.open for one in shown], color=BLUE, linewidth=1)
        below.set(xlabel="minutes", ylabel="open readers")
        below.set_ylim(0)


def shares(found: Mapping[str, float], name: str, path: Path) -> None:
    """What was measured as a share of its bound, which is 1."""
    if not found:
        return
    with _drawn(0.9 + 0.4 * len(found), path) as figure:
        axes = _bars_axes(figure.subplots(), list(found))
        values = [100 * share for share in found.values()]
        colours = [VERMILION if value > 100 else BLUE for value in values]
        axes.barh(range(len(values)), values, color=colours, height=0.6)
        for row, value in enumerate(values):
            _beside(axes, value, row, f"{value:.0f} %" if value >= 1 else f"{value:.1g} %")
        _bound_line(axes, 100, "bound")
        axes.set(xlim=(0, max(110, *values) * 1.1), xlabel="% of the bound")
        kept = sum(value <= 100 for value in values)
        _title(figure, f"{name}: {kept} of {len(values)} bounds kept", "")


def memory(rows: Sequence[tuple[str, float, float | None]], finding: str, path: Path) -> None:
    """Bars of MiB, each with its bound as a mark."""
    with _drawn(1.1 + 0.42 * len(rows), path) as figure:
        axes = _bars_axes(figure.subplots(), [name for name, _, _ in rows])
        for row, (_, value, bound) in enumerate(rows):
            over = bound is not None and value > bound
            axes.barh(row, value, color=VERMILION if over else BLUE, height=0.6)
            text = f"{value:.1f}" if value < 10 else f"{value:.0f}"
            if bound is not None:
                axes.plot([bound, bound], [row - 0.38, row + 0.38], color=INK, linewidth=2)
                text += f" of {bound:g}"
            _beside(axes, max(value, bound or 0), row, text)
        axes.set(xlabel="MiB (PSS)")
        axes.set_xlim(0, max(max(value, bound or 0) for _, value, bound in rows) * 1.15)
        _title(figure, finding, "Bars are measured, marks are bounds.")


def _signed(value: float) -> str:
    """A nought has no sign."""
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def compared(
    panels: Sequence[tuple[str, Mapping[str, float]]], finding: str, details: str, path: Path
) -> None:
    """Panels of bars, each with a scale of its own; the first bar of each is ours."""
    rows = sum(len(bars) for _, bars in panels)
    with _drawn(1.0 + 0.3 * rows + 0.45 * len(panels), path) as figure:
        heights = [len(bars) for _, bars in panels]
        grid = figure.subplots(len(panels), squeeze=False, height_ratios=heights)
        for axes, (title, bars) in zip(grid[:, 0], panels, strict=True):
            _bars_axes(axes, list(bars))
            colours = [BLUE] + [FAINT] * (len(bars) - 1)
            axes.barh(range(len(bars)), list(bars.values()), color=colours, height=0.65)
            for row, value in enumerate(bars.values()):
                _beside(axes, value, row, f"{value:,.0f}" if value >= 100 else f"{value:.1f}")
            axes.set_xlim(0, max(bars.values()) * 1.15)
            axes.xaxis.set_visible(False)
            axes.spines["bottom"].set_visible(False)
            axes.set_title(title, loc="left", fontsize=9, color=GREY)
        figure.suptitle(finding, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.supxlabel(details, x=0.01, ha="left", fontsize=9, color=GREY)


def arrivals(
    finding: str, found: Mapping[str, Sequence[float]], bound_s: float | None, path: Path
) -> None:
    """Of each group the share that has arrived so many seconds after the kill."""
    with _drawn(3.2, path) as figure:
        axes = figure.subplots()
        for (name, times), colour in zip(found.items(), (BLUE, ORANGE, GREEN), strict=False):
            passed = [0.0, *sorted(times)]
            arrived = [100 * n / max(1, len(times)) for n in range(len(passed))]
            axes.step(passed, arrived, where="post", color=colour, linewidth=1.6)
            middle = median(times) if times else 0
            place = {"xy": (middle, 50), "xytext": (8, -4), "textcoords": "offset points"}
            axes.annotate(name, color=colour, **place)  # type: ignore[arg-type]
        longest = max((max(times, default=0) for times in found.values()), default=0)
        axes.set(xlabel="seconds after the kill", ylabel="% of the readers", ylim=(0, 104))
        axes.set_xlim(0, max(longest, bound_s or 0) * 1.12)
        if bound_s is not None:
            _bound_line(axes, bound_s, f"bound {bound_s:g} s")
        _title(figure, finding, "")


def periods(used: Sequence[float], period_s: int, growth: float, what: str, path: Path) -> None:
    """Memory each second, and its mean in each period."""
    with _drawn(3.2, path) as figure:
        axes = figure.subplots()
        axes.plot(range(len(used)), used, color=BLUE, linewidth=1.3)
        axes.set(xlim=(0, len(used)), xlabel="seconds", ylabel="MiB (used_memory)")
        axes.set_ylim(0, max(used) * 1.25)
        for start in range(0, len(used) - period_s + 1, period_s):
            some = used[start : start + period_s]
            mean = sum(some) / len(some)
            axes.plot([start, start + period_s], [mean, mean], color=VERMILION, linewidth=1.5)
            axes.axvline(start, color=FAINT, linewidth=0.8)
            place = (start + period_s / 2, max(used) * 1.1)
            axes.annotate(f"mean {mean:.2f}", place, ha="center", color=VERMILION)
        _title(
            figure,
            f"The streams' memory: {growth:+.2f} MiB from the second period to the last",
            f"{what}; a period is the life of a record, STREAM_TTL_S, here {period_s} s.",
        )


def waits(found: Mapping[str, Sequence[float]], path: Path) -> None:
    """Milliseconds of each way: the median, and a line to the 95th percentile."""
    with _drawn(1.1 + 0.45 * len(found), path) as figure:
        axes = _bars_axes(figure.subplots(), list(found))
        for row, (name, times) in enumerate(found.items()):
            middle, late = median(times), quantiles(times, n=20)[18]
            others = ("upstream", "LiteLLM", "before")
            colour = GREY if any(other in name for other in others) else BLUE
            axes.plot([middle, late], [row, row], color=colour, linewidth=2, alpha=0.5)
            axes.plot(middle, row, "o", color=colour, markersize=7)
            _beside(axes, late, row, f"{middle:.1f}, p95 {late:.1f}")
        axes.set(xlabel="ms from asking to the first token")
        axes.set_xlim(0, max(quantiles(times, n=20)[18] for times in found.values()) * 1.25)
        over, hit = median(found["cold"]) - median(found["upstream"]), median(found["cached"])
        _title(
            figure,
            f"First token: {over:.0f} ms over the model's own, {hit:.1f} ms from the cache",
            "The point is the median, the line goes to the 95th percentile.",
        )


def _bars_axes(axes: Axes, names: Sequence[str]) -> Axes:
    """Horizontal rows with their names, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    return axes


def _beside(axes: Axes, x: float, row: float, text: str) -> None:
    place: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (x, row), color=INK, **place)


def _bound_line(axes: Axes, x: float, text: str) -> None:
    axes.axvline(x, color=INK, linewidth=1, linestyle=":")
    place: Any = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
    axes.annotate(text, (x, 1), xycoords=("data", "axes fraction"), color=GREY, **place)


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


@contextmanager
def _drawn(height_in: float, path: Path) -> Iterator[Figure]:
    """A figure that is in its file when the block ends."""
    # Not pyplot: it keeps figures, and asks for a screen.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        yield figure
        path.parent.mkdir(exist_ok=True)
        dated = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=110, metadata=dated)


def _title(figure: Figure, finding: str, details: str) -> None:
    figure.suptitle(finding, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.axes[0].set_title(details, loc="left", fontsize=9, fontweight="normal", color=GREY)
