"""Runs that are on, as operators find and end them: over HTTP, and on the page at /ops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.browser import await_true, browser, by_id, console, fresh_tab
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.integration.api_client import assert_problem
from tests.integration.test_ops_page import Ops
from tests.processes import wait_until

TOKEN = f"live-{uuid4().hex}"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
BOB = {"Authorization": "Bearer the-key-of-bob"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("live"), ADMIN_TOKEN=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


def begin(stage: Stage, gate: Path, agent: str = "told", key: dict[str, str] = KEY) -> str:
    body = {"agent": agent, "input": anew(), "options": {"gate": str(gate)}}
    run: str = httpx.post(f"{stage.url}/v1/runs", json=body, headers=key).json()["id"]
    wait_until(lambda: run in on(stage), "it is on")
    return run


def on(stage: Stage, find: str = "") -> dict[str, Any]:
    """What is on, by its id."""
    url = f"{stage.url}/api/admin/runs"
    found = httpx.get(url, params={"find": find}, headers=OPERATOR)
    assert found.status_code == 200, found.text
    return {run["id"]: run for run in found.json()["runs"]}


def end(stage: Stage, run: str, headers: dict[str, str] = OPERATOR) -> httpx.Response:
    return httpx.post(f"{stage.url}/api/admin/runs/{run}/cancel", headers=headers)


def test_whoever_owns_them_they_are_found(stage: Stage) -> None:
    with stage.gate() as gate:
        first = begin(stage, gate)
        second = begin(stage, gate, agent="goes_on", key=BOB)
        wait_until(lambda: on(stage)[second]["status"] == "running", "it runs")
        found = on(stage)
        assert found[first]["owner"] != found[second]["owner"]
        assert found[second]["agent"] == "goes_on" and found[second]["running_s"] >= 0
        assert "the-key" not in str(found)
        assert list(on(stage, "GOES_")) == [second]
        assert list(on(stage, first[8:])) == [first]
        assert first not in on(stage, found[second]["owner"])
        assert on(stage, "nothing has that") == {}
    wait_until(lambda: not on(stage), "they have ended")


def test_one_is_ended_for_all_and_the_others_go_on(stage: Stage) -> None:
    with stage.gate() as gate:
        first, second = begin(stage, gate), begin(stage, gate, key=BOB)
        assert end(stage, second).status_code in (200, 202)
        wait_until(lambda: second not in on(stage), "it has ended")
        record = httpx.get(f"{stage.url}/v1/runs/{second}", headers=BOB).json()
        assert record["status"] == "cancelled"
        assert first in on(stage)
        assert end(stage, second).status_code == 200
    wait_until(lambda: first not in on(stage), "it has come to its end")
    assert_problem(end(stage, first), 409, "run_finished")


def test_one_of_a_producer_outside_is_found_and_ended(stage: Stage) -> None:
    body = {"agent": "external"}
    run = httpx.post(f"{stage.url}/v1/runs", json=body, headers=KEY).json()["id"]
    found = on(stage)[run]
    assert (found["agent"], found["status"]) == ("external", "running")
    assert end(stage, run).status_code == 200
    assert run not in on(stage)


def test_only_operators_may(stage: Stage) -> None:
    url = f"{stage.url}/api/admin/runs"
    for headers in ({}, KEY):
        assert_problem(httpx.get(url, headers=headers), 401, "unauthorized")
        assert_problem(end(stage, 32 * "0", headers), 401, "unauthorized")
    assert_problem(
        httpx.get(f"{url}?find={101 * 'x'}", headers=OPERATOR), 422, "invalid_request"
    )
    assert end(stage, 32 * "0").status_code in (404, 410)
    assert end(stage, "nonsense").status_code == 404


def test_they_are_found_and_ended_on_the_page(stage: Stage, chrome: Chrome) -> None:
    fresh_tab(chrome)
    console(chrome)

    def shown() -> list[str]:
        return [row.text for row in chrome.find_elements(By.CSS_SELECTOR, "#live li")]

    with stage.gate() as gate:
        first = begin(stage, gate)
        second = begin(stage, gate, agent="goes_on", key=BOB)
        Ops(chrome, stage.url, TOKEN)
        console(chrome)
        await_true(chrome, lambda: len(shown()) == 2, "both are shown")
        by_id(chrome, "find").send_keys("goes")
        await_true(chrome, lambda: len(shown()) == 1 and second in shown()[0], "one is found")
        button = chrome.find_element(By.CSS_SELECTOR, "#live button")
        button.click()
        assert button.text == "Sure?" and second in on(stage)
        button.click()
        await_true(chrome, lambda: not shown(), "it is ended")
        assert "None that is on has this" in by_id(chrome, "live-said").text
        by_id(chrome, "find").clear()
        by_id(chrome, "find").send_keys(" ")
        await_true(chrome, lambda: len(shown()) == 1 and first in shown()[0], "the other")
    await_true(chrome, lambda: not shown(), "it has come to its end")
    assert console(chrome) == []


def test_a_code_that_is_an_agents_own_is_named(stage: Stage, chrome: Chrome) -> None:
    for code in ("overcast", "overcast", "timeout"):
        options = {"code": code}
        body = {"agent": "fails", "input": anew(), "options": options}
        headers = KEY | {"Prefer": "wait=20"}
        run = httpx.post(f"{stage.url}/v1/runs", json=body, headers=headers, timeout=30)
        assert run.json()["error"]["code"] == code, run.text
    fresh_tab(chrome)
    Ops(chrome, stage.url, TOKEN)
    await_true(
        chrome,
        lambda: "Of the others, failed by overcast 2" in by_id(chrome, "codes").text,
        "it is named, and only what is the agent's own",
    )
