"""What a graph takes as its input, by the types of its state, and by what the state is.

Invariant: what is refused could not have become a part of the state; what has no type that can
be looked at is let through, for the graph to say what it makes of it. A conversation goes on
with a result of each call, since endpoints refuse one without for ever.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from plateau_sse.agents import AgentError, Message
from plateau_sse.agents.hosting.exchange import UNANSWERED, file_url_of

SHOWN_MOST = 20
UNFINISHED = "This was not finished; the conversation has gone on."


def fields_of(graph: Any) -> dict[str, Any]:
    """The names in its input with their types, `Any` where that is not known."""
    schema = getattr(getattr(graph, "builder", None), "input_schema", None)
    try:
        hints = typing.get_type_hints(schema, include_extras=True)
    except (TypeError, NameError):
        hints = {}
    if hints:
        return hints
    channels = graph.input_channels
    if not isinstance(channels, str):
        return dict.fromkeys(channels, Any)
    try:
        # Of the functional interface.
        return dict.fromkeys(graph.get_input_jsonschema().get("properties", {}), Any)
    except Exception:
        # There are types that have no schema.
        return {}


def check_options(fields: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Whether the options can be the input. A member that is missing may be one that the graph
    itself fills. Raises AgentError."""
    given = options.keys() & fields.keys()
    if fields and not given:
        names = ", ".join(sorted(fields)[:SHOWN_MOST])
        raise AgentError("invalid_options", f"The options are the graph's input: {names}.")
    for name in sorted(given):
        if wrong := _wrong(fields[name], options[name]):
            said = f"The options are the graph's input, and {name} does not fit: {wrong}."
            raise AgentError("invalid_options", said)


def _wrong(form: Any, value: Any) -> str:
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(form).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[:3]
        return "; ".join(str(it["msg"]) for it in found).rstrip(".")
    except Exception:
        # It has no such form.
        return ""
    return ""


def as_taken(message: Message) -> dict[str, Any]:
    """As LangChain reads it: a file that is elsewhere has a form of its own there."""
    said = message.as_sent()
    content = said["content"]
    if isinstance(content, list):
        content = [_part(part) for part in content]
    return said | {"content": "" if content is None else content}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "file", "file": dict(file)} if url := file_url_of(file):
            return {"type": "file", "url": url}
    return part


def going_on(state: Any, new: Sequence[Any]) -> list[Any]:
    """The messages that are `new`, behind results of the calls that the state ends with where
    they have none: it waited for a person's word, or its run was broken off. A client that has
    the history gives results, too, that the state has."""
    from langchain_core.messages import ToolMessage

    kept = state.values.get("messages") if isinstance(state.values, Mapping) else None
    if not isinstance(kept, list):
        return list(new)
    ends = len(kept)
    while ends and getattr(kept[ends - 1], "type", "") == "tool":
        ends -= 1
    kept, results = kept[:ends], {it.tool_call_id: it for it in kept[ends:]}
    calls = [it for it in getattr(kept[-1], "tool_calls", ()) if it["id"]] if kept else []
    wanted = {it["id"] for it in calls} - results.keys()
    said = next((at for at, it in enumerate(new) if it.type != "tool"), len(new))
    given = [it for it in new[:said] if it.tool_call_id in wanted]
    wanted -= {it.tool_call_id for it in given}
    why = UNANSWERED if state.interrupts else UNFINISHED
    again = _passing(state)
    closed = [
        again.get(it["id"]) or ToolMessage(why, tool_call_id=it["id"], name=it["name"])
        for it in calls
        if it["id"] in again or it["id"] in wanted
    ]
    return [*closed, *given, *new[said:]]


def _passing(state: Any) -> dict[str, Any]:
    """Results of calls that were made beside one that waits, or has failed: LangGraph shows
    them, and forgets them where the run goes on with something else."""
    found = {}
    for task in state.tasks:
        given: Any = task.result.get("messages") if isinstance(task.result, Mapping) else None
        for message in given if isinstance(given, list) else [given]:
            if getattr(message, "type", "") == "tool":
                found[message.tool_call_id] = message
    return found
