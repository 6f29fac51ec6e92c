"""What `plateau top` shows: a picture of the service as lines of a terminal.

Invariant: no line is wider, and no screen higher, than there is room; what is left out is said
to be. What is not known is a dash and never a zero.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from plateau_sse.cli import hosts
from plateau_sse.cli.screen import printable
from plateau_sse.cli.units import MIB, UNKNOWN, brief, duration, mib, ms, percent, tenths, whole

Picture = dict[str, Any]
# Pieces of text, each in one of STYLES.
Line = list[tuple[str, str]]

STYLES = {"": "", "bold": "1", "dim": "2", "wrong": "31;1", "look": "33", "well": "32"}
LABEL, CELL = 10, 17
# The least of the table of processes that is worth its header.
ROWS_LEAST = 3
ORDER = ("master", "web", "runner", "redis-streams", "redis-cache")


def verdict(advice: list[dict[str, str]]) -> tuple[str, str]:
    """In one sentence, and its style."""
    wrong = sum(row["level"] == "error" for row in advice)
    rest = len(advice) - wrong
    if not advice:
        return "All is well.", "well"
    look = "one thing wants a look" if rest == 1 else f"{rest} things want a look"
    if not wrong:
        return f"It works; {look}.", "look"
    fault = "One thing is wrong" if wrong == 1 else f"{wrong} things are wrong"
    return (f"{fault}, and {look}." if rest else f"{fault}."), "wrong"


class Look(NamedTuple):
    """How it is to be shown: in how many columns and, where that is bounded, lines; `full` and
    `empty` make the bars."""

    width: int
    height: int | None = None
    full: str = "█"
    empty: str = "░"


def lines(picture: Picture, look: Look, now: float, *, is_stale: bool = False) -> list[Line]:
    """All that there is room for. `now` is the service's clock in seconds."""
    drawn = _Drawn(picture, look, now)
    figures, processes = drawn.figures(), drawn.processes()
    head = [
        [("How it is now is not known.", "wrong") if is_stale else verdict(picture["advice"])]
    ]
    if look.height is None:
        return [*head, *drawn.advice(), [], *figures, [], *processes]
    # A blank line stands between each two of the three parts.
    room = look.height - len(head) - len(figures) - min(len(processes), ROWS_LEAST) - 2
    advice = [] if is_stale else _fitting(drawn.advice(), max(2, room))
    return _fitting([*head, *advice, [], *figures, [], *processes], look.height)


def paint(line: Line, width: int, *, colour: bool) -> str:
    """As it is sent to a terminal, cut at `width`."""
    parts = []
    for text, style in line:
        shown = text[:width]
        width -= len(shown)
        code = STYLES[style] if colour else ""
        parts.append(f"\x1b[{code}m{shown}\x1b[0m" if code and shown else shown)
    return "".join(parts) if colour else "".join(parts).rstrip()


def _fitting(rows: list[Line], most: int) -> list[Line]:
    if len(rows) <= most or most < 2:
        return rows[: max(0, most)]
    return [*rows[: most - 1], [(f"… and {len(rows) - most + 1} more lines", "dim")]]


class _Drawn:
    """The parts of one picture."""

    def __init__(self, picture: Picture, look: Look, now: float) -> None:
        self._width = look.width
        self._look = look
        self._now = now
        self._picture = picture
        # Where the store says nothing, nothing has moved that anybody knows of.
        self._is_blind = picture["runs"]["waiting"] is None
        self._lately = None if self._is_blind else picture["lately"]

    def advice(self) -> list[Line]:
        rows = [line for row in self._picture["advice"] for line in self._one_advice(row)]
        return rows or [[("Nothing needs a change.", "dim")]]

    def _one_advice(self, row: dict[str, str]) -> list[Line]:
        style = "wrong" if row["level"] == "error" else "look"
        word = "Wrong" if row["level"] == "error" else "Look"
        told = printable(row["says"])
        says = textwrap.wrap(told[:1].upper() + told[1:], max(20, self._width - LABEL))
        change = textwrap.wrap(printable(row["change"]), max(20, self._width - LABEL))
        first: Line = [(word.ljust(LABEL), style), (says[0], "")]
        rest: list[Line] = [[(" " * LABEL + text, "")] for text in says[1:]]
        return [first, *rest, *([(" " * LABEL + text, "dim")] for text in change)]

    def figures(self) -> list[Line]:
        memory = self._picture["memory"]
        total = memory["total_bytes"]
        warn = memory["warn_mb"]
        used, limit = memory["cgroup"]["used_bytes"], memory["cgroup"]["limit_bytes"]
        rows = [self._bounded("Memory", total, warn * MIB, f"{whole(mib(total))} of {warn:,}")]
        if limit:
            words = f"{whole(mib(used))} of {whole(mib(limit))}"
            rows.append(self._bounded("cgroup", used, limit, words))
        streams, cache = self._picture["redis"]["streams"], self._picture["redis"]["cache"]
        return [
            *rows,
            self._server(
                "Streams",
                streams,
                lambda: f"{whole(streams['connected_clients'])} clients",
                lambda: f"{whole(streams['instantaneous_ops_per_sec'])} commands/s",
            ),
            self._server(
                "Cache",
                cache,
                lambda: f"{whole(cache['keys'])} answers",
                lambda: f"{whole(cache['evicted_keys'])} evicted",
            ),
            self._hits(),
            self._readers(),
            *self._runs(),
            self._restarts(),
        ]

    def _bounded(self, label: str, value: float | None, most: float, words: str) -> Line:
        bar = self._bar(value, most, max(5, self._width - LABEL - CELL))
        is_over = value is not None and value > most
        return [
            (label.ljust(LABEL), "bold"),
            (f"{words} MiB".ljust(CELL), "wrong" if is_over else ""),
            (bar, "wrong" if is_over else ""),
        ]

    def _server(self, label: str, server: Picture, *more: Callable[[], str]) -> Line:
        if server["state"] != "up":
            style = "dim" if server["state"] == "not configured" else "wrong"
            return [(label.ljust(LABEL), "bold"), (printable(server["state"]), style)]
        used, most = server["used_memory"], server["maxmemory"]
        bound = f"of {tenths(mib(most))} MiB" if most else "MiB, unbounded"
        return _row(
            label,
            f"{tenths(mib(used))} {bound}",
            self._bar(used, most or 0, CELL - 2),
            *(words() for words in more),
        )

    def _hits(self) -> Line:
        cache = self._picture["cache"]
        hits, misses = self._moved("cache_hits"), self._moved("cache_misses")
        asked = (hits or 0) + (misses or 0)
        return _row(
            "Hit rate",
            f"{percent(hits / asked if hits is not None and asked else None)} "
            f"in {self._seconds()} s",
            f"{percent(cache['hit_rate'])} in all",
            f"{whole(cache['hits'])} hits",
            f"{whole(cache['misses'])} misses",
        )

    def _readers(self) -> Line:
        sse = self._picture["sse"]
        return _row(
            "Readers",
            f"{whole(sse['open'])} open",
            f"{brief(sse['events_per_s'])} events/s",
            f"{ms(sse['lag_ms'])} lag",
            f"{whole(sse['slow'])} slow",
        )

    def _runs(self) -> Iterator[Line]:
        runs = self._picture["runs"]
        yield _row(
            "Queue",
            f"{whole(runs['waiting'])} waiting",
            f"first for {duration(runs['oldest_waiting_s'])}",
            f"{whole(runs['running'])} running",
            f"{whole(runs['runners'])} runner{'s' if runs['runners'] != 1 else ''}",
        )
        yield _row(
            "Runs",
            f"{whole(runs['completed'])} completed",
            f"{whole(self._sum(runs['failed']))} failed",
            f"{whole(runs['cancelled'])} cancelled",
            f"{whole(self._sum(runs['refused']))} refused",
        )
        text, run = runs["first_token_ms"], runs["run_time_ms"]
        yield _row(
            "Median",
            f"{ms(text['p50'])} to text",
            f"95 %: {ms(text['p95'])}",
            f"{ms(run['p50'])} a run",
            f"95 %: {ms(run['p95'])}",
        )

    def _restarts(self) -> Line:
        workers = self._picture["workers"]
        return _row(
            "Restarts",
            f"{whole(workers['workers_died'])} workers died",
            f"{whole(workers['workers_recycled'])} renewed",
            f"{whole(workers['runners_died'])} runners died",
            f"{whole(workers['redis_died'])} Redis died",
        )

    def processes(self) -> list[Line]:
        memory = self._picture["memory"]
        told = {_at(one): one for one in self._picture["workers"]["processes"]}
        rows = sorted(memory["processes"], key=lambda row: _rank(row, memory["host"]))
        largest = max((row["pss_bytes"] for row in rows), default=0)
        several = len({row["host"] for row in rows}) > 1
        wide = max(6, self._width - 69)
        head = (
            f"{'PROCESS':14}{'PID':>8}{'MiB':>5}  {'':{wide}}{'CPU':>6}  "
            f"{'SERVES':14}{'UP':7}HEARD"
        )
        return [
            # A service of a release before has none.
            *hosts.lines(self._picture.get("hosts", [])),
            [(head, "dim")],
            *(
                self._process(row, told.get(_at(row), {}), largest, wide, several)
                for row in rows
            ),
        ]

    def _process(
        self, row: Picture, told: Picture, largest: int, wide: int, several: bool
    ) -> Line:
        name = row["role"].replace("-", " ")
        if several:
            name = f"{row['host']} {name}"
        cpu = f"{told['cpu']:.0%}".replace("%", " %") if "cpu" in told else UNKNOWN
        up = duration(max(0.0, self._now - told["started"])) if "started" in told else UNKNOWN
        is_silent = bool(told.get("silent"))
        age = duration(told.get("age_s"))
        heard = f"silent {age}" if is_silent else f"{age} ago" if "age_s" in told else UNKNOWN
        style = "wrong" if is_silent or told.get("deaf") else ""
        text = (
            f"{printable(name)[:13]:14}{row['pid']:>8}{whole(mib(row['pss_bytes'])):>5}  "
            f"{self._bar(row['pss_bytes'], largest, wide):{wide}}{cpu:>6}  "
            f"{_serves(row['role'], told):14}{up:7}"
        )
        return [(text, style), (heard, style)]

    def _bar(self, value: float | None, most: float, width: int) -> str:
        share = min(1.0, value / most) if value is not None and most else 0.0
        filled = round(share * width)
        return self._look.full * filled + self._look.empty * (width - filled)

    def _sum(self, by_code: dict[str, int]) -> int | None:
        return None if self._is_blind else sum(by_code.values())

    def _moved(self, name: str) -> int | None:
        return None if self._lately is None else int(self._lately.get(name, 0))

    def _seconds(self) -> int:
        return 60 if self._lately is None else min(60, round(self._lately["seconds"]))


def _row(label: str, *cells: str) -> Line:
    *most, last = cells
    return [
        (label.ljust(LABEL), "bold"),
        *((cell.ljust(CELL - 1) + " ", "") for cell in most),
        (last, ""),
    ]


def _at(one: Picture) -> tuple[str, int]:
    return str(one["host"]), int(one["pid"])


def _rank(row: Picture, host: str) -> tuple[Any, ...]:
    role = ORDER.index(row["role"]) if row["role"] in ORDER else len(ORDER)
    return row["host"] != host, row["host"], role, row["pid"]


def _serves(role: str, told: Picture) -> str:
    if told.get("deaf") or told.get("connected") == 0:
        return "hears nothing"
    if role == "web" and "open" in told:
        return f"{told['open']:,} reader{'s' if told['open'] != 1 else ''}"
    if role == "runner" and "places" in told:
        return f"{told['running']} of {told['places']} runs"
    return UNKNOWN
