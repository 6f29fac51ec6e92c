"""`plateau ask`: sends a text, prints the answer as it comes.

Invariant: standard output holds the answer and nothing else (or, with --json, the events);
whatever happens on the way there, thoughts, tools, progress, reconnecting and errors, goes to
standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from plateau_sse.cli.dialects import SPOKEN, Question
from plateau_sse.cli.output import gone
from plateau_sse.cli.screen import Screen
from plateau_sse.errors import SettingsError

if TYPE_CHECKING:
    import httpx

COMPLETED, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
# Whoever has pressed Ctrl+C waits for it.
CANCEL_S = 2.0
# Nobody asks as much, and /dev/zero has no end.
FILE_MOST = 256 * 1024**2


class UsageError(Exception):
    """What was asked for cannot be done as it was asked."""


def default_url() -> str:
    """Where a `plateau serve` listens that has the same PORT."""
    return f"http://127.0.0.1:{os.environ.get('PORT', '').strip() or 8000}"


def url_help(what: str) -> str:
    """Of `--url`. PORT may be anything, and argparse reads % in its texts."""
    return f"where the {what} is [{default_url()}]".replace("%", "%%")


def seconds(text: str) -> float:
    """Of `--retry-for`."""
    found = float(text)
    if not found >= 0:
        raise argparse.ArgumentTypeError("seconds, 0 or more")
    return found


def add_parser(subparsers: Any) -> None:
    """Adds `ask` to the subcommands of an argparse parser."""
    parser = subparsers.add_parser(
        "ask",
        help="send a text and print the answer as it comes",
        description="Sends a text to an agent and prints the answer as it comes.",
        epilog="exit status: 0 completed, 1 failed or cancelled, 2 usage, 3 server not reached",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("text", nargs="*", metavar="TEXT", help="the text; else --file, else standard input")
    add("--file", metavar="F", help="read the text from a file (- is standard input)")
    add("--agent", default="study", help="the agent to ask [study]")
    add("--task", choices=("summary", "flashcards", "quiz"), help="same as --option task=…")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the agent; the value is JSON, else a string; repeatable",
    )
    add("--conversation", metavar="ID", help="go on with this conversation, or begin it")
    add("--url", help=url_help("server"))
    key = parser.add_mutually_exclusive_group()
    key.add_argument(
        "--key", default="", help="an API key (other users may see it: --key-file)"
    )
    key.add_argument("--key-file", metavar="F", help="a file with the API key")
    cache = parser.add_mutually_exclusive_group()
    cache.add_argument("--refresh", action="store_true", help="answer anew, then cache it")
    cache.add_argument(
        "--no-cache", action="store_true", help="neither read nor fill the cache"
    )
    add(
        "--via",
        choices=sorted(SPOKEN),
        help="ask in this dialect, as its clients do; --json prints its frames",
    )
    add("--json", action="store_true", help="print the events, one a line")
    add("--quiet", action="store_true", help="the answer and nothing on the way there")
    add(
        "--retry-for",
        type=seconds,
        default=60.0,
        metavar="S",
        help="how long the server may be away before giving up [60]",
    )
    add(
        "--local",
        metavar="MODULE:AGENT",
        help="run this agent right here, without a server (or a name such as study)",
    )


def run(args: argparse.Namespace) -> int:
    """Does it; gives the exit status."""
    screen = Screen(sys.stdout, sys.stderr, events=args.json, quiet=args.quiet)
    try:
        _check_words(args)
        text, options = _text(args), _options(args)
        if args.local:
            if args.conversation:
                raise UsageError("--conversation needs a server, which remembers it")
            if args.via:
                raise UsageError("--via needs a server, which speaks the dialect")
            if args.url is not None or args.key or args.key_file:
                raise UsageError("--url and --key are a server's, and --local asks none")
            return _ask_here(args.local, text, options, screen)
        args.url = args.url or default_url()
        return _ask_server(args, text, options, screen)
    except (UsageError, SettingsError) as error:
        screen.say(f"plateau ask: {error}")
        return USAGE
    except KeyboardInterrupt:
        screen.say("cancelled")
        return INTERRUPTED
    except BrokenPipeError as error:
        return gone(error, "ask")


def _ask_here(target: str, text: str, options: dict[str, Any], screen: Screen) -> int:
    from plateau_sse.cli.local import find, run_here

    run_here(find(target), text, options, screen.show)
    return COMPLETED if screen.status == "completed" else FAILED


def _ask_server(
    args: argparse.Namespace, text: str, options: dict[str, Any], screen: Screen
) -> int:
    # httpx costs 7 MiB: only what uses it loads it.
    import httpx

    from plateau_sse.client import Refused, Unreachable

    try:
        # A server of one's own is not asked through a proxy.
        with httpx.Client(trust_env=False) as http:
            if args.via:
                return _follow_via(http, args, text, options, screen)
            return _follow(http, args, text, options, screen)
    except Unreachable as error:
        screen.say(f"plateau ask: {error}")
        return UNREACHABLE
    except Refused as error:
        screen.say(f"plateau ask: {error}")
        return USAGE if error.code == "client" else FAILED


def _follow(
    http: httpx.Client,
    args: argparse.Namespace,
    text: str,
    options: dict[str, Any],
    screen: Screen,
) -> int:
    from plateau_sse.client import Ask, ask, follow

    mode = "refresh" if args.refresh else "off" if args.no_cache else "use"
    body = Ask(agent=args.agent, input=text, options=options, cache={"mode": mode})
    if args.conversation:
        body["conversation_id"] = args.conversation
    for_s, notice = args.retry_for, screen.notice
    asked = ask(args.url, key=key_of(args), http=http, retry_for_s=for_s, notice=notice, **body)
    if isinstance(asked.said.get("output"), str) and not screen.events:
        screen.show_cached(asked.said)
        return COMPLETED
    try:
        stream = follow(asked, http=http, retry_for_s=for_s, notice=notice)
        for _ in stream:
            screen.show(stream.data)
    except (KeyboardInterrupt, BrokenPipeError):
        _cancel(asked.cancel_url, http, screen)
        raise
    return COMPLETED if screen.status == "completed" else FAILED


def _follow_via(
    http: httpx.Client,
    args: argparse.Namespace,
    text: str,
    options: dict[str, Any],
    screen: Screen,
) -> int:
    from plateau_sse.cli.via import Via
    from plateau_sse.client.patience import Patience

    spoken = SPOKEN[args.via]
    if args.conversation and not spoken.remembers:
        raise UsageError(f"--conversation: clients of {args.via} send all of it themselves")
    chat = args.conversation or uuid.uuid4().hex
    question = Question(args.agent, text, options, chat, remembered=bool(args.conversation))
    cache = "no-cache" if args.refresh else "no-store" if args.no_cache else ""
    headers = {"Cache-Control": cache} if cache else {}
    patience = Patience(args.url, args.retry_for, screen.notice)
    via = Via(args.url, spoken, question, http, patience, key_of(args), headers)
    try:
        for heard in via.follow():
            screen.show_frame(heard.data, heard.events)
    except (KeyboardInterrupt, BrokenPipeError):
        _cancel(via.cancel_url, http, screen)
        raise
    return COMPLETED if screen.status == "completed" else FAILED


def _cancel(url: str, http: httpx.Client, screen: Screen) -> None:
    """Best effort: the run ends by itself if nobody can be told."""
    from plateau_sse.client import Refused, Unreachable, cancel

    try:
        if url:
            cancel(url, http=http, within_s=CANCEL_S)
    except (Refused, Unreachable) as error:
        screen.notice(f"could not cancel: {error}")


def _text(args: argparse.Namespace) -> str:
    if args.text and args.file:
        raise UsageError("give the text or --file, not both")
    if args.text:
        # What is no UTF-8 comes as halves of surrogates, which no JSON takes.
        given = " ".join(args.text).encode("utf-8", "surrogateescape")
        text = given.decode("utf-8", "replace")
    elif args.file or not (sys.stdin is None or sys.stdin.isatty()):
        text = contents(args.file or "-", or_input=True).decode("utf-8", "replace")
        if args.file and args.file != "-":
            # It is the same text, and has the same answer, however its editor ends a line.
            text = text.replace("\r\n", "\n").replace("\r", "\n")
    else:
        raise UsageError(
            "there is no text: give it as arguments, with --file or through a pipe"
        )
    if not text.strip():
        raise UsageError("the text is empty")
    return text


def contents(path: str, *, or_input: bool = False) -> bytes:
    """Of a file; `or_input`: of standard input where that is `-`. Raises UsageError, also for
    what has no end."""
    try:
        if or_input and path == "-":
            found = sys.stdin.buffer.read(FILE_MOST + 1)
        else:
            with open(path, "rb") as file:
                found = file.read(FILE_MOST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(found) > FILE_MOST:
        raise UsageError(f"{path} has more than {FILE_MOST // 1024**2} MiB")
    return found


def key_of(args: argparse.Namespace) -> str:
    """That of --key or --key-file. Raises UsageError, without the key in it."""
    # Some editors begin a file with a mark of its encoding.
    key = contents(args.key_file).decode("utf-8-sig", "replace") if args.key_file else args.key
    key = str(key).strip()
    if not (key.isascii() and key.isprintable()):
        where = f"in {args.key_file}" if args.key_file else "of --key"
        raise UsageError(f"the key {where} is one line of ASCII, and this is none")
    return key


def _check_words(args: argparse.Namespace) -> None:
    """What is no UTF-8 comes as halves of surrogates, which nothing sends."""
    for name in ("agent", "conversation", "url"):
        try:
            (getattr(args, name) or "").encode()
        except UnicodeEncodeError:
            raise UsageError(f"--{name} is not UTF-8") from None


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options = options_of(args.option)
    if args.task:
        options["task"] = args.task
    return options


def options_of(given: list[str]) -> dict[str, Any]:
    """Those of --option NAME=VALUE. Raises UsageError."""
    return dict(_pairs(given))


def _pairs(given: list[str]) -> Iterator[tuple[str, Any]]:
    for pair in given:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"--option takes name=value, not {pair!r}")
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except ValueError:
            value = text
        except RecursionError:
            raise UsageError(f"--option {name}: that is too deep") from None
        try:
            json.dumps({name: value}, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--option {name!a} cannot be sent: {error}") from None
        yield name, value


def _no_constant(text: str) -> Any:
    """Of NaN and Infinity, which Python takes for JSON."""
    raise ValueError(text)
