"""Cached answers a CPU-second, as one JSON document and as a stream, beside LiteLLM's proxy.

The same question again and again over eight kept connections, each answer read to its end; CPU
is that of all of the server's processes and of its Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import httpx
from tests.fake_model import fake_model
from tests.processes import wait_until

from benchmarks import corpus, plots
from benchmarks.measuring import cpu_s, open_files_most, pss_kib
from benchmarks.peers import Absent
from benchmarks.peers.litellm import MODELS, litellm
from benchmarks.rows import Row, report
from benchmarks.stages import PlateauStage, plateau

JSON_BOUND, STREAM_BOUND = 30, 450
CONNECTIONS = 8
# Enough CPU time to count in: its unit is a hundredth of a second.
CPU_S, LONGEST_S = 3.0, 60.0
TEXT = next(corpus.answers(1))
QUESTION = "What is a plateau? " * 20


class Rate(NamedTuple):
    """Answers a CPU-second."""

    json: float
    streamed: float
    mib: float


async def rate(
    port: int,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str],
    pids: Callable[[], list[int]],
) -> float:
    """Ask until the server has spent `CPU_S`."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(content)}", "", ""]
    request = "\r\n".join(lines).encode() + content
    answered = 0
    over = asyncio.Event()

    async def ask() -> None:
        nonlocal answered
        reader = writer = None
        while not over.is_set():
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            closes = await _answer(reader)
            answered += 1
            if closes:
                writer.close()
                reader = writer = None

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(ask())
        watched = pids()
        began, first = cpu_s(watched), answered
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST_S
        while cpu_s(watched) - began < CPU_S and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        found = (answered - first) / (cpu_s(watched) - began)
        over.set()
    return found


async def _answer(reader: asyncio.StreamReader) -> bool:
    """Read one answer, which must be a 200, to its end; whether the connection closes."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"answered {head[:200]!r}")
    if b"transfer-encoding: chunked" in head:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
    return b"connection: close" in head


def prepared(stage: PlateauStage) -> dict[str, Any]:
    """The question, once its answer is cached; the stage's model is the fake one."""
    body = {"agent": "openai", "input": QUESTION, "options": {"model": "normal"}}
    url = f"http://127.0.0.1:{stage.port}/v1/runs"

    def cached() -> bool:
        answer = httpx.post(url, json=body, headers={"Prefer": "wait=20"}, timeout=30)
        return answer.headers["x-cache"] == "hit"

    wait_until(cached, "the answer is cached")
    return body


def env_of(base_url: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": base_url, "OPENAI_MODEL": "normal"}


def ours() -> Rate:
    with fake_model(TEXT) as model, plateau(env_of(model.base_url)) as stage:
        body, sse = prepared(stage), {"Accept": "text/event-stream"}
        as_json = asyncio.run(rate(stage.port, "/v1/runs", body, {}, stage.everything))
        streamed = asyncio.run(rate(stage.port, "/v1/runs", body, sse, stage.everything))
        return Rate(as_json, streamed, pss_kib(stage.everything()) / 1024)


def theirs() -> Rate | None:
    try:
        with fake_model(TEXT) as model, litellm(model.base_url) as proxy:
            messages = [{"role": "user", "content": QUESTION}]
            bodies = {
                stream: {"model": name, "messages": messages, "stream": stream}
                for stream, name in MODELS.items()
            }
            path = "/v1/chat/completions"
            url = f"http://127.0.0.1:{proxy.port}{path}"
            for body in [*bodies.values(), *bodies.values()]:
                httpx.post(url, json=body, timeout=60).raise_for_status()
            as_json, streamed = (
                asyncio.run(rate(proxy.port, path, bodies[stream], {}, proxy.pids))
                for stream in (False, True)
            )
            return Rate(as_json, streamed, pss_kib(proxy.pids()) / 1024)
    except (Absent, httpx.HTTPError) as error:
        sys.stderr.write(f"skipped: {error}\n")
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench cached", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    our, their = ours(), theirs()
    rows = []
    for what, mine, other, bound in (
        ("JSON", our.json, their.json if their else None, JSON_BOUND),
        ("streamed", our.streamed, their.streamed if their else None, STREAM_BOUND),
    ):
        beside = f"{mine:.0f} a CPU-second; LiteLLM "
        beside += "skipped" if other is None else f"{other:.1f}"
        if their is not None:
            beside += f" in {their.mib:.0f} MiB, ours {our.mib:.0f}"
        ratio = None if other is None else mine / other
        figures = {"Plateau": mine} | ({} if other is None else {"LiteLLM's proxy": other})
        rows.append(
            Row(
                f"cached answers, {what}",
                ratio,
                "x LiteLLM",
                bound,
                most=False,
                peers=beside,
                figures=figures,
                figures_in="a CPU-second",
            )
        )
    panels = [(f"{row.what}, a CPU-second", row.figures) for row in rows]
    panels.append(("memory, Redis included, MiB", {"Plateau": our.mib}))
    finding = "Cached answers a CPU-second"
    if their is not None:
        panels[-1] = (panels[-1][0], {"Plateau": our.mib, "LiteLLM's proxy": their.mib})
        times = " and ".join(f"{row.measured:,.0f}" for row in rows if row.measured)
        finding = f"A CPU-second gives {times} times as many cached answers as LiteLLM's proxy"
    return report("cached", rows, lambda path: plots.compared(panels, finding, "", path))


if __name__ == "__main__":
    sys.exit(main())
