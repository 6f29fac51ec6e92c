"""`plateau warm`: fills the cache from a file of questions, before anybody waits for them.

Invariant: every line is read before anything is asked, so a file with a mistake costs nothing.
No more is asked at once, or in a second, than was allowed; a service that is full is waited
for, not pressed. What is asked again, since its answer was lost, is the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from plateau_sse.cli.ask import (
    UsageError,
    contents,
    default_url,
    key_of,
    options_of,
    seconds,
    url_help,
)
from plateau_sse.cli.screen import CLEAR_LINE
from plateau_sse.cli.units import brief, duration

if TYPE_CHECKING:
    import httpx

COMPLETED, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

# A request waits so long for its answer; then the same one is sent again.
WAIT_S = 60
# Beyond that: a connection, and a server that is busy.
MARGIN_S = 15.0
PAUSE_S, PAUSE_MOST_S = 1.0, 30.0
# Told as they are found, and no more of them.
TOLD_MOST = 20
# Of a line of progress, on a terminal and where it goes into a log.
SHOW_S, LOG_S = 0.2, 10.0
BUSY = (429, 502, 503, 504)
# Why an answer may have ended that is whole, and yet none for who asks next.
UNKEPT = ("content_filter", "input_required", "other")
NEW, THERE, FAULT = "answered", "there already", "failed"


class Question(NamedTuple):
    """`line` is where it stands, from 1."""

    line: int
    body: dict[str, Any]


def add_parser(subparsers: Any) -> None:
    """Adds `warm` to the subcommands of an argparse parser."""
    parser = subparsers.add_parser(
        "warm",
        help="fill the cache from a file of questions",
        description="Asks each question of a file, so that its answer is in the cache when "
        "somebody else asks. A line is a question, or a JSON object as POST /v1/runs takes it: "
        '{"agent": "study", "input": "…", "options": {…}}. Empty lines and such that begin '
        "with # are passed over.",
        epilog="exit status: 0 all answered, 1 some were not, 2 usage, 3 server not reached",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("file", metavar="FILE", help="the questions (- is standard input)")
    add("--agent", default="study", help="the agent of lines that name none [study]")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of lines that are plain text; the value is JSON, else a string",
    )
    add("--at-once", type=int, default=4, metavar="N", help="as many wait for answers [4]")
    add("--rate", type=float, metavar="N", help="ask so many a second at most")
    add("--refresh", action="store_true", help="answer anew what is there already")
    add("--url", default=default_url(), help=url_help("server"))
    key = parser.add_mutually_exclusive_group()
    key.add_argument(
        "--key", default="", help="an API key (other users may see it: --key-file)"
    )
    key.add_argument("--key-file", metavar="F", help="a file with the API key")
    add(
        "--retry-for",
        type=seconds,
        default=120.0,
        metavar="S",
        help="how long the server may be away or full before giving up [120]",
    )
    add("--quiet", action="store_true", help="no progress; what fails is still told")


def run(args: argparse.Namespace) -> int:
    """Does it; gives the exit status."""
    try:
        if args.at_once < 1 or not (args.rate is None or args.rate > 0):
            raise UsageError("--at-once and --rate are numbers above 0")
        options = options_of(args.option)
        questions = list(_questions(_lines(args.file), args.agent, options))
        if not questions:
            raise UsageError(f"there is no question in {args.file}")
        return asyncio.run(_warm(args, questions, key_of(args)))
    except UsageError as error:
        sys.stderr.write(f"plateau warm: {error}\n")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def _lines(path: str) -> list[str]:
    try:
        # What else ends a line for `splitlines` may stand in a question.
        return contents(path, or_input=True).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8: save it as that") from None


def _questions(lines: list[str], agent: str, options: dict[str, Any]) -> Iterator[Question]:
    """Raises UsageError, with the line."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not text.startswith("{"):
            yield _sendable(number, {"agent": agent, "input": text, "options": options})
            continue
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"line {number} is not JSON: {error}") from None
        if not body.get("input") and not body.get("messages"):
            raise UsageError(f"line {number} has neither input nor messages")
        if "conversation_id" in body:
            raise UsageError(
                f"line {number} has a conversation_id: what is asked in a conversation has an "
                "answer of its own, which nobody else is given"
            )
        yield _sendable(number, {"agent": agent, **body})


def _sendable(number: int, body: dict[str, Any]) -> Question:
    """What Python reads as JSON need not be any: half a character, or NaN."""
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"line {number} cannot be sent as JSON: {error}") from None
    return Question(number, body)


async def _warm(args: argparse.Namespace, questions: list[Question], key: str) -> int:
    # httpx costs 7 MiB: only what uses it loads it.
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=args.at_once)
    async with httpx.AsyncClient(headers=headers, limits=limits, trust_env=False) as http:
        warming = _Warming(
            f"{args.url.rstrip('/')}/v1/runs",
            http,
            mode="refresh" if args.refresh else "use",
            every_s=1 / args.rate if args.rate else 0.0,
            retry_for_s=args.retry_for,
            progress=_Progress(len(questions), sys.stderr, quiet=args.quiet),
        )
        return await warming.warm(questions, args.at_once)


class _GaveUp(Exception):
    """The server was away, or full, for too long."""


@dataclass
class _Progress:
    """How far it is, in one line; `counts` by what became of a question."""

    questions: int
    out: TextIO
    quiet: bool
    counts: Counter[str] = field(default_factory=Counter)
    _began: float = field(default_factory=time.monotonic)
    _shown_at: float = float("-inf")
    _told: int = 0

    def add(self, what: str) -> None:
        self.counts[what] += 1
        now = time.monotonic()
        every_s = SHOW_S if self.out.isatty() else LOG_S
        if not self.quiet and now - self._shown_at >= every_s:
            self._shown_at = now
            self._show(self.line())

    def tell(self, text: str) -> None:
        """Of one question, or of what it waits for."""
        self._told += 1
        if self._told <= TOLD_MOST:
            self._clear()
            self.out.write(f"{text}\n")
        elif self._told == TOLD_MOST + 1:
            self._clear()
            self.out.write("… more of these are not told\n")

    def line(self) -> str:
        done = self.counts.total()
        rate = done / max(time.monotonic() - self._began, 1e-3)
        parts = [f"{done:,} of {self.questions:,}", f"{brief(rate)} a second"]
        parts += [f"{n:,} {what}" for what, n in self.counts.items()]
        if done < self.questions and rate:
            parts.append(f"{duration((self.questions - done) / rate)} left")
        return ", ".join(parts)

    def end(self) -> None:
        self._clear()
        if not self.quiet:
            self.out.write(f"{self.line()}\n")

    def _show(self, line: str) -> None:
        self._clear()
        self.out.write(line if self.out.isatty() else f"{line}\n")
        self.out.flush()

    def _clear(self) -> None:
        if self.out.isatty():
            self.out.write(CLEAR_LINE)


@dataclass
class _Warming:
    """Asks at `url`; one question each `every_s` at most."""

    url: str
    http: httpx.AsyncClient
    mode: str
    every_s: float
    retry_for_s: float
    progress: _Progress
    _next_at: float = 0.0

    async def warm(self, questions: list[Question], at_once: int) -> int:
        """The exit status."""
        left, gave_up = iter(questions), ""

        async def ask_on() -> None:
            for question in left:
                await self._in_turn()
                self.progress.add(await self._ask(question))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_once, len(questions))):
                    group.create_task(ask_on())
        except* _GaveUp as found:
            gave_up = str(found.exceptions[0])
        self.progress.end()
        if gave_up:
            self.progress.out.write(f"plateau warm: {gave_up}\n")
            return UNREACHABLE
        return FAILED if self.progress.counts[FAULT] else COMPLETED

    async def _in_turn(self) -> None:
        now = time.monotonic()
        at = max(now, self._next_at)
        self._next_at = at + self.every_s
        if at > now:
            await asyncio.sleep(at - now)

    async def _ask(self, question: Question) -> str:
        """What became of it. Raises _GaveUp."""
        import httpx

        from plateau_sse.client.faults import check_port, shown

        body = {**question.body, "cache": {"mode": self.mode}}
        # A server that has stopped in the middle says nothing either: it is waited for no
        # longer than one that is away.
        wait_s = max(1, int(min(WAIT_S, self.retry_for_s)))
        timeout = httpx.Timeout(wait_s + min(MARGIN_S, max(2.0, self.retry_for_s)))
        headers = {"Prefer": f"wait={wait_s}", "Idempotency-Key": uuid.uuid4().hex}
        pause_s, since = PAUSE_S, time.monotonic()
        while True:
            asked_at = time.monotonic()
            try:
                check_port(self.url)
                response = await self.http.post(
                    self.url, json=body, headers=headers, timeout=timeout
                )
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
                raise _GaveUp(f"{shown(self.url)} is no address: {error}") from None
            except httpx.RequestError as error:
                away = f"{shown(self.url)} does not answer ({type(error).__name__})"
                self._note_away(away, since)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
                continue
            if response.status_code in BUSY:
                self._note_away(f"{shown(self.url)} says {_said(response)}", since)
                await asyncio.sleep(_retry_after_s(response, pause_s))
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
                continue
            since = time.monotonic()
            if response.status_code == 202:
                # It takes longer than anybody waits: the same run once more. A worker that has
                # no room for who waits says so at once, and is not pressed.
                if since - asked_at < pause_s:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_MOST_S)
                continue
            return self._became(question, response)

    def _became(self, question: Question, response: httpx.Response) -> str:
        if response.status_code != 200:
            self.progress.tell(f"line {question.line}: {_said(response)}")
            return FAULT
        said = _object(response)
        if said.get("status") != "completed":
            error = said.get("error") or {}
            why = error.get("message") or error.get("code") or "it did not end well"
            self.progress.tell(f"line {question.line}: {said.get('status')}: {why}")
            return FAULT
        if said.get("finish_reason") == "length":
            self.progress.tell(f"line {question.line}: cut off, so it is not kept")
            return FAULT
        if said.get("finish_reason") in UNKEPT:
            why = f"it ended with {said['finish_reason']}, so it is not kept"
            self.progress.tell(f"line {question.line}: {why}")
            return FAULT
        return THERE if response.headers.get("x-cache") == "hit" else NEW

    def _note_away(self, why: str, since: float) -> None:
        """Raises _GaveUp where it was so for too long."""
        if time.monotonic() - since > self.retry_for_s:
            raise _GaveUp(f"gave up after {self.retry_for_s:g} s: {why}")
        self.progress.tell(f"{why}; asking again")


def _retry_after_s(response: httpx.Response, pause_s: float) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), PAUSE_MOST_S) if text.isdigit() else pause_s


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _said(response: httpx.Response) -> str:
    """What a response that is no answer says."""
    problem = _object(response)
    code = problem.get("code") or response.status_code
    return f"{problem.get('detail') or response.reason_phrase} ({code})"
