"""A real Chromium for tests, headless, with a profile of its own.

    with browser() as driver:
        driver.get(url)

Invariant: when a `with` block ends, however it ends, no process of the browser lives and its
profile is gone. Nothing is ever downloaded: both programs are those of the system, and where
one is missing the test is skipped with the reason, except in CI, where it fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import (
    Chrome,
    ChromeOptions,
    ChromeService,
    WebKitGTK,
    WebKitGTKService,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.far import skip_unless_asked

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


def _program(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    reason = f"no {' or '.join(names)} on the PATH (Debian: chromium and chromium-driver)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def browser() -> Iterator[Chrome]:
    """A browser with an empty profile, gone when the block ends."""
    skip_unless_asked("a browser's test")
    options = ChromeOptions()
    options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
    service = ChromeService(_program("chromedriver"), log_output=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = Chrome(options=options, service=service)
        family: list[psutil.Process] = []
        try:
            family = family_of(service)
            yield driver
        finally:
            family += family_of(service)
            try:
                driver.quit()
            finally:
                end(family)


def family_of(service: ChromeService | WebKitGTKService) -> list[psutil.Process]:
    """The driver and all that it has started so far."""
    try:
        parent = psutil.Process(service.process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end(family: list[psutil.Process]) -> None:
    # psutil compares start times, so a pid that was given away meanwhile is left alone.
    _, alive = psutil.wait_procs(set(family), timeout=5)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


def fresh_tab(driver: Chrome) -> None:
    """Go on in a new tab, so with an empty sessionStorage, and close the old one."""
    old = driver.current_window_handle
    driver.switch_to.new_window("tab")
    new = driver.current_window_handle
    driver.switch_to.window(old)
    driver.close()
    driver.switch_to.window(new)


def by_id(driver: Chrome, name: str) -> WebElement:
    return driver.find_element(By.ID, name)


def await_true(
    driver: Chrome | WebKitGTK,
    condition: Callable[[], object],
    what: str,
    *,
    timeout_s: float = 20,
) -> None:
    """Wait until `condition()` holds; the failure names `what` and shows the console."""
    wait: WebDriverWait[Chrome | WebKitGTK] = WebDriverWait(
        driver, timeout_s, poll_frequency=0.05, ignored_exceptions=(WebDriverException,)
    )
    try:
        wait.until(lambda _: condition(), f"not within {timeout_s} s: {what}")
    except WebDriverException as error:
        if isinstance(driver, Chrome):
            error.add_note(f"console: {console(driver)}")
        raise


def console(driver: Chrome) -> list[str]:
    """What the page has written to its console since this was last called."""
    found = driver.execute("getLog", {"type": "browser"})
    entries: list[dict[str, Any]] = found["value"]
    return [f"{entry['level']} {entry['message']}" for entry in entries]
