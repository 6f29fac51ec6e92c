"""`plateau token`: a token for a page, signed with JWT_SECRET, for one user and a time.

Invariant: what it prints is what the service takes with the same settings, and nothing else is
on standard output. It asks no server.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any, get_args

from plateau_sse.api.access import Scope
from plateau_sse.api.jwts import NAME_CHARS
from plateau_sse.errors import SettingsError
from plateau_sse.settings import Settings

SCOPES: tuple[str, ...] = get_args(Scope)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
TTL_MOST_S = 366 * 86_400


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "token",
        help="a token for one user's page, signed with JWT_SECRET",
        description="Prints a token (JWT) that lets a page ask and read for one user and a "
        "time, so that no API key is ever in a page. A back end does the same in five lines: "
        "docs/tokens.md.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--user", required=True, type=_name, help="whom it speaks for")
    parser.add_argument(
        "--owner", type=_name, help="whose user that is, where JWT_OWNER_CLAIM is set"
    )
    parser.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help="what it allows; may come more than once; without it all of them",
    )
    parser.add_argument(
        "--ttl", type=ttl_of, default=3600, help="how long it is good for: 90s, 15m, 1h (1h)"
    )


def ttl_of(text: str) -> int:
    """Seconds."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip())
    ttl_s = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= ttl_s <= TTL_MOST_S:
        raise argparse.ArgumentTypeError("a time such as 90s, 15m, 1h or 7d, up to a year")
    return ttl_s


def _name(text: str) -> str:
    if not 0 < len(text) <= NAME_CHARS:
        raise argparse.ArgumentTypeError(f"a name of at most {NAME_CHARS} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("a name in UTF-8") from None
    return text


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env()
    if not settings.jwt_secret:
        raise SettingsError(
            "JWT_SECRET is not set: tokens are signed with it, and the service takes them by "
            "it. Make one with: openssl rand -hex 32"
        )
    is_one_claim = settings.jwt_owner_claim == settings.jwt_user_claim
    if is_one_claim and options.owner not in (None, options.user):
        raise SettingsError(
            f"JWT_OWNER_CLAIM is JWT_USER_CLAIM, {settings.jwt_user_claim}: each user is an "
            "owner. Leave --owner out."
        )
    if not is_one_claim and bool(options.owner) != bool(settings.jwt_owner_claim):
        raise SettingsError(
            "--owner and JWT_OWNER_CLAIM go together: the claim is where a token names its "
            "owner, and without it all users are one owner's."
        )
    import jwt

    now = int(time.time())
    claims: dict[str, Any] = {
        settings.jwt_user_claim: options.user,
        "scope": " ".join(options.scope or SCOPES),
        "iat": now,
        "exp": now + options.ttl,
    }
    for claim, value in (
        (settings.jwt_owner_claim, options.owner),
        ("aud", settings.jwt_audience),
        ("iss", settings.jwt_issuer),
    ):
        if value:
            claims[claim] = value
    print(jwt.encode(claims, settings.jwt_secret, algorithm="HS256"))
    return 0
