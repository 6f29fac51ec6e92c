"""Whether this machine was busy with other work while the load was on.

Invariant: other work excuses lateness and nothing else, and only where the service's own CPU is
known: what cannot be told apart from the service is the service's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from locustfiles.beside.sampling import Sample

PARTS = ("service", "redis", "generator", "kit")
# Of all cores together: half a core of two.
ELSEWHERE_MOST = 0.25
# As sysexits.h has it: try again. Neither kept nor missed.
UNDECIDED = 75


def used_s(samples: Sequence[Sample], part: str) -> float | None:
    """CPU seconds of a part over the load; None where nobody has measured it."""
    known = [it for one in samples if (it := getattr(one, f"{part}_cpu_s")) is not None]
    if not known:
        return None
    # What began meanwhile had used nothing before.
    began = getattr(samples[0], f"{part}_cpu_s")
    return float(known[-1] - (began or 0.0))


def elsewhere_s(samples: Sequence[Sample]) -> float | None:
    """CPU seconds of whatever has no part in the load; None where it cannot be told apart."""
    if len(samples) < 2 or samples[0].service_cpu_s is None:
        return None
    all_s = samples[-1].machine_cpu_s - samples[0].machine_cpu_s
    return max(0.0, all_s - sum(used_s(samples, part) or 0.0 for part in PARTS))


def busy_elsewhere(samples: Sequence[Sample]) -> float | None:
    """Of the machine, the share that other work had; None where that is little or not known."""
    others_s = elsewhere_s(samples)
    if others_s is None:
        return None
    share = others_s / (samples[-1].at_s - samples[0].at_s) / (os.cpu_count() or 1)
    return share if share > ELSEWHERE_MOST else None


def excused(limits: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> bool:
    """Whether all that was missed are times, on a machine that was busy elsewhere."""
    missed = [one for one in limits if one["missed"]]
    late = [one for one in missed if is_time(one)]
    return bool(missed) and missed == late and busy_elsewhere(samples) is not None


def is_time(limit: dict[str, Any]) -> bool:
    """One that was measured: what nobody could measure is not late."""
    return limit["unit"] == "ms" and limit["measured"] is not None
