"""An exchange as it is kept: its messages as JSON, the oldest giving way.

Invariant: what is kept is within its bound, as far as whole exchanges can give way: from one
thing that the user said to the next. What another kind of agent, or another release, has kept
is nothing: a conversation that never went on would be worse.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from plateau_sse.agents import MEMORY_BYTES

log = logging.getLogger("plateau.runner")


def packed(head: Mapping[str, Any], told: Sequence[bytes], begins: Sequence[int]) -> bytes:
    """With as many of the latest messages as fit; `begins` are those of the user, in order, as
    numbers of `told`, which is JSON."""
    # The closing brace gives way to the messages.
    begun = json.dumps(head, separators=(",", ":"))[:-1].encode() + b',"messages":['
    size, first = len(begun) + sum(map(len, told)) + len(told) + 2, 0
    for following in begins:
        if size <= MEMORY_BYTES:
            break
        size -= sum(map(len, told[first:following])) + following - first
        first = following
    return begun + b",".join(told[first:]) + b"]}"


def unpacked(value: bytes, form: str) -> dict[str, Any]:
    """What was kept in this form; {} for all else."""
    if not value:
        return {}
    kept: Any = None
    try:
        kept = json.loads(value)
    except ValueError:
        pass
    if isinstance(kept, dict) and kept.get("format") == form:
        return kept
    log.warning(
        "a memory of %d bytes is begun anew: it is not in the form %s", len(value), form
    )
    return {}
