"""How many files a process may open, connections among them.

Invariant: the soft limit, which is 1,024 in most shells and under systemd, is no bound of ours:
it is for programs that use `select`, and whoever starts one raises it to the hard one.
"""

from __future__ import annotations

import resource

# As good as without a limit.
FILES_MOST = 1 << 20
# Of those that a web worker may open: its connections to Redis, listeners, logs, documents.
FILES_KEPT = 64
CONNECTIONS_LEAST = 16
# What of its connections is kept for what is no stream; half of that for what nobody waits for.
RESERVE_SHARE, RESERVE_LEAST = 8, 4


def raise_files() -> None:
    """As many files as this process and its children may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MOST if hard == resource.RLIM_INFINITY else min(hard, FILES_MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def files_most() -> int:
    """How many this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES_MOST if soft == resource.RLIM_INFINITY else min(soft, FILES_MOST)


def connections_most(files: int) -> int:
    """How many clients a web worker may have at a time that may open so many files."""
    return max(CONNECTIONS_LEAST, files - FILES_KEPT)


def streams_most(connections: int) -> int:
    """How many of so many may be streams, which stay."""
    return connections - max(RESERVE_LEAST, connections // RESERVE_SHARE)


def waits_most(connections: int) -> int:
    """How many may be streams, or wait for a run's end."""
    return (connections + streams_most(connections)) // 2
