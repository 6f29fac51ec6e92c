"""The units for systemd: it reads them, they are shut in, and what they set are settings."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from plateau_sse.serve.redis_server import STOP_WITHIN_S
from plateau_sse.settings import Settings
from tests.deploy_files import SETTINGS
from tests.processes import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "systemd"
UNITS = {
    "plateau.service": "serve",
    "plateau-web.service": "web",
    "plateau-runner@.service": "runner",
}
# systemd's own: 0 is shut in, 10 is not at all.
EXPOSURE_MOST = 2.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def options(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_these_are_all() -> None:
    assert {path.name for path in FOLDER.glob("*.service")} == set(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_they_start_and_stop_what_they_should(name: str) -> None:
    unit, command = options(name), UNITS[name]
    (start,) = unit["ExecStart"]
    assert shlex.split(start)[1:] == [command] and start.startswith("/opt/plateau/bin/plateau")
    needed = Settings().graceful_timeout_s + (STOP_WITHIN_S if command == "serve" else 0)
    assert float(unit["TimeoutStopSec"][0]) > needed
    for variable in unit.get("Environment", ()):
        assert variable.partition("=")[0] in SETTINGS
    # Settings that cannot be read; docs/deploy.md says which code that is.
    assert unit["RestartPreventExitStatus"] == ["2"]


def test_what_the_file_of_settings_names_are_settings() -> None:
    text = (FOLDER / "plateau.env").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = dict(line.split("=", 1) for line in lines)
    assert set(found) <= SETTINGS
    assert not Settings.from_env({**found, "API_KEYS": "a-key-of-yours"}).redis_url


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_them(name: str, tmp_path: Path) -> None:
    """With a program in the place of ours, which is not installed here."""
    program = tmp_path / "plateau"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (FOLDER / name).read_text()
    unit = tmp_path / name.replace("@.", "@1.")
    unit.write_text(text.replace("/opt/plateau/bin/plateau", str(program)))
    shown = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    said = [line for line in shown.stderr.splitlines() if str(unit) in line or name in line]
    assert said == []


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_they_are_shut_in(name: str) -> None:
    shown = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(FOLDER / name)],
        capture_output=True,
        text=True,
    )
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", shown.stdout)
    assert exposure, shown.stderr
    assert float(exposure[1]) <= EXPOSURE_MOST
