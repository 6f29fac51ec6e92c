"""Handing back runs that have not ended, by a runner that leaves.

Invariant: what is handed back is anybody's at once, and costs none of its attempts: nobody has
died. Whoever does it has stopped renewing leases, and no agent of his goes on for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress

from plateau_sse.errors import StoreError
from plateau_sse.store.queue.queue import Leases, Queue
from plateau_sse.store.runs.appending import BlockingStreams
from plateau_sse.store.runs.streams import Claimed, Streams

log = logging.getLogger("plateau.runner")

# With a store that is away their leases run out instead.
WITHIN_S = 1.0

# Runs, and what was claimed of those of which that is known.
Held = Mapping[str, Claimed | None]


async def hand_back(
    name: str, lines: Iterable[str], held: Held, queue: Queue, streams: Streams
) -> None:
    """All that `name` holds of these lines, also what was on its way to it when it stopped
    listening."""
    try:
        async with asyncio.timeout(WITHIN_S):
            # First what is counted: whoever has taken a run over counts anew.
            counted = await asyncio.gather(
                *(_uncount(name, run_id, claimed, streams) for run_id, claimed in held.items()),
                return_exceptions=True,
            )
            await queue.hand_back(name, lines)
        for error in counted:
            if isinstance(error, BaseException):
                log.warning("a run was handed back, and counts as a try: %s", error)
    except (StoreError, TimeoutError) as error:
        log.warning("runs could not be handed back: %s", error)


async def _uncount(name: str, run_id: str, claimed: Claimed | None, streams: Streams) -> None:
    """Also a claim whose answer nobody has heard."""
    begun = claimed or await streams.claimed_by(name, run_id)
    if begun is not None:
        await streams.hand_back(run_id, begun)


def hand_back_blocking(
    name: str, lines: Iterable[str], held: Held, leases: Leases, streams: BlockingStreams
) -> None:
    """The same from a thread."""
    with suppress(StoreError):
        for run_id, claimed in held.items():
            begun = claimed or streams.claimed_by(name, run_id)
            if begun is not None:
                streams.hand_back(run_id, begun.attempt, begun.tries)
        leases.hand_back(name, lines)
