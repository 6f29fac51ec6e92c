"""What a network does to a store that fails over: hosts that are cut off, and sides that part.

Invariant: hosts are network namespaces, and nothing is said to those that are cut off: no
connection is reset or refused. Readers reach all web workers all the while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import netns
from tests.groups import Cluster, Node, Trio, sentinel_trio, six_nodes
from tests.netns import Host

from benchmarks.placed import served

CUT_S = 20.0
# Beyond the servers' own patience: the old primary is on its own for so long.
APART_S = 8.0
Group = Trio | Cluster


@dataclass
class Stage:
    """`fault` is done with a group and a slot, as those of `failover.py`; `longer`: runs have
    to outlast it; `taken_bytes`: of replication that the old primary took on its own."""

    group: Group
    urls: list[str]
    fault: Callable[[Group, int], Callable[[], None]]
    longer: int
    taken_bytes: int = 0


@contextmanager
def staged(store: str, name: str, folder: Path) -> Iterator[Stage]:
    """`name` is one of `FAULTS`."""
    with FAULTS[name](store, folder) as stage:
        yield stage


@contextmanager
def _cut(store: str, folder: Path) -> Iterator[Stage]:
    """One of two hosts does not reach the store for 20 s, nor the store it; its readers do."""
    with (
        netns.hosts("store", "one", "two") as (keeps, one, two),
        _group(store, folder, [keeps] * 6) as group,
        served((one, two), [(group.url, "")] * 2, folder) as places,
    ):

        def fault(_: Group, __: int) -> Callable[[], None]:
            one.part_from(keeps)
            time.sleep(CUT_S)
            one.join_again(keeps)
            return lambda: None

        yield Stage(group, [place.url for place in places], fault, longer=2)


@contextmanager
def _parted(store: str, folder: Path) -> Iterator[Stage]:
    """A primary, a web worker and a runner on one side, all the others on the other: both sides
    take writes, for as long as a server does that is alone."""
    with (
        netns.hosts("one", "two") as (one, two),
        _group(store, folder, [one, *[two] * 5]) as group,
        served((one, two), [(group.url, "")] * 2, folder) as places,
    ):
        stage = Stage(group, [place.url for place in places], lambda *_: lambda: None, longer=2)
        old = group.servers[0] if isinstance(group, Trio) else group.nodes[0]

        def fault(_: Group, __: int) -> Callable[[], None]:
            one.part_from(two)
            before = _offset(old)
            _wait_for_another(group, old)
            time.sleep(APART_S)
            stage.taken_bytes = _offset(old) - before
            one.join_again(two)
            return lambda: None

        stage.fault = fault
        yield stage


FAULTS = {"cut": _cut, "parted": _parted}


@contextmanager
def _group(store: str, folder: Path, places: list[Host]) -> Iterator[Group]:
    if store == "sentinel":
        with sentinel_trio(folder, places=places[:5]) as trio:
            yield trio
    else:
        with six_nodes(folder, places=places) as cluster:
            yield cluster


def _wait_for_another(group: Group, before: Node) -> None:
    if isinstance(group, Trio):
        group.wait_for_another(before.port)
    else:
        # The first slot is that of the first node.
        group.wait_for_another(0, before)


def _offset(node: Node) -> int:
    """Of replication, in bytes: what it has taken."""
    with node.client() as client:
        info: dict[str, int] = client.info("replication")
        return int(info["master_repl_offset"])
