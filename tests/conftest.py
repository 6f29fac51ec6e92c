"""Fixtures that several modules share: Redis servers of the suite's own.

Invariant: every test finds both servers empty; a test that leaves a key without a life fails,
whatever it asserts itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from httpx import create_ssl_context
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings as hypothesis
from redis import Redis
from redis.exceptions import RedisError

from plateau_sse.serve.redis_server import Role, options, server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.rights import least
from tests.authority import authority, query, secured
from tests.far import ASKED
from tests.groups import Cluster, Trio, sentinel_trio, six_nodes
from tests.processes import free_ports, wait_until
from tests.store import LEAST_USER, admin_url

# Whatever proxy this machine has is asked for nothing that is on it.
for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = f"{os.environ.get(_name, '')},127.0.0.1,::1,localhost"

# How long an example takes is the machine's: on a busy one each may be the slowest.
hypothesis.register_profile("untimed", deadline=None)
hypothesis.load_profile("untimed")

# The queue lives as long as the service does; its entries are deleted one by one.
LIVES_FOREVER = keys.line("").partition("waiting")[0].encode()


# Where fixtures of an empty store lead: `server`, `trio` or `cluster`; for tests that know it
# by its URL: streams, hub, queue, cache, conversations. Each of them over TLS where `-tls` is
# added; `tls` is one server, and `rights` is one for a user that may do what `doctor --acl`
# prints.
ASKED_STORE = os.environ.get("TEST_STORE", "server")
STORE = ASKED_STORE.removesuffix("-tls")
GROUPS = ("trio", "cluster")
IS_GROUP_OVER_TLS = ASKED_STORE != STORE
STORES = ("server", "tls", "rights", "trio", "trio-tls", "cluster", "cluster-tls")
if ASKED_STORE not in STORES:
    raise pytest.UsageError(f"TEST_STORE={ASKED_STORE} is none of {', '.join(STORES)}")
OF_OPERATORS = ("test_doctor_redis.py", "test_info.py")
OF_A_CACHE = frozenset(
    ("test_50000_answers_stay_within_the_bound", "test_8000_english_answers_of_2_kb_fit")
)
# What puts something between our clients and a server, or looks past them in the middle.
OF_A_BARE_SERVER = frozenset(
    ("test_the_streams_alone_suffice", "test_what_is_broken_on_purpose_is_found")
)
OF_ONE_SERVER = OF_A_BARE_SERVER | frozenset(
    (
        "test_every_event_is_published_once_with_its_id",
        "test_an_end_with_an_answer_of_its_own_is_published_without_it",
        "test_of_many_callers_sixteen_are_remembered",
        "test_deleting_removes_it_all_and_for_good",
        "test_ten_long_messages_are_read_with_less_than_4_kb",
        "test_all_of_them_take_a_quarter_and_the_longest_idle_go_first",
        "test_who_has_most_gives_way_first",
        "test_what_is_remembered_is_a_part_of_what_its_owner_has",
        "test_those_that_are_idle_longest_go_for_it",
        "test_a_runner_outlives_an_emptied_store",
        "test_joining_again_at_once_keeps_the_subscription",
        "test_who_read_before_a_new_subscription_reads_once_more",
        "test_a_repair_from_before_a_new_subscription_is_made_once_more",
    )
)


# Files that take longest, the longest foremost: they are begun first, or one process would be
# left alone with one of them at the end. Where it is not quite true nothing is lost but time.
LONG = (
    *("clients/test_clients", "integration/test_prefix", "integration/test_ops_page"),
    *("test_doctor", "integration/test_page", "test_doctor_redis", "test_react_ways"),
    *("integration/test_pages_for_all", "test_react_kit"),
    *("integration/test_slow_documents", "integration/test_load_broken"),
    *("integration/test_load", "integration/test_leaving", "integration/test_docs_page"),
    *("integration/test_top", "test_study", "integration/test_serve"),
    *("integration/test_redis_faults", "integration/test_slow_readers"),
    *("integration/test_external", "test_cache", "integration/test_worker"),
    *("test_tape_store", "integration/test_answer_page", "test_cache_capacity"),
    *("integration/test_resume", "integration/test_cancelling", "integration/test_lost"),
    *("integration/test_wheel", "test_bench_soak", "integration/test_told"),
    *("integration/test_chaos", "integration/test_scraped"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--no-loadscope-reorder`, processes take files in this order."""
    places = {f"{name}.py": place for place, name in enumerate(LONG)}
    folder = Path(__file__).parent

    def place_of(item: pytest.Item) -> int:
        return places.get(item.path.relative_to(folder).as_posix(), len(LONG))

    items.sort(key=place_of)
    lacking = dict[str, str]()
    if STORE in GROUPS:
        lacking |= dict.fromkeys(OF_A_CACHE, "it asks for a server that evicts")
        of_others = OF_ONE_SERVER if STORE == "cluster" else OF_A_BARE_SERVER
        why = "it looks at the keys of one server, past our clients"
        lacking |= dict.fromkeys(of_others, why)
    why = "it reads what an operator is shown of a server without TLS, with all rights"
    is_otherwise = IS_GROUP_OVER_TLS or STORE in ("tls", "rights")
    for item in items:
        if is_otherwise and item.path.name in OF_OPERATORS:
            item.add_marker(pytest.mark.skip(reason=why))
        if reason := lacking.get(item.name.partition("[")[0]):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="also what takes a browser, Node, several servers or a benchmark",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Processes that run the tests are children, and inherit it; to them the files are named.
    is_named = config.args_source is config.ArgsSource.ARGS and not hasattr(
        config, "workerinput"
    )
    if config.getoption("--all") or is_named:
        os.environ[ASKED] = "1"
    # A shell (or nohup) starts what is to run in the background with these ignored, and a child
    # inherits that: no service of a test would end on Ctrl+C, or when its terminal is closed.
    # What has a handler here has none in a child.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    if STORE in GROUPS:
        pytest.MonkeyPatch().setattr(Redis, "from_url", _of_one_server(Redis.from_url))
    elif STORE == "rights":
        really = Redis.from_url
        as_admin = lambda url, **how: really(admin_url(url), **how)  # noqa: E731
        pytest.MonkeyPatch().setattr(Redis, "from_url", as_admin)
    # What a test says nothing of waits as long as the machine takes: its five seconds are short
    # beside hundreds of processes.
    for kind in ("connect", "read", "write", "pool"):
        setattr(DEFAULT_TIMEOUT_CONFIG, kind, 30.0)
    # Whom to trust costs httpx 40 ms of computing for each client, each `httpx.get` included.
    trust_once = "httpx._transports.default.create_ssl_context"
    pytest.MonkeyPatch().setattr(trust_once, cache(create_ssl_context))


def _of_one_server(really: Any) -> Any:
    """A test that opens a client of redis-py's own to the store looks at one server."""

    def from_url(url: str, **options: Any) -> Any:
        if "+" in url.partition("://")[0]:
            pytest.skip("it looks at the keys of one server, past our clients")
        return really(url, **options)

    return from_url


class Server(NamedTuple):
    """One Redis server, configured as `plateau serve` configures it."""

    url: str
    port: int
    process: subprocess.Popen[bytes]

    def client(self) -> Redis:
        return Redis.from_url(admin_url(self.url), protocol=2)

    def clients(self) -> list[Redis]:
        return [self.client()]


def start_server(
    role: Role, folder: Path, binary: str | None = None, way: str = "server"
) -> Server:
    """A server of the kind that REDIS_SERVER_BIN names, or of `binary`, to be reached in the
    `way` of a `STORE`; the caller ends its process."""
    port = free_ports(1)
    if binary is None:
        binary = os.environ.get("REDIS_SERVER_BIN", "")
    settings = Settings(redis_server_bin=binary)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [server_binary(settings)]
    wanted = options(role, settings, folder, port)
    url = f"redis://127.0.0.1:{port}/0"
    if way == "tls":
        authority(folder)
        wanted |= secured(folder, port)
        url = f"rediss://localhost:{port}/0?{query(folder)}"
    elif way == "rights":
        url = url.replace("//", f"//{LEAST_USER}")
    for name, value in wanted.items():
        arguments += [f"--{name}", value]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Server(url, port, process)
    client = server.client()

    def answers() -> bool:
        try:
            return bool(client.ping())
        except RedisError:
            return False

    wait_until(answers, f"the {role} server answers")
    if way == "rights":
        user, secret = LEAST_USER.rstrip("@").split(":")
        said: Any = client
        said.execute_command("ACL", "SETUSER", user, "on", f">{secret}", *least(role))
    client.close()
    return server


def end_server(server: Server) -> None:
    server.process.terminate()
    server.process.wait(10)


@pytest.fixture(scope="session")
def streams_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server("streams", tmp_path_factory.mktemp("streams"), way=STORE)
    yield server
    end_server(server)


@pytest.fixture(scope="session")
def cache_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server("cache", tmp_path_factory.mktemp("cache"), way=STORE)
    yield server
    end_server(server)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Of all servers of a group; None where they speak without TLS."""
    if not IS_GROUP_OVER_TLS:
        return None
    folder = tmp_path_factory.mktemp("certificates")
    authority(folder)
    return folder


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory, certificates: Path | None) -> Iterator[Trio]:
    folder = tmp_path_factory.mktemp("trio")
    with sentinel_trio(folder, certificates=certificates) as found:
        yield found


@pytest.fixture(scope="session")
def cache_trio(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path | None
) -> Iterator[Trio]:
    folder = tmp_path_factory.mktemp("cache-trio")
    with sentinel_trio(folder, "cache", certificates=certificates) as found:
        yield found


@pytest.fixture(scope="session")
def cache_cluster(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path | None
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cache-cluster")
    with six_nodes(folder, "cache", certificates=certificates) as found:
        yield found


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path | None
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with six_nodes(folder, certificates=certificates) as found:
        yield found


@pytest.fixture
def streams_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty streams instance."""
    yield from _emptied(request, "streams_server", STORE)


@pytest.fixture
def cache_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty cache."""
    yield from _emptied(request, "cache_server", f"cache_{STORE}")


def _emptied(request: pytest.FixtureRequest, server: str, group: str) -> Iterator[str]:
    store = request.getfixturevalue(group if STORE in GROUPS else server)
    yield from emptied(store)


def emptied(store: Server | Trio | Cluster) -> Iterator[str]:
    """Its URL, for as long as the caller goes on; then all that is left must have a life."""
    for client in _clients(store):
        client.flushall()
    yield store.url
    # Others may have taken the places of the primaries.
    for client in _clients(store):
        assert_all_have_a_life(client)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `localhost`, signed by itself; with its key."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, found = folder / "key.pem", folder / "localhost.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", found], check=True, capture_output=True
    )
    found.write_text(found.read_text() + key.read_text())
    return found


def _clients(store: Server | Trio | Cluster) -> Iterator[Redis]:
    """Of all that have keys, one after the other."""
    if isinstance(store, Trio | Cluster):
        store.wait_until_whole()
    for client in store.clients():
        with client:
            yield client


def assert_all_have_a_life(client: Redis) -> None:
    """Fail where a key would stay for ever."""
    found = [key for key in client.scan_iter(count=1000) if LIVES_FOREVER not in key]
    with client.pipeline(transaction=False) as pipe:
        for key in found:
            pipe.ttl(key)
        lives = pipe.execute()
    left = sorted(key for key, life_s in zip(found, lives, strict=True) if life_s == -1)
    assert not left, f"keys without a life: {left[:5]}"


# A shallow clone, a sandbox without namespaces, a machine without a package index, what Debian
# has in no release that is new enough; and what is none for this TEST_STORE.
UNAVOIDABLE = (
    "the keys of one server",
    "a server that evicts",
    "TLS hides what passes",
    "a server without TLS, with all rights",
    "this clone has no",
    "no process namespace",
    "no network namespace",
    "no package index",
    "kubectl is not installed",
)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """On a newcomer's machine what needs a browser or another server is skipped, with the
    reason in words; in CI it must have run, but for what CI itself cannot change."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = [
        report
        for report in reporter.stats.get("skipped", [])
        if not any(words in str(report.longrepr) for words in UNAVOIDABLE)
    ]
    if os.environ.get("CI") == "true" and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{len(skipped)} tests were skipped, which CI does not accept")
