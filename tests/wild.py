"""The agent `openai` and an endpoint: what it tells of it.

with raw_model(script) as model:
    told = tell(model.base_url)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from plateau_sse.agents import AgentError, Finish, Message, Reasoning, Run, Yielded
from tests.upstreams import agent_of


@dataclass
class Told:
    """What came of it: an `error` is the code that it failed with; `rest_s` passed from its
    last word to its end."""

    parts: list[Yielded]
    error: str = ""
    message: str = ""
    rest_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(it for it in self.parts if isinstance(it, str))

    @property
    def thoughts(self) -> str:
        return "".join(it.text for it in self.parts if isinstance(it, Reasoning))

    @property
    def reason(self) -> str:
        reasons = [it.reason for it in self.parts if isinstance(it, Finish)]
        return self.error or (reasons[-1] if reasons else "stop")

    def only(self, kind: type) -> list[Any]:
        return [it for it in self.parts if isinstance(it, kind)]


def tell(
    url: str,
    options: dict[str, Any] | None = None,
    *,
    retries: int = 0,
    runs: int = 1,
    messages: Sequence[Message] = (Message("user", "Hi"),),
    **settings: Any,
) -> Told:
    """What the agent tells of the endpoint there, in all of some runs of it."""
    agent = agent_of(url, retries=retries, **settings)
    told = Told([])

    async def main() -> None:
        heard_at = time.monotonic()
        run = Run("r1", "openai", "Hi", messages, options or {})
        try:
            async with asyncio.timeout(20):
                for _ in range(runs):
                    parts = cast("AsyncGenerator[Yielded, None]", agent(run))
                    async for part in parts:
                        told.parts.append(part)
                        heard_at = time.monotonic()
                    told.rest_s = time.monotonic() - heard_at
        except AgentError as error:
            told.error, told.message = error.code, error.message

    asyncio.run(main())
    return told
