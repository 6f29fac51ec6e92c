"""Faults: what is done to whom, and when; a function of the seed alone.

Invariant: the streams server is never killed, and what is done to it comes one after the other;
kills of others go on meanwhile, and so does what is done to the cache.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from plateau_sse.store.queue.queue import ABANDONED_S

# kill: -9. recycle: a web worker gets SIGTERM. pause: SIGSTOP, SIGCONT after `for_s`. restart:
# SIGTERM, then started again with the same data. demote: made a replica, which takes no writes,
# for `for_s`, behind the same address. lonely: takes no writes for so long, for want of
# replicas. hold: a run whose agent holds its interpreter's lock, until that process ends. Of a
# store that fails over: fail: -9 of a primary, which comes back once another has its place;
# move: another is made the primary, as an operator asks for it.
Kind = Literal[
    "kill", "recycle", "pause", "restart", "demote", "lonely", "hold", "fail", "move"
]

KILL_EVERY_S = 1.0
RECYCLE_EVERY_S = 4.0
HOLD_EVERY_S = 20.0
SHORT_S = (2.0, 3.0)
LONG_S = 8.0
REFUSING_S = 5.0
# Of each, in one order: each has a share of the time, and what it leaves of that to recover.
STORE: tuple[tuple[Kind, float], ...] = (
    ("pause", 0.0),
    ("restart", 0.0),
    ("lonely", REFUSING_S),
    ("pause", LONG_S),
    ("demote", REFUSING_S),
)
OF_GROUP: tuple[tuple[Kind, float], ...] = (("fail", 0.0), ("move", 0.0), ("fail", 0.0))
# Of its share of the time; what has no end of its own ends when it may.
ENDLESS = ("restart", "fail", "move")
MOST_OF_A_SHARE = 0.7


class Fault(NamedTuple):
    """`target` is the name of a process; `worker` says to hit the worker below it instead."""

    at_s: float
    kind: Kind
    target: str
    worker: bool = False
    for_s: float = 0.0


def schedule(
    seed: int,
    seconds: float,
    webs: Sequence[str],
    runners: Sequence[str],
    store: str,
    cache: str,
    kinds: Sequence[tuple[Kind, float]] = STORE,
    alone: str = "",
) -> list[Fault]:
    """The faults of a run of so many seconds, in order; `kinds` are those of the store. `alone`
    is a runner with an agent that no other has: killed again and again while it starts, it
    would be gone for so long that its runs are given up, as they should be then."""
    chances = random.Random(f"faults {seed}")
    faults = []
    at_s, spared_until_s = KILL_EVERY_S, 0.0
    while at_s <= seconds:
        others = [one for one in runners if one != alone or at_s >= spared_until_s]
        target = chances.choice([*webs, *others])
        if target == alone:
            spared_until_s = at_s + ABANDONED_S
        worker = target in webs and chances.random() < 0.5
        faults.append(Fault(at_s, "kill", target, worker))
        at_s += KILL_EVERY_S
    at_s = RECYCLE_EVERY_S * chances.uniform(0.2, 0.8)
    while at_s <= seconds:
        faults.append(Fault(at_s, "recycle", chances.choice(webs), worker=True))
        at_s += RECYCLE_EVERY_S * chances.uniform(0.8, 1.2)
    at_s = min(HOLD_EVERY_S, seconds) * chances.uniform(0.2, 0.5)
    while at_s <= seconds:
        faults.append(Fault(at_s, "hold", chances.choice(webs)))
        at_s += HOLD_EVERY_S
    share_s = seconds / len(kinds)
    for index, (kind, most_s) in enumerate(kinds):
        wanted_s = most_s or chances.uniform(*SHORT_S)
        for_s = 0.0 if kind in ENDLESS else min(wanted_s, MOST_OF_A_SHARE * share_s)
        at_s = index * share_s + chances.uniform(0.1, 0.8) * (share_s - for_s)
        faults.append(Fault(at_s, kind, store, for_s=for_s))
    for_s = min(LONG_S, seconds / 3)
    at_s = chances.uniform(0.1, 0.8) * (seconds - for_s)
    faults.append(Fault(at_s, "pause", cache, for_s=for_s))
    return sorted(faults)
