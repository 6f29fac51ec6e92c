"""Where log lines go: one handler on stderr, in text or JSON, what is said too often counted.

Invariant: a line is there because someone may act on it; what gunicorn and uvicorn say about
their own normal course is left out, and what uvloop says of a connection that was given up.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

from plateau_sse.ops.damper import Damper

# Templates of lines that tell an operator nothing.
ROUTINE = frozenset(
    {
        "Starting gunicorn %s",
        "Listening at: %s (%s)",
        "Using worker: %s",
        "Booting worker with pid: %s",
        "Worker exiting (pid: %s)",
        "Handling signal: %s",
        "Shutting down: %s",
    }
)

# How uvloop tells of a connection that is given up in the very turn of its loop in which its
# TLS handshake completes, as where a process was frozen: what is left to be sent has nowhere to
# go. Whoever gave it up says why.
_GIVEN_UP = ("Fatal error on SSL protocol", "the handler is closed")

# What ends a line for somebody, or is an order to a terminal. What agents and clients say
# stands in what is logged.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
# Nobody can begin a line of a log but us.
INDENT = "    "

# How every line about a run begins.
RUN = "run %s"


class TextFormatter(logging.Formatter):
    """For people; a line that belongs to a request ends with its id."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s [%(process)d] %(message)s", "%Y-%m-%d %H:%M:%S"
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        request = getattr(record, "request", "")
        return f"{line} (request {request})" if request else line

    def format(self, record: logging.LogRecord) -> str:
        lines = _CONTROL.sub(_written_out, super().format(record)).split("\n")
        return f"\n{INDENT}".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with `run` and `request` where it is about one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat("T", "milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if str(record.msg).startswith(RUN) and isinstance(record.args, tuple):
            line["run"] = str(record.args[0])
        if request := getattr(record, "request", ""):
            line["request"] = request
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _CONTROL.sub(_written_out, json.dumps(line, ensure_ascii=False))


def _written_out(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _tells_something(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    is_known = isinstance(error, RuntimeError) and str(error).endswith(_GIVEN_UP[1])
    return not (is_known and record.getMessage().startswith(_GIVEN_UP[0]))


def configure(log_format: str) -> None:
    """Once a process tree, before anything forks; `log_format` is `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(Damper())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("plateau").setLevel(logging.INFO)
    gunicorn = logging.getLogger("gunicorn.error")
    # gunicorn stops it from propagating.
    gunicorn.handlers = [handler]
    gunicorn.addFilter(lambda record: record.msg not in ROUTINE)
    logging.getLogger("asyncio").addFilter(_tells_something)
