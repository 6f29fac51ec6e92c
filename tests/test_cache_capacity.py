"""What 10 MB hold, and what they keep: the short form of two benchmarks."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from benchmarks import capacity, corpus, dictionary, hit_rate
from redis import Redis

from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.packing import DICTIONARY, pack, unpack
from tests.far import skip_unless_asked
from tests.packed import pack_once
from tests.store import admin_url, own_bound


def test_8000_english_answers_of_2_kb_fit(cache_url: str) -> None:
    """As many as fill it are each packed; those that then evict them are as large as they."""
    packed: list[bytes] = []
    again = itertools.cycle(packed)

    def way(answer: Answer) -> bytes:
        if len(packed) == capacity.BOUND:
            return next(again)
        packed.append(pack(answer))
        return packed[-1]

    assert asyncio.run(capacity.fit(admin_url(cache_url), way)) >= capacity.BOUND


def test_the_hit_rate_is_near_that_of_an_ideal_lru(
    cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 4 MB: what is evicted is chosen from as many as in 10. An answer is packed once,
    however often it is filled in, stored and weighed."""
    skip_unless_asked("a benchmark's short form")
    pack_once(monkeypatch, "plateau_sse.store.answers.cache.pack", "benchmarks.hit_rate.pack")
    with own_bound(cache_url), Redis.from_url(cache_url, protocol=2) as client:
        client.config_set("maxmemory", "4mb")
        result = asyncio.run(hit_rate.measure(admin_url(cache_url), turnovers=1))
    assert result.requests > result.fit > capacity.BOUND // 5
    assert 0.5 < result.real < result.ideal + 0.02
    assert result.points <= hit_rate.BOUND_POINTS, result


def test_the_dictionary_is_what_the_script_makes_of_the_half_that_it_may_see() -> None:
    """Change the corpus or the library, run scripts/dictionary."""
    assert dictionary.train(corpus.seen()) == DICTIONARY


def test_the_halves_have_nothing_in_common() -> None:
    seen, unseen = corpus.seen(), corpus.unseen()
    assert len(seen) == len(unseen) >= 100
    assert not set(seen) & set(unseen)
    texts = list(corpus.answers(9000))
    assert len(set(texts)) == 9000
    assert all(2048 <= len(text) < 2200 for text in texts)


def test_the_answers_that_are_counted_can_be_read() -> None:
    for answer, _ in zip(capacity.answers(), range(200), strict=False):
        assert unpack(pack(answer)) == answer
