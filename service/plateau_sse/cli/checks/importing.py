"""Imports agents, given as name=module:callable, and says of each what became of it.

Invariant: standard output has one JSON array an agent, [name, version, error, note], whatever
the agents' modules print, and is closed when the last one is through, whatever threads they
left.
"""

from __future__ import annotations

import json
import os
import sys

from plateau_sse.agents.registry import load_agent
from plateau_sse.errors import SettingsError
from plateau_sse.serve.child import leave
from plateau_sse.settings import Settings


def main() -> None:
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for pair in sys.argv[1:]:
            name, _, target = pair.partition("=")
            try:
                agent = load_agent(target, name, Settings.from_env().agent_version)
                said = [name, agent.version, "", agent.note]
            except SettingsError as error:
                said = [name, "", str(error), ""]
            print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main()
    leave(0)
