"""The command `plateau`.

Invariant: a command imports what it needs and no more, and what a user can mend is told in one
line without a traceback: exit code 2 for settings, 1 for the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from plateau_sse import __version__
from plateau_sse.cli.output import gone, is_output, open_what_is_closed
from plateau_sse.errors import PlateauError, SettingsError
from plateau_sse.importpath import put_current_directory_last
from plateau_sse.settings import Settings, help_text

Command = Callable[[argparse.Namespace], int]

INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    put_current_directory_last()
    open_what_is_closed()
    # Where the locale is ASCII, a character that it lacks is better than a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    without_ask = {"serve", "web", "runner", "agents", "info", "doctor"}
    options = _parser(with_ask=not without_ask & set(arguments[:1])).parse_args(arguments)
    command: Command = options.run
    try:
        code = command(options)
        # At its exit the interpreter would do so with a traceback.
        sys.stdout.flush()
        return code
    except SettingsError as error:
        print(f"plateau: {error}", file=sys.stderr)
        return 2
    except PlateauError as error:
        print(f"plateau: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if arguments[0] in ("serve", "web", "runner") or not is_output(error):
            raise
        return gone(error, arguments[0])


def _parser(*, with_ask: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plateau",
        description="Resumable agent answers over server-sent events.",
        epilog="Settings are environment variables: plateau serve --help lists them.",
    )
    parser.add_argument("--version", action="version", version=f"plateau {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = _add(
        commands,
        "serve",
        _serve,
        "everything on this machine: web workers, a runner, and Redis where no URL is given",
    )
    serve.add_argument(
        "--reload",
        action="store_true",
        help="start again when a source file changes (for development)",
    )
    _add(commands, "web", _web, "web workers alone, on the Redis of REDIS_URL")
    _add(commands, "runner", _runner, "one runner alone, on the Redis of REDIS_URL")
    _add_agents(commands)
    _add_info(commands)
    _add_doctor(commands)
    if with_ask:
        # They bring an HTTP client, which has no place in the memory of a server.
        from plateau_sse.cli import ask, token, top, warm

        ask.add_parser(commands)
        token.add_parser(commands)
        top.add_parser(commands)
        warm.add_parser(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=f"Run {text}.",
        epilog=help_text(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_agents(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "agents",
        help="the agents that a runner would serve, their versions, bounds and memory",
        description="Imports and opens what AGENTS names, as a runner does, and says what it "
        "is: version, whose agent, where from, cache, steps, tries and seconds of a run; and "
        "what a runner with all of them takes.",
        epilog="exit status: 0 shown, 2 one of them cannot be imported, or opened",
    )
    parser.set_defaults(run=_agents)
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "info",
        help="the memory of both Redis servers, and what it means",
        description="Shows what INFO memory says of both Redis servers, and how to read it. "
        "They are those of REDIS_URL and CACHE_REDIS_URL; where one is not set, the one that "
        "the plateau serve of DATA_DIR has started.",
        epilog="exit status: 0 shown, 1 a server is not reached or not known, 2 usage or "
        "settings",
    )
    parser.set_defaults(run=_info)
    parser.add_argument(
        "--raw",
        action="store_true",
        help="only what the servers say, byte for byte; of two, each under a # line",
    )
    parser.add_argument("--role", choices=("streams", "cache"), help="one of the two")


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is wrong here, and the command or setting that mends it",
        description="Looks at settings, versions, both Redis servers, the machine, the data "
        "directory, the address, agents and the model's endpoint. It changes nothing: each "
        "finding names what mends it.",
        epilog="exit status: 0 nothing is wrong, 1 an error, 2 settings that cannot be read",
    )
    parser.set_defaults(run=_doctor)
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings, too")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument(
        "--acl",
        action="store_true",
        help="only print, for each role, the ACL SETUSER line of a user that may do no more "
        "than is needed",
    )


def _serve(options: argparse.Namespace) -> int:
    settings = Settings.from_env()
    from plateau_sse.serve import tree

    return tree.serve(settings, reload=options.reload)


def _web(options: argparse.Namespace) -> int:
    settings = Settings.from_env()
    from plateau_sse.serve import tree

    return tree.web(settings)


def _runner(options: argparse.Namespace) -> int:
    # It listens nowhere, whatever HOST says to the web workers that share its settings.
    settings = Settings.from_env({**os.environ, "HOST": "127.0.0.1"})
    from plateau_sse.serve import tree

    return tree.runner(settings)


def _agents(options: argparse.Namespace) -> int:
    from plateau_sse.cli import agents

    return agents.run(options)


def _info(options: argparse.Namespace) -> int:
    from plateau_sse.cli import info

    return info.run(options)


def _doctor(options: argparse.Namespace) -> int:
    from plateau_sse.cli import doctor

    return doctor.run(options)
