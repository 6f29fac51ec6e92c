"""Builds a chat completion from the chunks of its stream (or from one whole document).

Invariant: tool calls come out complete or not at all, text and thoughts come out as valid
Unicode and once, and an answer counts as whole only once the upstream has said so
(`finish_reason` or `[DONE]`). What holds content and is not understood is an error, and so is
an answer without any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from plateau_sse.agents import AgentError, Data, File, Finish, Reasoning, Source, Usage, Yielded
from plateau_sse.agents.chunks import (
    as_text,
    choices_of,
    chunk_of,
    lines_of,
    object_of,
    usage_of,
)
from plateau_sse.agents.complaints import (
    broken,
    complaint,
    foreign,
    misplaced,
    reported,
)
from plateau_sse.agents.heard import Heard, Once, heard_in, sources_in
from plateau_sse.agents.toolcalls import Calls
from plateau_sse.store.runs.events import MARK_BYTES, MARKS_BYTES

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
# It was cut by whoever runs the model: vLLM and SGLang that abort, DeepSeek that has no room.
FAILED = (
    "error engine_error network_error abort aborted cancelled canceled interrupted "
    "insufficient_system_resource"
).split()
# Events that only keep the connection open.
PINGS = ("ping", "heartbeat", "keepalive", "keep-alive")
# More are none that anybody would look at, and an answer has a bound of its events.
MAX_SOURCES = 100
# Of the address of a file, which may be the file itself, with room for what stands around it;
# and of all of them.
MAX_FILE, MAX_FILES = MARK_BYTES - 1024, MARKS_BYTES // 2
MAX_MODEL = 200


class Answer:
    """Feed it the data of each event; `has_ended` once the upstream has given a reason,
    `is_done` once nothing more will come. `taken` are the ids of calls that were answered."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self.has_ended = False
        self.is_done = False
        # Content came after an ending: there are endpoints that say `stop` in each chunk, and
        # then it says nothing.
        self._goes_on = False
        self._reason: str | None = None
        self._calls = Calls(taken)
        self._text, self._thoughts = Once(), Once()
        # A text that is all of what was said before it: told once it is not the last.
        self._again = ""
        self._files: set[bytes] = set()
        self._file_bytes = self._left_out = 0
        self._sources: set[str] = set()
        self._refuses = False
        # What was told, to see whether there is more; who says it, and whether that was told.
        self._told = 0
        self._model: str | None = None
        self._names_model = False

    def take(self, data: str, event: str = "message") -> Iterator[Yielded]:
        """What one chunk adds; raises AgentError(upstream_broken_stream)."""
        for line in lines_of(data):
            if (chunk := self._chunk(line, event)) is not None:
                yield from self._take_chunk(chunk)

    def _take_chunk(self, chunk: dict[str, Any]) -> Iterator[Yielded]:
        choices = choices_of(chunk)
        if error := complaint(chunk, has_choice=bool(choices)):
            raise error
        self._note_model(chunk.get("model"))
        yield from self._take_choices(chunk, choices)
        for usage in usage_of(chunk, choices, self._model):
            self._names_model = self._model is not None
            yield usage

    def _chunk(self, data: str, event: str) -> dict[str, Any] | None:
        """None where it adds nothing."""
        if event.lower() in ("error", "exception", "failure"):
            raise reported(data)
        # Gateways wrap what they are sent once more: `data: data: {…}`, `data: : ping`.
        data = data.strip().removeprefix("data:").strip()
        if event.lower() in PINGS or not data or data.startswith(":"):
            return None
        if data.strip('"').startswith("[DONE]"):
            if data.strip('"') != "[DONE]":
                raise broken("the upstream says more beside its end")
            self.has_ended = self.is_done = True
            return None
        return chunk_of(data)

    def _take_choices(
        self, chunk: dict[str, Any], choices: list[dict[str, Any]]
    ) -> Iterator[Yielded]:
        had_ended = self.has_ended
        fragments, told = self._calls.fragments, self._told
        for choice in choices:
            yield from self._take_choice(choice)
        yield from self._new_sources(chunk)
        if self._calls.fragments != fragments or self._told != told:
            self._goes_on = self._goes_on or had_ended
        elif not self.has_ended and (error := foreign(chunk)):
            raise error
        if self.has_ended and self._calls.fragments == fragments:
            yield from self._calls.complete(cut=self._is_cut)
        elif not self.has_ended:
            yield from self._calls.drafts()

    def finish(self, *, has_end: bool = True) -> Iterator[Yielded]:
        """The rest, once the upstream has closed; raises where the answer is not whole, or is
        none. `has_end`: its body said that it ends there."""
        if not self.has_ended:
            raise broken("the upstream stopped without finishing it")
        if self._goes_on and not (self.is_done or has_end):
            raise broken("the upstream calls every piece its last, and tells no end")
        if rest := self._thoughts.rest():
            yield Reasoning(rest)
        if rest := self._text.rest():
            yield rest
        reason = self._reason or "other"
        if self._again and reason == "length":
            # Cut in the midst of a repetition that is the model's own.
            yield self._again
        yield from self._calls.complete(cut=self._is_cut)
        if self._refuses and reason in ("stop", "other"):
            reason = "content_filter"
        self._check_says_something(reason)
        if self._model is not None and not self._names_model:
            yield Usage(0, 0, model=self._model)
        if self._left_out and reason == "stop":
            reason = "other"
        if reason != "stop":
            yield Finish(reason)

    def _check_says_something(self, reason: str) -> None:
        says = self._text.said or self._file_bytes or len(self._calls)
        if says or reason in ("length", "content_filter"):
            return
        if self._left_out:
            said = (
                f"Its answer is a file of {self._left_out:,} bytes; {MAX_FILE:,} are the most."
            )
            raise AgentError("agent_invalid_output", said)
        after = "but its thoughts" if self._thoughts.said else "anything"
        raise broken(f"the upstream finished without saying {after}")

    @property
    def is_whole(self) -> bool:
        """Whether it is, whatever becomes of the connection."""
        return self.is_done or (self.has_ended and not self._goes_on)

    @property
    def _is_cut(self) -> bool:
        return self._reason not in ("stop", "tool_calls")

    def _take_choice(self, choice: dict[str, Any]) -> Iterator[Yielded]:
        delta, message = object_of(choice, "delta"), object_of(choice, "message")
        if error := misplaced(choice, delta, message):
            raise error
        is_last = self._ends(choice.get("finish_reason"))
        had_calls = len(self._calls) > 0
        if not self._calls.add(delta) and not (had_calls and is_last):
            self._calls.add(message)
        in_delta, beside = self._held_back(heard_in(delta)), heard_in(message)
        self._refuses = self._refuses or in_delta.refuses or beside.refuses
        yield from self._tell(in_delta)
        text = as_text(choice.get("text")) or ""
        if not isinstance(text, str):
            raise broken("its text is no text")
        yield from self._tell(self._new_beside(in_delta, beside, text, is_last=is_last))
        for part in (delta, message):
            yield from self._new_sources(part)

    def _new_beside(self, delta: Heard, beside: Heard, text: str, *, is_last: bool) -> Heard:
        """What a choice holds beside its delta and is new."""
        if not (beside.said or text):
            # As a rule there is nothing.
            for kind, once in ((Reasoning, self._thoughts), (str, self._text)):
                once.in_deltas = once.in_deltas or bool(delta.all_of(kind))
            return beside
        new = {}
        for kind, once, more in ((Reasoning, self._thoughts, ""), (str, self._text, text)):
            if delta.all_of(kind):
                once.in_deltas = True
                new[kind] = ""
            else:
                new[kind] = once.new_in(beside.all_of(kind), more, is_last=is_last)
        if all(new[kind] == beside.all_of(kind) for kind in new):
            # In its own order.
            return beside
        files = [it for it in beside.said if isinstance(it, File)]
        return Heard([Reasoning(new[Reasoning]), new[str], *files])

    def _held_back(self, heard: Heard) -> Heard:
        """There are endpoints whose last piece is all of them once more; a text may go on
        after one that is, too."""
        text, again = heard.all_of(str), self._again
        if text and not again and self._text.is_all(text):
            self._again = text
            return Heard([it for it in heard.said if not isinstance(it, str)], heard.refuses)
        if not (again and heard.said):
            return heard
        self._again = ""
        return Heard([again, *heard.said], heard.refuses)

    def _tell(self, heard: Heard) -> Iterator[Yielded]:
        for item in heard.said:
            if isinstance(item, File):
                yield from self._tell_file(item)
                continue
            is_text = isinstance(item, str)
            piece = item if isinstance(item, str) else item.text
            if not piece:
                continue
            self._told += 1
            if mended := (self._text if is_text else self._thoughts).mended(piece):
                yield mended if is_text else Reasoning(mended)

    def _tell_file(self, file: File) -> Iterator[Yielded]:
        size = len(file.url)
        digest = hashlib.blake2b(file.url.encode("utf-8", "replace"), digest_size=16).digest()
        if digest in self._files:
            return
        self._files.add(digest)
        self._told += 1
        if size <= MAX_FILE and self._file_bytes + size <= MAX_FILES:
            self._file_bytes += size
            yield file
            return
        self._left_out = max(self._left_out, size)
        about = {"type": "file", "media_type": file.media_type[:MAX_MODEL], "bytes": size}
        yield Data("left_out", about)

    def _new_sources(self, of: dict[str, Any]) -> Iterator[Source]:
        for url, title in sources_in(of):
            if url not in self._sources and len(self._sources) < MAX_SOURCES:
                yield Source(f"source_{len(self._sources)}", url, title)
                self._sources.add(url)

    def _note_model(self, model: Any) -> None:
        if isinstance(model, str) and model:
            self._model = model[:MAX_MODEL]

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
