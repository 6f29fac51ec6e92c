"""What the lines of the queue are called: one for each version of an agent.

Invariant: what a line is called has a bound and no white space but the agent's own, and says
which agent it is of, whatever its version is.
"""

from __future__ import annotations

import re
from hashlib import blake2b

_PLAIN = re.compile(r"[!-?A-~]{1,64}")


def line_of(agent: str, version: str) -> str:
    """`<agent>@<version>`; a version that cannot stand there is its digest."""
    if not _PLAIN.fullmatch(version):
        version = blake2b(version.encode(), digest_size=12).hexdigest()
    return f"{agent}@{version}"


def parts_of(line: str) -> tuple[str, str]:
    """The agent's name and the version, '' of a line that has none."""
    agent, at, rest = line.rpartition("@")
    return (agent, rest) if at else (rest, "")
