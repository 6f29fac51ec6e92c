"""Items that OpenAI's Responses are sent by their ids alone, as what they were.

Invariant: an id that is one of ours stands for what was told under it, or is refused: a model
is never asked as if it had not been said. Ids of OpenAI's own servers are left as they are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from typing import Any

from plateau_sse import jsontext
from plateau_sse.api.bodies import invalid
from plateau_sse.api.runs import run_of
from plateau_sse.api.state import State
from plateau_sse.dialects.openai_items import output_of, status_of
from plateau_sse.errors import Problem
from plateau_sse.store.runs import ids

# A message, a thought, or a call, of a run or of a cached answer.
_ITEM_ID = re.compile(
    rf"(?:msg|rs|fc)_({ids.RUN_ID.pattern}|{ids.HIT_ID.pattern})_(?:[0-9]{{1,9}}|output)"
)
# A body may name many: each run is read once, and what comes of all is bounded, also where one
# item is named a thousand times.
RUNS_MOST = 256
BYTES_MOST = 4 * 1024 * 1024


async def resolved(state: State, owner: str, given: Any) -> Any:
    """`input` with the items that it names in the place of their names; Problem where one of
    ours is kept no more. Raises StoreError."""
    if not isinstance(given, list):
        return given
    named = {index: name for index, it in enumerate(given) if (name := _named(it))}
    runs = defaultdict[str, Counter[str]](Counter)
    for item_id, run_id in named.values():
        runs[run_id][item_id] += 1
    if len(runs) > RUNS_MOST:
        detail = f"Items of at most {RUNS_MOST} responses: send the items themselves."
        raise invalid("input", detail)
    items = dict[str, dict[str, Any]]()
    left = BYTES_MOST
    for run_id, wanted in runs.items():
        found = await _items(state, run_id, owner, wanted)
        left -= sum(len(jsontext.encode(item)) * wanted[item["id"]] for item in found)
        if left < 0:
            raise invalid("input", f"What it names is more than {BYTES_MOST:,} bytes.")
        items |= {item["id"]: item for item in found}
    for index, (item_id, _) in named.items():
        if item_id not in items:
            detail = "What it refers to is not kept any more: send the items themselves."
            raise invalid(f"input[{index}]", detail)
    return [items[named[at][0]] if at in named else it for at, it in enumerate(given)]


def _named(item: Any) -> tuple[str, str] | None:
    """The id that it is, and whose; None where it is no reference to anything of ours."""
    if not isinstance(item, Mapping) or not isinstance(item.get("id"), str):
        return None
    # The type may be left out, where nothing else is there.
    kind = "item_reference" if item.keys() <= {"id", "type"} else ""
    if (item.get("type") or kind) != "item_reference":
        return None
    match = _ITEM_ID.fullmatch(item["id"])
    return None if match is None else (item["id"], match[1])


async def _items(
    state: State, run_id: str, owner: str, wanted: Container[str]
) -> list[dict[str, Any]]:
    try:
        run = await run_of(state, run_id, owner)
    except Problem:
        return []
    # Of one that is on nobody has the whole.
    status = status_of(run["status"], run["finish_reason"])
    output = output_of(run_id, run["parts"] or [], status, run["output"])
    return [item for item in output if item["id"] in wanted]
