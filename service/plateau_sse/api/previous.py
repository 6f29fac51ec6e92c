"""What a response was asked, so that another can go on from it.

Invariant: it is kept beside the cached answers, which make room for each other: it can be gone
sooner than the answer, never more than there is room for, and nobody waits for it to be kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import zstandard

from plateau_sse.api.runs import run_of
from plateau_sse.api.state import State
from plateau_sse.errors import Problem
from plateau_sse.store.conversations.calls import message_of

log = logging.getLogger("plateau.api")

LEVEL = 3
# Of what was asked; a body is a megabyte as shipped.
MOST_BYTES = 4 * 1024 * 1024


class Previous:
    def __init__(self, state: State) -> None:
        self._state = state

    @staticmethod
    def name_of(owner: str, run_id: str) -> str:
        return blake2b(f"{owner}\n{run_id}".encode(), digest_size=16).hexdigest()

    async def remember(
        self, owner: str, run_id: str, messages: Sequence[dict[str, Any]]
    ) -> None:
        """What the run was asked, with what it went on from itself."""
        data = msgspec.json.encode(messages)
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(data)
        await self._state["cache"].note(self.name_of(owner, run_id), packed)

    async def messages(self, owner: str, run_id: str) -> list[dict[str, Any]]:
        """All that was said up to its answer, and that; Problem where that is kept no more, or
        not said yet. Raises StoreError."""
        packed = await self._state["cache"].noted(self.name_of(owner, run_id))
        if packed is None:
            raise _unknown("What that response was asked is not kept any more: send all.")
        try:
            run = await run_of(self._state, run_id, owner)
        except Problem:
            raise _unknown("There is no such response any more: send all.") from None
        if run["parts"] is None:
            raise _unknown("That response has not ended yet.")
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=MOST_BYTES)
        asked: list[dict[str, Any]] = msgspec.json.decode(data)
        answer = message_of(run["parts"], run["output"])
        return [*asked, *([answer] if answer else [])]


def _unknown(detail: str) -> Problem:
    return Problem(
        "previous_response_not_found", detail, extra={"field": "previous_response_id"}
    )
