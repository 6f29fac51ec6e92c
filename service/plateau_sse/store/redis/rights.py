"""What our user may do on a server (ACL), and the line that grants what it lacks.

Invariant: asking stores and removes nothing. What a script of ours does is tried command by
command, before one that may do half of it meets a run. Names of connections, INFO and CONFIG
are nice to have, and done without.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

# No run and no answer has this name.
NOBODY = "doctor"

Role = Literal["streams", "cache"]

# All that our scripts and clients give; K is a key, C a channel. Each is put into a transaction
# that is dropped: rights are looked at when it is put there.
_COMMANDS: dict[Role, str] = {
    "streams": """
        PING,EVAL 0 0,EVALSHA 0 0,SCRIPT LOAD 0,TIME,MEMORY USAGE K,SPUBLISH C 0
        DEL K,EXISTS K,EXPIRE K 1,PEXPIRE K 1,TTL K,COPY K K,RENAME K K
        GET K,GETRANGE K 0 0,SET K 0,APPEND K 0
        HSET K 0 0,HGET K 0,HMGET K 0,HGETALL K,HEXISTS K 0,HLEN K,HDEL K 0,HINCRBY K 0 0
        SADD K 0,SREM K 0,SCARD K,SISMEMBER K 0,SMEMBERS K
        RPUSH K 0,LREM K 0 0,LSET K 0 0,LINDEX K 0,LRANGE K 0 0,LTRIM K 0 0
        ZADD K 0 0,ZREM K 0,ZSCORE K 0,ZMSCORE K 0,ZCARD K,ZCOUNT K 0 0,ZINCRBY K 0 0
        ZRANGE K 0 0,ZREVRANGE K 0 0,ZRANGEBYSCORE K 0 0,ZRANGEBYLEX K - +
        ZREMRANGEBYSCORE K 0 0,ZREMRANGEBYRANK K 0 0
        XADD K * 0 0,XRANGE K - +,XREVRANGE K + -,XTRIM K MAXLEN 0
        XREAD STREAMS K 0
    """,
    "cache": "GET K,SET K 0,UNLINK K,SCAN 0",
}
_TRANSACTION = ("multi", "exec", "discard")
# Their second word is a part of what is granted.
_CONTAINERS = ("SCRIPT", "MEMORY", "CLUSTER")
# Beside them: how full it is, who is who, a database other than 0, WAIT_REPLICAS.
_NICE = ("+info", "+dbsize", "+client|setname", "+select", "+wait")

LEAST_OF_SENTINELS = (
    *("resetkeys", "resetchannels", "&+switch-master", "nocommands"),
    *("+ping", "+subscribe", "+sentinel|get-master-addr-by-name"),
)


def _keys(role: Role) -> tuple[str, ...]:
    """One of each kind."""
    if role == "cache":
        return (keys.cache(NOBODY), keys.left_by(""), keys.asked(NOBODY))
    return (
        *keys.run(NOBODY),
        *keys.conversation(NOBODY),
        *keys.CONVERSATIONS,
        *keys.WEBHOOK,
        *(*keys.QUEUE, keys.line(NOBODY)),
        *(keys.EXTERNAL, keys.AGENTS, keys.ANNOUNCED),
        *(keys.JANITOR, keys.HOSTS, keys.WORKERS),
        *(keys.inflight(NOBODY), keys.owner(NOBODY), keys.rate(NOBODY)),
        keys.large(NOBODY),
        *(keys.chat(NOBODY), keys.worker(NOBODY), keys.listed_runs(NOBODY)),
        *(keys.stats(NOBODY), keys.stamps(NOBODY)),
    )


_PATTERNS = {"~": "our keys", "&": "our channels"}
Command = tuple[str, ...]


class Denied(NamedTuple):
    """What was refused, in words (commands, `our keys`, `our channels`), and the words for
    ACL SETUSER that grant it."""

    what: tuple[str, ...]
    grants: tuple[str, ...]

    def line(self, user: str) -> str:
        return shlex.join(("ACL", "SETUSER", user, *self.grants))


NOTHING = Denied((), ())


def tried(role: Role, *, of_cluster: bool = False) -> list[Command]:
    """Every command that is needed, of a server of a cluster one more."""
    names = _keys(role)
    key, channel = names[0], keys.channel(NOBODY)
    words = [line.split() for line in _COMMANDS[role].replace("\n", ",").split(",")]
    named = {"K": key, "C": channel}
    words += [["CLUSTER", "SLOTS"]] if of_cluster else []
    found = [tuple(named.get(word, word) for word in command) for command in words if command]
    reading = "EXISTS" if role == "streams" else "GET"
    return found + [(reading, name) for name in names[1:]]


def least(role: Role, *, of_cluster: bool = False) -> tuple[str, ...]:
    """The words for ACL SETUSER of a user that may do what is needed, and no more."""
    commands = {granting(it) for it in tried(role, of_cluster=of_cluster)}
    commands |= {f"+{name}" for name in _TRANSACTION} | set(_NICE)
    patterns = [f"~{pattern}" for pattern in _patterns(_keys(role))]
    if role == "streams":
        patterns += [f"&{pattern}" for pattern in _patterns((keys.channel(NOBODY),))]
        commands |= {"+ssubscribe", "+sunsubscribe"}
    return ("resetkeys", "resetchannels", *patterns, "nocommands", *sorted(commands))


def _patterns(names: Iterable[str]) -> list[str]:
    """For all names of these kinds: as far as they are no id."""
    if keys.PREFIX:
        return [f"{keys.PREFIX}*"]
    kinds = (name.partition(":") for name in names)
    return list(dict.fromkeys(f"{kind}:*" if colon else kind for kind, colon, _ in kinds))


async def denied(redis: Redis, role: Role, *, of_cluster: bool = False) -> Denied:
    """What of the needed is denied on this server. Raises StoreError."""
    pool: Any = redis.connection_pool
    found: dict[str, None] = {}
    with store_errors():
        connection = await pool.get_connection()
        try:
            # Without that all of them would be done.
            await connection.send_command("MULTI")
            try:
                await connection.read_response()
            except NoPermissionError:
                grants = [f"+{name}" for name in _TRANSACTION]
                return Denied(("MULTI",), tuple(grants))
            except ResponseError:
                # Renamed, or behind a proxy that has none.
                return NOTHING

            discard: Command = ("DISCARD",)
            # Without a transaction EXEC is an error, and allowed all the same.
            commands = [*tried(role, of_cluster=of_cluster), discard, ("EXEC",)]
            if role == "streams":
                channel = keys.channel(NOBODY)
                commands += [("SSUBSCRIBE", channel), ("SUNSUBSCRIBE", channel)]
            # In one write: others wait for this connection.
            await connection.send_packed_command(connection.pack_commands(commands))
            for command in commands:
                said = await _said(connection)
                if said and command is not discard:
                    found[_grant(command, said)] = None
        finally:
            # With it goes what was put into the transaction, or is subscribed to.
            with suppress(Exception):
                await connection.disconnect(nowait=True)
            await pool.release(connection)
    return Denied(tuple(map(_words, found)), tuple(found))


async def _said(connection: Any) -> str:
    """Why the user may not give the next command that was sent, '' where it may."""
    try:
        await connection.read_response()
    except NoPermissionError as error:
        return str(error)
    except ResponseError as error:
        # EXEC wraps what it is refused for.
        if "NOPERM" in str(error):
            return str(error)
        # Too old, a replica, full, a part of a cluster: others say so.
    return ""


def _grant(command: Command, said: str) -> str:
    if "to run" not in said:
        # Who shares a server has what begins with its prefix, and no more.
        return f"&{keys.PREFIX}*" if "channel" in said else f"~{keys.PREFIX}*"
    return granting(command)


def _words(grant: str) -> str:
    return _PATTERNS.get(grant[0]) or grant[1:].replace("|", " ").upper()


def granting(command: Command) -> str:
    """The word that lets a user give it."""
    name = command[0].lower()
    return f"+{name}|{command[1].lower()}" if command[0] in _CONTAINERS else f"+{name}"
