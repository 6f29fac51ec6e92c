"""Builds a chat completion from the chunks of its stream (or from one whole document).

Invariant: tool calls come out complete or not at all, text comes out as valid Unicode and once,
and an answer counts as whole only once the upstream has said so (`finish_reason` or `[DONE]`).
What holds content and is not understood is an error, and so is an answer without any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from plateau_sse.agents import Finish, Usage, Yielded
from plateau_sse.agents.complaints import (
    broken,
    complaint,
    foreign,
    misplaced,
    reported,
)
from plateau_sse.agents.toolcalls import Calls, index_of

_SPELLINGS = {
    "stop": "stop end_turn eos eos_token stop_sequence complete",
    "length": "length max_tokens max_length max_output_tokens model_length "
    "model_context_window_exceeded",
    "content_filter": "content_filter contentfilter safety recitation refusal blocklist "
    "prohibited_content spii image_safety guardrail_intervened sensitive error_toxic",
    "tool_calls": "tool_calls tool_call tool_use function_call",
}
# How endpoints spell the reasons; what is not here is `other`.
REASONS = {name: reason for reason, names in _SPELLINGS.items() for name in names.split()}
# An endpoint that has not finished says so with these, too.
NOT_YET = ("", "null", "none")
FAILED = ("error", "engine_error", "network_error")
# Parts of a content that are no text and not lost: what was thought, and where it was read.
LEFT_OUT = ("thinking", "redacted_thinking", "reasoning", "reference")
# Content that is not written: to leave it out would be silence.
UNREAD = ("audio", "image", "images", "video")
# Two pieces that are shorter may be alike by chance.
SURELY_AGAIN = 6


class Answer:
    """Feed it the data of each event; `has_ended` once the upstream has given a reason,
    `is_done` once nothing more will come."""

    def __init__(self) -> None:
        self.has_ended = False
        self.is_done = False
        # Content came after an ending: there are endpoints that say `stop` in each chunk, and
        # then it says nothing.
        self._goes_on = False
        self._reason: str | None = None
        self._calls = Calls()
        self._said: list[str] = []
        # Whether text came in deltas: then what stands beside them repeats it.
        self._in_deltas = False
        self._half = ""

    def take(self, data: str, event: str = "message") -> Iterator[Yielded]:
        """What one chunk adds; raises AgentError(upstream_broken_stream)."""
        if event.lower() in ("error", "exception", "failure"):
            raise reported(data)
        if event == "ping" or not data.strip():
            return
        if data.strip().startswith("[DONE]"):
            if data.strip() != "[DONE]":
                raise broken("the upstream says more beside its end")
            self.has_ended = self.is_done = True
            return
        chunk = _parse(data)
        choices = _choices(chunk)
        if error := complaint(chunk, has_choice=bool(choices)):
            raise error
        had_ended = self.has_ended
        fragments, pieces = self._calls.fragments, len(self._said)
        for choice in choices:
            yield from self._take_choice(choice)
        if self._calls.fragments != fragments or len(self._said) != pieces:
            self._goes_on = self._goes_on or had_ended
        elif not self.has_ended and (error := foreign(chunk)):
            raise error
        if self.has_ended and self._calls.fragments == fragments:
            yield from self._calls.complete(cut=self._is_cut)
        yield from _usage(chunk, choices)

    def finish(self) -> Iterator[Yielded]:
        """The rest, once the upstream has closed; raises where the answer is not whole, or is
        none."""
        if not self.has_ended:
            raise broken("the upstream stopped without finishing it")
        if self._half:
            self._half = ""
            yield "\ufffd"
        yield from self._calls.complete(cut=self._is_cut)
        reason = self._reason or "other"
        if not (self._said or len(self._calls) or reason in ("length", "content_filter")):
            raise broken("the upstream finished without saying anything")
        if reason != "stop":
            yield Finish(reason)

    @property
    def is_whole(self) -> bool:
        """Whether it is, whatever becomes of the connection."""
        return self.is_done or (self.has_ended and not self._goes_on)

    @property
    def _is_cut(self) -> bool:
        return self._reason not in ("stop", "tool_calls")

    def _take_choice(self, choice: dict[str, Any]) -> Iterator[str]:
        delta, message = _object(choice, "delta"), _object(choice, "message")
        if error := misplaced(choice, delta, message):
            raise error
        is_last = self._ends(choice.get("finish_reason"))
        piece = _text_of(delta)
        self._in_deltas = self._in_deltas or bool(piece)
        had_calls = len(self._calls) > 0
        if not self._calls.add(delta) and not (had_calls and is_last):
            self._calls.add(message)
        piece = piece or self._beside(choice, message, is_last=is_last)
        if piece:
            self._said.append(piece)
            yield from self._text(piece)

    def _ends(self, given: Any) -> bool:
        """Note the reason, if one is given."""
        name = given.strip().lower().replace("-", "_") if isinstance(given, str) else given
        if not name or name in NOT_YET:
            return False
        if name in FAILED:
            raise broken(f"the upstream ended it with {given}")
        reason = REASONS.get(name, "other") if isinstance(name, str) else "other"
        # A bad ending stays one, whatever is said after it; a good one does not.
        if self._reason in (None, "stop") or (
            self._reason == "tool_calls" and reason != "stop"
        ):
            self._reason = reason
        self.has_ended = True
        return True

    def _beside(self, choice: dict[str, Any], message: dict[str, Any], *, is_last: bool) -> str:
        """The text of a choice whose delta has none: a piece, as legacy completions and some
        servers send them, or the whole once more, of which only what is new is told."""
        text = choice.get("text") or ""
        if not isinstance(text, str):
            raise broken("its text is no text")
        whole = _text_of(message)
        if not (whole or text):
            return ""
        if whole and self._said and not self._in_deltas:
            said = "".join(self._said)
            # A message is a whole one, of which more is there each time; or the whole at last.
            if whole.startswith(said) and (whole != said or len(said) >= SURELY_AGAIN):
                return whole[len(said) :]
        if self._in_deltas or (is_last and whole):
            said = "".join(self._said)
            for again in (whole, text):
                if again.startswith(said):
                    return again[len(said) :]
            if self._in_deltas:
                return ""
        return whole or text

    def _text(self, text: str) -> Iterator[str]:
        # JSON escapes allow one half of a character here and the other in the next chunk.
        text = self._half + text
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if text:
            yield text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _parse(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise broken("the upstream sent something that is not JSON") from None
    if not isinstance(chunk, dict):
        raise broken("the upstream sent JSON that is no object")
    return chunk


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
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


def _object(of: dict[str, Any], name: str) -> dict[str, Any]:
    found = of.get(name) or {}
    if not isinstance(found, dict):
        raise broken(f"its {name} is no object")
    return found


def _text_of(message: dict[str, Any]) -> str:
    """A refusal is the model's answer, too, in a field of its own."""
    for name in UNREAD:
        if message.get(name):
            raise broken(f"it holds {name}, which is not understood")
    return _content(message.get("content")) + _content(message.get("refusal"))


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(_part, content))
    if content in (None, {}) or content is False:
        return ""
    raise broken(f"its content is a {type(content).__name__}, which is not understood")


def _part(part: Any) -> str:
    if isinstance(part, str) or not part:
        return part or ""
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind in LEFT_OUT:
        return ""
    text = None
    if kind in ("text", "output_text", None):
        text = part.get("text")
    elif kind == "refusal":
        text = part.get("refusal")
    if isinstance(text, str):
        return text
    # What has no more than a type, and a text of nothing, has nothing to be lost.
    if isinstance(part, dict) and not any(part[name] for name in part if name != "type"):
        return ""
    raise broken(f"its content holds {kind}, which is not understood")


def _usage(chunk: dict[str, Any], choices: list[dict[str, Any]]) -> Iterator[Usage]:
    # Some endpoints count in the choice.
    for usage in (chunk.get("usage"), *(choice.get("usage") for choice in choices)):
        if isinstance(usage, dict) and usage:
            asked, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
            yield Usage(index_of(asked) or 0, index_of(said) or 0)
            return
