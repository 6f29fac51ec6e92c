"""How far a question has to go before its model is asked: what a distant Redis makes of it."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.fake_model import fake_model
from tests.far import skip_unless_asked
from tests.far_redis import far
from tests.processes import serving

# Much more than all that is done between two trips, on a machine that has other work.
AWAY_S = 0.25
MOST = 6
KEY = "a-key-of-anns"
# Before some of the questions: then nothing that a worker knows is fresh any more.
PAUSES_S = (0.0, 0.7, 2.5)
TIMES = 4
# They open the connections that there are to be.
AT_ONCE = 6


@pytest.mark.parametrize("keys", ["", KEY])
def test_a_cold_run_asks_its_model_after_six_round_trips(
    tmp_path: Path, streams_url: str, cache_url: str, keys: str
) -> None:
    if keys:
        skip_unless_asked("the same where there are owners")
    numbers = itertools.count()
    with (
        fake_model() as model,
        far(AWAY_S, streams_url, cache_url) as (streams, cache),
        serving(
            tmp_path,
            env={
                "OPENAI_BASE_URL": model.base_url,
                "OPENAI_MODEL": "normal",
                "REDIS_URL": streams,
                "CACHE_REDIS_URL": cache,
                "API_KEYS": keys,
                "WEB_CONCURRENCY": "1",
            },
        ) as service,
    ):

        def ask(pause_s: float = 0.0) -> float:
            time.sleep(pause_s)
            asked_at = time.time()
            answer = httpx.post(
                f"{service.url}/v1/runs",
                json={"agent": "openai", "input": f"question {next(numbers)}"},
                headers={"Prefer": "wait=20", "Authorization": f"Bearer {KEY}"},
                timeout=30,
            )
            assert answer.json()["status"] == "completed", answer.text
            return (model.requests[-1].at - asked_at) / AWAY_S

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda _: ask(), range(AT_ONCE)))
        # The runner looks by itself once a second: who comes at that moment waits longer.
        taken = {pause_s: min(ask(pause_s) for _ in range(TIMES)) for pause_s in PAUSES_S}
    assert all(trips < MOST + 1 for trips in taken.values()), taken
