"""A session of OpenAI's Agents SDK, in Plateau's memory of a conversation.

    support = hosted(agent, input=Session)  # the whole exchange, with its tool calls

    async def support(run):                 # or by hand
        result = await Runner.run(agent, run.input, session=Session(run))
        yield result.final_output

Invariant: a run that waits for a person is kept beside the exchange, until somebody has
answered or the user has said something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from plateau_sse.agents import Run
from plateau_sse.agents.memory.kept import packed, unpacked
from plateau_sse.agents.memory.said import Said

FORMAT = "openai-agents/1"


class Session:
    """As the SDK's protocol has it. `state` is that of a run which waits, `waiting` the calls
    that a person is to answer, the SDK's ids by those under which they were asked. `said` is
    what the user had said in its items; it is kept by whoever `notes` it."""

    session_settings = None

    def __init__(self, run: Run) -> None:
        self.session_id = run.conversation or run.id
        self._memory = run.memory
        self._items: list[Any] = []
        self.state: dict[str, Any] | None = None
        self.waiting: dict[str, str] = {}
        self.said, self.notes = Said(), False
        if self._memory is not None and (kept := unpacked(self._memory.value, FORMAT)):
            self._items = kept["messages"]
            self.state, self.waiting = kept["state"], kept["waiting"]
            # Releases before kept none.
            self.said = Said(kept.get("said", ""), len(self._items))

    @property
    def size(self) -> int:
        return len(self._items)

    def back_to(self, turns: int) -> None:
        """Only so many turns of what was `said` are left, if there are more."""
        if turns < len(self.said.turns):
            self._items = self._items[: self.said.back_to(turns)]
            self.state, self.waiting = None, {}
            self._keep()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered: no items, and no run that waits."""
        return not self._items and self.state is None

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """Those of the runs before, oldest first; the latest `limit`."""
        first = 0 if limit is None else max(0, len(self._items) - limit)
        return self._items[first:]

    async def add_items(self, items: Sequence[Any]) -> None:
        self._items += [_plain(item) for item in items]
        self._keep()

    async def pop_item(self) -> Any:
        """The latest, None where there is none."""
        item = self._items.pop() if self._items else None
        self._keep()
        return item

    async def clear_session(self) -> None:
        self._items = []
        self._keep()

    def wait(self, state: dict[str, Any], waiting: Mapping[str, str]) -> None:
        """For the next run of the conversation, once this one has completed."""
        self.state, self.waiting = state, dict(waiting)
        self._keep()

    def go_on(self) -> None:
        """Nothing waits any more."""
        if self.state is not None:
            self.state, self.waiting = None, {}
            self._keep()

    def _keep(self) -> None:
        """Without a conversation nothing is kept."""
        if self._memory is None:
            return
        if self.is_empty:
            self._memory.keep(b"")
            return
        said = self.said.told(len(self._items)) if self.notes else ""
        head = {
            "format": FORMAT,
            "state": self.state,
            "waiting": self.waiting,
            "said": said,
        }
        told = [json.dumps(item, separators=(",", ":")).encode() for item in self._items]
        begins = [at for at, item in enumerate(self._items) if item.get("role") == "user"]
        self._memory.keep(packed(head, told, begins))


def _plain(item: Any) -> Any:
    return item if isinstance(item, dict) else item.model_dump(exclude_unset=True, mode="json")
