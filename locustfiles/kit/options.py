"""What can be said on the command line besides locust's own; workers are told by the master.

Invariant: a key is a secret: it is shown nowhere.
"""

from __future__ import annotations

from locust.argument_parser import LocustArgumentParser


def add(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--agent",
        env_var="LOAD_AGENT",
        default="load",
        help="who answers: `load` (locustfiles/agent.py) says when it said what, so that event "
        "lag is measured; any other's answers are read and checked all the same",
    )
    parser.add_argument(
        "--api-key",
        env_var="LOAD_API_KEY",
        default="",
        is_secret=True,
        include_in_web_ui=False,
        help="one of the service's API_KEYS",
    )
    parser.add_argument(
        "--results",
        env_var="LOAD_RESULTS",
        default="",
        include_in_web_ui=False,
        help="a folder for verdict.json and timeline.csv",
    )
