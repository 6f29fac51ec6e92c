"""A web worker of another release that is deaf, and one that is far from Redis: a real
Prometheus with our rules, which scrapes neither but one that is well, must tell of them, and
where a rule looks at a moment tell it no more when they are well, or gone.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from plateau_sse import __version__
from tests.deployment import deployed
from tests.far_redis import far
from tests.integration.provoking import alarmed, runbook
from tests.integration.told import hurried
from tests.processes import REPOSITORY, path_of, wait_until
from tests.proxy import dropping_messages
from tests.scrapes import PROMETHEUS

ADMIN = {"ADMIN_TOKEN": "the-operators-own-token"}
OTHER = "0.0.1"
# What each event takes: more than the quarter of a second that is borne.
DISTANCE_S = 0.3
LAG = "plateau_event_lag_seconds"

pytestmark = [
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus (Debian's package) is not installed"
    ),
    pytest.mark.timeout(400),
]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """This release by another name, laid out in a directory of its own."""
    code = tmp_path / "other"
    shutil.copytree(
        REPOSITORY / "service",
        code / "service",
        ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
    )
    about = code / "service" / "plateau_sse" / "__init__.py"
    text, changed = re.subn(
        r'(?m)^__version__ = ".+"$', f'__version__ = "{OTHER}"', about.read_text()
    )
    assert changed == 1
    about.write_text(text)
    return code


def test_what_another_worker_lacks_is_alerted(
    tmp_path: Path, other: Path, streams_url: str, cache_url: str
) -> None:
    env = {**ADMIN, "CACHE_REDIS_URL": cache_url, "WEB_CONCURRENCY": "1"}
    with (
        far(DISTANCE_S, streams_url) as (away,),
        dropping_messages(streams_url) as dropper,
        deployed(
            tmp_path / "near",
            streams_url=streams_url,
            cache_url=cache_url,
            webs=1,
            env=ADMIN,
        ) as near,
        alarmed(tmp_path, near.urls[0]) as alarm,
    ):
        (url,) = near.urls
        dropper.dropping = False
        its = {**env, "REDIS_URL": dropper.url, "PYTHONPATH": path_of(other)}
        with hurried(tmp_path / "deaf", "web", its) as deaf:
            alarm.fires("PlateauReleasesMixed", f'plateau_info{{version="{OTHER}"}}')
            told = runbook("PlateauReleasesMixed", url, env)
            assert __version__ in told and OTHER in told
            dropper.dropping = True
            alarm.fires("PlateauDeaf", "plateau_workers_deaf == 1")
            for asked in (url, deaf.url):
                assert "does not hear the events" in runbook("PlateauDeaf", asked, env)
            dropper.dropping = False
            alarm.rests("PlateauDeaf")
            assert "PlateauReleasesMixed" in alarm.firing()
        alarm.rests("PlateauReleasesMixed")

        its = {**env, "REDIS_URL": away}
        with hurried(tmp_path / "far", "web", its):
            late = f"{LAG}_bucket{{le='1'}} - on () {LAG}_bucket{{le='0.25'}}"
            alarm.fires("PlateauLag", f"{late} > 0")

            def is_told() -> bool:
                # It looks for some seconds, which a busy machine may need for something else.
                with suppress(AssertionError):
                    return "every event waits for it" in runbook("PlateauLag", url, its)
                return False

            wait_until(is_told, "doctor says how far Redis is", timeout_s=60)
