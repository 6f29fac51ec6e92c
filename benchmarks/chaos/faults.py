"""Faults: what is done to whom, and when; a function of the seed alone.

Invariant: the streams server is never killed, paused twice at once, or paused while it is being
restarted; kills go on meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

# kill: -9. recycle: a web worker gets SIGTERM. pause: SIGSTOP, SIGCONT after `for_s`. restart:
# SIGTERM, then started again with the same data.
Kind = Literal["kill", "recycle", "pause", "restart"]

KILL_EVERY_S = 1.0
RECYCLE_EVERY_S = 4.0
PAUSE_S = (2.0, 3.0)


class Fault(NamedTuple):
    """`target` is the name of a process; `worker` says to hit the worker below it instead."""

    at_s: float
    kind: Kind
    target: str
    worker: bool = False
    for_s: float = 0.0


def schedule(
    seed: int, seconds: float, webs: Sequence[str], runners: Sequence[str], store: str
) -> list[Fault]:
    """The faults of a run of so many seconds, in order."""
    chances = random.Random(f"faults {seed}")
    faults = []
    at_s = KILL_EVERY_S
    while at_s <= seconds:
        target = chances.choice([*webs, *runners])
        worker = target in webs and chances.random() < 0.5
        faults.append(Fault(at_s, "kill", target, worker))
        at_s += KILL_EVERY_S
    at_s = RECYCLE_EVERY_S * chances.uniform(0.2, 0.8)
    while at_s <= seconds:
        faults.append(Fault(at_s, "recycle", chances.choice(webs), worker=True))
        at_s += RECYCLE_EVERY_S * chances.uniform(0.8, 1.2)
    # A third of the time each, so that they do not meet: a pause, the restart, a pause.
    third_s = seconds / 3
    for index, kind in enumerate[Kind](("pause", "restart", "pause")):
        for_s = min(chances.uniform(*PAUSE_S), 0.7 * third_s) if kind == "pause" else 0.0
        latest_s = third_s - for_s
        at_s = index * third_s + chances.uniform(0.1, 0.8) * latest_s
        faults.append(Fault(at_s, kind, store, for_s=for_s))
    return sorted(faults)
