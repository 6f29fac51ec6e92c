"""What can be said on the command line besides locust's own; workers are told by the master.

Invariant: a key is a secret: it is shown nowhere.
"""

from __future__ import annotations

from locust.argument_parser import LocustArgumentParser

from plateau_sse.cli.dialects import SPOKEN

NATIVE = "native"


def keys_of(text: str) -> list[str]:
    """Each of them once."""
    return list(dict.fromkeys(text.replace(",", " ").split()))


def add(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--agent",
        env_var="LOAD_AGENT",
        default="load",
        help="who answers: `load` (locustfiles/agent.py) says when it said what, so that event "
        "lag is measured; any other's answers are read and checked all the same",
    )
    parser.add_argument(
        "--dialect",
        env_var="LOAD_DIALECT",
        choices=(NATIVE, *SPOKEN),
        default=NATIVE,
        help="in which those who stream, and those who read along, ask and are answered",
    )
    parser.add_argument(
        "--api-key",
        env_var="LOAD_API_KEY",
        default="",
        is_secret=True,
        include_in_web_ui=False,
        help="one of the service's keys or tokens (`plateau token`), or several, by commas or "
        "blanks: users have them in turn",
    )
    parser.add_argument(
        "--expect-limits",
        env_var="LOAD_EXPECT_LIMITS",
        action="store_true",
        help="the load is to meet a limit: 429 is counted apart, waited for, and no failure; "
        "one that meets none has failed",
    )
    parser.add_argument(
        "--results",
        env_var="LOAD_RESULTS",
        default="",
        include_in_web_ui=False,
        help="a folder for verdict.json and timeline.csv",
    )
    # Whoever opens locust's page has load sent wherever they say.
    parser.set_defaults(web_host="127.0.0.1")
