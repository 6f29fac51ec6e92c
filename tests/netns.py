"""Hosts, as network namespaces with names and addresses of their own around this one.

    subprocess.run(entering(sys.executable, "-m", "benchmarks.hosts", …))   # and in there:
    with hosts("one", "two") as (one, two):
        subprocess.Popen([*one.within, …])
        one.cut()

Invariant: nothing of it is seen outside: the process that makes hosts is in namespaces that
were made for it (network, name, processes), and all that it started ends with it.
A cut says nothing to either side: packets are dropped, connections neither reset nor refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.processes import wait_until

# Said where a test is skipped for want of them.
MISSING = "no network namespace can be made here"
_PROGRAMS = ("unshare", "nsenter", "ip")
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
# A rule that drops what arrives has to come before the one of local addresses.
_CUT = "5"
_LINK = "eth0"


def _program(name: str) -> str:
    """With its place: who ends with its parent is not looked up."""
    return shutil.which(name, path=_PATH) or name


_READY = (
    "{0} link set lo up && {0} rule add pref 100 lookup local && {0} rule del pref 0".format(
        _program("ip")
    )
)


def entering(*command: str) -> list[str]:
    """`command` in namespaces of its own, where it may make hosts; they end with it."""
    words = [_program("unshare"), "--net", "--uts", "--pid", "--fork", "--kill-child"]
    words.append("--mount-proc")
    # As root there is no need of a namespace of users, which may be forbidden.
    words += ["--map-root-user"] if os.geteuid() else []
    return [*words, "sh", "-c", f'{_READY} && exec "$@"', "sh", *command]


@cache
def missing() -> str:
    """Why hosts cannot be made on this machine; '' where they can."""
    for name in _PROGRAMS:
        if shutil.which(name, path=_PATH) is None:
            return f"{MISSING}: there is no {name}"
    ip = _program("ip")
    tried = (
        f"{ip} link add here type veth peer name far && {ip} rule add pref 5 iif here blackhole"
    )
    found = subprocess.run(entering("sh", "-c", tried), capture_output=True, text=True)
    said = found.stderr.strip().splitlines()[-1:] or [""]
    return f"{MISSING}: {said[0]}" if found.returncode else ""


@dataclass(frozen=True)
class Host:
    """`address` is its own, `gateway` this namespace's on the same link, `link` what the link
    is called here; `pid` that of the process that keeps it."""

    name: str
    pid: int
    address: str
    gateway: str
    link: str

    @property
    def within(self) -> list[str]:
        """What a command begins with that is to run there."""
        place = f"/proc/{self.pid}/ns"
        return [_program("nsenter"), f"--net={place}/net", f"--uts={place}/uts"]

    def cut(self) -> None:
        """From everybody."""
        for where, link in (((), self.link), (self.within, _LINK)):
            _ip(*where, rule=f"add pref {_CUT} iif {link} blackhole")

    def heal(self) -> None:
        for where, link in (((), self.link), (self.within, _LINK)):
            _ip(*where, rule=f"del pref {_CUT} iif {link}")

    def part_from(self, other: Host) -> None:
        """Each of both still reaches this namespace."""
        for one, far in ((self, other), (other, self)):
            _ip(rule=f"add pref {_CUT} iif {one.link} to {far.address} blackhole")

    def join_again(self, other: Host) -> None:
        for one, far in ((self, other), (other, self)):
            _ip(rule=f"del pref {_CUT} iif {one.link} to {far.address}")


@contextmanager
def hosts(*names: str) -> Iterator[tuple[Host, ...]]:
    """So many, each of which reaches this namespace, and by way of it the others."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with ExitStack() as stack:
        yield tuple(_host(stack, name, n + 1) for n, name in enumerate(names))


def _host(stack: ExitStack, name: str, number: int) -> Host:
    null = subprocess.DEVNULL
    ours = os.readlink("/proc/self/ns/net")
    words = [_program("unshare"), "--net", "--uts", "sleep", "infinity"]
    keeper = subprocess.Popen(words, stdin=null, stdout=null)
    stack.callback(keeper.wait, 10)
    stack.callback(keeper.kill)
    # The kernel takes its time over a link whose other end has gone.
    stack.callback(subprocess.run, [_program("ip"), "link", "del", f"host{number}"])
    place = f"/proc/{keeper.pid}/ns/net"
    wait_until(lambda: os.readlink(place) != ours, f"{name} has a network of its own")
    link = f"host{number}"
    host = Host(name, keeper.pid, f"10.88.{number}.2", f"10.88.{number}.1", link)
    _ip(link=f"add {link} type veth peer name {_LINK} netns {keeper.pid}")
    _ip(addr=f"add {host.gateway}/24 dev {link}")
    _ip(link=f"set {link} up")
    subprocess.run([*host.within, "hostname", name], check=True)
    subprocess.run([*host.within, "sh", "-c", _READY], check=True)
    _ip(*host.within, addr=f"add {host.address}/24 dev {_LINK}")
    _ip(*host.within, link=f"set {_LINK} up")
    _ip(*host.within, route=f"add default via {host.gateway}")
    return host


def _ip(*where: str, **said: str) -> None:
    ((what, words),) = said.items()
    subprocess.run([*where, _program("ip"), what, *words.split()], check=True)
