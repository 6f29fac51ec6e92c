"""WebKit for tests, as Debian packages it (webkit2gtk-driver, xvfb), on a screen of its own.

    with webkit() as driver:
        driver.get(url)

Invariant: when a `with` block ends nothing that it started lives. Nothing is ever downloaded;
where a program is missing the test is skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import WebKitGTK, WebKitGTKOptions, WebKitGTKService

from tests.browser import end, family_of
from tests.far import skip_unless_asked

# Debian's folder has the name of the machine's architecture in it.
BROWSERS = "*/webkit2gtk-4*/MiniBrowser"


def _programs() -> tuple[str, str, str]:
    screen, driver = shutil.which("Xvfb"), shutil.which("WebKitWebDriver")
    browser = next((str(one) for one in Path("/usr/lib").glob(BROWSERS)), None)
    if not (screen and driver and browser):
        pytest.skip("no WebKit on this machine (Debian: webkit2gtk-driver and xvfb)")
    return screen, driver, browser


@contextmanager
def _screen(program: str) -> Iterator[str]:
    """The name of a display."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [
            program,
            "-displayfd",
            str(writing),
            "-screen",
            "0",
            "1280x1024x24",
            "-nolisten",
            "tcp",
        ],
        pass_fds=[writing],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as told:
            number = told.readline().strip()
        assert number, "Xvfb has a display"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def webkit() -> Iterator[WebKitGTK]:
    """A browser with an empty profile, gone when the block ends."""
    skip_unless_asked("a browser's test")
    screen, program, browser = _programs()
    options = WebKitGTKOptions()
    options.binary_location = browser
    options.add_argument("--automation")
    with (
        _screen(screen) as display,
        tempfile.TemporaryDirectory(prefix="webkit-", ignore_cleanup_errors=True) as home,
    ):
        env = os.environ | {
            "DISPLAY": display,
            "GDK_BACKEND": "x11",
            "HOME": home,
            "XDG_RUNTIME_DIR": home,
            "NO_AT_BRIDGE": "1",
            # A screen that is none has no graphics card.
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "WEBKIT_DISABLE_DMABUF_RENDERER": "1",
        }
        env.pop("WAYLAND_DISPLAY", None)
        service = WebKitGTKService(program, log_output=subprocess.DEVNULL, env=env)
        with warnings.catch_warnings():
            # Selenium 4.51 calls what it says is deprecated, itself.
            warnings.filterwarnings("ignore", "setting remote_server_addr", DeprecationWarning)
            driver = WebKitGTK(options=options, service=service)
        family = family_of(service)
        try:
            yield driver
        finally:
            family += family_of(service)
            try:
                driver.quit()
            finally:
                end(family)
