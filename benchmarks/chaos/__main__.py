"""`scripts/bench chaos`: a storm of its own, and the table of what happened."""

from __future__ import annotations

import argparse
import asyncio
import resource
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos import checks, fleet, table
from benchmarks.chaos.storm import ENV, Outcome, Plan, storm
from benchmarks.rows import Row, report


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every check holds."""
    plan, keep = _parsed(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = Path(tempfile.mkdtemp(prefix="plateau-chaos-"))
    ok, code = False, 1
    try:
        sys.stdout.write(f"seed {plan.seed}\n")
        sys.stdout.flush()
        with fleet.running(folder, env=ENV) as members:
            outcome = asyncio.run(storm(members, plan))
        found = checks.check_all(outcome)
        for line in table.lines(outcome, found):
            sys.stdout.write(line + "\n")
        ok = all(check.ok for check in found)
        sys.stdout.write("\n")
        code = report("chaos", [_row(outcome, found)])
    finally:
        if keep and not ok:
            sys.stdout.write(f"logs: {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


def _row(outcome: Outcome, found: Sequence[checks.Check]) -> Row:
    plan = outcome.plan
    failed = [check.name for check in found if not check.ok]
    return Row(
        f"chaos, {plan.runs} runs and {plan.readers:,} readers: checks that failed",
        len(failed),
        "",
        0,
        peers="; ".join(failed)
        or f"of {len(found)}; {len(outcome.happened)} faults in "
        f"{plan.seconds:g} s, seed {plan.seed}",
    )


def _parsed(arguments: Sequence[str] | None) -> tuple[Plan, bool]:
    defaults = Plan(0)
    parser = argparse.ArgumentParser(prog="scripts/bench chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="makes the same choices again [a random one]")
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="of faults [30]"
    )
    parser.add_argument("--runs", type=int, default=defaults.runs, help="[200]")
    parser.add_argument("--readers", type=int, default=defaults.readers, help="[1000]")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a failed one")
    options = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    return Plan(seed, options.seconds, options.runs, options.readers), options.keep


if __name__ == "__main__":
    sys.exit(main())
