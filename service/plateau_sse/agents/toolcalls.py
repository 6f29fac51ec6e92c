"""Tool calls, put together from the fragments in which endpoints send them.

Invariant: a call comes out once, complete, or not at all; before that it may be shown as far as
it has come, under the id that it will have, which is no call's that was answered before: there
are endpoints that number theirs anew in each answer, or not at all. What a fragment belongs to
is told by its id, its index and its name, in this order: endpoints leave out, repeat and
miscount each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from plateau_sse.agents import ToolCall, ToolDelta
from plateau_sse.agents.complaints import broken

MAX_TOOL_CALLS = 128
MAX_ARGUMENTS = 256 * 1024
# What is longer the runner would cut, and a result could not name its call any more.
MAX_NAME = 500
# What is longer is not shown while it is written.
MAX_DRAFT = 32 * 1024


@dataclass(slots=True)
class _Call:
    """A call that is still arriving; `id` is the endpoint's, `told` the one that it is told
    under."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int | None = None
    told: str = ""
    has_grown: bool = False

    @property
    def is_json(self) -> bool:
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True


def answered_in(messages: Iterable[Any]) -> frozenset[str]:
    """The ids of the calls whose results are among these messages of chat.completions."""
    results = [it for it in messages if isinstance(it, dict) and it.get("role") == "tool"]
    return frozenset(str(it.get("tool_call_id")) for it in results)


class Calls:
    """Of one answer; `taken` are ids of calls before it."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken = taken
        # How many have come: what has grown is not to be told yet.
        self.fragments = 0
        self._calls: list[_Call] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, message: dict[str, Any]) -> bool:
        """Take up what a delta or a message has of them; whether it had anything."""
        fragments = message.get("tool_calls") or []
        if not isinstance(fragments, list):
            raise broken("its tool calls are no list")
        found = [_fragment(fragment) for fragment in fragments if fragment]
        if message.get("function_call"):
            # As it was before there were several.
            found.append(_fragment({"function": message["function_call"]}))
        self.fragments += len(found)
        for position, fragment in enumerate(found):
            self._take(fragment, position, len(found))
        return bool(found)

    def complete(self, *, cut: bool = False) -> Iterator[ToolCall]:
        """Those that have not been told yet. Of an answer that was `cut` only what is whole."""
        for number, call in enumerate(self._calls):
            if call.told or (cut and call.arguments and not call.is_json):
                continue
            if not call.name:
                raise broken("it holds a tool call without a name")
            if call.arguments.strip() and not call.is_json:
                raise broken("the arguments of a tool call are cut, or no JSON")
            call.told = self._id_of(number, call)
            # Nobody here executes it.
            yield ToolCall(call.told, call.name, call.arguments, client=True)

    def drafts(self) -> Iterator[ToolDelta]:
        """Those that have grown, as far as they have come."""
        for number, call in enumerate(self._calls):
            if not call.has_grown:
                continue
            call.has_grown = False
            # One whose id may still come, or will be another, is not known by any.
            is_known = call.id and call.id not in self._before(number)
            if is_known and call.name and len(call.arguments) <= MAX_DRAFT:
                yield ToolDelta(call.id, call.name, call.arguments)

    def _id_of(self, number: int, call: _Call) -> str:
        # Results name the call by it: it must be there, and be one call's alone.
        before, found = self._before(number), call.id
        while not found or found in before:
            found, number = f"{call.id or 'call'}_{number}", number + 1
        return found

    def _before(self, number: int) -> set[str]:
        return {it.told or it.id for it in self._calls[:number]} | self._taken

    def _take(self, fragment: _Call, position: int, of: int) -> None:
        call = self._of(fragment, position, of)
        if call is None:
            call = _Call(index=fragment.index)
            self._calls.append(call)
        elif fragment.name and fragment.arguments == call.arguments and call.is_json:
            # The whole call once more, as some endpoints end.
            return
        elif call.told and fragment.arguments:
            raise broken("it went on with a tool call that was finished")
        call.id = call.id or fragment.id
        if fragment.name != call.name:
            # The rest of it, or all of it so far.
            longer = fragment.name.startswith(call.name)
            call.name = fragment.name if longer else call.name + fragment.name
        call.arguments += fragment.arguments
        call.has_grown = call.has_grown or bool(fragment.arguments)
        if (
            len(self._calls) > MAX_TOOL_CALLS
            or len(call.arguments) > MAX_ARGUMENTS
            or max(len(call.id), len(call.name)) > MAX_NAME
        ):
            raise broken("its tool calls are too many or too long")

    def _of(self, fragment: _Call, position: int, of: int) -> _Call | None:
        """The call that it belongs to; None where it begins another."""
        index = fragment.index
        at = [it for it in self._calls if index is None or it.index in (None, index)]
        if fragment.id:
            named = [it for it in at if it.id == fragment.id]
            if not named and not fragment.name:
                named = [it for it in self._calls if it.id == fragment.id]
            if named:
                return None if _begins_anew(fragment, named[-1]) else named[-1]
            # Its id may come later than its name.
            last = at[-1] if at else None
            is_his = last is not None and not last.id and fragment.name in ("", last.name)
            return last if is_his else None
        if not at:
            return None
        if not fragment.name:
            # Without index, id and name: several at once go on with the several before.
            return at[position - of] if index is None and of <= len(at) else at[-1]
        if at[-1].id and index is not None and not (at[-1].arguments or fragment.arguments):
            # A name that comes in pieces.
            return at[-1]
        is_his = at[-1].name in ("", fragment.name)
        return None if not is_his or _begins_anew(fragment, at[-1]) else at[-1]


def _begins_anew(fragment: _Call, call: _Call) -> bool:
    """Whether it is another call of the same name or id: whole, as the one before is."""
    return bool(
        fragment.name
        and fragment.arguments
        and call.arguments
        and (fragment.name != call.name or fragment.arguments != call.arguments)
        # The longer one is read last: it may be all of what came so far.
        and fragment.is_json
        and call.is_json
    )


def _fragment(given: Any) -> _Call:
    if not isinstance(given, dict):
        raise broken("its tool calls are no objects")
    function = given.get("function") or given
    if not isinstance(function, dict):
        raise broken("a tool call of its has no function")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(arguments, str):
        # Some endpoints send the arguments as JSON, not as JSON in a string.
        arguments = "" if arguments is None else json.dumps(arguments)
    if not isinstance(name, str | None):
        raise broken("a tool call of its has a name that is no text")
    call_id = "" if given.get("id") is None else str(given["id"])
    return _Call(call_id, name or "", arguments, index_of(given.get("index")))


def index_of(value: Any) -> int | None:
    """A number in whichever way it is written; None where it is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
