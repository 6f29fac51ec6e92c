"""What a soak's verdict rests on: the line, the reader's books, the load's bounds."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path

import pytest
from benchmarks import plots, sampling, soak
from benchmarks.sampling import Sample
from benchmarks.stages import plateau
from benchmarks.trend import BLOCKS, Trend, trend_of
from benchmarks.visitors import AGENTS, SHARES, Tally, Visitors

from tests.far import skip_unless_asked
from tests.readers import OutOfLine, Reader

SAMPLES = 360


def noise(memory: float, seed: int) -> list[float]:
    """Of a spread of 1; each value resembles the last by `memory`."""
    chances = random.Random(seed)
    values = [chances.gauss(0, 1)]
    for _ in range(SAMPLES - 1):
        fresh = chances.gauss(0, math.sqrt(1 - memory**2))
        values.append(memory * values[-1] + fresh)
    return values


def fitted(memory: float, seed: int, slope: float = 0.0) -> Trend:
    xs = [float(x) for x in range(SAMPLES)]
    ys = [80 + slope * x + y for x, y in zip(xs, noise(memory, seed), strict=True)]
    return trend_of(xs, ys)


def test_the_line_through_a_line_is_that_line() -> None:
    found = trend_of(range(50), [3 + 0.5 * x for x in range(50)])
    assert found.at(10) == pytest.approx(8)
    assert found.growth == pytest.approx(found.growth_most) == pytest.approx(0.5 * 49)


@pytest.mark.parametrize(("memory", "least"), [(0.0, 0.93), (0.9, 0.9), (0.97, 0.85)])
def test_the_interval_holds_the_true_slope_as_often_as_it_says(
    memory: float, least: float
) -> None:
    """Taken for independent, samples with a memory of 0.9 would be right in four of ten."""
    found = [fitted(memory, seed, slope=0.01) for seed in range(200)]
    right = [abs(one.slope - 0.01) <= one.margin for one in found]
    assert sum(right) / len(right) >= least


def test_a_level_series_is_level_and_a_rising_one_is_not() -> None:
    level, rising = fitted(0.9, seed=1), fitted(0.9, seed=1, slope=10 / SAMPLES)
    assert level.growth <= soak.GROWTH_MIB and level.slope - level.margin < 0
    assert rising.growth > soak.GROWTH_MIB and rising.slope - rising.margin > 0


def test_too_few_samples_tell_no_trend() -> None:
    with pytest.raises(ValueError, match="tell no trend"):
        trend_of(range(BLOCKS - 1), range(BLOCKS - 1))


@pytest.mark.parametrize(
    ("event_id", "lost", "repeated"), [("1-9", 5, 0), ("1-3", 0, 1), ("2-4", 0, 1)]
)
def test_what_is_out_of_line_is_counted(event_id: str, lost: int, repeated: int) -> None:
    reader, tally = Reader([""], ""), Tally()
    reader.take("1-1", {"type": "run.started"})
    reader.take("1-3", {"type": "message.delta", "part": 0, "text": "a"})
    with pytest.raises(OutOfLine) as caught:
        reader.take(event_id, {"type": "message.delta", "part": 0, "text": "b"})
    tally.fault(caught.value)
    assert (tally.lost, tally.repeated, tally.errors.total()) == (lost, repeated, 1)


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sample], Tally, Path]:
    """A soak of 24 s: of a machine that is busy there are 12 samples, too."""
    skip_unless_asked("a benchmark's short form")
    path = tmp_path_factory.mktemp("soak") / "soak.csv"

    async def measured() -> tuple[list[Sample], Tally]:
        visitors = Visitors(stage.service.url, rate=20, seed=1)
        return await soak.soak(stage, visitors, minutes=0.4, path=path), visitors.tally

    # Not waited for: what is still answered in the end.
    with plateau({"AGENTS": AGENTS, "GRACEFUL_TIMEOUT_S": "3"}) as stage:
        samples, tally = asyncio.run(measured())
    return samples, tally, path


def test_a_short_soak_loses_nothing(soaked: tuple[list[Sample], Tally, Path]) -> None:
    samples, tally, _ = soaked
    assert tally.errors.total() == 0, tally.errors
    assert set(tally.visits) == set(SHARES)
    assert tally.resumed and tally.hits
    last = samples[-1]
    assert 30 < last.workers < last.all_but_redis < 200
    assert 0 < last.cache < 10 and 0 < last.streams < 10
    found = {row.what: row for row in soak.rows(samples, tally, rate=20, tracebacks=2)}
    assert found["soak, lost events"].measured == 0
    assert found["soak, errors"].missed


def test_what_is_kept_can_be_drawn_again(
    soaked: tuple[list[Sample], Tally, Path], tmp_path: Path
) -> None:
    samples, _, path = soaked
    assert sampling.read(path) == samples
    plot = tmp_path / "soak.svg"
    soak.draw(samples, plot)
    assert 10_000 < plot.stat().st_size < 100_000
    assert plots.BLUE.lower() in plot.read_text()
