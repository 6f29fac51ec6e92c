"""The page at /docs in a real browser: what is described can be read there, and tried.

Invariant: its policy forbids inline code and styles and every other host, and nothing of the
page is stopped by it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from plateau_sse.api import pages
from tests.browser import await_true, browser, by_id, console, fresh_tab
from tests.looks import contrasts, emulate_nothing, emulate_phone, emulate_scheme, width_of
from tests.processes import REPOSITORY, Serving, serving

KEY = "docs-test-key-1"
FILES = ("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js")
# Whatever the policy has stopped; a script of ours, so that the page's own come after it.
LISTEN = """
window.stopped = [];
addEventListener("securitypolicyviolation", ({violatedDirective, blockedURI}) =>
  stopped.push(`${violatedDirective} ${blockedURI}`));
"""


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("docs")) as started:
        yield started


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """With a key."""
    with serving(tmp_path_factory.mktemp("guarded"), env={"API_KEYS": KEY}) as started:
        yield started


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as started:
        yield started


class Docs:
    """The page as someone in front of it sees and uses it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        fresh_tab(driver)
        emulate_nothing(driver)
        console(driver)
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LISTEN})
        driver.get(f"{url}/docs")
        self.until(
            lambda: by_id(driver, "docs").get_attribute("aria-busy") == "false", "it is there"
        )

    def until(self, condition: object, what: str) -> None:
        assert callable(condition)
        await_true(self.driver, condition, what)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def open(self, operation: str) -> str:
        """Unfold it; the selector of what it is in."""
        at = f"[id$='-{operation}']"
        self.press(f"{at} .opblock-summary-control")
        self.until(lambda: self.all(f"{at} .opblock-body .execute"), f"{operation} is unfolded")
        return at

    def press(self, selector: str) -> None:
        node = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
        node.click()

    def execute(self, operation: str) -> tuple[int, str]:
        """Try it out; status and body of the answer that is shown."""
        at = self.open(operation)
        self.press(f"{at} .execute")
        live = f"{at} .live-responses-table .response"
        self.until(lambda: self.all(f"{live} .response-col_status"), "an answer is shown")
        status = self.one(f"{live} .response-col_status").text.split()[0]
        return int(status), self.one(f"{live} .response-col_description").text

    def assert_nothing_was_stopped(self) -> None:
        assert self.driver.execute_script("return stopped") == []
        assert console(self.driver) == []
        addresses = self.driver.execute_script(
            "return performance.getEntriesByType('resource').map((one) => one.name)"
        )
        home = self.driver.execute_script("return location.origin")
        assert all(address.startswith((f"{home}/", "data:")) for address in addresses)


def test_every_operation_can_be_read(plateau: Serving, chrome: Chrome) -> None:
    docs = Docs(chrome, plateau.url)
    document = httpx.get(f"{plateau.url}/openapi.json").json()
    docs.press("#operations-tag-pages button")
    expected = {
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    }

    def shown() -> set[str]:
        nodes = docs.all(".opblock")
        return {str(node.get_attribute("id")).rpartition("-")[2] for node in nodes}

    docs.until(lambda: shown() == expected, "all operations are listed")
    assert docs.one(".info .title").text.startswith("Plateau")
    docs.open("followRun")
    docs.press(".models-control, section.models button")
    docs.until(lambda: "RunRestarted" in docs.one("section.models").text, "schemas are listed")
    docs.assert_nothing_was_stopped()


def test_a_question_is_asked_without_a_key(plateau: Serving, chrome: Chrome) -> None:
    docs = Docs(chrome, plateau.url)
    assert docs.execute("getLiveness")[0] == 200
    status, body = docs.execute("createRun")
    assert status in (200, 202)
    assert "events_url" in body
    docs.assert_nothing_was_stopped()


def test_a_question_is_asked_with_a_key(guarded: Serving, chrome: Chrome) -> None:
    docs = Docs(chrome, guarded.url)
    status, body = docs.execute("createRun")
    assert (status, "unauthorized" in body) == (401, True)
    # That it was refused.
    console(chrome)
    docs.press(".btn.authorize")
    docs.until(lambda: docs.all(".modal-ux input"), "keys are asked for")
    docs.one("#auth-bearer-value").send_keys(KEY)
    docs.one(".modal-ux .auth-container .btn.authorize").click()
    docs.one(".modal-ux .btn-done").click()
    docs.press("[id$='-createRun'] .execute")
    live = "[id$='-createRun'] .live-responses-table .response .response-col_status"
    docs.until(lambda: docs.one(live).text.split()[0] in ("200", "202"), "it is taken on")
    docs.assert_nothing_was_stopped()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_either_light_and_on_a_phone(
    plateau: Serving, chrome: Chrome, scheme: str
) -> None:
    docs = Docs(chrome, plateau.url)
    emulate_scheme(chrome, scheme)
    for operation in ("createRun", "followRun", "deleteConversation"):
        docs.open(operation)
    # Colours fade.
    docs.until(lambda: contrasts(chrome)[2] == [], "every text stands out from its ground")
    ground, seen, _ = contrasts(chrome)
    assert (ground > 0.8) is (scheme == "light") and seen > 100
    for width in (320, 390):
        emulate_phone(chrome, width)
        docs.until(lambda: width_of(chrome) <= width, f"it fits into {width} pixels")  # noqa: B023


# What it is made of


def test_its_policy_is_as_strict_as_that_of_the_other_pages(plateau: Serving) -> None:
    others = httpx.get(f"{plateau.url}/").headers["content-security-policy"]
    policy = httpx.get(f"{plateau.url}/docs").headers["content-security-policy"]
    assert policy == others.replace("img-src 'self'", "img-src 'self' data:")
    assert "unsafe" not in policy and "default-src 'none'" in policy


@pytest.mark.parametrize("path", FILES)
def test_a_file_from_disk(plateau: Serving, path: str) -> None:
    whole = httpx.get(plateau.url + path)
    content = (pages.VENDORED / path.rpartition("/")[2]).read_bytes()
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["cache-control"] == "no-cache"
    assert whole.headers["content-length"] == str(len(content))
    assert whole.headers["content-type"].startswith(("text/css", "text/javascript"))
    for known in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}', "*"):
        again = httpx.get(plateau.url + path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b""), known
        assert again.headers["etag"] == whole.headers["etag"]
    other = httpx.get(plateau.url + path, headers={"If-None-Match": '"other"'})
    assert other.status_code == 200
    head = httpx.head(plateau.url + path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(content))
    # Nobody needs a part of a script; what no range can be made of is no error either.
    for wanted in ("bytes=0-9", "bytes=999999999-", "nonsense"):
        part = httpx.get(plateau.url + path, headers={"Range": wanted})
        assert (part.status_code, part.content) == (200, content)


@pytest.mark.parametrize(
    "path", ["/docs/", "/docs/README.md", "/docs/..%2fops.html", "/docs/LICENSE"]
)
def test_nothing_else_of_the_disk_is_there(plateau: Serving, path: str) -> None:
    answer = httpx.get(plateau.url + path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_files_are_as_they_were_released() -> None:
    told = (pages.VENDORED / "README.md").read_text()
    assert f"version **{pages.SWAGGER_UI}**" in told
    sums = dict(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", told, re.MULTILINE))
    assert sums.keys() == {path.rpartition("/")[2] for path in FILES}
    for name, expected in sums.items():
        content = (pages.VENDORED / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected, name
    assert {"LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"} <= {
        path.name for path in pages.VENDORED.iterdir()
    }


def test_the_first_page_and_the_readme_lead_to_it(plateau: Serving) -> None:
    assert '<a href="docs">API</a>' in httpx.get(f"{plateau.url}/").text
    assert "localhost:8000/docs)" in (REPOSITORY / "README.md").read_text()
