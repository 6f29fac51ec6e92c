"""A request for a run, and what became of it.

Invariant: an ask is valid and whole: what is not in it can have no part in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec

from plateau_sse import owners
from plateau_sse.content import latest_text
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.conversations.calls import Called
from plateau_sse.store.conversations.conversations import Message, place_of
from plateau_sse.store.runs.streams import EXTERNAL

# The roles that tell an agent how to answer.
INSTRUCTIONS = ("system", "developer")

# The option that says what becomes of a run whose conversation has another: `wait` or `refuse`.
IF_BUSY = "if_busy"

Mode = Literal["use", "refresh", "off"]
How = Literal["miss", "hit", "joined"]


class Ask(NamedTuple):
    """One request for a run, validated; `messages` as the client sent them. `owner` is whose
    the run will be: a user's name where a token of that user asks. A conversation's id and an
    idempotency key are '' where the client gave none. `again`: it is what was asked in the
    conversation before, and takes the place of that. `thread` is the place of what its agent
    remembers where its client has the history; `memory` that place where the agent remembers
    anything, and `is_kept` whether its answers are cached and shared, as taken on."""

    agent: str
    owner: str
    user: str
    messages: list[dict[str, Any]]
    options: dict[str, Any]
    mode: Mode = "use"
    ttl_s: int | None = None
    idempotency_key: str = ""
    conversation_id: str = ""
    again: bool = False
    # Says where it came from, and nothing of what is asked.
    request_id: str = ""
    # Of the trace that it belongs to, '' for none: W3C's `traceparent`.
    traceparent: str = ""
    # What follows of the two above, and of what the agent is.
    thread: str = ""
    is_kept: bool = True
    memory: str = ""

    def fingerprint(self) -> str:
        """Tells one body from another under the same idempotency key."""
        # Who asks again asks for a new answer, which its mode says.
        members: tuple[Any, ...] = self._replace(idempotency_key="")[:-6]
        if not self.conversation_id:
            # As by releases that knew of no conversations: during an upgrade both kinds of web
            # worker see the repeats of one key.
            members = members[:-1]
        text = msgspec.json.encode(members, order="sorted")
        return blake2b(text, digest_size=16).hexdigest()

    def with_context(
        self, context: Sequence[Message], called: Called | None = None
    ) -> list[dict[str, Any]]:
        """The messages that the agent gets: what the conversation remembers stands behind the
        instructions, and before what is new. Calls of tools and their results are left out:
        endpoints refuse one without the other, and either may be the one that is forgotten;
        and so is a message of nothing. The answer that has `called` what is answered now stands
        whole before the results of that."""
        remembered = [
            {"role": message.role, "content": message.content}
            for message in context
            if message.content and message.role != "tool"
            if called is None or message.id != called.id
        ]
        first = next(i for i, it in enumerate(self.messages) if it["role"] not in INSTRUCTIONS)
        new = self.messages[first:]
        if called is not None:
            answers = [it for it in new if it.get("tool_call_id") in called.ids]
            rest = [it for it in new if it.get("tool_call_id") not in called.ids]
            new = [called.message, *answers, *rest]
        return [*self.messages[:first], *remembered, *new]

    @property
    def account(self) -> str:
        """Who has a share of the queue for it."""
        return owners.account_of(self.owner)

    @property
    def is_external(self) -> bool:
        """Whether its producer is not a runner of ours."""
        return self.agent == EXTERNAL

    @property
    def joins(self) -> bool:
        """Whether the run of another caller will do: a key stands for a run of its own."""
        return self.is_kept and self.mode == "use" and not self.idempotency_key

    @property
    def may_be_shared(self) -> bool:
        return (self.is_kept and self.mode != "off") or bool(self.idempotency_key)

    @property
    def place(self) -> str:
        """Its conversation's name in the store; '' for none."""
        if not self.conversation_id:
            return ""
        # The same for a token of the user, and for its owner, who names that user.
        return place_of(self.account, self.user, self.conversation_id)

    @property
    def waits(self) -> bool:
        """Whether it waits for the run before it in a conversation that is remembered."""
        return self.options.get(IF_BUSY) != "refuse"

    @property
    def text(self) -> str:
        """What the user says."""
        return latest_text(self.messages)


class Taken(NamedTuple):
    """A run that will be executed or is already, or an answer that was there. `is_repeat`: the
    run of an earlier request with the same idempotency key. `version` is the one of its agent
    that it was asked of, None where another caller has asked. `is_admitted`: it is counted
    among its owner's."""

    run_id: str
    token: str
    answer: Answer | None = None
    status: str = "queued"
    how: How = "miss"
    is_repeat: bool = False
    version: str | None = None
    is_admitted: bool = False
