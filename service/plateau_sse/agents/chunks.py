"""What is in the data of one event: chunks of a chat completion, and their parts.

Invariant: what holds content is an object or an error; white space, `null`, numbers and truth
values, with which endpoints keep a connection open, are nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from plateau_sse.agents import Usage
from plateau_sse.agents.complaints import broken
from plateau_sse.agents.toolcalls import index_of


class Written(float):
    """A number, and how it was written: Workers AI sends words that look like one as one, and
    `0.50` is not 0.5 in a text."""

    def __new__(cls, text: str) -> Written:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str


# A decoder is made once, not for each chunk.
_decode = json.JSONDecoder(parse_float=Written).decode


def as_text(given: Any) -> Any:
    """A number as the text that it was; whatever else as it is."""
    if isinstance(given, Written):
        return given.text
    return str(given) if type(given) is int else given


def lines_of(data: str) -> list[str]:
    """The data of an event, as a rule: its lines are apart where each is one of its own, for
    there are endpoints that end an event with the end of its line."""
    lines = data.strip().split("\n")
    if len(lines) < 2 or not lines[0].rstrip().endswith("}"):
        return [data]
    return lines if all(line.startswith(("{", "[DONE]")) for line in lines) else [data]


def chunk_of(data: str) -> dict[str, Any] | None:
    """The chunk in it; none where it is nothing."""
    try:
        found = _decode(data)
    except (ValueError, RecursionError):
        raise broken("the upstream sent something that is not JSON") from None
    if isinstance(found, int | float | None):
        return None
    if not isinstance(found, dict):
        raise broken("the upstream sent JSON that is no object")
    return found


def choices_of(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the first candidate, the only one that is asked for."""
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(it, dict | None) for it in choices):
        raise broken("its choices are no list of objects")
    found = []
    for position, choice in enumerate(choices):
        index = index_of(choice.get("index")) if choice else None
        if choice and (position if index is None else index) <= 0:
            found.append(choice)
    return found


def object_of(of: dict[str, Any], name: str) -> dict[str, Any]:
    found = of.get(name) or {}
    if not isinstance(found, dict):
        raise broken(f"its {name} is no object")
    return found


def usage_of(
    chunk: dict[str, Any], choices: list[dict[str, Any]], model: str | None
) -> Iterator[Usage]:
    # Some endpoints count in the choice, Groq in a place of its own.
    groq = chunk.get("x_groq")
    given = [chunk.get("usage"), *(choice.get("usage") for choice in choices)]
    given.append(groq.get("usage") if isinstance(groq, dict) else None)
    for usage in given:
        if isinstance(usage, dict) and usage:
            yield Usage(
                _count(usage, "prompt_tokens", "input_tokens"),
                _count(usage, "completion_tokens", "output_tokens"),
                _detail(
                    usage, "prompt_tokens_details", "cached_tokens", "prompt_cache_hit_tokens"
                ),
                _detail(usage, "completion_tokens_details", "reasoning_tokens"),
                model,
            )
            return


def _count(usage: dict[str, Any], *names: str) -> int:
    return next((n for name in names if (n := index_of(usage.get(name))) is not None), 0)


def _detail(usage: dict[str, Any], of: str, *names: str) -> int | None:
    """Of the usage's details, or beside them, as some endpoints have it."""
    details = usage.get(of)
    for counts in (details if isinstance(details, dict) else {}, usage):
        for name in names:
            if (count := index_of(counts.get(name))) is not None:
                return count
    return None
