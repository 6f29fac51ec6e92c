"""What of a request is new to an agent that remembers the exchange by itself.

Invariant: what the user has said is told to such an agent once, for as long as the request
says so: what it was told, and does not remember, is new; what it remembers, and was taken back,
is not remembered any more. Where that cannot be known it remembers, and is told the latest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plateau_sse.agents import Message, Run
from plateau_sse.agents.memory.said import Said, alike, alike_from_end, digests_of
from plateau_sse.store.conversations.conversations import is_broken_off

UNANSWERED = "Nobody has answered whether this may be done; the conversation has gone on."


def new_in(
    run: Run, said: Said, *, waits: bool = False, keeps_broken: bool = False
) -> tuple[int, Sequence[Message]]:
    """How many turns of what was `said` are remembered still, and what is new behind them. An
    agent that `waits` for an answer may have spoken by nothing but its question, which is no
    message; `keeps_broken`: it remembers also what came of a run that did not complete."""
    if said.turns and run.conversation is None:
        found = _in_history(run.messages, said)
        if found is not None:
            return found
    # Its question may be known, else new is only what was said last.
    alone = waits and not said.turns
    latest = latest_of(run.messages, waits=alone, with_broken=not keeps_broken)
    if keeps_broken or waits:
        latest = _unknown(latest, said)
    return _remembered(run, said), latest


def _unknown(latest: Sequence[Message], said: Said) -> Sequence[Message]:
    """Behind the last that it knows: there are runs that have failed before they said
    anything."""
    for at in range(len(latest) - 1, 0, -1):
        if alike(digests_of(latest[at - 1 : at]), said.digests[-1:]):
            return latest[at:]
    return latest


def _remembered(run: Run, said: Said) -> int:
    """The turns that are remembered still; where it is asked again what is replaced is not. It
    had been remembered, unless it was broken off."""
    known, heard = said.digests, digests_of(run.messages)
    before, last = heard[:-1], heard[-1:]
    replaced = 0 if run.memory is None else run.memory.replaced
    for at in range(len(known) - 1, max(-1, len(known) - 1 - replaced), -1):
        if alike(known[at:], last):
            if alike_from_end(before, known) > alike_from_end(before, known[:at]):
                # All that is known is before it: it only has the same words.
                break
            turns, _ = said.whole(at)
            return turns
    return len(said.turns)


def _in_history(
    messages: Sequence[Message], said: Said
) -> tuple[int, Sequence[Message]] | None:
    """Of a request that has the whole history, or the end of it; None where it has neither."""
    users = [at for at, it in enumerate(messages) if it.role == "user"]
    heard, known = digests_of(messages), said.digests
    # Of the known ones the first is heard here, and so many are the same from there on.
    first, same = said.gone, alike(heard[said.gone :], known)
    if not same:
        ends = range(min(len(heard), len(known)), 0, -1)
        end = next((it for it in ends if alike(heard, known[-it:]) == it), 0)
        if end:
            first, same = end - len(known), len(known)
        elif said.gone or len(heard) != 1 or messages[0].role == "assistant":
            # The end of a history of which nothing is known. A message alone is a history.
            return None
    turns = len(said.turns)
    if first + same == len(heard):
        if same == len(known) and messages[-1].role != "user":
            # The results of calls that waited for them.
            return turns, latest_of(messages)
        # It is asked again.
        same -= 1
    if same < len(known):
        turns, same = said.whole(same)
    begins = users[max(0, first + same)]
    while begins and messages[begins - 1].role not in ("user", "assistant"):
        begins -= 1
    return turns, messages[begins:]


def latest_of(
    messages: Sequence[Message], *, waits: bool = False, with_broken: bool = True
) -> Sequence[Message]:
    """What was said since the agent spoke: the rest it remembers itself, but for what came of
    a run that was broken off."""
    if waits:
        return messages[-1:]
    begins = _since(messages, len(messages))
    while with_broken and begins and is_broken_off(messages[begins - 1].text):
        asked = _since(messages, begins - 1)
        if not digests_of(messages[asked:begins]):
            break
        begins = asked
    return messages[begins:]


def _since(messages: Sequence[Message], end: int) -> int:
    """Behind what the agent said last before this one."""
    spoken = (at for at in range(end - 1, -1, -1) if messages[at].role == "assistant")
    return next(spoken, -1) + 1


def note(run: Run, said: Said, new: Sequence[Message], size: int, *, joins: bool) -> None:
    """It is told what is new, by a memory of that size. Of one that is older than digests, the
    rest of a history is what it knows."""
    told = digests_of(new)
    if size and not said.turns and run.conversation is None:
        heard = digests_of(run.messages)
        said.begin(heard[: len(heard) - len(told)], 0)
    said.begin(told, size, joins=joins)


def file_url_of(file: Mapping[str, Any]) -> str:
    """Where the file of a part is, '' where it is not elsewhere. Dialects that know only one
    address of a file send it as its data."""
    for name in ("file_url", "file_data"):
        found = file.get(name)
        if isinstance(found, str) and found[:8].lower().startswith(("https://", "http://")):
            return found
    return ""
