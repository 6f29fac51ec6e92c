"""What 10 MB hold, and what they keep: the short form of two benchmarks."""

from __future__ import annotations

import asyncio

import pytest
from benchmarks import capacity, corpus, dictionary, hit_rate

from plateau_sse.store.answers.packing import DICTIONARY, pack, unpack


def test_8000_english_answers_of_2_kb_fit(cache_url: str) -> None:
    assert asyncio.run(capacity.fit(cache_url, pack)) >= capacity.BOUND


# A minute of packing where nothing else runs.
@pytest.mark.timeout(300)
def test_the_hit_rate_is_near_that_of_an_ideal_lru(cache_url: str) -> None:
    result = asyncio.run(hit_rate.measure(cache_url, turnovers=1))
    assert result.requests > result.fit > capacity.BOUND
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
