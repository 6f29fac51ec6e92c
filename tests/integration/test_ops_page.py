"""The page at /ops in a real browser, against a real `plateau serve`.

Invariant: what the page shows is what the service says now, or it says how old it is; the token
is nowhere but in the tab's own storage.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys

from plateau_sse.store.figures.workers import Figures, Workers
from plateau_sse.store.redis.connections import connect
from tests.browser import await_true, browser, by_id, console, fresh_tab
from tests.looks import (
    contrasts,
    emulate_nothing,
    emulate_phone,
    emulate_scheme,
    focused,
    named,
    small_targets,
    width_of,
)
from tests.processes import Serving, serving

TOKEN = f"ops-{uuid4().hex}"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("ops"), env={"ADMIN_TOKEN": TOKEN}) as started:
        yield started


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """It takes more memory than it is told to."""
    env = {"ADMIN_TOKEN": TOKEN, "MEMORY_WARN_MB": "1"}
    with serving(tmp_path_factory.mktemp("trouble"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


@pytest.fixture(autouse=True)
def afresh(chrome: Chrome) -> Iterator[None]:
    """A tab that knows nothing, looked at as no test before has left it."""
    fresh_tab(chrome)
    console(chrome)
    yield
    emulate_nothing(chrome)


class Ops:
    """The page as an operator in front of it sees and uses it."""

    def __init__(self, driver: Chrome, url: str, token: str = "") -> None:
        self.driver = driver
        driver.get(url + "/ops")
        if token:
            self.until_asked()
            self.enter(token)
            self.until_shown()

    def until_asked(self) -> None:
        self.until(lambda: by_id(self.driver, "token").is_displayed(), "the token is asked for")

    def until_shown(self) -> None:
        self.until(lambda: by_id(self.driver, "figures").is_displayed(), "figures are shown")

    def enter(self, token: str) -> None:
        by_id(self.driver, "token").send_keys(token, Keys.ENTER)

    def until(self, condition: object, what: str) -> None:
        assert callable(condition)
        await_true(self.driver, condition, what)

    def until_said(self, name: str, words: str) -> None:
        self.until(lambda: words in self.shown(name), f"#{name} says {words!r}")

    def shown(self, name: str) -> str:
        return by_id(self.driver, name).text

    def said(self) -> str:
        """What a screen reader was told last."""
        return by_id(self.driver, "said").get_attribute("textContent") or ""

    def figure(self, of: str) -> str:
        found = self.driver.execute_script(
            "return document.querySelector(`[data-of='${arguments[0]}']`).textContent", of
        )
        return str(found)

    def count(self, of: str) -> int:
        return int(self.figure(of).replace(",", ""))

    def rows(self, name: str) -> list[str]:
        return by_id(self.driver, name).text.splitlines()

    def stored(self) -> str | None:
        found: str | None = self.driver.execute_script(
            "return sessionStorage.getItem('plateau.admin_token')"
        )
        return found


def answer(plateau: Serving) -> None:
    body = {"agent": "study", "input": f"Some words of {uuid4()}."}
    response = httpx.post(f"{plateau.url}/v1/runs", json=body, headers={"Prefer": "wait=20"})
    assert response.json()["status"] == "completed"


@contextmanager
def reading(plateau: Serving) -> Iterator[None]:
    """Somebody has the stream of a run open that does not end."""
    with httpx.Client(base_url=plateau.url) as client:
        run = client.post("/v1/runs", json={"agent": "external"}).json()
        with client.stream("GET", run["events_url"]):
            yield
        client.post(run["cancel_url"])


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_hosts_are_shown_side_by_side(
    chrome: Chrome, plateau: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one, as far as it says what a worker says."""

    async def elsewhere(do: str) -> None:
        redis = connect(plateau.streams_url, "test")
        with monkeypatch.context() as patch:
            patch.setattr("socket.gethostname", lambda: "elsewhere")
            workers = Workers(redis, "web")
        if do == "leave":
            await workers.leave()
        else:
            figures: Figures = {
                "open": 7,
                "pss": 30 * 2**20,
                "rss": 2**20,
                "cpu": 0.5,
                "leaving": 1,
            }
            await workers.report(figures | {"connected": 1})
        await redis.aclose()

    ops = Ops(chrome, plateau.url, TOKEN)
    assert not by_id(chrome, "hosts-section").is_displayed()
    asyncio.run(elsewhere("report"))
    ops.until_said("hosts", "elsewhere")
    ops.until_said("hosts", "leaving: its web workers finish what they have")
    row = next(row for row in by_id(chrome, "hosts").text.split("elsewhere")[1:])
    assert "7" in row and "30" in row and "50 %" in row, row
    asyncio.run(elsewhere("leave"))
    ops.until(lambda: not by_id(chrome, "hosts-section").is_displayed(), "one is left")
    assert [line for line in console(chrome) if "401" not in line] == []


def test_the_token_is_asked_for_once_and_kept_in_the_tab(
    plateau: Serving, chrome: Chrome
) -> None:
    spy = chrome.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {
            "source": "window.asked = []; const real = fetch; window.fetch = (url, ...more) =>"
            " { asked.push(new Request(url).url); return real(url, ...more); };"
        },
    )
    page = Ops(chrome, plateau.url)
    page.until_asked()
    assert by_id(chrome, "token").get_attribute("type") == "password"
    assert not by_id(chrome, "problem").is_displayed()
    assert not by_id(chrome, "figures").is_displayed()
    page.enter(TOKEN)
    page.until_shown()
    assert page.stored() == TOKEN
    chrome.refresh()
    page.until_shown()
    assert not by_id(chrome, "token").is_displayed()
    asked = chrome.execute_script("return asked")
    assert {one.partition("?")[0] for one in asked} == {
        f"{plateau.url}/api/admin/metrics",
        f"{plateau.url}/api/admin/runs",
    }
    entries = "return performance.getEntries().map((entry) => entry.name).join(' ')"
    assert TOKEN not in chrome.current_url + chrome.execute_script(entries)
    assert chrome.execute_script("return localStorage.length + document.cookie.length") == 0
    assert TOKEN not in chrome.execute_script("return document.documentElement.outerHTML")
    assert TOKEN not in plateau.stdout + plateau.stderr
    by_id(chrome, "forget").click()
    page.until_asked()
    assert page.stored() is None
    chrome.refresh()
    page.until_asked()
    chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", spy)


def test_a_wrong_token_is_forgotten(plateau: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, plateau.url)
    page.until_asked()
    for wrong in ("wrong", "schlüssel ☃"):
        page.enter(wrong)
        page.until_said("problem", "not this service’s ADMIN_TOKEN")
        assert "unauthorized" in page.shown("problem")
        assert page.stored() is None
        token = chrome.switch_to.active_element
        assert token.get_attribute("id") == "token" and not token.get_property("value")
        chrome.refresh()
        page.until_asked()
    page.enter(TOKEN)
    page.until_shown()
    # As if the service had been started with another.
    chrome.execute_script("sessionStorage.setItem('plateau.admin_token', 'of-yesterday')")
    chrome.refresh()
    page.until_asked()
    page.until_said("problem", "forgotten")
    assert page.stored() is None


def test_a_closed_service_says_what_to_set(chrome: Chrome, tmp_path: Path) -> None:
    with serving(tmp_path / "closed") as closed:
        page = Ops(chrome, closed.url)
        page.until_said("problem", "ADMIN_TOKEN")
        assert "admin_closed" in page.shown("problem")
        assert "export ADMIN_TOKEN=" in page.shown("closed")
        assert not by_id(chrome, "token").is_displayed()
        assert focused(chrome) == "retry"
        closed.stop()
        env = {"ADMIN_TOKEN": TOKEN, "PORT": str(closed.port)}
        with serving(tmp_path / "open", env=env):
            by_id(chrome, "retry").click()
            page.until_asked()
            assert not by_id(chrome, "problem").is_displayed()


def test_figures_appear_and_move(plateau: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, plateau.url, TOKEN)
    page.until_said("verdict", "All is well.")
    assert page.shown("no-advice") == "Nothing needs a change."
    assert page.figure("memory.warn_mb") == "400" and 20 < page.count("memory.total_bytes")
    assert page.figure("cache.max_bytes") == "10.0"
    roles = [row for row in page.rows("processes") if row.isalpha()]
    assert {"master", "web", "runner"} <= set(roles) and roles.count("web") == 2
    before = page.count("runs.completed")
    answer(plateau)
    page.until(lambda: page.count("runs.completed") == before + 1, "the run is counted")
    page.until(lambda: page.count("lately.runs_completed") >= 1, "as one of the last minute")
    assert page.count("cache.items") >= 1
    with reading(plateau):
        page.until(lambda: page.count("sse.open") == 1, "the reader is counted")
    page.until(lambda: page.count("sse.open") == 0, "and goes")
    lines = chrome.execute_script(
        "return [...document.querySelectorAll('.plot .line')].map((n) => n.getAttribute('d'))"
    )
    assert len(lines) == 3 and all(line.count("L") > 2 for line in lines)
    refused = [line for line in console(chrome) if "401" not in line]
    assert refused == []


def test_the_lines_survive_a_reload(plateau: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, plateau.url, TOKEN)
    points = """
    const [line] = document.querySelectorAll('.plot .line');
    return (line?.getAttribute('d') ?? '').split('L').length;
    """

    def reloaded() -> int:
        """Points of the line when the first picture has come."""
        chrome.refresh()
        page.until_shown()
        return int(chrome.execute_script(points))

    # More than can have come since: a worker sees one each 5 s.
    page.until(lambda: reloaded() > 3, "what was before is there")
    assert "min ago" in chrome.find_element("css selector", "#chart-memory .from").text


def test_nothing_moves_but_the_figures(plateau: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, plateau.url, TOKEN)
    page.until_said("verdict", "All is well.")
    chrome.execute_script(
        """
        window.shifts = [];
        const holder = ({node}) => (node instanceof Element ? node : node?.parentElement);
        new PerformanceObserver((list) => shifts.push(...list.getEntries()
          .flatMap((entry) => entry.sources.map(holder))
          // The dot at the end of a line is a figure.
          .filter((node) => node && !node.closest(".plot"))
          .map((node) => node.outerHTML))).observe({type: "layout-shift"});
        window.told = 0;
        new MutationObserver(() => { told += 1; })
          .observe(document.getElementById("said"), {childList: true, subtree: true});
        """
    )
    before = page.count("runs.completed")
    with reading(plateau):
        for done in range(3):
            answer(plateau)
            page.until(lambda n=done: page.count("runs.completed") > before + n, "figures move")
    page.until(lambda: page.count("sse.open") == 0, "the reader has gone")
    assert page.shown("verdict") == "All is well."
    assert chrome.execute_script("return shifts") == []
    # Nobody is read a figure that only moves.
    assert chrome.execute_script("return told") == 0


def test_what_is_wrong_is_said_with_what_to_change(troubled: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, troubled.url, TOKEN)
    page.until_said("advice", "over MEMORY_WARN_MB=1")
    page.until_said("verdict", "One thing is wrong.")
    assert page.rows("advice")[0] == "Wrong" and "Lower WEB_CONCURRENCY" in page.shown("advice")
    assert "One thing is wrong." in page.said() and "MEMORY_WARN_MB" in page.said()
    assert "One thing is wrong." in chrome.title
    assert "over" in (by_id(chrome, "memory-meter").get_attribute("class") or "")
    # With its master, which would start another.
    with frozen([troubled.process.pid, *troubled.pids("plateau: runner")]):
        page.until_said("advice", "No runner is alive")
        page.until_said("advice", "has said nothing for")
        page.until_said("verdict", "3 things are wrong.")
        page.until_said("processes", "silent")
        assert "no runner is alive" in page.said()
        assert page.figure("runs.runners") == "0"
    page.until_said("verdict", "One thing is wrong.")
    assert "silent" not in page.shown("processes")


def test_the_feed_comes_back_after_its_worker_was_killed(
    chrome: Chrome, tmp_path: Path
) -> None:
    # One of its own: deaths are told for a minute.
    with serving(tmp_path, env={"ADMIN_TOKEN": TOKEN}) as mourning:
        page = Ops(chrome, mourning.url, TOKEN)
        workers = mourning.pids("gunicorn: worker")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        page.until_said("feed", "lost")
        page.until_said("feed", "Live")
        page.until(lambda: page.count("workers.workers_died") == len(workers), "it is told")

        def only_the_living() -> bool:
            shown = page.shown("processes")
            gone = any(str(pid) in shown for pid in workers)
            return not gone and all(str(pid) in shown for pid in now)

        now = mourning.pids("gunicorn: worker")
        page.until(only_the_living, "the dead are forgotten")


def test_a_feed_that_is_silent_says_how_old_its_figures_are(
    troubled: Serving, chrome: Chrome
) -> None:
    page = Ops(chrome, troubled.url, TOKEN)
    page.until_said("verdict", "wrong")
    with frozen(troubled.pids("gunicorn: worker")):
        page.until_said("feed", "No figures come.")
        assert page.shown("verdict") == "How it is now is not known."
        assert page.said().startswith("No figures come.")
        ages = [page.shown("feed")]
        page.until(lambda: page.shown("feed") != ages[0], "they grow older")
        assert "old; trying again" in page.shown("feed")
    page.until_said("feed", "Live")
    page.until_said("verdict", "wrong")


RARE = """
const picture = arguments[0];
const body = new ReadableStream({start(controller) {
  controller.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(picture)}\n\n`));
}});
const real = fetch;
window.fetch = () => Promise.resolve(new Response(body));
document.getElementById("token").value = "any";
document.getElementById("form").requestSubmit();
"""


def test_what_is_rare_is_shown_too(plateau: Serving, chrome: Chrome) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    picture = httpx.get(f"{plateau.url}/api/admin/metrics", headers=headers).json()
    here = picture["memory"]["processes"]
    there = [{**row, "host": "elsewhere"} for row in here if row["role"] == "web"]
    picture["memory"] |= {
        "processes": [*there, *here],
        "cgroup": {"used_bytes": 600 * 2**20, "limit_bytes": 512 * 2**20},
    }
    picture["workers"]["processes"][-1] |= {"deaf": 1}
    picture["cache"] |= {"state": "not configured", "items": None, "used_bytes": None}
    picture["redis"]["cache"] = {"state": "not configured"}
    picture["runs"] |= {"failed": {"other": 1, "timeout": 1234}, "oldest_waiting_s": 200_000}
    hostile = "<img src=x onerror=alert(1)> & so on"
    picture["advice"] = [{"rule": "x", "level": "warning", "says": hostile, "change": hostile}]
    page = Ops(chrome, plateau.url)
    page.until_asked()
    emulate_phone(chrome, 360)
    chrome.execute_script(RARE, picture)
    page.until_said("verdict", "It works; one thing wants a look.")
    assert "600 of 512 MiB" in page.shown("cgroup")
    assert "over" in (by_id(chrome, "cgroup-meter").get_attribute("class") or "")
    rows = page.rows("processes")
    assert "nothing" in rows and any(row.startswith("elsewhere ") for row in rows)
    # This host's first.
    assert rows.index("master") < next(
        at for at, row in enumerate(rows) if row.startswith("elsewhere ")
    )
    assert page.shown("cache-state") == page.shown("redis-cache-state") == "not configured"
    assert page.shown("codes") == "Failed by other 1, timeout 1,234"
    assert page.figure("runs.failed_all") == "1,235"
    assert page.figure("runs.oldest_waiting_s") == "2 d"
    assert page.shown("advice").count(hostile) == 2
    assert width_of(chrome) <= 360


def test_too_many_pages_are_told_so(chrome: Chrome, tmp_path: Path) -> None:
    env = {"ADMIN_TOKEN": TOKEN, "WEB_CONCURRENCY": "1"}
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    with serving(tmp_path, env=env) as crowded, ExitStack() as feeds:
        client = feeds.enter_context(httpx.Client(base_url=crowded.url, headers=headers))
        for _ in range(20):
            feeds.enter_context(client.stream("GET", "/api/admin/metrics"))
        page = Ops(chrome, crowded.url)
        page.until_asked()
        page.enter(TOKEN)
        page.until_said("feed", "Too many live pages are open.")
        feeds.close()
        page.until_said("feed", "Live")


def test_what_is_not_known_is_no_zero(troubled: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, troubled.url, TOKEN)
    page.until_said("verdict", "wrong")
    with frozen(troubled.pids("[plateau streams]")):
        page.until_said("advice", "streams instance does not answer")
        for of in ("sse.open", "sse.events", "runs.created", "cache.hits", "lately.cache_hits"):
            assert page.figure(of) == "–", of
        assert page.figure("memory.total_bytes") == "–"
        assert page.figure("redis.cache.policy") == "allkeys-lru"
    page.until(lambda: page.figure("sse.open") == "0", "it is known again")


def test_nothing_is_asked_while_nobody_looks(plateau: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, plateau.url, TOKEN)
    hide = """
    Object.defineProperty(document, "hidden", {value: arguments[0], configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
    """
    chrome.execute_script(hide, True)
    page.until_said("feed", "Paused")
    assert chrome.title == "Plateau, paused"
    before = page.count("runs.completed")
    answer(plateau)
    # Long enough for two pictures, by the page's own clock.
    chrome.execute_async_script("setTimeout(arguments[0], 5000)")
    assert page.count("runs.completed") == before and "Paused" in page.shown("feed")
    chrome.execute_script(hide, False)
    page.until(lambda: page.count("runs.completed") > before, "it goes on")
    assert page.shown("feed") == "Live, every 2 s"


@pytest.mark.parametrize("width", [360, 320])
def test_a_phone_shows_it_all(troubled: Serving, chrome: Chrome, width: int) -> None:
    emulate_phone(chrome, width)
    page = Ops(chrome, troubled.url)
    page.until_asked()
    assert width_of(chrome) <= width and small_targets(chrome) == []
    page.enter("wrong")
    page.until_said("problem", "forgotten")
    assert width_of(chrome) <= width
    page.enter(TOKEN)
    page.until_said("advice", "MEMORY_WARN_MB")
    assert width_of(chrome) <= width and small_targets(chrome) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(troubled: Serving, chrome: Chrome, scheme: str) -> None:
    emulate_scheme(chrome, scheme)
    page = Ops(chrome, troubled.url)
    page.until_asked()
    page.enter("wrong")
    page.until_said("problem", "forgotten")
    assert contrasts(chrome)[2] == []
    page.enter(TOKEN)
    page.until_said("advice", "MEMORY_WARN_MB")
    ground, seen, low = contrasts(chrome)
    assert ground > 0.8 if scheme == "light" else ground < 0.05
    assert seen > 100 and low == []


def test_all_of_it_works_by_keyboard(plateau: Serving, chrome: Chrome) -> None:
    def send(*keys: str) -> str:
        ActionChains(chrome).send_keys(*keys).perform()
        return focused(chrome)

    page = Ops(chrome, plateau.url)
    page.until_asked()
    assert focused(chrome) == "token"
    ActionChains(chrome).send_keys(TOKEN, Keys.ENTER).perform()
    page.until_shown()
    assert [send(Keys.TAB) for _ in range(4)] == [
        "forget",
        "chart-memory",
        "chart-readers",
        "chart-events",
    ]
    ActionChains(chrome).key_down(Keys.SHIFT).send_keys(Keys.TAB * 2).key_up(
        Keys.SHIFT
    ).perform()
    assert focused(chrome) == "chart-memory"
    readout = "return document.querySelector('#chart-memory .readout').textContent"
    assert chrome.execute_script(readout) == ""
    send(Keys.HOME)
    assert "MiB" in chrome.execute_script(readout)
    assert "MiB at" in (by_id(chrome, "chart-memory").get_attribute("aria-valuetext") or "")
    send(Keys.ESCAPE)
    assert chrome.execute_script(readout) == ""
    ActionChains(chrome).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert focused(chrome) == "forget"
    ActionChains(chrome).send_keys(Keys.ENTER).perform()
    page.until_asked()


def test_a_screen_reader_is_told_what_is_what(troubled: Serving, chrome: Chrome) -> None:
    page = Ops(chrome, troubled.url, TOKEN)
    page.until_said("advice", "MEMORY_WARN_MB")
    found = named(chrome)
    assert {"button", "link", "slider"} <= {role for role, _ in found}
    assert [role for role, name in found if not name and role != "table"] == []
    live = (
        "return [...document.querySelectorAll('[aria-live], [role=status]')].map((n) => n.id)"
    )
    assert chrome.execute_script(live) == ["said", "live-said"]
    empty = "return [...document.querySelectorAll('th')].filter((n) => !n.textContent).length"
    assert chrome.execute_script(empty) == 0
    ids = "return [...document.querySelectorAll('[id]')].map((node) => node.id)"
    found_ids = chrome.execute_script(ids)
    assert len(found_ids) == len(set(found_ids))
    assert chrome.execute_script("return document.documentElement.lang") == "en"
    assert chrome.execute_script("return document.querySelectorAll('h1').length") == 1


def test_charts_keep_ten_minutes_and_break_where_nothing_came(
    plateau: Serving, chrome: Chrome
) -> None:
    Ops(chrome, plateau.url, TOKEN)
    result = chrome.execute_async_script(
        """
        const done = arguments[0];
        import("/chart.js").then(({Charts}) => {
          const box = document.body.appendChild(document.createElement("div"));
          const of = ({value}) => value;
          const charts = new Charts([{box, title: "x", of, words: String, least: 1}]);
          const line = () => box.querySelector(".line").getAttribute("d");
          for (let at = 0; at < 4000; at += 2) charts.add({at, value: at % 7});
          const kept = [charts.samples.length, line().split(/[ML]/).length - 1];
          charts.add({at: 4100, value: 3});
          charts.add({at: 4102, value: null});
          charts.add({at: 4104, value: 3});
          const pieces = line().split("M").length - 1;
          charts.add({at: 9000, value: 1});
          done(JSON.stringify({kept, pieces, left: charts.samples.length}));
        });
        """
    )
    assert json.loads(result) == {"kept": [301, 301], "pieces": 2, "left": 1}
