"""What `plateau ask` shows: the answer on one stream, the rest on the other.

Invariant: the answer on standard output is a prefix of the run's text at all times; where a run
began again and said something else, that is announced and its text printed anew. Whatever else
is told, thoughts, tools, sources, goes to standard error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from plateau_sse.cli.output import Unwritable

# Why an answer ended, where it is not that all was said.
ENDINGS = {
    "length": "cut off: the limit of its length was reached",
    "content_filter": "cut off by a filter of content",
    "tool_calls": "the agent waits for what its tools give",
    "input_required": "the agent waits for an answer",
    "other": "ended, and not with its last word",
}

# C0, DEL and C1: what terminals take for orders.
_IS_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]").match

CLEAR_LINE = "\r\x1b[K"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# Of arguments, outputs and addresses in a line that tells of them.
SHOWN_CHARS = 160


class Screen:
    """`events`: print the events themselves. `status` is set by the terminal event."""

    def __init__(self, out: TextIO, err: TextIO, *, events: bool, quiet: bool) -> None:
        self.events = events
        self.status = ""
        self._out = out
        self._err = err
        self._quiet = quiet
        self._text = ""
        self._shown = ""
        self._progress_line = False
        self._mid_line = False
        # Standard error is in the middle of a line of thoughts.
        self._mid_thought = False
        self._tools: dict[str, str] = {}
        self._sources: list[str] = []

    def show(self, line: str) -> None:
        """Shows one event, given as its JSON."""
        if self.events:
            self._write(line + "\n")
        self._hear(json.loads(line))

    def show_frame(self, data: str, events: Sequence[dict[str, Any]]) -> None:
        """Shows a frame of another dialect, and the events that it tells of."""
        if self.events and data:
            self._write(data + "\n")
        for event in events:
            self._hear(event)

    def _hear(self, event: dict[str, Any]) -> None:
        kind = str(event.get("type", ""))
        handle = {
            "message.delta": self._delta,
            "run.progress": self._progress,
            "run.queued": self._queued,
            "reasoning.delta": self._thought,
            "tool.call": self._call,
            "tool.result": self._result,
            "source": self._source,
            "file": self._file,
            "data": self._data,
            "step": self._step,
            "input.request": self._asks,
            "run.restarted": self._restarted,
            "run.completed": self._completed,
            "run.failed": self._failed,
            "run.cancelled": self._cancelled,
        }.get(kind)
        if handle:
            handle(event)

    def show_cached(self, answer: Mapping[str, Any]) -> None:
        """A whole answer, as its POST gave it."""
        for part in answer.get("parts") or []:
            if part.get("type") == "source":
                self._source(part)
        event = {"output": answer["output"], "cached": True}
        self._completed(event | {"finish_reason": answer.get("finish_reason")})

    def say(self, message: str) -> None:
        """A line to standard error, --quiet or not."""
        self._clear_progress()
        self._end_thought()
        if self._same_terminal():
            self._end_line()
        print(printable(message), file=self._err, flush=True)

    def notice(self, message: str) -> None:
        """A line to standard error that --quiet keeps back."""
        if not self._quiet:
            self.say(message)

    def _delta(self, event: dict[str, Any]) -> None:
        self._text += str(event.get("text", ""))
        self._catch_up()

    def _thought(self, event: dict[str, Any]) -> None:
        if self._quiet or self.events:
            return
        lines = str(event.get("text", "")).split("\n")
        text = "\n".join(printable(line) for line in lines)
        if not text:
            return
        self._clear_progress()
        if self._same_terminal() and not self._mid_thought:
            self._end_line()
        self._err.write(f"{DIM}{text}{PLAIN}" if has_colour(self._err) else text)
        self._err.flush()
        self._mid_thought = not text.endswith("\n")

    def _end_thought(self) -> None:
        if self._mid_thought:
            self._mid_thought = False
            print(file=self._err, flush=True)

    def _call(self, event: dict[str, Any]) -> None:
        name = str(event.get("name"))
        self._tools[str(event.get("id"))] = name
        yours = ", for you to run" if event.get("client") else ""
        self._tell(f"{name}({short(event.get('arguments'))}){yours}")

    def _result(self, event: dict[str, Any]) -> None:
        if event.get("preliminary"):
            return
        name = self._tools.get(str(event.get("id")), "tool")
        if "error" in event:
            self._tell(f"{name} failed: {short(event['error'])}")
        else:
            self._tell(f"{name}: {short(event.get('output'))}")

    def _source(self, event: dict[str, Any]) -> None:
        names = (event.get(name) for name in ("title", "filename", "media_type", "id"))
        name = next((str(name) for name in names if name), "")
        url = event.get("url")
        self._sources.append(f"{name}: {short(url)}" if url else name)

    def _file(self, event: dict[str, Any]) -> None:
        self._tell(f"a file, {event.get('media_type')}: {short(event.get('url'))}")

    def _data(self, event: dict[str, Any]) -> None:
        self._tell(f"{event.get('name')}: {short(event.get('value'))}")

    def _step(self, event: dict[str, Any]) -> None:
        self._tell(f"step: {event.get('name')}")

    def _asks(self, event: dict[str, Any]) -> None:
        if not self.events:
            self.say(f"asks ({event.get('kind')}): {event.get('message', '')}")

    def _queued(self, _: dict[str, Any]) -> None:
        # Most wait for a moment: only where the line goes again by itself.
        if self._err.isatty() and not (self._quiet or self.events):
            self._show_line("waiting for a runner")

    def _tell(self, message: str) -> None:
        if not self.events:
            self.notice(message)

    def _restarted(self, event: dict[str, Any]) -> None:
        self._text = ""
        self._sources.clear()
        attempt = f"attempt {event['attempt']}: " if "attempt" in event else "again: "
        self.notice(f"{attempt}{event.get('reason')}")

    def _catch_up(self) -> None:
        """Prints what is new. A run that began again and so far says the same as before has
        nothing new to say."""
        if self.events or self._shown.startswith(self._text):
            return
        if not self._text.startswith(self._shown):
            self.notice("the answer was restarted:")
            self._end_line()
            self._shown = ""
        self._write(self._text[len(self._shown) :])
        self._shown = self._text

    def _completed(self, event: dict[str, Any]) -> None:
        self.status = "completed"
        if self.events:
            return
        output = event.get("output")
        if len(self._text) < len(self._shown) and (self._text or not output):
            # The new attempt said less than what had been printed of the one before.
            self.notice("the answer was restarted:")
            self._end_line()
            self._write(self._text)
        if isinstance(output, str) and output != self._text:
            if self._shown:
                self._end_line()
                self._write("\n")
            self._write(output)
        self._end_line()
        self._clear_progress()
        if event.get("cached"):
            self.notice("from the cache")
        for source in self._sources:
            self.notice(f"source: {source}")
        reason = event.get("finish_reason")
        if reason in ENDINGS:
            self.say(f"{ENDINGS[reason]} ({reason})")

    def _failed(self, event: dict[str, Any]) -> None:
        self.status = "failed"
        self._end_line()
        again = " It may work if you try again." if event.get("retryable") else ""
        self.say(f"failed: {event.get('message')} ({event.get('code')}){again}")

    def _cancelled(self, event: dict[str, Any]) -> None:
        self.status = "cancelled"
        self._end_line()
        self.say(f"cancelled: {event.get('reason') or 'on request'} (cancelled)")

    def _end_line(self) -> None:
        if self._mid_line:
            self._write("\n")

    def _progress(self, event: dict[str, Any]) -> None:
        # On one terminal the line would be drawn into the middle of the answer.
        if self._quiet or self.events or (self._shown and self._same_terminal()):
            return
        who = f"{event['current_agent']}: " if event.get("current_agent") else ""
        line = printable(
            f"[{event.get('step')}/{event.get('total_steps')}] {who}{event.get('message', '')}"
        )
        self._end_thought()
        if self._err.isatty():
            self._show_line(line)
        else:
            print(line, file=self._err, flush=True)

    def _show_line(self, line: str) -> None:
        """One that the next thing written there replaces."""
        width = shutil.get_terminal_size().columns - 1
        self._err.write(CLEAR_LINE + line[:width])
        self._err.flush()
        self._progress_line = True

    def _clear_progress(self) -> None:
        if self._progress_line:
            self._err.write(CLEAR_LINE)
            self._err.flush()
            self._progress_line = False

    def _same_terminal(self) -> bool:
        return self._out.isatty() and self._err.isatty()

    def _write(self, text: str) -> None:
        self._clear_progress()
        self._end_thought()
        # A file or a program gets what was said; a terminal would do what some of it says.
        try:
            self._out.write(shown(text) if self._out.isatty() else text)
            self._out.flush()
        except OSError as error:
            # Of an agent that runs right here other faults are its own.
            raise Unwritable(*error.args) from None
        if text:
            self._mid_line = not text.endswith("\n")


def has_colour(out: TextIO) -> bool:
    """Whether colours may be sent there. NO_COLOR is a convention of terminals, no setting of
    Plateau's (https://no-color.org), so it is read here."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return out.isatty() and not is_plain


def shown(text: str) -> str:
    """For a terminal: lines and tabs stay, what else is no character is written out."""
    return "".join(
        letter if letter in "\n\t" or not _IS_CONTROL(letter) else f"\\x{ord(letter):02x}"
        for letter in text
    )


def printable(text: str) -> str:
    """On one line, without the control characters that could drive a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def short(value: Any) -> str:
    """A JSON value, or a text, as the beginning of a line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
