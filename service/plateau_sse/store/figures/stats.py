"""The tally's counters on their way to Redis and back, a host at a time.

Invariant: the host's counters only grow, and each count is added once: a batch has a stamp that
the store remembers, so one whose reply was lost, or whose sender was killed, is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis

from plateau_sse.errors import StoreError
from plateau_sse.store.figures.by_agent import ENDS, OF_AGENT, OTHER, PREFIX, TOKENS
from plateau_sse.store.figures.tally import DIALECTS, NAMES, Board, Row
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import ALWAYS, store_errors

log = logging.getLogger("plateau.stats")

FLUSH_S = 2.0
STATS_LIFE_S = 86_400
# As many have counters of their own, the latest; what a metric may have labels of is bounded.
HOSTS_MOST = 100
# Of a host, the latest to count.
ROWS_MOST = 1000
# Of a run: what an agent says that it has used is its own word, and a sum has 64 bits.
TOKENS_MOST = 10**9
# Of a host: so many agents are told apart, whatever its processes have called theirs.
FIELDS_MOST = len(NAMES) + 64 * len(OF_AGENT)

# Codes of agents' own are told apart up to that many, and up to that length.
CODES_MOST, CODE_CHARS = 50, 64

_ADD_CODES = """#!lua flags=allow-oom
-- KEYS  how often each came      ARGV  life_s, most of them, then code, by pairs
for i = 3, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1
      or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('EXPIRE', KEYS[1], ARGV[1])
  end
end
"""
_COUNT = files("plateau_sse.store.figures").joinpath("count.lua").read_text("utf-8")
# What is counted a dialect, and is added up here.
IN_DIALECTS = ("responses_opened", "events_delivered")
# So that the names of counters are the same few objects, however often they are read.
_NAMES = {name.encode(): name for name in NAMES}
_PREFIX = PREFIX.encode()


class Stats:
    """One a process; `board` is that of its tree."""

    def __init__(self, redis: Redis, board: Board | None = None) -> None:
        self._redis: Any = redis
        self._add = redis.register_script(_COUNT)
        self._add_codes = redis.register_script(_ADD_CODES)
        self._always = redis.register_script(ALWAYS)
        # Of agents' own codes what has not been added yet: they are named for people, and what
        # a process had that is killed stays among `other` alone.
        self._codes: Counter[str] = Counter()
        self._host = socket.gethostname()
        self._board = board
        self._row = Row() if board is None else board.claim()
        # A row has one batch under way at a time.
        self._flushing = asyncio.Lock()

    def count(self, name: str, by: int = 1) -> None:
        """`name` is one of `tally.NAMES`; a failure whose code is an agent's own is `other`."""
        try:
            self._row.add(name, by)
        except KeyError:
            if not name.startswith("runs_failed_"):
                raise
            self._row.add(f"runs_failed_{OTHER}", by)

    def count_end(self, agent: str, end: str, usage: Mapping[str, int] | None = None) -> None:
        """A run of that agent has ended: `completed`, `cancelled`, or the code that it failed
        with. `usage` is in tokens, as `run.completed` tells it."""
        self.count(f"runs_{end}" if end in ENDS else f"runs_failed_{end}")
        self._row.add_of(agent, end)
        if end not in OF_AGENT and len(end) <= CODE_CHARS:
            if end in self._codes or len(self._codes) < CODES_MOST:
                self._codes[end] += 1
        for kind in TOKENS:
            if usage and (tokens := usage.get(f"{kind}_tokens")):
                self._row.add_of(agent, f"{kind}_tokens", min(tokens, TOKENS_MOST))

    def observe(self, name: str, seconds: float) -> None:
        """Into one of the histograms of `tally.BUCKETS`."""
        self._row.observe(name, seconds)

    async def keep_flushing(self) -> None:
        """Add to the host's counters, for ever; a failure keeps what was counted."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreError as error:
                log.warning("counters have to wait: %s", error)

    async def flush(self) -> None:
        """This process' counts, and those that others have left behind. Raises StoreError."""
        async with self._flushing:
            await self._flush_row(self._row)
            if self._board is not None:
                for row in self._board.left_behind():
                    await self._flush_row(row)
            await self._flush_codes()

    async def _flush_codes(self) -> None:
        if not self._codes:
            return
        sent = Counter(self._codes)
        args: list[str | int] = [STATS_LIFE_S, CODES_MOST]
        for code, by in sent.items():
            args += (code, by)
        with store_errors():
            await self._add_codes(keys=[keys.own_failures()], args=args)
        self._codes -= sent

    async def own_failures(self) -> dict[str, int]:
        """How often runs failed with each code that is an agent's own, since none did for a
        day. Raises StoreError."""
        with store_errors():
            found: dict[bytes, bytes] = await self._redis.hgetall(keys.own_failures())
        return {code.decode(): int(n) for code, n in sorted(found.items())}

    async def _flush_row(self, row: Row) -> None:
        if row.is_under_way:
            # It was sent and not answered, and lacks what has been counted since.
            await self._send(row)
        await self._send(row)

    async def _send(self, row: Row) -> None:
        batch = row.batch()
        if batch is None:
            return
        both = [keys.stats(self._host), keys.stamps(self._host)]
        args: list[str | int] = [row.name, batch.stamp, STATS_LIFE_S, ROWS_MOST, FIELDS_MOST]
        for name, by in batch.counts.items():
            args += (name, by)
        with store_errors():
            await self._add(keys=both, args=args)
            # Of the server: a host that is ahead would forget the others.
            now, _ = await self._redis.time()
            args = [STATS_LIFE_S, "ZADD", now, self._host]
            await self._always(keys=[keys.HOSTS], args=args)
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zremrangebyscore(keys.HOSTS, "-inf", now - STATS_LIFE_S)
                pipe.zremrangebyrank(keys.HOSTS, 0, -1 - HOSTS_MOST)
                await pipe.execute()
        row.added()

    async def by_host(self) -> dict[str, dict[str, int]]:
        """The counters of each host that counted something within a day, what this process has
        not added yet among them; of agents as `agent:<name>:<what>`. Raises StoreError."""
        await self.flush()
        with store_errors():
            hosts = [host.decode() for host in await self._redis.zrange(keys.HOSTS, 0, -1)]
            async with self._redis.pipeline(transaction=False) as pipe:
                for host in hosts:
                    pipe.hgetall(keys.stats(host))
                found = await pipe.execute()
        return {
            host: {
                _NAMES.get(name) or name.decode(): int(n)
                for name, n in counters.items()
                if name in _NAMES or name.startswith(_PREFIX)
            }
            for host, counters in zip(hosts, found, strict=True)
        }


def summed(by_host: dict[str, dict[str, int]]) -> Counter[str]:
    """The counters of all hosts, and of all dialects; 0 for what was never counted."""
    total: Counter[str] = Counter()
    for counters in by_host.values():
        total.update(counters)
    for name in IN_DIALECTS:
        total[name] = sum(total[f"{name}_{dialect}"] for dialect in DIALECTS)
    return total
