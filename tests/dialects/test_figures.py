"""What operators read of each dialect: who reads in it, and how much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from plateau_sse.cli.dialects import SPOKEN, Question
from plateau_sse.store.figures.tally import DIALECTS
from tests.dialects.agents import WORDS
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.dialects.test_dialects import DIALECTS as MACHINES
from tests.processes import wait_until
from tests.scrapes import Scrape, parsed

TOKEN = "the-operators-own-token"
# Events of `told`, in the smallest pieces: below twice what anybody is given.
MOST = 15 + len(WORDS)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("figures"), ADMIN_TOKEN=TOKEN) as found:
        yield found


def test_each_dialect_is_counted_under_a_name_of_its_own() -> None:
    """A new one that is counted nowhere fails here, and not in a worker."""
    assert {dialect.name for dialect in MACHINES.values()} == set(DIALECTS)
    assert {"native", *SPOKEN} == set(DIALECTS)


def scrape(stage: Stage) -> Scrape:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return parsed(httpx.get(f"{stage.url}/metrics", headers=headers).text)


def figures(stage: Stage, metric: str) -> dict[str, float]:
    shown = scrape(stage)
    return {
        dialect: shown.total(f"plateau_{metric}", dialect=dialect)
        for dialect in DIALECTS
        if any(it.name == f"plateau_{metric}" for it in shown.values)
    }


def asking(dialect: str, text: str, gate: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    options = {"gate": gate}
    if dialect == "native":
        body = {"agent": "told", "input": text, "options": options}
        return "/v1/runs", body, {"Accept": "text/event-stream"}
    spoken = SPOKEN[dialect]
    return spoken.path_to("told"), spoken.body(Question("told", text, options, anew())), {}


def test_readers_and_deliveries_are_told_by_dialect(stage: Stage) -> None:
    """One reader of the first, two of the second and so on, all of one run."""
    text = anew()
    counts = {dialect: count for count, dialect in enumerate(DIALECTS, 1)}
    with stage.gate() as gate, ExitStack() as readers:
        client = readers.enter_context(httpx.Client(base_url=stage.url, timeout=60))
        reading = []
        for dialect, count in counts.items():
            path, body, headers = asking(dialect, text, str(gate))
            for _ in range(count):
                response = readers.enter_context(
                    client.stream("POST", path, json=body, headers=KEY | headers)
                )
                assert response.status_code == 200
                reading.append(response.iter_text())
                next(reading[-1])
        wait_until(
            lambda: figures(stage, "responses_open") == counts, "all are seen", timeout_s=30
        )
        gate.touch()
        for pieces in reading:
            assert "".join(pieces)
    wait_until(
        lambda: figures(stage, "responses_opened_total") == counts, "all were", timeout_s=30
    )
    delivered = figures(stage, "events_delivered_total")
    # Each was given what the run has, once. What is said in pieces comes in fewer to who reads
    # it from the store, as some do here and some do not: no two have to agree.
    each = {dialect: delivered[dialect] / count for dialect, count in counts.items()}
    assert min(each.values()) > 10 and max(each.values()) <= MOST, each
    found = httpx.get(
        f"{stage.url}/api/admin/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
    ).json()["sse"]
    assert {name: it["opened"] for name, it in found["dialects"].items()} == counts
    assert found["opened"] == sum(counts.values())
    assert found["events"] == sum(it["events"] for it in found["dialects"].values())
