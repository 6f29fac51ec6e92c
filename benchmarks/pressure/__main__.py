"""What the service does when too many come, or come to harm: those who are served stay served.

room     3,000 readers of one worker that may open 1,024 files: who finds no room is told when
         to come back, and is served when there is some; POSTs go on meanwhile
hostile  500 readers alone, and beside 200 slow heads, 200 slow bodies, 2,000 silent ones
owners   an owner's runs alone, and beside another who asks for ten times what one may have

Of the last two each is measured in turns, alone and beside, and what counts is the median of
their ratios: a machine is busier at one time than at another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import uvloop

from benchmarks.measuring import open_files_most
from benchmarks.pressure import hostile, owners, room
from benchmarks.rows import Row, report
from benchmarks.scale.strain import TOKEN
from benchmarks.stages import plateau

# No worker is replaced meanwhile: who is cut off is so by what is measured.
ENV = {"AGENTS": "load=locustfiles.agent:load", "ADMIN_TOKEN": TOKEN, "MAX_REQUESTS": "0"}
ROOM_ENV = ENV | {"WEB_CONCURRENCY": "1", "RUN_TIMEOUT_S": "900", "RUNNER_CONCURRENCY": "64"}
HOSTILE_ENV = ENV | {"RUN_TIMEOUT_S": "900", "RUNNER_CONCURRENCY": "64"}
OWNERS_ENV = ENV | {"API_KEYS": f"{owners.GREEDY},{owners.OTHER}"}


def of_room(load: room.Load) -> room.Served:
    with plateau(ROOM_ENV, files=load.files) as stage:
        return uvloop.run(room.crowded(stage, load))


def of_hostile(load: hostile.Load) -> hostile.Beside:
    with plateau(HOSTILE_ENV) as stage:
        return uvloop.run(hostile.besieged(stage, load))


def of_owners(load: owners.Load) -> owners.Beside:
    with plateau(OWNERS_ENV) as stage:
        return uvloop.run(owners.shared(stage, load))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench pressure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="room, hostile, owners [all of them]"
    )
    options = parser.parse_args(arguments)
    open_files_most()
    parts: dict[str, Callable[[], list[Row]]] = {
        "room": lambda: of_room(room.Load()).rows(),
        "hostile": lambda: of_hostile(hostile.Load()).rows(),
        "owners": lambda: of_owners(owners.Load()).rows(),
    }
    if unknown := set(options.parts) - parts.keys():
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(parts)}")
    return report("pressure", [row for name in options.parts or parts for row in parts[name]()])


if __name__ == "__main__":
    sys.exit(main())
