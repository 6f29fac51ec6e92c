"""A runner whose places several owners share."""

from __future__ import annotations

import time

from plateau_sse.store.queue.queue import Queue
from tests.queues import sign_of_life
from tests.test_runner import Scene, on_scene

RUNS = 60


def test_whose_run_was_passed_over_has_the_next_place_as_soon_as_one_of_his_ends(
    streams_url: str,
) -> None:
    """No bell rings then, and a runner looks again by itself only after a second."""

    async def took_s(scene: Scene, *, shared: bool) -> float:
        scene.queue = Queue(scene.redis, is_shared=lambda: shared)
        scene.gate.peak = 0
        await sign_of_life(scene.queue, "another")
        for _ in range(RUNS):
            await scene.enqueue()
        async with scene.runner():
            began = time.monotonic()
            await scene.nothing_is_left()
            took_s = time.monotonic() - began
        assert scene.gate.peak <= (3 if shared else 4)
        return took_s

    async def scenario(scene: Scene) -> None:
        scene.gate.opened.set()
        alone_s = await took_s(scene, shared=False)
        # One place less of four, not one batch a second.
        assert await took_s(scene, shared=True) < 5 * alone_s + 2

    on_scene(streams_url, scenario)
