"""What an agent is: one generator that takes a run and yields its answer.

    async def notes(run):
        yield Progress(1, 2, "reading")
        yield "text"

A `str` is a piece of the answer, `Reasoning` one of what it thinks; the other types below say
the rest. A plain (synchronous) generator runs in a thread. To end a run with a code of its own
an agent raises `AgentError`. Only the runner imports this package.

Invariant: an agent sees a run and yields values; it never sees Redis or HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plateau_sse.content import Content, text_of
from plateau_sse.errors import PlateauError


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the exchange, in the shape of chat.completions; `role` is `system`,
    `developer`, `user`, `assistant` or `tool`. `content` is a text or a list of parts as they
    were sent, None beside `tool_calls`; `text` is the text in it."""

    role: str
    content: Content
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Message:
        """From the message as it was sent; members that are not known are left out."""
        return cls(
            said["role"],
            said["content"],
            said.get("tool_calls"),
            said.get("tool_call_id"),
            said.get("name"),
        )

    @property
    def text(self) -> str:
        return text_of(self.content)

    def as_sent(self) -> dict[str, Any]:
        """The message as an endpoint takes it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        for member in ("tool_calls", "tool_call_id", "name"):
            value = getattr(self, member)
            if value is not None:
                message[member] = value
        return message


@dataclass(frozen=True, slots=True)
class Run:
    """What an agent is given. `messages` is the whole exchange, what its conversation remembers
    included, `input` its latest user text; `attempt` counts from 1, and above 1 an earlier try
    may have had side effects. `conversation` is the id that the client gave. Answers are cached
    under what is asked: ask for one that depends on more with `cache.mode` off."""

    id: str
    agent: str
    input: str
    messages: Sequence[Message]
    options: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    conversation: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it has come: step 1 of 3. `percentage` is 0-100, derived if not given."""

    step: int
    total_steps: int
    message: str = ""
    current_agent: str = ""
    percentage: float | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks: shown beside the answer, no part of it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the agent is about to use; `arguments` is JSON text or a JSON value. With
    `client` whoever asked is to execute it."""

    id: str
    name: str
    arguments: Any = ""
    client: bool = False


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A call that the model is still writing: all of its arguments so far, as text. It is shown
    while it lasts and not kept; the `ToolCall` follows."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the tool call of the same `id` gave. A `preliminary` one is shown, not kept: the
    result follows."""

    id: str
    output: Any
    preliminary: bool = False


@dataclass(frozen=True, slots=True)
class ToolError:
    """The tool call of the same `id` failed."""

    id: str
    error: str


@dataclass(frozen=True, slots=True)
class Source:
    """What the answer stands on: a page by its `url`, or a document by its media type, title
    and file name."""

    id: str
    url: str | None = None
    title: str | None = None
    media_type: str | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file that the agent made, at a `url`; it may be a `data:` URL of a few KiB."""

    media_type: str
    url: str


@dataclass(frozen=True, slots=True)
class Data:
    """Data of the application's own: a JSON value under a name. With an `id` it replaces what
    had the same name and id; `transient` data is shown, not kept."""

    name: str
    value: Any
    id: str | None = None
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """The agent begins a new round: what follows is a new message for those who have them."""

    name: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used so far, and by which model; the last one yielded counts. With a `model` and
    none used it tells the model alone."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """The final answer, where it is not the text that was streamed."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Why it ended: `stop` where nothing is said, `length`, `content_filter`, `tool_calls` (the
    caller executes those that were yielded), `input_required`; whatever else is `other`. The
    last one yielded counts. Only what ended with `stop` or `tool_calls` is cached."""

    reason: str


class AgentError(PlateauError):
    """Ends the run as `run.failed` with a `code` of `errors.RUN_FAILURES`."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable


Yielded = (
    str
    | Reasoning
    | Progress
    | ToolCall
    | ToolDelta
    | ToolResult
    | ToolError
    | Source
    | File
    | Data
    | Step
    | Usage
    | Output
    | Finish
)
Agent = Callable[[Run], AsyncIterator[Yielded] | Iterator[Yielded]]
