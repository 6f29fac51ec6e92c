"""What each shape must keep: one table.

Invariant: a limit whose row the users should have measured, and have not, is missed: a load
that sends nothing passes nothing. Only what an agent that is not ours cannot say is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from locust.env import Environment

from locustfiles.kit import rows
from locustfiles.kit.rows import Row

SHAPES = ("smoke", "ramp", "spike", "soak")


@dataclass(frozen=True)
class Limit:
    """Of the `share` of a row's times so many milliseconds at most, a shape each."""

    row: Row
    share: float
    most_ms: tuple[int | None, int | None, int | None, int | None]
    # Only the load's own agent says when it said what.
    needs_stamps: bool = False


# A few times what two cores with little else to do keep (docs/load.md), since other work moves
# the 95th percentile by hundreds of milliseconds and the median hardly. The bounds of `smoke`
# only say that it is not stuck.
#                                 smoke  ramp  spike  soak
LIMITS = (
    Limit(rows.FIRST_TOKEN, 0.50, (500, 100, 250, 100)),
    Limit(rows.FIRST_TOKEN, 0.95, (2000, 750, 1500, 750)),
    Limit(rows.FIRST_CACHED, 0.50, (None, 50, 100, 50)),
    Limit(rows.FIRST_CACHED, 0.95, (None, 500, 1000, 500)),
    Limit(rows.GAP, 0.95, (1000, 500, 750, 500)),
    Limit(rows.LAG, 0.50, (200, 25, 50, 25), needs_stamps=True),
    Limit(rows.LAG, 0.95, (1000, 250, 500, 250), needs_stamps=True),
    Limit(rows.RESUME, 0.50, (500, 250, 500, 250)),
    Limit(rows.RESUME, 0.95, (2000, 750, 1500, 750)),
)
AGAIN_MOST = 2.0


@dataclass(frozen=True)
class Judged:
    """One line of the verdict. `measured` is None where nobody has; `missed` fails the load."""

    what: str
    measured: float | None
    bound: float | None
    unit: str
    missed: bool
    most: bool = True

    @property
    def said(self) -> str:
        if self.missed:
            return "MISSED"
        return "ok" if self.measured is not None else "not measured"


def judge(environment: Environment, exceptions: int) -> list[Judged]:
    """All lines; without a shape only that something was sent and that nothing failed."""
    stats = environment.stats
    name = str(getattr(environment.shape_class, "name", ""))
    sent, failures = stats.total.num_requests, stats.total.num_failures
    found = [
        Judged("requests sent", sent, 1, "", sent < 1, most=False),
        Judged("failures", failures, 0, "", failures > 0),
        Judged("exceptions in users", exceptions, 0, "", exceptions > 0),
    ]
    if sent:
        # A worker that is replaced closes connections that idle; of others it closes none.
        again = 1000 * rows.found(environment, rows.AGAIN).num_requests / sent
        found.append(
            Judged("asked again, of 1,000", round(again, 1), AGAIN_MOST, "", again > AGAIN_MOST)
        )
    options = environment.parsed_options
    if options is not None and options.expect_limits:
        met = rows.found(environment, rows.LIMITED).num_requests
        found.append(Judged("told to wait by a limit", met, 1, "", met < 1, most=False))
    told = [rows.found(environment, row) for row in rows.ANSWERS]
    answers = sum(entry.num_requests - entry.num_failures for entry in told)
    least = int(getattr(environment.shape_class, "answers_least", 1))
    found.append(Judged("whole answers", answers, least, "", answers < least, most=False))
    expected: set[Row] = set()
    for user in environment.user_classes:
        expected.update(getattr(user, "measures", rows.MEASURED))
    if name in SHAPES:
        stamped = options is None or options.agent == "load"
        found += [
            _limited(environment, limit, bound, stamped)
            for limit in LIMITS
            if (bound := limit.most_ms[SHAPES.index(name)]) is not None
            and limit.row in expected
        ]
    return found


def _limited(environment: Environment, limit: Limit, bound: int, stamped: bool) -> Judged:
    what = f"{limit.row.name}, {limit.share:.0%} within"
    entry = rows.found(environment, limit.row)
    if not entry.num_requests:
        return Judged(what, None, bound, "ms", stamped or not limit.needs_stamps)
    measured = entry.get_response_time_percentile(limit.share)
    return Judged(what, measured, bound, "ms", measured > bound)


def lines(found: list[Judged]) -> list[str]:
    """As a table of text."""
    cells = [("", "measured", "bound", "")]
    for one in found:
        measured = "nothing" if one.measured is None else f"{one.measured:g} {one.unit}".strip()
        sign = "≤" if one.most else "≥"
        bound = "" if one.bound is None else f"{sign} {one.bound:g}"
        cells.append((one.what, measured, bound, one.said))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
