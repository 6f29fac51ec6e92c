"""What `scripts/bench` runs: one benchmark by its name, or all.

Invariant: a benchmark that crashes hides no other's rows, and neither it nor a missed bound
ends with exit code 0.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from benchmarks import (
    append,
    cached,
    capacity,
    dialects,
    failover,
    fanout,
    hit_rate,
    hosts,
    lost,
    memory,
    overshoot,
    profile,
    resume,
    rows,
    runners,
    smoke,
    soak,
    streams,
    ttft,
)
from benchmarks.chaos import __main__ as chaos
from benchmarks.pressure import __main__ as pressure
from benchmarks.rows import Row
from benchmarks.scale import __main__ as scale

Benchmark = Callable[[Sequence[str]], int]

# In the order in which all of them run.
BENCHMARKS: dict[str, Benchmark] = {
    "memory": memory.main,
    "fanout": fanout.main,
    "dialects": dialects.main,
    "cached": cached.main,
    "ttft": ttft.main,
    "profile": profile.main,
    "capacity": capacity.main,
    "hit_rate": hit_rate.main,
    "overshoot": overshoot.main,
    "streams": streams.main,
    "append": append.main,
    "resume": resume.main,
    "lost": lost.main,
    "failover": failover.main,
    "scale": scale.main,
    "pressure": pressure.main,
    "hosts": hosts.main,
    "runners": runners.main,
    "smoke": smoke.main,
    "chaos": chaos.main,
    "soak": soak.main,
}

USAGE = """usage: scripts/bench [NAME] [options]

  memory     of the service and of a reader; what is left when readers have gone
  fanout     CPU a delivered event, beside nchan and sse-starlette
  dialects   CPU a delivery and memory of a reader in each dialect, beside the native stream;
             cached chat.completions beside LiteLLM's
  cached     cached answers a CPU-second, beside LiteLLM's proxy
  ttft       time to the first token, cold and cached, beside the bare upstream
  profile    where a web worker's CPU goes, by py-spy's samples
  capacity   how many answers the 10 MB cache holds
  hit_rate   the cache under a Zipf load, beside an ideal LRU
  overshoot  by how much a full cache passes its bound
  streams    memory under a thousand finished runs a life of a record; entries in a stream
  append     Redis' CPU an append and bytes a run, beside the release before the tape
  resume     kill -9 of a web worker with 4,000 readers: who comes back, and with what
  lost       kill -9 of the only runner: how long its readers wait for word
  failover   Sentinels and a cluster: a primary killed, held, moved, cut off, under 500 readers
  hosts      two hosts behind one nginx: one is drained, one cut off
  runners    what a run costs a runner and Redis, whatever its agent does
  scale      16,000 readers, and a worker killed; 2,000 runs at once; 64 MB of streams full
  pressure   3,000 readers where 840 find room; hostile connections; an owner who wants all
  smoke      50 requests of 10 users
  chaos      kills, pauses and restarts under 1,000 readers: nothing may be lost
  soak       readers coming and going for half an hour, or --hours 8: whether memory stays on a
             level

Without a name all of them, one after the other, and all rows in one table in the end; options,
such as --minutes 3, are the soak's. scripts/bench NAME --help says more. Rows and plots are
kept under benchmarks/results/.
"""


def main(arguments: Sequence[str]) -> int:
    """1 where a bound is missed or a benchmark has crashed."""
    first, *rest = arguments or [""]
    if first in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    if not first or first.startswith("-"):
        # The soak comes last: a slip in its options is told now, not after all the others.
        soak.parsed(arguments)
        _end_in_order()
        return run_all(BENCHMARKS | {"soak": lambda _: soak.main(arguments)})
    if first not in BENCHMARKS:
        sys.stderr.write(f"there is no benchmark {first!r}\n{USAGE}")
        return 2
    _end_in_order()
    return BENCHMARKS[first](rest)


def _end_in_order() -> None:
    """Whoever ends us ends what we started, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def run_all(benchmarks: Mapping[str, Benchmark]) -> int:
    """Each in turn, whatever becomes of the others; the table of all comes last, also where
    it is broken off."""
    for name in benchmarks:
        # What an earlier run has kept is none of this one's rows.
        rows.forget(name)
    crashed: dict[str, str] = {}
    codes: list[int] = []
    try:
        for name, run in benchmarks.items():
            sys.stdout.write(f"\n== {name}\n")
            sys.stdout.flush()
            try:
                codes.append(run([]))
            except Exception as error:
                traceback.print_exc()
                crashed[name] = f"{type(error).__name__}: {error}"
    finally:
        summarise(benchmarks, crashed)
    return int(any(codes) or bool(crashed))


def summarise(names: Mapping[str, Benchmark], crashed: Mapping[str, str]) -> None:
    kept = {name: rows.kept(name) for name in names}
    found = [row for name in names for row in kept[name]]
    found += [Row(f"{name} has crashed", None, "", peers=why) for name, why in crashed.items()]
    sys.stdout.write("\n== all of it\n")
    rows.show(found)
    missed = sum(row.missed for row in found)
    bounds = sum(row.bound is not None and row.measured is not None for row in found)
    absent = [name for name in names if not kept[name] and name not in crashed]
    sys.stdout.write(
        f"{bounds - missed} of {bounds} bounds kept, {missed} missed; of {len(names)} "
        f"benchmarks {len(crashed)} crashed, {len(absent)} not run{_listed(absent)}\n"
    )
    sys.stdout.flush()


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
