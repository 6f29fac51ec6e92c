"""The table of what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median

from benchmarks.chaos.checks import Check
from benchmarks.chaos.crowd import KINDS, Follower
from benchmarks.chaos.storm import Happened, Outcome

SHOWN_FAILURES, SHOWN_READERS, SHOWN_VISITS = 5, 3, 40


def lines(outcome: Outcome, checks: list[Check]) -> Iterator[str]:
    """The whole report."""
    plan = outcome.plan
    yield (
        f"chaos --seed {plan.seed} --seconds {plan.seconds:g} --runs {plan.runs} "
        f"--readers {plan.readers}: {outcome.took_s:.0f} s in all"
    )
    yield from _faults(outcome)
    yield from _runs(outcome)
    yield from _readers(outcome)
    yield ""
    for check in checks:
        yield f"{'ok' if check.ok else 'FAILED':>8}  {check.looked_at:>7}  {check.name}"
    for check in checks:
        yield from _failures(check)


def _faults(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield "faults, in seconds (in brackets: its target was down already)"
    rows: dict[str, list[Happened]] = {}
    for happened in outcome.happened:
        fault = happened.fault
        name = f"{fault.kind} {fault.target}{' worker' if fault.worker else ''}"
        rows.setdefault(name, []).append(happened)
    for name in sorted(rows):
        times = " ".join(_time(happened) for happened in rows[name])
        yield f"  {name:<22} {len(rows[name]):>3}   {times}"
    starts = ", ".join(f"{name} {count}" for name, count in outcome.starts.items())
    yield f"  starts: {starts}"


def _time(happened: Happened) -> str:
    length = f"+{happened.fault.for_s:.1f}" if happened.fault.for_s else ""
    shown = f"{happened.at_s:.1f}{length}"
    return shown if happened.hit else f"({shown})"


def _runs(outcome: Outcome) -> Iterator[str]:
    asked = outcome.asked
    refusals = sum((one.refusals for one in asked), Counter[str]())
    statuses = Counter(str(one.record.get("status")) for one in asked)
    attempts = Counter(int(one.record.get("attempt", 0)) for one in asked)
    yield ""
    yield f"runs        {_counts(statuses)}"
    yield f"  attempts  {_counts({str(n): attempts[n] for n in sorted(attempts)})}"
    yield f"  refused   {_counts(refusals) or '0'} (asked again under the same key)"
    yield f"  longest stream {max(outcome.lengths, default=0)} of {len(outcome.lengths)} looks"


def _readers(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield ("readers     number  connections  restarts  delivered  silence: median  longest")
    for kind in KINDS:
        some = [one.reader for one in outcome.followers if one.kind == kind]
        if not some:
            continue
        silences = [reader.silence_s for reader in some]
        yield (
            f"  {kind:<9} {len(some):>6}  {sum(r.connections for r in some):>11}"
            f"  {sum(r.restarts for r in some):>8}  {sum(r.heard for r in some):>9}"
            f"  {median(silences):>13.1f} s  {max(silences):>5.1f} s"
        )
    endings = Counter(
        visit.ended for one in outcome.followers for visit in one.reader.visits if visit.ended
    )
    yield f"  connections ended by: {_counts(endings)}"


def _failures(check: Check) -> Iterator[str]:
    if check.ok:
        return
    yield ""
    yield f"FAILED: {check.name} ({len(check.failures)} of {check.looked_at})"
    for failure in check.failures[:SHOWN_FAILURES]:
        yield f"  {failure}"
    for follower in check.readers[:SHOWN_READERS]:
        yield from _history(follower)


def _history(follower: Follower) -> Iterator[str]:
    reader = follower.reader
    yield f"  {follower.kind} reader of {follower.asked.answer.get('id')}: {follower.failure}"
    visits = reader.visits
    if len(visits) > SHOWN_VISITS:
        yield f"    … {len(visits) - SHOWN_VISITS} connections before"
    for visit in visits[-SHOWN_VISITS:]:
        yield f"    {visit}"


def _counts(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
