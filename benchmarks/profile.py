"""Where a web worker's CPU goes under three loads: samples of its stack, by what it was doing.

py-spy takes them, native frames included; it is installed on first use, into an environment of
its own. A sample counts for the innermost of its frames that is a place of `PLACES`; one that
waits for something to do counts for nothing. Shares have no bound.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from tests.fake_model import fake_model

from benchmarks import cached, plots
from benchmarks.fanout import MANY, ONE, Shape
from benchmarks.measuring import open_files_most
from benchmarks.peers import Absent, environment_of
from benchmarks.readers import Crowd
from benchmarks.rows import Row, report
from benchmarks.stages import PlateauStage, plateau

SAMPLES_A_S, SECONDS = 300, 15
WAITING = re.compile(r"epoll_p?wait\b")
# Of a frame, as py-spy writes it: `function (file:line)`.
PLACES = {
    "the kernel's write": re.compile(r"^_*(libc_)?(writev?|send(msg)?) \(lib"),
    "the kernel's read": re.compile(r"^_*(libc_)?(read|recv(msg)?) \(lib"),
    "hub, feeds, subscribers": re.compile(
        r"plateau_sse/live/(hub|delivery|repairs|feed|subscriber|response)"
    ),
    "frames": re.compile(r"plateau_sse/live/sse"),
    "Redis' replies": re.compile(
        r"plateau_sse/(live/subscription|store/redis/wire)|hiredis|reader\.c"
    ),
    "lookups in the cache": re.compile(r"plateau_sse/store/answers/|zstd"),
    "taking on a run": re.compile(r"plateau_sse/(api|intake)/"),
    "counting and watching": re.compile(r"plateau_sse/(ops/|store/(figures/|redis/servers))"),
    "uvicorn": re.compile(r"uvicorn/|httptools|plateau_sse/live/protocol"),
    "Starlette": re.compile(r"starlette/"),
    "redis-py": re.compile(r"(?<!store/)redis/"),
    "uvloop and asyncio": re.compile(r"loop\.c|uv_|uv__|asyncio/|_asynciomodule"),
}
OTHER = "other"

# Sets the first event when it runs evenly, and ends with the second.
Load = Callable[[PlateauStage, asyncio.Event, asyncio.Event], Coroutine[Any, Any, None]]


def place_of(stack: str) -> str | None:
    """Of a stack, its outermost frame first and `;` between; None for one that waits."""
    frames = stack.split(";")[::-1]
    if WAITING.match(frames[0]):
        return None
    for frame in frames:
        for place, pattern in PLACES.items():
            if pattern.search(frame):
                return place
    return OTHER


def shares(samples: str) -> dict[str, float]:
    """Percent by place, the largest first, of lines of a stack and how often it was seen."""
    counts: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        place = place_of(stack.strip())
        if place is not None:
            counts[place] += int(count)
    return {place: 100 * count / counts.total() for place, count in counts.most_common()}


def followed(shape: Shape) -> Load:
    """Its readers get events for as long as they keep pace."""

    async def load(stage: PlateauStage, even: asyncio.Event, over: asyncio.Event) -> None:
        crowd = Crowd(stage.port, stage.opened_by)
        try:
            streams = await stage.start(shape.streams)
            each = shape.readers // shape.streams
            await crowd.open([stage.target(name) for name in streams for _ in range(each)])
            expected = crowd.delivered
            even.set()
            while not over.is_set():
                await stage.publish(streams)
                expected += shape.readers
                await crowd.until_delivered(expected)
        finally:
            crowd.leave()
            await stage.close()

    return load


async def hits(stage: PlateauStage, even: asyncio.Event, over: asyncio.Event) -> None:
    """The same cached question again and again."""
    body = await asyncio.to_thread(cached.prepared, stage)
    even.set()
    while not over.is_set():
        await cached.rate(stage.port, "/v1/runs", body, {}, stage.everything)


async def profiled(stage: PlateauStage, load: Load, py_spy: Path) -> dict[str, float]:
    """Of the first worker, once the load runs evenly. Raises Absent where it may not be looked
    into."""
    even, over = asyncio.Event(), asyncio.Event()
    loading = asyncio.create_task(load(stage, even, over))
    evenly = asyncio.create_task(even.wait())
    try:
        await asyncio.wait({loading, evenly}, return_when=asyncio.FIRST_COMPLETED)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "samples"
            options = ["--native", "--format", "raw", "--output", str(file)]
            options += ["--rate", str(SAMPLES_A_S), "--duration", str(SECONDS)]
            process = await asyncio.create_subprocess_exec(
                *(str(py_spy), "record", *options, "--pid", str(stage.web()[0])),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, said = await process.communicate()
            if process.returncode:
                raise Absent(f"py-spy: {said.decode(errors='replace').strip()[-200:]}")
            found = shares(file.read_text())
    finally:
        over.set()
        evenly.cancel()
        await loading
    return found


def measured() -> dict[str, dict[str, float]]:
    """By load. Raises Absent."""
    py_spy = environment_of("py-spy", "py-spy") / "py-spy"
    found: dict[str, dict[str, float]] = {}
    loads = {"1 stream x 1,000 readers": followed(ONE), "2,000 x 1": followed(MANY)}
    for name, load in loads.items():
        with plateau() as stage:
            found[name] = asyncio.run(profiled(stage, load, py_spy))
    env = {"MAX_REQUESTS": "0"}
    with (
        fake_model(cached.TEXT) as model,
        plateau(env | cached.env_of(model.base_url)) as stage,
    ):
        found["cached answers, JSON"] = asyncio.run(profiled(stage, hits, py_spy))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench profile", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    try:
        found = measured()
    except Absent as error:
        sys.stderr.write(f"skipped: {error}\n")
        return report("profile", [Row("where CPU goes", None, "%", peers=str(error))])
    rows = [
        Row(f"{load}: {place}", share, "% of CPU")
        for load, by_place in found.items()
        for place, share in by_place.items()
    ]
    title = "Where a web worker's CPU goes, percent"
    return report(
        "profile", rows, lambda path: plots.compared(list(found.items()), title, "", path)
    )


if __name__ == "__main__":
    sys.exit(main())
