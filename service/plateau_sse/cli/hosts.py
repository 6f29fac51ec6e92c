"""The hosts of a picture, as lines of `plateau top`.

Invariant: where there is one host, nothing is said that the rest of the picture does not say.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.cli.screen import printable
from plateau_sse.cli.units import UNKNOWN, duration, mib, percent, whole

# What stands before the cause of a host that is not well.
HEAD = f"{'HOST':14}{'WEB':>4}{'READERS':>9}{'RUNS':>12}{'MiB':>7}{'CPU':>7}  HEARD"
STYLES = {"up": "", "leaving": "look", "degraded": "look", "down": "wrong"}


def lines(hosts: list[dict[str, Any]]) -> list[list[tuple[str, str]]]:
    """Texts, each with its style; none for fewer than two hosts."""
    if len(hosts) < 2:
        return []
    return [[(HEAD, "dim")], *(line for host in hosts for line in _host(host)), []]


def _host(host: dict[str, Any]) -> list[list[tuple[str, str]]]:
    style = STYLES.get(host["state"], "wrong")
    runs = f"{host['running']} of {host['places']}" if host["runners"] else UNKNOWN
    text = (
        f"{printable(host['host'])[:13]:14}{host['web']:>4}{whole(host['open']):>9}"
        f"{runs:>12}{whole(mib(host['pss_bytes'])):>7}{percent(host['cpu']):>7}"
        f"  {duration(host['age_s'])} ago"
    )
    rows = [[(text, style)]]
    if host["cause"]:
        rows.append([(f"  {host['state']}: {printable(host['cause'])}", style)])
    return rows
