"""What `plateau ask` shows: the answer on one stream, the rest on the other.

Invariant: the answer on standard output is a prefix of the run's text at all times; where a run
began again and said something else, that is announced and its text printed anew.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any, TextIO

# Why an answer ended, where it is not that all was said.
ENDINGS = {
    "length": "cut off: the limit of its length was reached",
    "content_filter": "cut off by a filter of content",
    "tool_calls": "the agent waits for what its tools give",
    "input_required": "the agent waits for an answer",
    "other": "ended, and not with its last word",
}

CLEAR_LINE = "\r\x1b[K"


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

    def show(self, line: str) -> None:
        """Shows one event, given as its JSON."""
        event = json.loads(line)
        kind = str(event.get("type", ""))
        if self.events:
            self._write(line + "\n")
        handle = {
            "message.delta": self._delta,
            "run.progress": self._progress,
            "run.snapshot": self._snapshot,
            "run.restarted": self._restarted,
            "run.completed": self._completed,
            "run.failed": self._failed,
            "run.cancelled": self._cancelled,
        }.get(kind)
        if handle:
            handle(event)

    def show_cached(self, output: str) -> None:
        self.status = "completed"
        self._write(output if output.endswith("\n") else output + "\n")
        self.notice("from the cache")

    def say(self, message: str) -> None:
        """A line to standard error, --quiet or not."""
        self._clear_progress()
        if self._same_terminal():
            self._end_line()
        print(printable(message), file=self._err, flush=True)

    def notice(self, message: str) -> None:
        """A line to standard error that --quiet keeps back."""
        if not self._quiet:
            self.say(message)

    def abandon(self) -> None:
        """Standard output is gone: keep the interpreter from flushing into it at exit."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._out.fileno())
        os.close(nowhere)

    def _delta(self, event: dict[str, Any]) -> None:
        self._text += str(event.get("text", ""))
        self._catch_up()

    def _snapshot(self, event: dict[str, Any]) -> None:
        self._text = str(event.get("text", ""))
        if isinstance(event.get("progress"), dict):
            self._progress(event["progress"])
        self._catch_up()

    def _restarted(self, event: dict[str, Any]) -> None:
        self._text = ""
        self.notice(f"attempt {event.get('attempt')}: {event.get('reason')}")

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
        if self._err.isatty():
            width = shutil.get_terminal_size().columns - 1
            self._err.write(CLEAR_LINE + line[:width])
            self._err.flush()
            self._progress_line = True
        else:
            print(line, file=self._err, flush=True)

    def _clear_progress(self) -> None:
        if self._progress_line:
            self._err.write(CLEAR_LINE)
            self._err.flush()
            self._progress_line = False

    def _same_terminal(self) -> bool:
        return self._out.isatty() and self._err.isatty()

    def _write(self, text: str) -> None:
        self._clear_progress()
        self._out.write(text)
        self._out.flush()
        if text:
            self._mid_line = not text.endswith("\n")


def has_colour(out: TextIO) -> bool:
    """Whether colours may be sent there. NO_COLOR is a convention of terminals, no setting of
    Plateau's (https://no-color.org), so it is read here."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return out.isatty() and not is_plain


def printable(text: str) -> str:
    """On one line, without the control characters that could drive a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
