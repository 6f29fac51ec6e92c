"""A load that is to meet limits: what it was told, it was told by the service, and all that it
was told to wait for it has in the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import tokens
from tests.far import skip_unless_asked
from tests.integration.test_load_broken import failures, missed, run_locust
from tests.load_server import load_server
from tests.processes import REPOSITORY, serving, wait_until
from tests.scrapes import parsed

KEYS = ("the-first-owners-key", "the-second-owners-key")
LOAD = {"AGENTS": "load=locustfiles.agent:load"}
WITH_KEYS = LOAD | {"API_KEYS": ",".join(KEYS)}
EXPECTED = "--expect-limits"


def smoke(url: str, results: Path, *more: str) -> tuple[int, dict[str, Any]]:
    return run_locust("locustfiles/smoke.py", url, results, more)


def counts(verdict: dict[str, Any]) -> dict[str, int]:
    return {row["name"]: row["count"] for row in verdict["rows"]}


def refused(url: str, code: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=10, trust_env=False).text
    return parsed(text).total("plateau_problems_total", code=code)


def check_met(
    tmp_path: Path, env: dict[str, str], keys: Sequence[str], code: str, *more: str
) -> None:
    """Each refusal of this kind was one that the load was told of, and nothing is missing."""
    with serving(tmp_path / "data", env=env, cwd=REPOSITORY) as plateau:
        arguments = ("--api-key", " ".join(keys), *more)
        left, verdict = smoke(plateau.url, tmp_path / "results", EXPECTED, *arguments)
        # How quick it is says nothing here.
        late = {what for what in missed(verdict) if what.endswith(" within")}
        assert (missed(verdict) - late, failures(verdict)) == (set(), {}), verdict
        assert left == (1 if late else 0)
        found = counts(verdict)
        assert found["SSE whole answer"] == 50 and found["SSE met a limit"] > 0
        wait_until(
            lambda: refused(plateau.url, code) == found["SSE met a limit"],
            "the service has counted as many",
        )


@pytest.fixture(autouse=True, scope="module")
def asked() -> None:
    skip_unless_asked("a load that meets its limits")


def test_the_share_of_an_owner_is_met_by_each_of_two(tmp_path: Path) -> None:
    """Half of `QUEUE_LIMIT` each: two at once, of five users with the same key."""
    check_met(tmp_path, WITH_KEYS | {"QUEUE_LIMIT": "4"}, KEYS, "owner_limit")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("more", [(), ("--dialect", "chat")])
def test_the_rate_of_an_owner_is_met_by_users_with_tokens(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Of 25 questions each of two owners asks 20 at once, and one each 3 s from there."""
    keys = [tokens.token(f"user-{n}", f"owner-{n % 2}") for n in range(10)]
    env = LOAD | tokens.ENV | {"RATE_LIMIT": "20"}
    check_met(tmp_path, env, keys, "rate_limited", *more)


@pytest.mark.timeout(150)
def test_the_streams_that_an_owner_may_have_open_are_met(tmp_path: Path) -> None:
    """Also by who comes back to a run."""
    check_met(tmp_path, WITH_KEYS | {"READERS_LIMIT": "5"}, KEYS[:1], "too_many_readers")


@pytest.mark.timeout(150)
def test_a_limit_that_nobody_expects_is_a_failure(tmp_path: Path) -> None:
    env = WITH_KEYS | {"QUEUE_LIMIT": "2"}
    with serving(tmp_path / "data", env=env, cwd=REPOSITORY) as plateau:
        code, verdict = smoke(plateau.url, tmp_path / "results", "--api-key", KEYS[0])
    assert code == 1 and counts(verdict)["SSE met a limit"] == 0
    assert any("429 owner_limit" in what for what in failures(verdict))


def test_a_limit_that_is_expected_and_not_met_is_a_failure(tmp_path: Path) -> None:
    with load_server("") as server:
        code, verdict = smoke(server.url, tmp_path, EXPECTED)
    assert code == 1
    assert (missed(verdict), failures(verdict)) == ({"told to wait by a limit"}, {})
