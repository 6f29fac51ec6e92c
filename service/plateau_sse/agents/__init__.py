"""What an agent is: one generator that takes a run and yields its answer.

    async def notes(run):
        yield Progress(1, 2, "reading")
        yield "text"

A `str` is a piece of the answer, `Reasoning` one of what it thinks; the other types below say
the rest. A plain (synchronous) generator runs in a thread. To end a run with a code of its own
an agent raises `AgentError`. An agent of a framework is hosted as it is: `hosted` says what a
variable cannot. Only the runner imports this package.

Invariant: an agent sees a run and yields values; it never sees Redis or HTTP.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from plateau_sse.agents.hosting import hosted as hosted
from plateau_sse.content import Content, text_of
from plateau_sse.errors import PlateauError

# Of what is remembered in one conversation.
MEMORY_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the exchange, in the shape of chat.completions; `role` is `system`,
    `developer`, `user`, `assistant` or `tool`. `content` is a text or a list of parts as they
    were sent, None beside `tool_calls`; `text` is the text in it. `reasoning_content` is what
    the assistant thought before its calls: some models want it back with the results."""

    role: str
    content: Content
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Message:
        """From the message as it was sent; members that are not known are left out."""
        return cls(
            said["role"],
            said["content"],
            said.get("tool_calls"),
            said.get("tool_call_id"),
            said.get("name"),
            said.get("reasoning_content"),
        )

    @property
    def text(self) -> str:
        return text_of(self.content)

    def as_sent(self) -> dict[str, Any]:
        """The message as an endpoint takes it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        for member in ("tool_calls", "tool_call_id", "name", "reasoning_content"):
            value = getattr(self, member)
            if value is not None:
                message[member] = value
        return message


class Memory:
    """What an agent remembers of a conversation between its runs: bytes of its own, b'' for
    none, of at most `MEMORY_BYTES`. `value` is what the run began with, or what it has kept
    since; that is written when the run completes, unless another has written meanwhile (then
    the `revision` is no longer what it was, and the run fails). `thread` is a name of the
    conversation that no other owner's or user's has. `replaced` is how many of its latest runs
    this one takes the place of: what they have kept is in the value still."""

    __slots__ = ("is_new", "replaced", "revision", "thread", "value")

    def __init__(
        self,
        value: bytes = b"",
        revision: int = 0,
        thread: str = "local",
        replaced: int = 0,
    ) -> None:
        self.thread = thread
        self.replaced = replaced
        self.value = value
        self.revision = revision
        self.is_new = False

    def keep(self, value: bytes) -> None:
        """From now on; the last one counts. Raises AgentError."""
        if len(value) > MEMORY_BYTES:
            said = f"What is to be remembered has {len(value):,} bytes; {MEMORY_BYTES:,} fit."
            raise AgentError("memory_too_large", said)
        self.is_new = self.is_new or value != self.value
        self.value = value


class Trace(Protocol):
    """What an agent may add to the trace of its run."""

    def call(self, name: str) -> AbstractContextManager[Mapping[str, str]]:
        """For as long as something elsewhere is asked, a model or a tool: a span of that name.
        Gives the headers that carry the trace there."""


class NoTrace:
    """Where nothing is traced."""

    def call(self, name: str) -> AbstractContextManager[Mapping[str, str]]:
        return nullcontext({})


NO_TRACE: Trace = NoTrace()


@dataclass(frozen=True, slots=True)
class Run:
    """What an agent is given. `messages` is the whole exchange, what its conversation remembers
    included, `input` its latest user text; `attempt` counts from 1, and above 1 an earlier try
    may have had side effects. `conversation` is the id that the client gave. Answers are cached
    under what is asked: ask for one that depends on more with `cache.mode` off.

    `resume` is what a person has answered to `InputRequest`s of the run before: `id`, `status`
    (`resolved` or `cancelled`) and mostly a `payload` each. `memory` is None where nothing is
    remembered: the agent is not `hosted`, or the run is in no conversation."""

    id: str
    agent: str
    input: str
    messages: Sequence[Message]
    options: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    conversation: str | None = None
    resume: Sequence[Mapping[str, Any]] = ()
    memory: Memory | None = None
    trace: Trace = field(default=NO_TRACE, repr=False, compare=False)


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
class InputRequest:
    """The agent needs an answer of a person, and ends: it yields no more than what else it has
    to ask. `kind` is `approval` (of the call `tool_call_id`) or `question`; `schema` is the
    JSON schema of the answer. The next run in the conversation finds it in `run.resume`, under
    this `id`. Where no `Finish` is yielded the run ends with `input_required`."""

    id: str
    message: str
    kind: Literal["approval", "question"] = "question"
    tool_call_id: str | None = None
    schema: Any = None


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


_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class AgentError(PlateauError):
    """Ends the run as `run.failed` with a `code` of `errors.RUN_FAILURES`, or one of its own:
    a small letter, then small letters, digits and `_`, 64 in all. Another is `agent_error`."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        # Clients compare it, and have it in lines of their own.
        self.code = code if _CODE.fullmatch(code) else "agent_error"
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
    | InputRequest
    | Usage
    | Output
    | Finish
)
Agent = Callable[[Run], AsyncIterator[Yielded] | Iterator[Yielded]]
