"""What a graph waits for, as requests to a person; and a person's answers as it takes them.

Invariant: each request has an id by which its answer finds the interrupt, also in another
process. An approval of several calls at once is a request for each of them, since that is how
people are shown them, and one answer to the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from plateau_sse.agents import AgentError, InputRequest
from plateau_sse.agents.hosting.langgraph_messages import Messages
from plateau_sse.agents.hosting.telling import jsonable

_APPROVE, _REJECT = "approve", "reject"


class Asking:
    """That of one run, which has said these messages."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._ids = messages.ids
        self._interrupts: dict[str, Any] = {}
        # The call that a task executes.
        self._calls_of_tasks: dict[str, str] = {}
        self._tied: dict[str, str] = {}

    @property
    def waits(self) -> bool:
        return bool(self._interrupts)

    def note(self, interrupts: Iterable[Any]) -> None:
        for it in interrupts:
            self._interrupts[it.id] = it

    def note_task(self, task: Mapping[str, Any]) -> None:
        given = task.get("input")
        call = given.get("tool_call") if isinstance(given, Mapping) else None
        if isinstance(call, Mapping) and call.get("id"):
            self._calls_of_tasks[task["id"]] = str(call["id"])

    def note_end(self, task: Mapping[str, Any]) -> None:
        call_id = self._calls_of_tasks.pop(task["id"], None)
        for it in task.get("interrupts") or ():
            if call_id is not None and isinstance(it, Mapping) and it.get("id"):
                self._tied[it["id"]] = call_id

    def requests(self) -> Iterator[InputRequest]:
        for it in self._interrupts.values():
            actions = _actions(it.value)
            if actions is None:
                yield self._request(it)
            for index, action in enumerate(actions or ()):
                yield InputRequest(
                    _name(it.id, index, len(actions or ())),
                    str(action.get("description") or f"May {action.get('name')} be called?"),
                    "approval",
                    self._call_of(action),
                )

    def _request(self, interrupt: Any) -> InputRequest:
        value, schema = interrupt.value, getattr(interrupt, "response_schema", None)
        theirs = self._tied.get(interrupt.id)
        call_id = None if theirs is None else self._ids.of(theirs)
        schema = jsonable(schema) if isinstance(schema, Mapping) else None
        if _is_approval(value):
            said = str(value.get("description") or f"May {value.get('name')} be called?")
            call_id = self._ids.of(str(value["tool_call_id"]))
            return InputRequest(interrupt.id, said, "approval", call_id, schema)
        return InputRequest(interrupt.id, _words(value), "question", call_id, schema)

    def _call_of(self, action: Mapping[str, Any]) -> str | None:
        """The latest call that is this one."""
        for call in reversed(self._messages.calls):
            if (call.name, call.arguments) == (
                action.get("name"),
                jsonable(action.get("args")),
            ):
                return call.id
        return None

    @staticmethod
    def answers(pending: Sequence[Any], resume: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """By the ids of the interrupts. Raises AgentError where one answers nothing."""
        given = {str(it.get("id")): it for it in resume}
        found: dict[str, Any] = {}
        known: list[str] = []
        for it in pending:
            actions = _actions(it.value)
            names = (
                [_name(it.id, i, len(actions)) for i in range(len(actions or ()))]
                if (actions is not None)
                else [it.id]
            )
            known += names
            if not any(name in given for name in names):
                continue
            answers = [given.get(name, {"status": "cancelled"}) for name in names]
            if actions is not None:
                found[it.id] = {"decisions": [_decision(one) for one in answers]}
            elif _is_approval(it.value):
                found[it.id] = _decision(answers[0])
            else:
                found[it.id] = answers[0].get("payload")
        if strange := sorted(given.keys() - set(known)):
            waiting = f"it waits for {', '.join(known)}" if known else "it waits for nothing"
            raise AgentError(
                "invalid_options", f"Nothing was asked under the id {strange[0]!r}: {waiting}."
            )
        return found


def _actions(value: Any) -> list[Mapping[str, Any]] | None:
    """The calls that are to be reviewed at once; None where that is not what is asked."""
    found = value.get("action_requests") if isinstance(value, Mapping) else None
    if not isinstance(found, list) or not found:
        return None
    return found if all(isinstance(it, Mapping) for it in found) else None


def _is_approval(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.get("type") == "tool_approval"
        and bool(value.get("tool_call_id"))
    )


def _name(interrupt_id: str, index: int, count: int) -> str:
    return interrupt_id if count == 1 else f"{interrupt_id}:{index}"


def _decision(answer: Mapping[str, Any]) -> dict[str, Any]:
    """As LangChain's middleware takes it; a payload that is one already stays it."""
    payload = answer.get("payload")
    if answer.get("status") == "cancelled":
        return {"type": _REJECT}
    if isinstance(payload, Mapping) and isinstance(payload.get("type"), str):
        return dict(payload)
    reason = ""
    if isinstance(payload, Mapping):
        reason = str(payload.get("reason") or "")
        payload = payload.get("approved")
    if payload is True or payload == _APPROVE:
        return {"type": _APPROVE}
    return {"type": _REJECT, "message": reason} if reason else {"type": _REJECT}


def _words(value: Any) -> str:
    """What a person is asked."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for name in ("message", "question", "prompt", "description"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return str(jsonable(value))
