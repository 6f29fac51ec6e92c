"""The command `plateau`.

Invariant: a command imports what it needs and no more, and what a user can mend is told in one
line without a traceback: exit code 2 for settings, 1 for the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from service import __version__
from service.errors import PlateauError, SettingsError
from service.settings import Settings, help_text

Command = Callable[[argparse.Namespace], int]

INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Console scripts do not see the directory that they are called in, where agents may be.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    options = _parser(with_ask=not {"serve", "web", "runner"} & set(arguments[:1])).parse_args(
        arguments
    )
    command: Command = options.run
    try:
        return command(options)
    except SettingsError as error:
        print(f"plateau: {error}", file=sys.stderr)
        return 2
    except PlateauError as error:
        print(f"plateau: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


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
    if with_ask:
        # They bring an HTTP client, which has no place in the memory of a server.
        from service.cli import ask, top

        ask.add_parser(commands)
        top.add_parser(commands)
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
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _serve(options: argparse.Namespace) -> int:
    settings = Settings.from_env()
    from service.serve import tree

    return tree.serve(settings, reload=options.reload)


def _web(options: argparse.Namespace) -> int:
    settings = Settings.from_env()
    from service.serve import tree

    return tree.web(settings)


def _runner(options: argparse.Namespace) -> int:
    settings = Settings.from_env()
    from service.serve import tree

    return tree.runner(settings)
