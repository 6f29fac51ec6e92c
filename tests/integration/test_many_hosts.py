"""Hosts of their own: one is drained, one cut off, and networks part; nothing is lost unsaid.

Invariant: all of it happens in network namespaces that end with the process that made them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import netns
from tests.far import skip_unless_asked
from tests.nginx import NGINX
from tests.processes import REPOSITORY, environment

# As `scripts/bench` does it, which keeps what it has measured; this prints it.
BENCH = """
import sys
from benchmarks import failover, hosts, rows
found = {what}
rows.show(found)
sys.exit(any(row.missed for row in found))
"""
WITHIN_S = 200


@pytest.fixture(autouse=True, scope="module")
def asked() -> None:
    skip_unless_asked("a test of several hosts")


def bench(what: str) -> str:
    """What it printed; fails where one of its bounds is missed."""
    if why := netns.missing():
        pytest.skip(why)
    words = netns.entering(sys.executable, "-c", BENCH.format(what=what))
    done = subprocess.run(
        words,
        env=environment({}),
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(WITHIN_S + 20)
@pytest.mark.skipif(NGINX is None, reason="there is no nginx")
def test_one_host_is_drained_and_another_is_cut_off() -> None:
    said = bench("hosts.run(hosts.SHORT, seed=7)")
    assert "leaving" in said and "down" in said, said


@pytest.mark.timeout(WITHIN_S + 20)
@pytest.mark.parametrize(
    ("store", "fault"), [("sentinel", "cut"), ("sentinel", "parted"), ("cluster", "parted")]
)
def test_readers_go_on_when_networks_fail(store: str, fault: str) -> None:
    bench(f"failover.over_networks('{store}', '{fault}', failover.SHORT, '', seed=7, times=1)")


def test_a_cut_is_silent_and_is_healed(tmp_path: Path) -> None:
    """The instrument itself: packets are dropped, and nobody is told."""
    code = """
import socket, subprocess, sys
from tests.netns import hosts
from tests.processes import wait_until

LISTEN = "import socket; it = socket.create_server(('', 900)); print(flush=True)"
LISTEN += "\\nwhile True: it.accept()[0].sendall(b'.')"

def reached(address):
    try:
        with socket.create_connection((address, 900), timeout=0.5) as one:
            return one.recv(1) == b"."
    except TimeoutError:
        return False

ASK = "import socket, sys; socket.create_connection((sys.argv[1], 900), timeout=0.5).recv(1)"

with hosts("one", "two") as (one, two):
    words = [*one.within, sys.executable, "-c", LISTEN]
    listening = subprocess.Popen(words, stdout=subprocess.PIPE)
    listening.stdout.readline()
    def from_two():
        words = [*two.within, sys.executable, "-c", ASK, one.address]
        return subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0
    seen = [(reached(one.address), from_two())]
    for begin, end in ((one.cut, one.heal), (lambda: one.part_from(two), None)):
        begin()
        seen.append((reached(one.address), from_two()))
        end() if end else one.join_again(two)
        seen.append((reached(one.address), from_two()))
    print(seen)
    listening.kill()
    listening.wait()
"""
    if why := netns.missing():
        pytest.skip(why)
    words = netns.entering(sys.executable, "-c", code)
    done = subprocess.run(
        words, env=environment({}), cwd=tmp_path, text=True, capture_output=True, timeout=60
    )
    both = (True, True)
    assert done.stdout.strip() == str([both, (False, False), both, (True, False), both]), (
        done.stderr
    )
