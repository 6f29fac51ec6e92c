"""How many English answers of 2 KB the 10 MB cache holds, in three ways of keeping them.

The answers are such as the dictionary was not made of; each is stored with its envelope under a
key of its own, and as it is kept here with the pointer of the run that left it, until as many
entries have been evicted as there are.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tests.conftest import end_server, start_server

from benchmarks import corpus, plots
from benchmarks.rows import Row, report
from plateau_sse.store.answers import pointers
from plateau_sse.store.answers.answer import Answer, answer_of
from plateau_sse.store.answers.cache import Question, key_of
from plateau_sse.store.answers.packing import pack
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.tape import Tape

# On Redis 7; on Valkey 9 more fit, since it spends less on a key.
BOUND = 8000
REDIS = "redis-server"
AT_ONCE = 200
ANSWERS = 24_000


def _plain(answer: Answer) -> bytes:
    kept = msgspec.structs.asdict(answer)
    # Nothing is in it that a usual answer does not need.
    for name in ("attempt", "points", "output", "model"):
        del kept[name]
    return msgspec.json.encode(kept | {"text": answer.text.decode()})


def _deflated(answer: Answer) -> bytes:
    deflating = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflating.compress(_plain(answer)) + deflating.flush()


WAYS: dict[str, Callable[[Answer], bytes]] = {
    "plain": _plain,
    "zlib": _deflated,
    "plateau": pack,
}


# The others, as a plot calls them.
NAMES = {"plain": "plain JSON", "zlib": "deflated"}


def answers() -> Iterator[Answer]:
    for number, text in enumerate(corpus.answers(ANSWERS)):
        usage = {"input_tokens": 400 + number % 300, "output_tokens": 350 + number % 111}
        yield answered(text, usage=usage, duration_ms=1500 + number % 2999)


def answered(text: str, **more: Any) -> Answer:
    """As a run keeps it that has said this text."""
    run_id, tape = ids.new_run_id(), Tape()
    tape.add(events.started(run_id, "study", 1))
    tape.add(events.delta(text))
    return answer_of(
        tape=tape, run_id=run_id, agent="study", owner="anonymous", output=None, **more
    )


def key(number: int) -> str:
    messages = [{"role": "user", "content": f"question {number}"}]
    return keys.cache(key_of(Question("study", "1", "anonymous", "", "", messages, {})))


def _pointer(name: str, answer: Answer) -> tuple[str, bytes]:
    """Of a run that one caller asked for."""
    key = name.removeprefix(keys.cache(""))
    return keys.left_by(ids.new_run_id()), pointers.pack(key, answer, [ids.new_token()])


async def fit(url: str, way: Callable[[Answer], bytes]) -> int:
    """How many of `answers` are there once as many entries have been evicted."""
    redis: Any = connect(url, "bench")
    try:
        await redis.flushall()
        before = (await redis.info("stats"))["evicted_keys"]
        async with redis.pipeline(transaction=False) as pipe:
            for number, answer in enumerate(answers()):
                pipe.set(key(number), way(answer), ex=3600)
                if way is pack:
                    pipe.set(*_pointer(key(number), answer), ex=3600)
                if number % AT_ONCE:
                    continue
                await pipe.execute()
                held: int = await redis.dbsize()
                if (await redis.info("stats"))["evicted_keys"] - before > held:
                    return len(await redis.keys(keys.cache("*")))
        raise RuntimeError(f"{ANSWERS} answers do not fill it twice")
    finally:
        await redis.aclose()


def servers() -> dict[str, str]:
    """What to measure, by its name: REDIS_SERVER_BIN where it is set, else the bundled server
    and Redis, where that is installed."""
    given = os.environ.get("REDIS_SERVER_BIN", "")
    if given:
        return {given: given}
    return {"the bundled server": ""} | ({"Redis": REDIS} if shutil.which(REDIS) else {})


def fits(binary: str) -> dict[str, int]:
    """How many in each way."""
    with tempfile.TemporaryDirectory() as folder:
        server = start_server("cache", Path(folder), binary)
        try:
            return {name: asyncio.run(fit(server.url, way)) for name, way in WAYS.items()}
        finally:
            end_server(server)


def row(server: str, found: dict[str, int]) -> Row:
    others = ", ".join(f"{way} {count:,}" for way, count in found.items() if way != "plateau")
    return Row(
        f"2 KB answers in 10 MB of {server}",
        found["plateau"],
        "",
        BOUND,
        most=False,
        peers=others,
        figures={"as it is kept": found["plateau"], **_others(found)},
        figures_in="answers",
    )


def _others(found: dict[str, int]) -> dict[str, int]:
    return {NAMES[way]: count for way, count in found.items() if way in NAMES}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench capacity",
        description=__doc__,
        epilog="REDIS_SERVER_BIN=… measures that server alone.",
    )
    parser.parse_args(arguments)
    rows = [row(name, fits(binary)) for name, binary in servers().items()]
    times = rows[-1].figures["as it is kept"] / rows[-1].figures["plain JSON"]
    finding = f"The cache holds {times:.1f} times as many answers as plain JSON would"
    panels = [(one.what, one.figures) for one in rows]
    return report("capacity", rows, lambda path: plots.compared(panels, finding, "", path))


if __name__ == "__main__":
    sys.exit(main())
