"""Failovers of the streams under readers: who goes on, how soon, and with what.

Invariant: every reader checks every event's position, and ends with what the run's record has;
what the store has lost of a run was told to each of its readers (`run.restarted`, or its end).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests import netns
from tests.deployment import deployed
from tests.groups import Cluster, Node, Trio, sentinel_trio, six_nodes

from benchmarks import parted
from benchmarks.followers import END_S, Following, Load, begin, record_of, waits_s, wrong
from benchmarks.measuring import open_files_most
from benchmarks.placed import KEY
from benchmarks.rows import Row, report
from plateau_sse import tasks
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.topology import slot_of

BOUND_S = 15
# Said in the environment of a process that may make hosts.
INSIDE = "PLATEAU_BENCH_INSIDE"
# Readers are told of it meanwhile.
ALONE_S = 0.8
BEFORE_S, START_S = 2.0, 60.0
Group = Trio | Cluster


SHORT = Load(runs=6, readers=24, pieces=60, pause_ms=150)


@dataclass
class Outcome:
    """`waits_s`: from when the store was back to the next event of each reader that had not
    ended; `faults`: what was wrong, in words, by reader; `statuses` of runs, and how many of
    them were begun anew."""

    waits_s: list[float] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    anew: int = 0
    faults: list[str] = field(default_factory=list)


# What is done, each returning once the store can be written to again


def kill(group: Group, slot: int) -> Callable[[], None]:
    """kill -9 of the primary, which comes back once another has taken its place."""
    before = _primary(group, slot)
    before.kill()
    _wait_for_another(group, slot, before)
    return before.start


def hold(group: Group, slot: int) -> Callable[[], None]:
    """It says nothing until it was voted out, and then takes itself for the primary for a
    moment more."""
    before = _primary(group, slot)
    before.pause()
    _wait_for_another(group, slot, before)
    return before.resume


def ask(group: Group, slot: int, *how: str) -> Callable[[], None]:
    """As an operator does, who wants to lose nothing; with FORCE of a cluster without asking
    the primary."""
    if isinstance(group, Trio):
        group.fail_over()
    else:
        group.fail_over(slot, *how)
    return lambda: None


def forced(group: Group, slot: int) -> Callable[[], None]:
    """Without the old primary's word."""
    return ask(group, slot, "FORCE")


def migrate(group: Group, slot: int) -> Callable[[], None]:
    """The slot of a run that is on goes to another primary."""
    assert isinstance(group, Cluster)
    group.migrate(slot)
    return lambda: None


def lonely(group: Group, slot: int) -> Callable[[], None]:
    """The primary goes on alone for a moment, and then is gone: what it acknowledged meanwhile
    is nowhere."""
    primary = _primary(group, slot)
    replica = group.replica() if isinstance(group, Trio) else group.replica_of(primary)
    cut_off(primary, replica)
    time.sleep(ALONE_S)
    primary.kill()
    replica.resume()
    _wait_for_another(group, slot, primary)
    return primary.start


def cut_off(primary: Node, replica: Node) -> None:
    """The replica hears nothing more of what the primary acknowledges."""
    replica.pause()
    with primary.client() as client:
        client.client_kill_filter(_type="replica")


def _primary(group: Group, slot: int) -> Node:
    return group.primary() if isinstance(group, Trio) else group.primary_of(slot)


def _wait_for_another(group: Group, slot: int, before: Node) -> None:
    if isinstance(group, Trio):
        group.wait_for_another(before.port)
    else:
        group.wait_for_another(slot, before)


Fault = Callable[[Any, int], Callable[[], None]]
# What a network does to them is in `parted.py`.
FAULTS: Mapping[str, Mapping[str, Fault]] = {
    "sentinel": {"kill": kill, "hold": hold, "lonely": lonely, "manual": ask},
    "cluster": {
        "kill": kill,
        "hold": hold,
        "lonely": lonely,
        "manual": ask,
        "forced": forced,
        "migrate": migrate,
    },
}


@contextmanager
def staged(store: str, folder: Path) -> Iterator[Group]:
    opened = sentinel_trio if store == "sentinel" else six_nodes
    with opened(folder) as group:
        yield group


async def failed_over(
    group: Group, urls: Sequence[str], fault: Fault, load: Load, seed: int, key: str = ""
) -> Outcome:
    """One fault under readers, and what became of each of them; `key` is who asks."""
    draw = random.Random(seed)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(headers=headers, timeout=START_S, trust_env=False) as client:
        runs = await asyncio.gather(*(begin(client, urls, n, load) for n in range(load.runs)))
        readers = [
            Following(
                [draw.choice(urls)], runs[n % load.runs]["events_url"], wait_s=draw.random
            )
            for n in range(load.readers)
        ]
        following = [
            asyncio.create_task(reader.follow(timeout_s=START_S + END_S)) for reader in readers
        ]
        outcome = Outcome()
        try:
            async with asyncio.timeout(START_S):
                await asyncio.gather(*(reader.started.wait() for reader in readers))
            await asyncio.sleep(BEFORE_S * draw.random())
            slot = slot_of(keys.run(draw.choice(runs)["id"]).record)
            mend = await asyncio.to_thread(fault, group, slot)
            outcome.waits_s = await waits_s(readers, following)
            await asyncio.to_thread(mend)
            ended = await asyncio.gather(*following, return_exceptions=True)
        finally:
            await tasks.end(*following)
        records = [await record_of(client, urls[0], run) for run in runs]
    for n, (reader, end) in enumerate(zip(readers, ended, strict=True)):
        outcome.told += reader.told
        fault_of_it = wrong(reader, end, records[n % load.runs])
        if fault_of_it:
            outcome.faults.append(fault_of_it)
    for record in records:
        outcome.statuses[str(record.get("status", "gone"))] += 1
        # Their numbers say nothing: those that another may have had are skipped.
        outcome.anew += int(record.get("attempt", 1)) > 1
    return outcome


def run(store: str, names: Sequence[str], load: Load, *, seed: int, times: int) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as name, staged(store, Path(name)) as group:
        for fault in names:
            for n in range(times):
                group.wait_until_whole()
                with deployed(
                    Path(name) / f"{fault}-{n}", streams_url=group.url, webs=2, runners=2
                ) as deployment:
                    doing = FAULTS[store][fault]
                    outcome = asyncio.run(
                        failed_over(group, deployment.urls, doing, load, seed + n)
                    )
                rows += rows_of(f"{store}, {fault}", outcome)
                for line in outcome.faults[:5]:
                    sys.stdout.write(f"  {line}\n")
    return rows


def rows_of(what: str, outcome: Outcome) -> list[Row]:
    told = ", ".join(f"{n} {reason}" for reason, n in sorted(outcome.told.items())) or "nobody"
    became = ", ".join(f"{n} {status}" for status, n in sorted(outcome.statuses.items()))
    return [
        Row(
            f"{what}: the last reader hears again, once the store is back",
            max(outcome.waits_s, default=0.0),
            "s",
            BOUND_S,
            peers=f"{len(outcome.waits_s)} readers; {became}, {outcome.anew} begun anew",
        ),
        Row(
            f"{what}: readers that hang, or lack something that was not declared",
            len(outcome.faults),
            "",
            0,
            peers=f"begun anew: {told}",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench failover", description=__doc__)
    parser.add_argument("--store", choices=tuple(FAULTS), help="one of them; else both")
    parser.add_argument("--fault", help="one of them; else all")
    parser.add_argument("--times", type=int, default=1, help="of each (1)")
    parser.add_argument("--seed", type=int, default=20_261_129)
    parser.add_argument("--short", action="store_true", help="6 runs, 24 readers")
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given)
    why = "" if os.environ.get(INSIDE) else netns.missing()
    if not (why or os.environ.get(INSIDE)):
        words = [sys.executable, "-m", "benchmarks.failover", *given]
        return subprocess.run(netns.entering(*words), env=os.environ | {INSIDE: "1"}).returncode
    open_files_most()
    rows: list[Row] = []
    for store in [options.store] if options.store else FAULTS:
        load = SHORT if options.short else Load()
        asked = {"seed": options.seed, "times": options.times}
        names = [it for it in FAULTS[store] if options.fault in (None, it)]
        if names:
            rows += run(store, names, load, **asked)
        for name in parted.FAULTS:
            if options.fault in (None, name):
                rows += over_networks(store, name, load, why, **asked)
    return report("failover", rows)


def over_networks(
    store: str, name: str, load: Load, why: str, *, seed: int, times: int
) -> list[Row]:
    """Of one fault; `why` it cannot be had here."""
    what = f"{store}, {name}"
    if why:
        return [Row(what, None, "", peers=why)]
    rows = []
    for n in range(times):
        with (
            tempfile.TemporaryDirectory() as folder,
            parted.staged(store, name, Path(folder)) as stage,
        ):
            longer = load._replace(pieces=load.pieces * stage.longer)
            outcome = asyncio.run(
                failed_over(stage.group, stage.urls, stage.fault, longer, seed + n, KEY)
            )
        rows += rows_of(what, outcome)
        if stage.taken_bytes:
            rows.append(
                Row(f"{what}: what the old primary took, and lost", stage.taken_bytes, "bytes")
            )
        for line in outcome.faults[:5]:
            sys.stdout.write(f"  {line}\n")
    return rows


if __name__ == "__main__":
    sys.exit(main())
