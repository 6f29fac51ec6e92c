"""Whom the load blames where it was slow: the service, or other work on the machine."""

from __future__ import annotations

import os
from typing import Any

import pytest
from locustfiles.beside.machine import busy_elsewhere, elsewhere_s, excused
from locustfiles.beside.sampling import Sample

CORES = os.cpu_count() or 1
SECONDS = 100.0


def samples(service: float | None, others: float) -> list[Sample]:
    """The service took `service` of the machine and others `others`, of 1."""

    def sample(at_s: float) -> Sample:
        used = at_s * CORES
        taken_s = None if service is None else 5 + service * used
        # It had been running for days.
        machine_s = 9_000 + ((service or 0.0) + others + 0.03) * used
        known = (taken_s, 1 + 0.01 * used, 0.01 * used or None, 0.01 * used)
        return Sample(at_s, 90.0, 60.0, 20.0, 10.0, 1, 0, 0, *known, machine_s)

    return [sample(0.0), sample(SECONDS / 2), sample(SECONDS)]


def limit(unit: str, measured: float | None, *, missed: bool = True) -> dict[str, Any]:
    return {"unit": unit, "measured": measured, "missed": missed}


LATE, KEPT = limit("ms", 900.0), limit("ms", 9.0, missed=False)


def test_what_is_not_the_loads_is_elsewhere() -> None:
    assert elsewhere_s(samples(0.3, 0.5)) == pytest.approx(0.5 * SECONDS * CORES, rel=0.01)
    assert busy_elsewhere(samples(0.3, 0.5)) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    ("service", "others", "limits", "expected"),
    [
        (0.3, 0.5, [LATE, KEPT], True),
        # The service itself has kept the machine busy.
        (0.9, 0.05, [LATE], False),
        (0.3, 0.1, [LATE], False),
        # What cannot be told apart from the service is its own.
        (None, 0.9, [LATE], False),
        (0.3, 0.5, [LATE, limit("", 1.0)], False),
        (0.3, 0.5, [limit("ms", None)], False),
        (0.3, 0.5, [KEPT], False),
    ],
)
def test_other_work_excuses_lateness_and_nothing_else(
    service: float | None, others: float, limits: list[dict[str, Any]], expected: bool
) -> None:
    assert excused(limits, samples(service, others)) is expected
