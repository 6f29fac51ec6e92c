"""The report of a load: before and after, the thresholds, the rows, the plot; one HTML file.

Invariant: a figure in it was measured in this very load, or says where else it comes from.
"""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec

from locustfiles.beside import machine
from locustfiles.beside.sampling import Sample

Table = list[tuple[str, ...]]
UNKNOWN = "not measured"
BUSY = "late, on a busy machine"


@dataclass(frozen=True)
class Seen:
    """All that a load has left: what locust says, samples, and the lone reader's times. `idle`
    and `after` in MiB, all but Redis, before the load and when all have gone."""

    verdict: dict[str, Any]
    samples: Sequence[Sample]
    timeline: Sequence[dict[str, str]]
    lone: Sequence[dict[str, str]]
    idle: float | None
    after: float | None

    def row(self, name: str) -> dict[str, Any]:
        found = (row for row in self.verdict["rows"] if row["name"] == name)
        return next(found, {"count": 0, "failures": 0})

    @property
    def peak(self) -> Sample | None:
        known = [sample for sample in self.samples if sample.all_but_redis is not None]
        return max(known, key=lambda one: one.all_but_redis or 0, default=None)

    @property
    def readers_most(self) -> int:
        return max((sample.readers or 0 for sample in self.samples), default=0)

    def most_with(self, users: int) -> float | None:
        """Of memory while so many users were there, and no more before."""
        times = [float(one["at_s"]) for one in self.timeline if int(one["users"]) > users]
        until = min(times, default=float("inf"))
        there = [float(one["at_s"]) for one in self.timeline if int(one["users"]) == users]
        began = min(there, default=float("inf"))
        known = [
            sample.all_but_redis
            for sample in self.samples
            if began <= sample.at_s < until and sample.all_but_redis is not None
        ]
        return max(known, default=None)


def read_lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # The last line may be cut off where its writer was ended.
        return [line for line in csv.DictReader(file) if None not in line.values()]


def read_verdict(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return found


def before_and_after(seen: Seen) -> Table:
    peak = seen.peak
    under = UNKNOWN
    if peak is not None:
        under = f"{peak.all_but_redis:.0f} MiB at most, {seen.readers_most} readers at most"
    answers = sum(row["count"] for row in seen.verdict["rows"] if "answer" in row["name"])
    failed = sum(row["failures"] for row in seen.verdict["rows"])
    order = seen.row("SSE seen late by the generator")["count"]
    return [
        ("", "at first", "its first cure", "Plateau, in this load"),
        ("idle", "200–300 MB", "40–80 MB", _mib(seen.idle)),
        ("ten users", "crashed", "120–150 MB", _mib(seen.most_with(10))),
        ("under load", "400–500 MB", "100–150 MB", under),
        ("when all have gone", "grew on", "+5.23 MB over 10 requests", _mib(seen.after)),
        ("whole answers", "–", "50 of 50", f"{answers - failed:,} of {answers:,}"),
        ("lost, repeated, misplaced", "–", "–", f"{_misplaced(seen)} of {order:,} events"),
    ]


def _misplaced(seen: Seen) -> int:
    return sum(
        int(failure["count"])
        for failure in seen.verdict["failures"]
        if "events in order" in failure["what"]
    )


def lone_beside(seen: Seen) -> Table:
    """The same times of the crowd and of the lone reader."""
    table: Table = [("ms", "", "p50", "p95", "how many")]
    for what, field in (("event lag", "lag_ms"), ("first token", "first_token_ms")):
        crowd = seen.row(f"SSE {what}")
        if crowd["count"]:
            table.append((what, "the crowd", *_cells(crowd), f"{crowd['count']:,}"))
        times = [float(line[field]) for line in seen.lone if line[field]]
        if len(times) > 1:
            late = quantiles(times, n=20)[18]
            table.append(
                (
                    what,
                    "a lone reader",
                    f"{median(times):.1f}",
                    f"{late:.1f}",
                    f"{len(times):,}",
                )
            )
    late_row = seen.row("SSE seen late by the generator")
    if late_row["count"]:
        count = f"{late_row['count']:,}"
        table.append(("generator's own delay", "the crowd", *_cells(late_row), count))
    return table


def cpu(seen: Seen) -> Table:
    """Of the processes that are here, over the load, and an event that was read."""
    events = seen.row("SSE seen late by the generator")["count"]
    if len(seen.samples) < 2 or not events:
        return []
    passed_s = seen.samples[-1].at_s - seen.samples[0].at_s
    table: Table = [("CPU", "seconds", "of one core", "an event")]
    for name in ("service", "redis", "generator"):
        used_s = machine.used_s(seen.samples, name)
        if used_s is not None:
            each = f"{used_s / events * 1e6:.0f} µs"
            table.append((name, f"{used_s:.1f}", f"{used_s / passed_s:.0%}", each))
    others_s = machine.elsewhere_s(seen.samples)
    if others_s is not None:
        share = f"{others_s / passed_s:.0%}"
        table.append(("whatever else this machine does", f"{others_s:.1f}", share, ""))
    return table


def _cells(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['p50']:g}", f"{row['p95']:g}"


def limits(seen: Seen) -> Table:
    is_busy = machine.busy_elsewhere(seen.samples) is not None
    table: Table = [("threshold", "measured", "bound", "")]
    for one in seen.verdict["limits"]:
        measured = (
            "nothing" if one["measured"] is None else f"{one['measured']:g} {one['unit']}"
        )
        sign = "≤" if one["most"] else "≥"
        bound = f"{sign} {one['bound']:g}"
        late = is_busy and one["missed"] and machine.is_time(one)
        table.append((one["what"], measured, bound, BUSY if late else one["said"]))
    return table


def rows(seen: Seen) -> Table:
    table: Table = [("ms", "count", "failures", "p50", "p95", "p99", "max")]
    for row in (*seen.verdict["requests"], *seen.verdict["rows"]):
        if row["count"]:
            times = (f"{row[name]:g}" for name in ("p50", "p95", "p99", "max"))
            table.append((row["name"], f"{row['count']:,}", f"{row['failures']:,}", *times))
    return table


def failures(seen: Seen) -> Table:
    found = [(failure["what"], str(failure["count"])) for failure in seen.verdict["failures"]]
    return [("failure", "how often"), *found] if found else []


def finding(seen: Seen) -> str:
    missed = sum(one["missed"] for one in seen.verdict["limits"])
    said = "every threshold kept" if not missed else f"{missed} thresholds missed"
    share = machine.busy_elsewhere(seen.samples)
    if missed and share is not None:
        said += f", while other work had {share:.0%} of this machine"
        if machine.excused(seen.verdict["limits"], seen.samples):
            said += ": that says nothing of the service"
    peak = seen.peak
    memory = f", {peak.all_but_redis:.0f} MiB at most" if peak is not None else ""
    return f"{seen.verdict['shape']}: {seen.readers_most} readers{memory}; {said}"


def text(table: Table) -> str:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #e6e6e6 }
th { color: #666; font-weight: normal } .missed { color: #d55e00; font-weight: bold }
svg { max-width: 100%; height: auto } small { color: #666 }
"""
CLOCKS = (
    "Memory is PSS, Redis not included. The agent writes into the text when it says a piece, "
    "and an event has arrived when the reader's kernel has it: event lag is the time between. "
    "Where agent and readers are on one machine both are the same clock; elsewhere each worker "
    "has measured how far the agent's is ahead, and logs how sure that is. What a reader had "
    "missed, and what it reads slowly, counts in no latency."
)


def page(seen: Seen, svg: str) -> str:
    sections = (
        ("Before and after", before_and_after(seen)),
        ("Thresholds", limits(seen)),
        ("The crowd and a lone reader beside it", lone_beside(seen)),
        ("CPU", cpu(seen)),
        ("All rows", rows(seen)),
        ("Failures", failures(seen)),
    )
    tables = "".join(
        f"<h2>{title}</h2>{_table(table)}" for title, table in sections if len(table) > 1
    )
    title = html.escape(finding(seen))
    # An SVG inside of HTML has no prologue of its own.
    plot = svg[svg.index("<svg") :]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1><p>{html.escape(seen.verdict['host'])}</p>"
        f"{plot}{tables}<p><small>{CLOCKS}</small></p></html>\n"
    )


def _table(table: Table) -> str:
    head, *lines = table
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _cell(text: str) -> str:
    shown = ' class="missed"' if text == "MISSED" else ""
    return f"<td{shown}>{html.escape(text)}</td>"


def _mib(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f} MiB"
