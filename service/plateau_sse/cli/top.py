"""`plateau top`: what the service says of itself, in a terminal, anew every two seconds.

Invariant: however it ends, the terminal is as it was; figures that have stopped coming say how
old they are, and nothing is called well by them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from plateau_sse.cli import dashboard
from plateau_sse.cli.ask import default_url, url_help
from plateau_sse.cli.screen import has_colour, printable
from plateau_sse.errors import PlateauError, SettingsError
from plateau_sse.settings import Settings

if TYPE_CHECKING:
    import httpx

EVERY_S = 2.0
# Three pictures that did not come.
LATE_S = 7.0
# A service whose Redis is away looks for 2 s before it says so.
TIMEOUT_S = 6.0
# How long a key, or a new size, may wait.
LOOK_S = 0.1

# The other screen, without a cursor, and back.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
# Whoever knows these shows what is between them at once; others pass over them.
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"


def add_parser(subparsers: Any) -> None:
    """Adds `top` to the subcommands of an argparse parser."""
    parser = subparsers.add_parser(
        "top",
        help="what the service uses, whether it is well, and what to change: live",
        description="Shows what a service says of itself, anew every 2 s; q leaves. "
        "Where standard output is no terminal, once.",
        epilog="exit status: 0 shown, 1 not reached or refused, 2 usage or settings",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--url", default=default_url(), help=url_help("service"))
    add(
        "--token",
        default="",
        help="its ADMIN_TOKEN; else that of the environment, which other users do not see",
    )
    add("--once", action="store_true", help="print it once")
    add("--json", action="store_true", help="print the figures as JSON, once")


class Away(PlateauError):
    """The service does not answer just now; `why` is short."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


class Shot(NamedTuple):
    """A picture; when it came, by the monotonic clock; the service's clock less ours."""

    picture: dashboard.Picture
    came: float
    ahead_s: float


def run(args: argparse.Namespace) -> int:
    """Does it; gives the exit status. Raises PlateauError, SettingsError."""
    token = args.token.strip() or Settings.from_env().admin_token
    if not token.isprintable():
        raise SettingsError("The token has a character that no header takes.")
    return asyncio.run(_run(args, token))


async def _run(args: argparse.Namespace, token: str) -> int:
    # httpx costs 7 MiB: only what uses it loads it.
    import httpx

    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        service = Service(args.url, token, http)
        shot = await service.look()
        if args.json:
            print(json.dumps(shot.picture, ensure_ascii=False), flush=True)
            return 0
        if args.once or not sys.stdout.isatty():
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
            print(_screen(service, shot, _look(width, None)), flush=True)
            return 0
        return await _Watching(service, shot).go_on()


class Service:
    """What answers at `url`, for who has `token`."""

    def __init__(self, url: str, token: str, http: httpx.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._http = http

    async def look(self) -> Shot:
        """Raises Away where that may pass; SettingsError, PlateauError where it will not."""
        import httpx

        from plateau_sse.client.faults import check_port, problem_of

        # As bytes: httpx takes text for ASCII, and a wrong token may be anything.
        headers = {b"Authorization": f"Bearer {self._token}".encode()} if self._token else {}
        try:
            check_port(self.url)
            response = await self._http.get(f"{self.url}/api/admin/metrics", headers=headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise SettingsError(f"--url {self.url!a} is no address: {error}") from None
        except httpx.RequestError as error:
            why = str(error) or type(error).__name__
            raise Away(
                why,
                f"{self.url} cannot be reached ({why}). Is it started? --url names another.",
            ) from None
        refused = problem_of(response)
        if response.status_code == 401:
            raise self._unauthorized()
        if refused.code == "admin_closed":
            raise PlateauError(
                f"{self.url} has no ADMIN_TOKEN, so it shows its figures to nobody: "
                "start it with one."
            )
        if response.status_code >= 500 or response.status_code == 429:
            why = printable(str(refused))
            raise Away(why, f"{self.url} does not answer just now: {why}")
        return Shot(self._picture(response), time.monotonic(), _ahead_s(response))

    def _unauthorized(self) -> PlateauError:
        if not self._token:
            return SettingsError(
                "Whoever looks needs the service's ADMIN_TOKEN: in the environment, or --token."
            )
        return PlateauError(
            f"That is not the ADMIN_TOKEN of {self.url}: look at how that was started."
        )

    def _picture(self, response: httpx.Response) -> dashboard.Picture:
        try:
            picture = response.json()
            # What is not one cannot be shown either.
            dashboard.lines(picture, dashboard.Look(80), 0.0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PlateauError(
                f"{self.url} does not answer as Plateau does: is --url right?"
            ) from None
        found: dashboard.Picture = picture
        return found


def _ahead_s(response: httpx.Response) -> float:
    with suppress(KeyError, ValueError):
        return parsedate_to_datetime(response.headers["date"]).timestamp() - time.time()
    return 0.0


def _look(width: int, height: int | None) -> dashboard.Look:
    if "utf" in (sys.stdout.encoding or "").lower():
        return dashboard.Look(width, height)
    return dashboard.Look(width, height, "#", ".")


def _screen(service: Service, shot: Shot, look: dashboard.Look, broken: str = "") -> str:
    """A screen of it; `broken` says why figures have stopped coming."""
    age_s = time.monotonic() - shot.came
    is_stale = age_s > LATE_S
    title, hint = f"Plateau  {printable(service.url)}", "every 2 s, q leaves"
    head: list[dashboard.Line] = [[(title, "bold")]]
    if look.height is not None and len(title) + 2 + len(hint) <= look.width:
        head = [[(title.ljust(look.width - len(hint)), "bold"), (hint, "dim")]]
    if broken or is_stale:
        why = broken or "no answer yet"
        head += [[(f"These figures are {age_s:.0f} s old: {why}; trying again.", "wrong")]]
    below = look
    if look.height is not None:
        below = look._replace(height=max(1, look.height - len(head)))
    rows = dashboard.lines(shot.picture, below, time.time() + shot.ahead_s, is_stale=is_stale)
    shown = [*head, *rows][: look.height]
    colour = has_colour(sys.stdout)
    return "\n".join(dashboard.paint(row, look.width, colour=colour) for row in shown)


class _Watching:
    """A terminal that shows it, until somebody leaves."""

    def __init__(self, service: Service, shot: Shot) -> None:
        self._service = service
        self._shot = shot
        self._broken = ""
        self._leave = asyncio.Event()
        self._status = 0

    async def go_on(self) -> int:
        """Gives the exit status. Raises PlateauError."""
        looking = asyncio.create_task(self._keep_looking())
        try:
            with _other_screen(), self._heeding():
                await self._keep_drawing(looking)
        finally:
            looking.cancel()
        if looking.done() and not looking.cancelled():
            looking.result()
        return self._status

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                self._shot = await self._service.look()
                self._broken = ""
            except Away as error:
                self._broken = error.why

    async def _keep_drawing(self, looking: asyncio.Task[None]) -> None:
        drawn = None
        while not (self._leave.is_set() or looking.done()):
            size = os.get_terminal_size(sys.stdout.fileno())
            text = _screen(self._service, self._shot, _look(*size), self._broken)
            if (size, text) != drawn:
                drawn = size, text
                # Cleared first: after a whole line the cursor still stands on its last column.
                *rows, last = (f"{CLEAR_LINE}{row}" for row in text.split("\n"))
                below = "\n".join([*rows, f"{CLEAR_BELOW}{last}"])
                sys.stdout.write(f"{BEGIN}{HOME}{below}{END}")
                sys.stdout.flush()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._leave.wait()

    @contextmanager
    def _heeding(self) -> Iterator[None]:
        """Signals and the key q, without their being shown."""
        loop = asyncio.get_running_loop()
        # Ctrl+C is how one leaves; the others are somebody else's wish.
        for number, status in ((signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            loop.add_signal_handler(number, self._left, status)
        if not sys.stdin.isatty():
            yield
            return
        keys = sys.stdin.fileno()
        before = termios.tcgetattr(keys)
        tty.setcbreak(keys)
        # Ctrl+Z would leave the shell on the other screen, without a cursor.
        quiet = termios.tcgetattr(keys)
        quiet[6][termios.VSUSP] = os.fpathconf(keys, "PC_VDISABLE").to_bytes(1, "little")
        termios.tcsetattr(keys, termios.TCSANOW, quiet)
        loop.add_reader(keys, self._key, keys)
        try:
            yield
        finally:
            loop.remove_reader(keys)
            with suppress(termios.error):
                termios.tcsetattr(keys, termios.TCSADRAIN, before)

    def _key(self, keys: int) -> None:
        pressed = os.read(keys, 64)
        # Nothing is what comes of a terminal that has gone.
        if not pressed or b"q" in pressed.lower():
            self._left(0)

    def _left(self, status: int) -> None:
        self._status = status
        self._leave.set()


@contextmanager
def _other_screen() -> Iterator[None]:
    sys.stdout.write(ENTER)
    try:
        yield
    finally:
        # A terminal that has gone needs nothing back.
        with suppress(OSError):
            sys.stdout.write(LEAVE)
            sys.stdout.flush()
