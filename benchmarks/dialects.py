"""What each dialect costs beside the native stream: CPU a delivery and memory of a reader, with
999 readers of one run; and cached chat.completions beside LiteLLM's on the same route.

The readers ask as the clients of their dialect do, and join one run, whose agent says a piece
whenever it is told to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from tests.fake_model import fake_model
from tests.processes import Serving, serving, wait_until

from benchmarks import plots
from benchmarks.cached import JSON_BOUND, QUESTION, STREAM_BOUND, TEXT, Rate, rate, theirs
from benchmarks.fanout import ONE, Cost, by_turns, deliver
from benchmarks.measuring import open_files_most, pss_kib
from benchmarks.memory import held
from benchmarks.pieces import AGENT, END, MORE
from benchmarks.rows import Row, report
from benchmarks.stages import PlateauStage, plateau
from plateau_sse.cli.dialects import SPOKEN, Question
from plateau_sse.store.runs.shares import TOKENS_MOST

DELIVERY_BOUND, MEMORY_BOUND = 1.05, 1.1
NATIVE = "native"
# All callers that may share a run, but for the one that has asked for it.
READERS = TOKENS_MOST - 1
ROUTE = "/v1/chat/completions"
# Rounds of one code differ by more than the bounds leave room for.
TURNS = 7


class DialectStage(PlateauStage):
    """Whose readers ask in one dialect: a stream is a question, which they join."""

    opened_by = b"data: "

    def __init__(self, service: Serving, dialect: str, folder: Path) -> None:
        super().__init__(service)
        self.name = f"plateau, {dialect}"
        self._dialect = dialect
        self._folder = folder
        self._out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._asked: list[str] = []

    async def start(self, count: int) -> list[str]:
        return [await asyncio.to_thread(self._ask) for _ in range(count)]

    def _ask(self) -> str:
        """A question that is being answered: its first word has been said."""
        question = uuid4().hex
        url = f"http://127.0.0.1:{self.port}"
        asked = httpx.post(f"{url}/v1/runs", json=_native(question, self._options(question)))
        self._asked.append(question)
        wait_until(lambda: self._inbox(question).exists(), "its agent is at it")
        self._say(question, MORE)
        with httpx.stream("GET", url + asked.json()["events_url"], timeout=30) as events:
            next(line for line in events.iter_lines() if "message.delta" in line)
        return question

    def target(self, stream: str) -> bytes:  # type: ignore[override]
        """The request of one reader."""
        options, kind = self._options(stream), "*/*"
        if self._dialect == NATIVE:
            path, body, kind = "/v1/runs", _native(stream, options), "text/event-stream"
        else:
            spoken = SPOKEN[self._dialect]
            path = spoken.path_to("pieces")
            body = spoken.body(Question("pieces", stream, options, uuid4().hex))
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {kind}\r\n"
        head += "Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    async def publish(self, streams: Sequence[str]) -> None:
        for stream in streams:
            self._say(stream, MORE)

    async def close(self) -> None:
        for question in self._asked:
            self._say(question, END)
        self._asked.clear()
        self._out.close()
        await super().close()

    def _options(self, question: str) -> dict[str, Any]:
        return {"inbox": str(self._inbox(question))}

    def _inbox(self, question: str) -> Path:
        return self._folder / question

    def _say(self, question: str, word: bytes) -> None:
        self._out.sendto(word, str(self._inbox(question)))


def _native(question: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"agent": "pieces", "input": question, "options": options}


@contextmanager
def staged(dialect: str) -> Iterator[DialectStage]:
    """`plateau serve` as it is shipped, with that agent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder / "data", env={"AGENTS": AGENT}) as service:
            yield DialectStage(service, dialect, folder)


def cost(dialect: str) -> Cost:
    with staged(dialect) as stage:
        sys.stderr.write(f"{stage.name}: {READERS:,} readers\n")
        return asyncio.run(deliver(stage, ONE._replace(readers=READERS)))


def reader_kib(dialect: str) -> float:
    with staged(dialect) as stage:
        sys.stderr.write(f"{stage.name}: memory of {READERS} readers\n")
        return asyncio.run(held(stage, READERS, 1))["reader"]


def deliveries() -> list[Row]:
    rows = []
    for dialect in SPOKEN:
        ratios, own, native = by_turns(partial(cost, dialect), partial(cost, NATIVE), TURNS)
        assert native is not None
        rows.append(
            Row(
                f"CPU a delivery in {dialect}, 1 x {READERS:,}",
                own.both / native.both,
                "x native",
                DELIVERY_BOUND,
                peers=f"{own}; native {native}; {ratios}",
                figures={dialect: own.both, NATIVE: native.both},
                figures_in="us",
            )
        )
    return rows


def memory() -> list[Row]:
    native = reader_kib(NATIVE)
    rows = []
    for dialect in SPOKEN:
        own = reader_kib(dialect)
        rows.append(
            Row(
                f"memory of a reader in {dialect}, of {READERS:,}",
                own / native,
                "x native",
                MEMORY_BOUND,
                peers=f"{own:.1f} KiB; native {native:.1f}",
                figures={dialect: own, NATIVE: native},
                figures_in="KiB",
            )
        )
    return rows


def ours() -> Rate:
    """The same bodies as LiteLLM is sent, at the same route."""
    with fake_model(TEXT) as model:
        env = {"OPENAI_BASE_URL": model.base_url, "OPENAI_MODEL": "normal"}
        with plateau(env) as stage:
            url = f"http://127.0.0.1:{stage.port}{ROUTE}"

            def cached() -> bool:
                answer = httpx.post(url, json=_completion(stream=False), timeout=30)
                return answer.headers["x-cache"] == "hit"

            wait_until(cached, "the answer is cached")
            as_json, streamed = (
                asyncio.run(
                    rate(stage.port, ROUTE, _completion(stream=stream), {}, stage.everything)
                )
                for stream in (False, True)
            )
            return Rate(as_json, streamed, pss_kib(stage.everything()) / 1024)


def _completion(*, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": "normal", "messages": messages, "stream": stream}


def cached_beside_litellm() -> list[Row]:
    """In turn, as often as deliveries: what else a machine does makes either side dearer."""
    pairs = [(ours(), theirs())]
    while pairs[0][1] is not None and len(pairs) < TURNS:
        pairs.append((ours(), theirs()))
    rows = []
    for what, number, bound in (("JSON", 0, JSON_BOUND), ("streamed", 1, STREAM_BOUND)):
        turns = sorted(
            (mine[number] / other[number], mine[number], other[number])
            for mine, other in pairs
            if other is not None
        )
        ratio, mine, other = turns[len(turns) // 2] if turns else (None, pairs[0][0][number], 0)
        beside = f"{other:.1f}; {', '.join(f'{it:.0f}' for it, _, _ in turns)}"
        rows.append(
            Row(
                f"cached chat.completions, {what}",
                ratio,
                "x LiteLLM",
                bound,
                most=False,
                peers=f"{mine:.0f} a CPU-second; LiteLLM {beside if turns else 'skipped'}",
                figures={"Plateau": mine} | ({"LiteLLM's proxy": other} if turns else {}),
                figures_in="a CPU-second",
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench dialects", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    delivered = deliveries()
    rows = [*delivered, *memory(), *cached_beside_litellm()]
    most = max(row.measured or 0 for row in delivered)
    finding = f"A delivery in another dialect costs {most:.2f} of a native one at most"
    panels = [(row.what, row.figures) for row in rows]
    details = "µs of CPU a delivery; KiB a reader; answers a CPU-second."
    return report("dialects", rows, lambda path: plots.compared(panels, finding, details, path))


if __name__ == "__main__":
    sys.exit(main())
