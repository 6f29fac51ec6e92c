"""An owner who asks for more than one may have, in a process of its own.

    python -m benchmarks.pressure.greedy URL KEY ASKS ASKS_A_SECOND

Its runs last as long as a run may. It says `full` once the first was refused; when its stdin is
closed it cancels all that it has, and says what it was answered, as JSON.

Invariant: it leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import suppress

import httpx
import msgspec
import uvloop

AT_ONCE = 20
# Shorter than RUN_TIMEOUT_S as shipped.
PIECES = {"count": 110, "pause_ms": 1000, "width": 60}


class Greedy:
    def __init__(self, url: str, key: str) -> None:
        self.answers: Counter[str] = Counter()
        self._cancel_urls: list[str] = []
        self.client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_connections=AT_ONCE),
            timeout=60,
            trust_env=False,
        )

    async def ask(self, number: int) -> None:
        body = {
            "agent": "load",
            "input": f"greedy {number}",
            "options": PIECES,
            "cache": {"mode": "off"},
        }
        answer = await self.client.post("/v1/runs", json=body)
        found = answer.json()
        if answer.is_success:
            self._cancel_urls.append(found["cancel_url"])
        elif not self.answers.total() - self.answers["202"]:
            say("full")
        self.answers[str(found.get("code", answer.status_code))] += 1

    async def ask_on(self, asks: int, a_second: int) -> None:
        """As quickly as it can until it is refused, then at that pace."""
        number = 0
        while number < asks and not self.answers.total() - self.answers["202"]:
            await asyncio.gather(*(self.ask(number + n) for n in range(AT_ONCE)))
            number += AT_ONCE
        async with asyncio.TaskGroup() as group:
            for more in range(number, asks):
                group.create_task(self.ask(more))
                await asyncio.sleep(1 / a_second)

    async def leave(self) -> None:
        for start in range(0, len(self._cancel_urls), AT_ONCE):
            some = self._cancel_urls[start : start + AT_ONCE]
            await asyncio.gather(*(self.client.post(url) for url in some))
        await self.client.aclose()


async def main(url: str, key: str, asks: int, a_second: int) -> None:
    greedy = Greedy(url, key)
    asking = asyncio.create_task(greedy.ask_on(asks, a_second))
    await asyncio.to_thread(sys.stdin.read)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await greedy.leave()
    say(msgspec.json.encode(greedy.answers).decode())


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
