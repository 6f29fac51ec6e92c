"""`plateau doctor --acl`: users that may do what the service needs, and no more.

Invariant: each line is what is needed by this release, with these settings; it can be said
again, and takes back what an earlier one granted. No password is shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from plateau_sse.cli.servers import VARIABLES
from plateau_sse.redis_urls import Address, address_of, user_of
from plateau_sse.settings import Settings
from plateau_sse.store.redis.rights import LEAST_OF_SENTINELS, Role, least

# Where an address names none.
USER = "plateau"


def lines(settings: Settings) -> Iterator[str]:
    """For redis-cli, a role each; `>PASSWORD` is for who says it to replace."""
    urls: dict[Role, str] = {
        "streams": settings.redis_url,
        "cache": settings.cache_redis_url,
    }
    for role, url in urls.items():
        address = address_of(url) if url else Address("server", "")
        where = "each node of the cluster" if address.kind == "cluster" else "the server"
        if address.kind == "sentinel":
            where = "both the primary and its replicas"
        yield f"# {VARIABLES[role]}: for {where}"
        of_cluster = address.kind == "cluster"
        yield _line(address.url, least(role, of_cluster=of_cluster))
        if address.kind == "sentinel":
            yield f"# {VARIABLES[role]}: for each Sentinel; they have users of their own"
            yield _line(address.sentinel_url, LEAST_OF_SENTINELS)


def _line(url: str, words: tuple[str, ...]) -> str:
    named = user_of(url)
    # Who is `default` everywhere would be left with no more than this, and so would all others.
    user = USER if named == "default" else named
    return shlex.join(("ACL", "SETUSER", user, "on", ">PASSWORD", *words))
