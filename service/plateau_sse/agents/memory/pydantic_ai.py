"""What pydantic-ai remembers of a conversation, in Plateau's memory of it.

    support = hosted(agent, input=History)  # the whole exchange, with its tool calls

    async def support(run):                 # or by hand
        history = History(run)
        result = await agent.run(run.input, message_history=history.messages)
        history.keep(result.all_messages())
        yield result.output

Invariant: calls that wait for somebody are kept with the exchange in which they stand.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from plateau_sse.agents import Run
from plateau_sse.agents.memory.kept import packed, unpacked
from plateau_sse.agents.memory.said import Said

log = logging.getLogger("plateau.runner")

FORMAT = "pydantic-ai/1"


class History:
    """`messages` are those of the runs before, as pydantic-ai has them; `waiting` the calls
    that somebody is to answer, theirs by the ids under which they were asked, and `approvals`
    those of them that wait for a yes. `said` is what the user had said in them."""

    def __init__(self, run: Run) -> None:
        self._memory = run.memory
        self.messages: list[Any] = []
        self.waiting: dict[str, str] = {}
        self.approvals: frozenset[str] = frozenset()
        self.said = Said()
        if self._memory is not None and (kept := unpacked(self._memory.value, FORMAT)):
            self._read(kept)

    def _read(self, kept: Mapping[str, Any]) -> None:
        from pydantic import ValidationError
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        try:
            # From JSON: files are not read back from values of Python.
            told = json.dumps(kept["messages"])
            self.messages = ModelMessagesTypeAdapter.validate_json(told)
        except ValidationError as error:
            log.warning("a history is begun anew: %d of it is not read", error.error_count())
            return
        self.waiting, self.approvals = kept["waiting"], frozenset(kept["approvals"])
        # Releases before kept none.
        self.said = Said(kept.get("said", ""), len(self.messages))

    def back_to(self, turns: int) -> None:
        """Only so many turns of what was `said` are left, if there are more."""
        if turns < len(self.said.turns):
            self.messages = self.messages[: self.said.back_to(turns)]
            self.waiting, self.approvals = {}, frozenset()

    def keep(
        self,
        messages: Sequence[Any],
        waiting: Mapping[str, str] | None = None,
        approvals: Sequence[str] = (),
        said: Said | None = None,
    ) -> None:
        """For the next run of the conversation, once this one has completed; without one
        nothing is kept. `said` is what the user has said in them, where that is known."""
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        if self._memory is None:
            return
        told = [
            ModelMessagesTypeAdapter.dump_json([message], round_trip=True)[1:-1]
            for message in messages
        ]
        if said is not None and list(messages[: len(self.messages)]) != self.messages:
            # The agent has made others of them.
            said.join()
        head = {
            "format": FORMAT,
            "waiting": waiting or {},
            "approvals": list(approvals),
            "said": "" if said is None else said.told(len(messages)),
        }
        begins = [at for at, message in enumerate(messages) if _begins(message)]
        self._memory.keep(packed(head, told, begins))

    def forget(self) -> None:
        if self._memory is not None and self._memory.value:
            self._memory.keep(b"")


def _begins(message: Any) -> bool:
    return any(part.part_kind == "user-prompt" for part in message.parts)
