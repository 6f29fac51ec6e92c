"""Rows of a benchmark: what was measured, what it must not pass, and the peer beside it.

Invariant: a row without a measurement says why; it counts neither as kept nor as missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from benchmarks import plots

RESULTS = Path(__file__).parent / "results"
HEADS = ("what", "measured", "bound", "", "beside it")


@dataclass(frozen=True)
class Row:
    """`measured` and `bound` in `unit`; a `bound` of None is only reported. `most` says that
    the bound is from above. `figures` are what a plot shows side by side, in `figures_in`."""

    what: str
    measured: float | None
    unit: str
    bound: float | None = None
    most: bool = True
    peers: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    figures_in: str = ""

    @property
    def missed(self) -> bool:
        if self.measured is None or self.bound is None:
            return False
        return self.measured > self.bound if self.most else self.measured < self.bound

    @property
    def share(self) -> float | None:
        """Of its bound: over 1 where it is missed; None where that says nothing."""
        if not self.measured or not self.bound:
            return None
        return self.measured / self.bound if self.most else self.bound / self.measured

    def cells(self) -> tuple[str, str, str, str, str]:
        bound = "" if self.bound is None else f"{'≤' if self.most else '≥'} {self.bound:,g}"
        kept = "" if self.measured is None or self.bound is None else "ok"
        return (
            self.what,
            "not measured" if self.measured is None else f"{shown(self.measured)} {self.unit}",
            bound,
            "MISSED" if self.missed else kept,
            self.peers,
        )


def shown(value: float) -> str:
    """A count as it is, anything else with as many digits as tell something."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def report(name: str, rows: Sequence[Row], draw: Callable[[Path], None] | None = None) -> int:
    """Print the table, keep it under results/ as JSON and as a plot; 1 where a bound is
    missed. `draw` makes the plot where there is more to show than rows and bounds."""
    show(rows)
    RESULTS.mkdir(exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode([asdict(row) for row in rows]))
    file = RESULTS / f"{name}.json"
    file.write_bytes(content)
    plot = file.with_suffix(".svg")
    if draw is not None:
        draw(plot)
    else:
        plots.shares({row.what: row.share for row in rows if row.share}, name, plot)
    return int(any(row.missed for row in rows))


def show(rows: Sequence[Row]) -> None:
    table = [HEADS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADS))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.flush()


def kept(name: str) -> list[Row]:
    """What `report` has kept; none where it never came to it."""
    file = RESULTS / f"{name}.json"
    return msgspec.json.decode(file.read_bytes(), type=list[Row]) if file.exists() else []


def forget(name: str) -> None:
    for suffix in (".json", ".svg"):
        (RESULTS / f"{name}{suffix}").unlink(missing_ok=True)
