"""Under a path of a name that has other things, too: `/ai/`, behind nginx.

Invariant: whether nginx takes the path off (and says so in X-Forwarded-Prefix) or leaves it on
(and ROOT_PATH says so), every URL that a client is given leads back through nginx.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from locustfiles.kit.ledger import Ledger
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.browser import await_true, browser, by_id, console, fresh_tab
from tests.integration.api_client import SSE, Event, follow, messages, text_of
from tests.integration.test_docs_page import Docs
from tests.integration.test_ops_page import Ops
from tests.integration.test_page import Page, assert_whole
from tests.nginx import NGINX, PLAIN, STRIPPED, UNSTRIPPED, nginx
from tests.processes import Serving, plateau, scripts_load, serving
from tests.readers import Reader
from tests.sample_agents import words_of

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

TOKEN = f"ops-{uuid4().hex}"
ENV = {
    "ADMIN_TOKEN": TOKEN,
    "AGENTS": "words=tests.sample_agents:words,load=locustfiles.agent:load",
}
WAYS = {"stripped": ({}, STRIPPED), "left on": ({"ROOT_PATH": "/ai"}, UNSTRIPPED)}


class Behind:
    """A service, and where it is behind nginx; `name` is what nginx serves besides."""

    def __init__(self, plateau: Serving, name: str) -> None:
        self.plateau = plateau
        self.name = name
        self.url = f"{name}/ai"


@pytest.fixture(scope="module", params=WAYS)
def behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    env, changes = WAYS[request.param]
    with (
        serving(tmp_path_factory.mktemp("prefixed"), env=ENV | env) as running,
        nginx(tmp_path_factory.mktemp("nginx"), running.port, changes | PLAIN) as proxy,
    ):
        yield Behind(running, proxy.url)


@pytest.fixture
def client(behind: Behind) -> Iterator[httpx.Client]:
    """Resolves what it is given as a browser does: against nginx' own root."""
    with httpx.Client(base_url=behind.name, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


def ask(client: httpx.Client, text: str = "", **more: object) -> httpx.Response:
    body = {"agent": "words", "input": text or uuid4().hex, "options": {"pause_ms": 1}, **more}
    answer = client.post("/ai/v1/runs", json=body)
    assert answer.status_code in (200, 202), answer.text
    return answer


def test_a_run_its_stream_its_record_and_a_hit(client: httpx.Client) -> None:
    text = uuid4().hex
    answer = ask(client, text)
    run = answer.json()
    at = f"/ai/v1/runs/{run['id']}"
    assert answer.headers["location"].startswith(at)
    assert run["events_url"].startswith(f"{at}/events?token=")
    assert run["cancel_url"].startswith(f"{at}/cancel?token=")
    said = "".join(words_of(text, 60))
    assert text_of(follow(client, run["events_url"])) == said
    token = run["events_url"].partition("?")[2]
    assert client.get(f"{at}?{token}").json()["output"] == said
    hit = ask(client, text)
    assert hit.headers["x-cache"] == "hit"
    assert hit.json()["events_url"].startswith("/ai/v1/runs/hit-")
    assert hit.headers["location"].startswith("/ai/v1/runs/hit-")
    assert text_of(follow(client, hit.json()["events_url"])) == said


@pytest.mark.parametrize("again", [False, True])
def test_a_stream_that_is_the_answer_says_where_it_is_rejoined(
    client: httpx.Client, again: bool
) -> None:
    text = uuid4().hex
    if again:
        follow(client, ask(client, text).json()["events_url"])
    body = {"agent": "words", "input": text, "options": {"pause_ms": 1}}
    with client.stream("POST", "/ai/v1/runs", json=body, headers=SSE) as answer:
        assert answer.headers["x-cache"] == ("hit" if again else "miss")
        url = answer.headers["content-location"]
        assert url.startswith("/ai/v1/runs/") and "/events?token=" in url
        assert answer.headers["location"].startswith("/ai/v1/runs/")
        whole = list(messages(answer.iter_lines()))
    begun = [event for event in whole if event.id][:2]
    rest = follow(client, url, **{"Last-Event-ID": begun[-1].id})
    at_once, rejoined = books_of(whole), books_of([*begun, *rest])
    assert (rejoined.last_id, rejoined.parts) == (at_once.last_id, at_once.parts)
    assert rejoined.end == at_once.end and rejoined.restarts == 0


def books_of(told: list[Event]) -> Ledger:
    """Of a reader that was told this, to the end: nothing is missing, nothing came twice."""
    books = Ledger()
    for event in told:
        books.take(event.id, event.data)
    assert books.end is not None and not books.close()
    return books


def test_a_run_is_cancelled(client: httpx.Client) -> None:
    run = ask(client, options={"count": 1000, "pause_ms": 20}).json()
    assert client.post(run["cancel_url"]).status_code in (200, 202)
    assert follow(client, run["events_url"])[-1].type == "run.cancelled"


def test_a_conversation_names_its_run_that_is_on(client: httpx.Client) -> None:
    name = uuid4().hex
    run = ask(client, conversation_id=name, options={"count": 1000, "pause_ms": 20}).json()
    active = client.get(f"/ai/v1/conversations/{name}").json()["active_run"]
    assert active["id"] == run["id"]
    assert active["events_url"].startswith("/ai/v1/runs/")
    assert client.post(active["cancel_url"]).status_code in (200, 202)
    assert follow(client, active["events_url"])[-1].type == "run.cancelled"
    assert client.delete(f"/ai/v1/conversations/{name}").status_code == 204


def test_every_other_route_and_nothing_beside_it(client: httpx.Client) -> None:
    for path in ("/", "/ops", "/docs", "/health", "/health/live", "/page.js", "/client.js"):
        assert client.get(f"/ai{path}").status_code == 200, path
    operator = {"Authorization": f"Bearer {TOKEN}"}
    assert "memory" in client.get("/ai/api/admin/metrics", headers=operator).json()
    assert client.delete("/ai/api/admin/cache?agent=none", headers=operator).status_code == 200
    document = client.get("/ai/openapi.json").json()
    assert document["servers"] == [{"url": "/ai"}]
    # nginx itself: what is under no path of ours, the metrics, and the path without its slash.
    assert client.get("/v1/runs").headers["content-type"] == "text/html"
    assert client.get("/ai/metrics").status_code == 404
    assert client.get("/ai").headers["location"].endswith("/ai/")
    missing = client.get("/ai/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


def test_a_client_cannot_say_where_the_service_is(client: httpx.Client) -> None:
    answer = client.post(
        "/ai/v1/runs",
        json={"agent": "words", "input": "x"},
        headers={"X-Forwarded-Prefix": "/evil"},
    )
    assert answer.headers["location"].startswith("/ai/v1/runs/")


def test_a_reader_is_cut_and_comes_back(behind: Behind, client: httpx.Client) -> None:
    text = uuid4().hex
    run = ask(client, text, options={"count": 60, "pause_ms": 30}).json()
    heard = 0

    def drop() -> bool:
        nonlocal heard
        heard += 1
        return heard % 15 == 0

    reader = Reader([behind.name], run["events_url"], drop=drop)
    asyncio.run(reader.follow())
    reader.check_whole("".join(words_of(text, 60)))
    assert reader.connections > 3


def test_the_command_line(behind: Behind, tmp_path: Path) -> None:
    text = uuid4().hex
    for url in (behind.url, f"{behind.url}/"):
        asked = plateau(
            *("ask", "--url", url, "--agent", "words", "--quiet", text), env={}, cwd=tmp_path
        )
        assert (asked.returncode, asked.stderr) == (0, "")
        assert asked.stdout.strip() == "".join(words_of(text, 60)).strip()
        top = plateau("top", "--url", url, "--token", TOKEN, "--json", env={}, cwd=tmp_path)
        assert "memory" in json.loads(top.stdout), top.stderr


def test_the_load(behind: Behind, tmp_path: Path) -> None:
    code, said = scripts_load("smoke", "--host", behind.url, "--results", str(tmp_path), **ENV)
    assert code == 0, said
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert "GET /v1/runs/[id]/events" in {row["name"] for row in verdict["requests"]}


# In a browser


@pytest.fixture
def page(behind: Behind, chrome: Chrome) -> Page:
    fresh_tab(chrome)
    console(chrome)
    return Page(chrome, f"{behind.url}/")


def test_the_page_asks_resumes_and_hits(page: Page) -> None:
    text = page.ask()
    page.until_text(60)
    page.press("drop")
    page.press("resume")
    page.until("completed")
    assert_whole(page)
    answer = page.text
    page.driver.refresh()
    page.until("completed")
    assert page.text == answer
    page.new()
    page.ask(text)
    await_true(page.driver, lambda: page.shown("fact-cache") == "yes", "a hit")
    page.until("completed")
    assert page.html == page.drawn(page.record())
    assert console(page.driver) == []


def test_the_page_cancels(page: Page) -> None:
    page.ask(task="flashcards")
    page.until_text()
    page.press("cancel")
    page.until("cancelled")
    await_true(page.driver, page.is_kept, "it is kept")
    assert page.record()["status"] == "cancelled"


def test_an_event_source_comes_back_by_itself(behind: Behind, page: Page) -> None:
    page.ask(task="flashcards")
    page.until_text(60)
    for pid in behind.plateau.pids("gunicorn: worker"):
        os.kill(pid, signal.SIGKILL)
    await_true(page.driver, lambda: "reconnecting" in page.shown("status"), "it says so")
    page.until("completed")
    assert_whole(page)


def test_the_snippets_name_the_path(behind: Behind, page: Page) -> None:
    page.ask()
    page.until("completed")
    code = {
        name: by_id(page.driver, name).get_attribute("textContent") or ""
        for name in ("curl", "snippet", "module")
    }
    assert f"curl -N '{behind.url}/v1/runs' " in code["curl"]
    assert f'import("{behind.url}/client.js")' in code["module"]
    assert all(f"{behind.url}/" in one for one in code.values())


def test_each_link_of_each_page_leads_to_the_service(
    behind: Behind, chrome: Chrome, client: httpx.Client
) -> None:
    for name in ("", "ops", "docs"):
        chrome.get(f"{behind.url}/{name}")
        links = {
            str(link.get_attribute("href")).partition("#")[0]
            for link in chrome.find_elements(By.CSS_SELECTOR, "header a, noscript a")
        }
        assert len(links) > 2
        for link in links - {f"{behind.url}/metrics"}:
            assert link.startswith(f"{behind.url}/"), (name, link)
            assert client.get(link).status_code == 200, (name, link)


def test_the_page_of_operators_and_its_feed(behind: Behind, chrome: Chrome) -> None:
    fresh_tab(chrome)
    ops = Ops(chrome, behind.url)
    ops.until_asked()
    # That it was not let in.
    console(chrome)
    ops.enter(TOKEN)
    ops.until_shown()
    ops.until_said("feed", "Live")
    assert ops.figure("cache.items") != "–"
    assert console(chrome) == []


def test_what_the_docs_try_out_is_asked_of_the_service(behind: Behind, chrome: Chrome) -> None:
    docs = Docs(chrome, behind.url)
    assert docs.execute("getLiveness")[0] == 200
    status, body = docs.execute("createRun")
    assert status in (200, 202)
    assert '"events_url": "/ai/v1/runs/' in body
    docs.assert_nothing_was_stopped()
