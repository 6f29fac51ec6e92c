"""Rows of a benchmark: what was measured, what it must not pass, and the peer beside it.

Invariant: a row without a measurement says why; it counts neither as kept nor as missed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """`measured` and `bound` in `unit`; a `bound` of None is only reported. `most` says that
    the bound is from above."""

    what: str
    measured: float | None
    unit: str
    bound: float | None = None
    most: bool = True
    peers: str = ""

    @property
    def missed(self) -> bool:
        if self.measured is None or self.bound is None:
            return False
        return self.measured > self.bound if self.most else self.measured < self.bound

    def cells(self) -> tuple[str, str, str, str, str]:
        bound = "" if self.bound is None else f"{'≤' if self.most else '≥'} {self.bound:g}"
        measured = "not measured" if self.measured is None else f"{self.measured:.2f}"
        kept = "" if self.measured is None or self.bound is None else "ok"
        return (
            self.what,
            f"{measured} {self.unit}",
            bound,
            "MISSED" if self.missed else kept,
            self.peers,
        )


def report(name: str, rows: Sequence[Row]) -> int:
    """Print the table, keep it as JSON under results/; 1 where a bound is missed."""
    heads = ("what", "measured", "bound", "", "beside it")
    table = [heads, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.flush()
    RESULTS.mkdir(exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode([asdict(row) for row in rows]))
    (RESULTS / f"{name}.json").write_bytes(content)
    return int(any(row.missed for row in rows))
