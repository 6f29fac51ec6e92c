"""`scripts/load [shape]`: a load from start to report; `--help` says the rest.

Invariant: its exit code is that of the verdict, 75 where times alone were missed on a machine
that other work kept busy, 130 where Ctrl+C has ended it; whatever it has started it ends, by
its id. Of the folder of results it touches what a load writes, and nothing else.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from benchmarks.measuring import open_files_most
from tests.processes import REPOSITORY, Serving, free_ports, serving

from locustfiles.beside import machine, plot, report, sampling
from locustfiles.beside.report import Seen
from locustfiles.beside.sampling import Sample, Sampler

SHAPES = ("smoke", "ramp", "spike", "soak")
AGENTS = "load=locustfiles.agent:load"
RESULTS = Path(__file__).parent / "results"
# All that a load writes there; what else is in that folder is somebody else's.
WRITTEN = (
    "locust_*.csv",
    "locust.log",
    "lone.csv",
    "plot.svg",
    "report.html",
    "samples.csv",
    "timeline.csv",
    "verdict.json",
)
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
SAMPLE_EVERY_S, SAY_EVERY = 1.0, 5
# Until what a load leaves behind is to be seen.
SETTLES_S = 5.0
ENDS_WITHIN_S = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/load", description=__doc__)
    parser.add_argument("shape", nargs="?", choices=SHAPES, default="smoke", help="[smoke]")
    parser.add_argument(
        "--host", default=os.environ.get("LOCUST_HOST", ""), help="else one is started here"
    )
    parser.add_argument(
        "--processes", type=int, help="of locust [one a core; smoke needs no more than one]"
    )
    parser.add_argument(
        "--results", type=Path, help="a folder for report, CSV and plot [locustfiles/results/…]"
    )
    # `scripts/load` goes to its checkout before it begins.
    parser.add_argument("--from", dest="place", type=Path, default="", help=argparse.SUPPRESS)
    parser.epilog = (
        "Whatever else is given goes to locust: --users, --run-time, --agent, … With a --host, "
        "ADMIN_TOKEN opens its memory, LOAD_API_KEY its runs."
    )
    options, more = parser.parse_known_args(arguments)
    folder: Path = options.results or RESULTS / options.shape
    folder = (options.place / folder).absolute()
    # locust says what is wrong with what is given to it, before anything is lost by it.
    checking = [*locust_command(options, more, "", folder), "--list"]
    checked = subprocess.run(checking, cwd=REPOSITORY, capture_output=True, text=True)
    if checked.returncode:
        sys.stderr.write(checked.stderr)
        return checked.returncode
    open_files_most()
    # Whoever ends us ends what we started, too; it does not hear the terminal.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        return measure(options, more, folder)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED


def measure(options: argparse.Namespace, more: Sequence[str], folder: Path) -> int:
    """A load and its report; the exit code."""
    _empty(folder)
    is_broken = False
    with target(options.host) as (url, token, service):
        sampler = Sampler(url, token, service)
        after = None
        try:
            idle = sampler.usual(6)
            code = load(options, more, url, folder, sampler, lone=service is not None)
            if code != INTERRUPTED:
                time.sleep(SETTLES_S)
                after = sampler.usual(6)
        finally:
            sampler.close()
            sampling.write(sampler.samples, folder / "samples.csv")
        if service is not None and "Traceback (most recent call last)" in service.stderr:
            sys.stdout.write(f"the service has logged an error:\n{service.stderr[-4000:]}\n")
            is_broken = True
    code = finish(folder, sampler.samples, idle, after, code)
    return 1 if is_broken else code


@contextmanager
def target(host: str) -> Iterator[tuple[str, str, Serving | None]]:
    """Where the load goes to, what opens its metrics, and its processes where it is ours."""
    if host:
        yield host.rstrip("/"), os.environ.get("ADMIN_TOKEN", ""), None
        return
    token = secrets.token_hex(16)
    env = {"AGENTS": AGENTS, "ADMIN_TOKEN": token}
    with (
        tempfile.TemporaryDirectory() as data,
        # Ctrl+C ends the load, and the service behind its report.
        serving(Path(data), env=env, new_group=True) as service,
    ):
        say(f"started a service of its own: {service.url}")
        yield service.url, token, service


def load(
    options: argparse.Namespace,
    more: Sequence[str],
    url: str,
    folder: Path,
    sampler: Sampler,
    *,
    lone: bool,
) -> int:
    """Run locust to its end, the samples beside it; its exit code. Ctrl+C ends locust alone,
    which still says what it has seen."""
    command = locust_command(options, more, url, folder)
    processes = options.processes or (1 if options.shape == "smoke" else os.cpu_count() or 1)
    if processes > 1:
        # Two loads on one machine must not meet at locust's usual port.
        port = str(free_ports(1))
        command += ["--master-bind-port", port, "--master-port", port]
        command += ["--processes", str(processes)]
    with ExitStack() as started:
        if lone:
            script = [sys.executable, "-m", "locustfiles.beside.lone", url]
            reader = started.enter_context(running([*script, str(folder / "lone.csv")], None))
            sampler.kit.append(reader.pid)
        log = started.enter_context((folder / "locust.log").open("w"))
        locust = started.enter_context(running(command, log.fileno()))
        sampler.generator = locust.pid
        ticks = 0
        try:
            while locust.poll() is None:
                sample = sampler.take()
                ticks += 1
                if ticks % SAY_EVERY == 0:
                    say(_progress(folder, sample))
                time.sleep(SAMPLE_EVERY_S)
        except KeyboardInterrupt:
            say("interrupted: the report is of what was measured so far")
            # Of SIGTERM it dies without a verdict.
            locust.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                locust.wait(ENDS_WITHIN_S)
            return INTERRUPTED
        return locust.returncode


def locust_command(
    options: argparse.Namespace, more: Sequence[str], url: str, folder: Path
) -> list[str]:
    command = [sys.executable, "-m", "locust", "-f", f"locustfiles/{options.shape}.py"]
    command += ["--headless", "--only-summary", "--host", url, "--results", str(folder)]
    return [*command, "--csv", str(folder / "locust"), *more]


@contextmanager
def running(command: Sequence[str], out: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and not by the Ctrl+C that is meant for us."""
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def finish(
    folder: Path, samples: Sequence[Sample], idle: float | None, after: float | None, code: int
) -> int:
    """Write the report and say what is in it."""
    verdict = folder / "verdict.json"
    if not verdict.exists():
        log = (folder / "locust.log").read_text()
        sys.stdout.write(f"{log[-4000:]}\nlocust has ended without a verdict.\n")
        return code or 1
    judged = report.read_verdict(verdict)
    judged["busy_elsewhere"] = machine.busy_elsewhere(samples)
    verdict.write_bytes(msgspec.json.format(msgspec.json.encode(judged)))
    seen = Seen(
        judged,
        samples,
        report.read_lines(folder / "timeline.csv"),
        report.read_lines(folder / "lone.csv"),
        idle,
        after,
    )
    picture = folder / "plot.svg"
    plot.draw(report.finding(seen), samples, seen.timeline, picture)
    page = folder / "report.html"
    page.write_text(report.page(seen, picture.read_text()))
    for table in (
        report.before_and_after(seen),
        report.lone_beside(seen),
        report.cpu(seen),
        report.limits(seen),
        report.failures(seen),
    ):
        if len(table) > 1:
            sys.stdout.write("\n" + report.text(table) + "\n")
    sys.stdout.write(f"\n{report.finding(seen)}\n{page}\n")
    if code == 1 and machine.excused(seen.verdict["limits"], samples):
        return machine.UNDECIDED
    return code


def _progress(folder: Path, sample: Sample) -> str:
    lines = report.read_lines(folder / "timeline.csv")
    memory = "" if sample.all_but_redis is None else f", {sample.all_but_redis:.0f} MiB"
    if not lines:
        return f"the users are coming{memory}"
    last = lines[-1]
    return (
        f"{last['users']} users, {last['requests']} requests, {last['failures']} failures, "
        f"p95 of the last seconds: first token {last['first token p95'] or '–'} ms, "
        f"event lag {last['event lag p95'] or '–'} ms{memory}"
    )


def _empty(folder: Path) -> None:
    """Of what an earlier load has left, so that none of it passes for this one's."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in WRITTEN:
        for file in folder.glob(pattern):
            file.unlink()


def say(what: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
