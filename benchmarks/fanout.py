"""CPU a delivered event, of the processes that hold the sockets and of Redis.

Shapes: one stream with 1,000 readers; 2,000 streams with one each, less what the same streams
cost without readers; 5,000 open streams of which 50 are active, beside 50 of 50.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.measuring import cpu_s
from benchmarks.readers import Crowd
from benchmarks.stages import Stage


class Cost(NamedTuple):
    """Microseconds a delivery."""

    web: float
    redis: float

    @property
    def both(self) -> float:
        return self.web + self.redis


async def deliver(
    stage: Stage,
    *,
    open_streams: int,
    readers: int,
    active: int,
    rounds: int,
    idle_cost: bool = False,
) -> Cost:
    """Open `readers` over `open_streams`, publish `rounds` events to `active` of them."""
    streams = await stage.start(open_streams)
    crowd = Crowd(stage.port, stage.opened_by)
    each = readers // open_streams
    spent_idle = (0.0, 0.0)
    if idle_cost:
        others = await stage.start(open_streams)
        before = cpu_s(stage.web()), cpu_s(stage.redis())
        for _ in range(rounds):
            await stage.publish(others[:active])
        spent_idle = cpu_s(stage.web()) - before[0], cpu_s(stage.redis()) - before[1]
    await crowd.open([stage.target(name) for name in streams for _ in range(each)])
    already = crowd.delivered
    before = cpu_s(stage.web()), cpu_s(stage.redis())
    deliveries = active * each * rounds
    for done in range(1, rounds + 1):
        await stage.publish(streams[:active])
        # The readers keep pace: nobody is measured falling behind.
        await crowd.until_delivered(already + active * each * done)
    web = cpu_s(stage.web()) - before[0] - spent_idle[0]
    redis = cpu_s(stage.redis()) - before[1] - spent_idle[1]
    crowd.leave()
    return Cost(web / deliveries * 1e6, redis / deliveries * 1e6)
