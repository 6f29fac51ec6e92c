"""What `scripts/bench` runs: one benchmark by its name, or all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks import cached, capacity, fanout, hit_rate, memory, soak
from benchmarks.chaos import __main__ as chaos

# In the order in which all of them run.
BENCHMARKS: dict[str, Callable[[Sequence[str]], int]] = {
    "memory": memory.main,
    "fanout": fanout.main,
    "cached": cached.main,
    "capacity": capacity.main,
    "hit_rate": hit_rate.main,
    "soak": soak.main,
    "chaos": chaos.main,
}

USAGE = """usage: scripts/bench [NAME] [options]

  memory    of the service and of a reader; what is left when readers have gone
  fanout    CPU a delivered event, beside nchan and sse-starlette
  cached    cached answers a CPU-second, beside LiteLLM's proxy
  capacity  how many answers the 10 MB cache holds
  hit_rate  the cache under a Zipf load, beside an ideal LRU
  soak      readers coming and going for half an hour: whether memory stays on a level
  chaos     kills, pauses and restarts under 1,000 readers: nothing may be lost

Without anything all of them, one after the other. scripts/bench NAME --help says more.
"""


def main(arguments: Sequence[str]) -> int:
    """The worst exit code of what has run."""
    if not arguments:
        return max([run([]) for run in BENCHMARKS.values()])
    first, *rest = arguments
    if first in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    if first not in BENCHMARKS:
        sys.stderr.write(f"there is no benchmark {first!r}\n{USAGE}")
        return 2
    return BENCHMARKS[first](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
