"""Settings from the environment: what is read, what is refused, and what an error may say."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import fields
from pathlib import Path

import pytest

from plateau_sse import settings as settings_module
from plateau_sse.cli import main
from plateau_sse.errors import SettingsError
from plateau_sse.settings import Settings, help_text, is_loopback
from plateau_sse.values import parse_size

MIB = 1024 * 1024
NUMBERS = [
    setting.name
    for setting in fields(Settings)
    if type(setting.default) is int
    and not setting.name.endswith("_max_memory")
    and setting.name != "max_body_bytes"
]
SIZES = ["cache_max_memory", "stream_max_memory", "max_body_bytes"]
SECRETS = {
    "API_KEYS": "first-secret-key,second-secret-key",
    "ADMIN_TOKEN": "secret-admin-token",
    "OPENAI_API_KEY": "sk-secret-openai-key",
    "REDIS_URL": "redis://:secret-passwordredis.example/0",
    "CACHE_REDIS_URL": "rediss://user:secret-password@cache.example/0",
}


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)
    return str(caught.value)


def test_the_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.web_concurrency) == ("127.0.0.1", 8000, 2)
    assert (settings.cache_max_memory, settings.cache_ttl_s) == (10 * MIB, 3600)
    assert (settings.stream_max_memory, settings.stream_ttl_s) == (64 * MIB, 600)
    assert (settings.max_requests, settings.max_requests_jitter) == (1000, 50)
    assert (settings.worker_timeout_s, settings.graceful_timeout_s) == (120, 20)
    assert (settings.run_timeout_s, settings.queue_timeout_s) == (120, 60)
    assert (settings.max_attempts, settings.runner_concurrency) == (2, 32)
    assert settings.queue_limit == 1000
    assert (settings.max_messages, settings.max_content_messages) == (10, 5)
    assert settings.max_content_length == 200
    assert not (settings.api_keys or settings.allowed_origins or settings.agents)
    assert settings.redis_url == settings.cache_redis_url == settings.admin_token == ""
    assert settings.allow_anonymous is False


@pytest.mark.parametrize(
    "url",
    [
        "secret",
        "http://:secret@box/0",
        "redis://:secret/@box",
        "redis://:secret#@box/0",
        "redis://box:secret/0",
        "redis://box/secret",
        "redis://box/0?secret=1",
    ],
)
def test_what_is_no_url_of_a_redis_is_refused_and_not_repeated(url: str) -> None:
    for variable in ("REDIS_URL", "CACHE_REDIS_URL"):
        said = refusal(**{variable: url})
        assert said.startswith(f"{variable} must be redis://[user:password@]host[:port][/db]")
        assert "secret" not in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rediss://:secret@box/0?ssl_cert_reqs=CERT_NONE", "none, optional or required"),
        ("redis://:secret@box/0?ssl_ca_certs=/ca.pem", "rediss://…, rediss+sentinel://…"),
        ("redis+cluster://:secret@box?ssl_ca_certs=/ca.pem", "rediss+cluster://…"),
        ("rediss://:secret@box?ssl_secret=1", "ssl_ca_certs"),
        ("rediss://:secret@box?ssl_min_version=1.2", "771 for TLS 1.2"),
        ("rediss://:secret@box?ssl_min_version=13", "771 for TLS 1.2"),
        ("rediss://:secret@box?ssl_keyfile=/key.pem", "an ssl_certfile"),
        # The first part of the path would be taken for a host, and left out.
        ("unix://run/redis.sock", "three slashes"),
        ("unix://user:se/cret@/run/redis.sock", "three slashes"),
        # Without a service, it would be what stands behind the password's own slash.
        ("redis+sentinel://app:2024/secret@a,b", "percent-encoded"),
        # An empty variable for the host.
        ("redis://:6379/0", "no host"),
        ("rediss://:6379?db=1&ssl_ca_certs=/ca.pem", "no host"),
        # Without `//` one of redis-py's clients takes it.
        ("unix:/run/secret.sock", "percent-encoded"),
        ("rediss://:secret@box?ssl_certfile=&ssl_keyfile=/key.pem", "an ssl_certfile"),
        ("valkey://:secret@box/0", "valkey:// is not supported yet"),
        ("redis+sentinel://:secret@box:26379", "it names no service"),
        ("redis+sentinel://:secret@box/main/3?protocol=3", "percent-encoded"),
        ("redis+sentinel://:secret#@box/main", "percent-encoded"),
        ("redis+sentinel://:secret@,/main", "percent-encoded"),
        ("sentinel://:secret@box/main", "redis+sentinel://"),
        ("redis+cluster://:secret@box/1", "a cluster has one only"),
        ("redis+cluster://:secret@box:0", "percent-encoded"),
        ("redis-cluster://:secret@box", "redis+cluster://"),
        ("rediss+cluster://:secret@box?ssl_cert_reqs=1", "none, optional or required"),
        ("redis://:secret@box1:1,box2:2/0", "redis+cluster://host,host for a cluster"),
        # A `?` that is not encoded: what stands before it would be the server's port.
        ("redis://:12?secret@box/0", "percent-encoded"),
        ("redis://:12?secret=1@box/0", "percent-encoded"),
        ("redis://:se\u2100cret@box", "percent-encoded"),
        ("redis://:secret@box:0", "percent-encoded"),
        ("unix://?db=1", "percent-encoded"),
        # How it is spoken to is ours to say.
        ("redis://:secret@box/0?protocol=3", "percent-encoded"),
        ("redis://:secret@box/0?decode_responses=1", "percent-encoded"),
    ],
)
def test_a_url_that_would_lead_elsewhere_is_refused_by_name(url: str, said: str) -> None:
    refused = refusal(REDIS_URL=url)
    assert refused.startswith("REDIS_URL must be ") and said in refused
    assert "\n" not in refused and "secret" not in refused


@pytest.mark.parametrize(
    "url",
    [
        *("redis://box", "rediss://me:p%2F%23@box:1/3", "unix:///run/redis.sock?db=1"),
        *("redis+sentinel://a,b:1,[::1]/main/3?sentinel_password=p", "redis+cluster://a,b:1"),
        "rediss+cluster://me:p%2F%2C@a,b?ssl_ca_certs=/ca.pem",
    ],
)
def test_a_url_of_a_redis_is_taken_as_it_is(url: str) -> None:
    assert Settings.from_env({"REDIS_URL": f" {url} "}).redis_url == url


def test_a_scheme_in_capitals_is_one_to_everybody() -> None:
    taken = Settings.from_env(
        {"REDIS_URL": "REDISS+Sentinel://Box/main", "CACHE_REDIS_URL": ""}
    )
    assert taken.redis_url == "rediss+sentinel://Box/main"


@pytest.mark.parametrize(
    "url",
    [
        *("secret", "box:1/secret", "ftp://box/secret", "//box/secret", "http:///secret"),
        *("http://me:secret@box:99999/v1", "http://box:0/secret", "http://box:1x/secret"),
        *("http://[secret/v1", "http://me:secret@/v1"),
    ],
)
def test_what_is_no_address_of_a_model_is_refused_and_not_repeated(url: str) -> None:
    said = refusal(OPENAI_BASE_URL=url)
    assert said.startswith("OPENAI_BASE_URL must be http://host[:port]/… or https://")
    assert "secret" not in said


def test_every_setting_is_read_from_its_variable() -> None:
    environ = {
        "HOST": " ::1 ",
        "PORT": "9000",
        "DATA_DIR": "/var/lib/plateau",
        "REDIS_URL": "redis://redis.example:6380/1",
        "CACHE_MAX_MEMORY": "20mb",
        "STREAM_MAX_MEMORY": "1g",
        "STREAM_TTL_S": " 61 ",
        "API_KEYS": "key-number-one, key-number-two,",
        "ALLOWED_ORIGINS": "https://a.example ,https://b.example",
        "ALLOW_ANONYMOUS": "yes",
        "AGENTS": "notes=my.module:notes, quiz=my.other:Quiz.ask",
        "LOG_FORMAT": "json",
        "SOMETHING_ELSE": "ignored",
    }
    settings = Settings.from_env(environ)
    assert (settings.host, settings.port) == ("::1", 9000)
    assert settings.data_dir == Path("/var/lib/plateau")
    assert settings.redis_url == "redis://redis.example:6380/1"
    assert (settings.cache_max_memory, settings.stream_max_memory) == (20 * MIB, 10**9)
    assert settings.stream_ttl_s == 61
    assert settings.api_keys == ("key-number-one", "key-number-two")
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.allow_anonymous is True
    assert settings.agents == (("notes", "my.module:notes"), ("quiz", "my.other:Quiz.ask"))
    assert settings.log_format == "json"


PATHS = {"data_dir", "redis_server_bin", "api_keys_file"}


@pytest.mark.parametrize(
    "name", [setting.name for setting in fields(Settings) if setting.name not in PATHS]
)
def test_what_is_no_text_is_refused_and_not_repeated(name: str) -> None:
    # As Python has bytes of the environment that are no UTF-8.
    said = refusal(**{name.upper(): "raw bytes of a secret \udcff\udcfe with their rest"})
    assert said == f"{name.upper()} must be text in UTF-8."


def test_a_path_may_have_any_bytes() -> None:
    assert Settings.from_env({"DATA_DIR": "da\udcffta"}).data_dir == Path("da\udcffta")


def test_an_empty_variable_is_as_good_as_none() -> None:
    environ = {setting.name.upper(): " " for setting in fields(Settings)}
    assert Settings.from_env(environ) == Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


# What is refused


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "1e3", "0x10", "1 000", "1_000", "+5"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none(name: str, text: str) -> None:
    said = refusal(**{name.upper(): text})
    assert said.startswith(f"{name.upper()} must be a whole number from ")
    assert said.endswith(f", not {text!r}.")


@pytest.mark.parametrize(
    "text", ["²", "①", "١٢", "9" * 5000], ids=["superscript", "circled", "Arabic", "too many"]
)
def test_a_number_in_other_digits_is_refused_in_the_same_words(text: str) -> None:
    assert refusal(PORT=text).startswith("PORT must be a whole number from 1 to 65535")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "65"),
        ("STREAM_TTL_S", "60"),
        ("CACHE_TTL_S", "0"),
        ("MAX_ATTEMPTS", "0"),
        ("RUNNER_CONCURRENCY", "1001"),
        ("QUEUE_LIMIT", str(2**31 + 1)),
    ],
)
def test_a_number_out_of_range(name: str, text: str) -> None:
    assert refusal(**{name: text}).startswith(f"{name} must be a whole number from ")


@pytest.mark.parametrize(
    "text", ["big", "10 mb", "-1mb", "1.5mb", "mb", "10tb", "10mib", "0x10"]
)
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_none(name: str, text: str) -> None:
    said = refusal(**{name.upper(): text})
    assert said.startswith(f"{name.upper()} must be a size ") and "such as " in said
    assert said.endswith(f", not {text!r}.")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("CACHE_MAX_MEMORY", "10", "from 1mb to 1024gb, such as 10mb, not '10'"),
        ("STREAM_MAX_MEMORY", "64", "from 4mb to 1024gb, such as 64mb, not '64'"),
        ("STREAM_MAX_MEMORY", "3mb", "from 4mb"),
        ("STREAM_MAX_MEMORY", "64000gb", "to 1024gb"),
        ("WORKER_MAX_MEMORY", "120", "such as 120mb, or 0 for none, not '120'"),
    ],
)
def test_a_size_whose_unit_was_forgotten_is_refused(name: str, text: str, said: str) -> None:
    assert said in refusal(**{name: text})


@pytest.mark.parametrize(("text", "size"), [("16kb", 16 * 1024), ("16mb", 16 * MIB)])
def test_the_bounds_of_a_body(text: str, size: int) -> None:
    assert Settings().max_body_bytes == MIB
    assert Settings.from_env({"MAX_BODY_BYTES": text}).max_body_bytes == size
    assert "(1mb)" in next(it for it in help_text().splitlines() if "MAX_BODY_BYTES" in it)


@pytest.mark.parametrize(("text", "size"), [("0", 0), (" 0 ", 0), ("120mb", 120 * MIB)])
def test_a_worker_may_have_a_bound(text: str, size: int) -> None:
    assert Settings().worker_max_memory == 0
    assert Settings.from_env({"WORKER_MAX_MEMORY": text}).worker_max_memory == size
    said = refusal(WORKER_MAX_MEMORY="much")
    assert said.endswith(", such as 120mb, or 0 for none, not 'much'.")


@pytest.mark.parametrize("text", ["16383", "17mb", "1g"])
def test_a_body_beyond_these_is_refused(text: str) -> None:
    said = refusal(MAX_BODY_BYTES=text)
    assert said == f"MAX_BODY_BYTES must be a size from 16kb to 16mb, not {text!r}."


@pytest.mark.parametrize("text", ["0", "0mb"])
@pytest.mark.parametrize("name", SIZES)
def test_a_bound_of_nothing_is_refused(name: str, text: str) -> None:
    # Redis takes a maxmemory of 0 for no bound at all.
    assert refusal(**{name.upper(): text}).startswith(f"{name.upper()} must be ")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100", 100),
        ("7b", 7),
        ("1k", 1000),
        ("1KB", 1024),
        ("10m", 10**7),
        ("10mb", 10 * MIB),
        (" 2GB ", 2048 * MIB),
        ("2g", 2 * 10**9),
    ],
)
def test_a_size_in_the_notation_of_redis(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["2", "on", "yess", "none"])
def test_a_flag_that_is_none(text: str) -> None:
    assert refusal(ALLOW_ANONYMOUS=text) == f"ALLOW_ANONYMOUS must be 1 or 0, not {text!r}."


@pytest.mark.parametrize("text", ["1", "true", "YES", "0", "False", "no"])
def test_a_flag(text: str) -> None:
    assert Settings.from_env({"ALLOW_ANONYMOUS": text}).allow_anonymous is (
        text.lower() in ("1", "true", "yes")
    )


@pytest.mark.parametrize(
    "text",
    ["notes", "notes=", "notes=module", "=module:notes", "notes=:notes", "notes=module:"],
)
def test_agents_that_are_none(text: str) -> None:
    said = refusal(AGENTS=text)
    assert said.startswith("AGENTS must be name=module:callable")
    assert repr(text) in said


ORIGINS = {
    "https://a.example": ["https://a.example"],
    "https://a.example/": ["https://a.example"],
    " HTTPS://A.Example ,http://B.example/": ["https://a.example", "http://b.example"],
    "https://a.example:443": ["https://a.example"],
    "http://a.example:80/": ["http://a.example"],
    "http://a.example:443,https://a.example:80": [
        "http://a.example:443",
        "https://a.example:80",
    ],
    "https://a.example:08443": ["https://a.example:8443"],
    "https://a.example:": ["https://a.example"],
    "https://a.example,https://A.EXAMPLE:443/": ["https://a.example"],
    "https://a.example.": ["https://a.example."],
    "http://my_host-1:3000": ["http://my_host-1:3000"],
    "https://XN--bcher-kva.example": ["https://xn--bcher-kva.example"],
    "http://127.0.0.1:5173/": ["http://127.0.0.1:5173"],
    "https://[2001:DB8:0:0::1]:443": ["https://[2001:db8::1]"],
    "http://[::1]:3000": ["http://[::1]:3000"],
    # Of apps and extensions.
    "capacitor://localhost, Ionic://localhost/": ["capacitor://localhost", "ionic://localhost"],
    "tauri://localhost,http://tauri.localhost": ["tauri://localhost", "http://tauri.localhost"],
    "app://.,app://-,app://obsidian.md": ["app://.", "app://-", "app://obsidian.md"],
    "chrome-extension://abcdefghij": ["chrome-extension://abcdefghij"],
    "moz-extension://1b2c-3": ["moz-extension://1b2c-3"],
    "safari-web-extension://AB-CD": [
        "safari-web-extension://AB-CD",
        "safari-web-extension://ab-cd",
    ],
    "file://,file:///": ["file://"],
}


@pytest.mark.parametrize("text", ORIGINS)
def test_origins_are_kept_as_browsers_send_them(text: str) -> None:
    assert list(Settings.from_env({"ALLOWED_ORIGINS": text}).allowed_origins) == ORIGINS[text]


NO_ORIGINS = {
    "has a path or a query": [
        "https://a.example/app",
        "https://a.example//",
        "https://a.example/?x=1",
        "https://a.example?x=1",
        "https://a.example#x",
        "https://a\\b",
        "capacitor://localhost/app",
        "https:///",
    ],
    "has a user in it": ["https://me:secret@a.example", "https://secret@a.example/x"],
    "has no scheme": [
        "null",
        "a.example",
        "localhost:3000",
        "//a.example",
        "https:/a.example",
        "://a.example",
        "data:text/html",
    ],
    "stands for several": [
        "*",
        "https://*",
        "https://*.a.example",
        "*.a.example",
        "https://a https://b",
        "https://a;https://b",
    ],
    "as xn--…": ["https://bücher.example", "http://日本.example"],
    "a host or a port that is none": [
        "https://",
        "capacitor://",
        "https://a..b",
        "https://.",
        "https://%61",
        "https://[::1",
        "https://[1:2]",
        "https://::1",
        "https://127.1",
        "https://256.1.1.1",
        "https://a:b",
        "https://a:0",
        "https://a:65536",
        "https://a:99999999999",
        "https://a:-1",
        "https://a:80:80",
        "'https://a.example'",
        "1http://a",
    ],
}


@pytest.mark.parametrize(
    ("why", "text"), [(why, text) for why, texts in NO_ORIGINS.items() for text in texts]
)
def test_an_origin_that_is_none(why: str, text: str) -> None:
    said = refusal(ALLOWED_ORIGINS=f"https://fine.example,{text}")
    assert said.startswith("ALLOWED_ORIGINS must be origins such as https://app.example")
    assert why in said
    assert hidden_in(said)


def test_a_log_format_that_is_none() -> None:
    assert refusal(LOG_FORMAT="xml") == "LOG_FORMAT must be text or json, not 'xml'."


# Secrets


def hidden_in(said: str) -> bool:
    return "secret" not in said


@pytest.mark.parametrize(
    "environ",
    [{"PORT": "x"}, {"HOST": "0.0.0.0", "API_KEYS": ""}, {"LOG_FORMAT": "x"}, {"AGENTS": "x"}],
)
def test_no_error_shows_a_secret(environ: dict[str, str]) -> None:
    assert hidden_in(refusal(**(SECRETS | environ)))


def test_a_key_that_is_too_short_is_refused_and_not_shown() -> None:
    said = refusal(API_KEYS="long-enough-secret,secret7")
    assert said == "Each of API_KEYS must have at least 8 characters, all of them ASCII."


def test_the_help_names_every_variable_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    shown = help_text()
    assert hidden_in(shown)
    names = {line.split()[0] for line in shown.splitlines()[1:]}
    assert names == {setting.name.upper() for setting in fields(Settings)}


# What is read where: whole rooms of the house, or modules of one.
ROOMS = {
    "web": [
        "app.py",
        "tracing.py",
        "api",
        "live",
        "intake",
        "ops",
        "store",
        *(f"serve/{name}.py" for name in ("application", "arbiter", "banner", "worker")),
    ],
    "runner": [
        *("runner", "agents", "store", "tracing.py"),
        *("ops/fitness.py", "ops/reporting.py"),
    ],
}
# Of what is derived, what it is made of.
MADE_OF = {
    "silence_s": ("run_timeout_s", "queue_timeout_s", "external_idle_s"),
    "begun_life_s": ("queue_timeout_s", "max_attempts", "run_timeout_s"),
    "run_life_s": ("queue_timeout_s", "max_attempts", "run_timeout_s"),
    "job_bytes": ("max_content_messages", "max_content_length", "max_body_bytes"),
}
# A web worker hands them to a cache that it only reads; and what all commands read.
ONLY_PASSED_ON = {"web": {"cache_ttl_s", "cache_max_memory"}, "runner": set[str]()}
EVERYWHERE = {"log_format"}


def read_in(command: str) -> set[str]:
    service = Path(settings_module.__file__).parent
    files = [
        it
        for room in ROOMS[command]
        for it in (service / room, *(service / room).rglob("*.py"))
    ]
    text = "\n".join(it.read_text("utf-8") for it in files if it.suffix == ".py")
    found = set(re.findall(r"settings\.(\w+)", text))
    for name in found & MADE_OF.keys():
        found.update(MADE_OF[name])
    every = {setting.name for setting in fields(Settings)}
    return (found & every | EVERYWHERE) - ONLY_PASSED_ON[command]


@pytest.mark.parametrize("command", ROOMS)
def test_the_help_lists_what_has_an_effect_there(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    _, _, listed = capsys.readouterr().out.partition("settings (environment variables):\n")
    names = {line.split()[0].lower() for line in listed.splitlines() if line.strip()}
    assert names == read_in(command)


# Who may reach it


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]", "0:0:0:0:0:0:0:1"]
)
def test_without_keys_it_listens_on_loopback(host: str) -> None:
    assert is_loopback(host)
    assert Settings.from_env({"HOST": host}).host == host


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.example.org", "[::]", "*"],
)
def test_without_keys_another_address_needs_a_word(host: str) -> None:
    assert not is_loopback(host)
    said = refusal(HOST=host)
    assert host in said
    assert "API_KEYS" in said and "ALLOW_ANONYMOUS=1" in said
    assert refusal(HOST=host, ALLOW_ANONYMOUS="0") == said
    assert Settings.from_env({"HOST": host, "ALLOW_ANONYMOUS": "1"}).host == host
    assert Settings.from_env({"HOST": host, "API_KEYS": "a-key-of-mine"}).host == host


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ""), ("/", ""), ("/ai", "/ai"), (" /ai/ ", "/ai"), ("/a-b/c_1.x~y", "/a-b/c_1.x~y")],
)
def test_a_root_path(text: str, expected: str) -> None:
    assert Settings.from_env({"ROOT_PATH": text}).root_path == expected


@pytest.mark.parametrize(
    "text",
    """ai ai/ //ai // /ai// /a//b /a/../b /.. /. /a?b /a#b /a%20b /a" /a' /ä \\ai""".split(),
)
def test_a_root_path_that_is_none_is_refused(text: str) -> None:
    for wrong in (text, f"{text} /b", f"/b{text}\n", "https://h/ai", "/" + 200 * "a"):
        said = refusal(ROOT_PATH=wrong)
        assert said.startswith("ROOT_PATH must be a path such as /ai or /apps/ai, of letters")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "127.0.0.1/32 ::1/128"),
        ("10.0.0.1", "10.0.0.1/32"),
        (" 10.0.0.0/8 , 2001:db8::/32 ", "10.0.0.0/8 2001:db8::/32"),
        ("*", "0.0.0.0/0 ::/0"),
    ],
)
def test_hops_that_are_trusted(text: str, expected: str) -> None:
    settings = Settings.from_env({"FORWARDED_ALLOW_IPS": text})
    assert " ".join(map(str, settings.forwarded_allow_ips)) == expected


# gunicorn would end with a traceback over each.
@pytest.mark.parametrize(
    "text",
    ["proxy", "10.0.0.1/8", "10.0.0.256", "10.0.0.1, ,::1", "10.0.0.1,", "1", "*.1", "[::1]"],
)
def test_hops_that_are_none_are_refused(text: str) -> None:
    said = refusal(FORWARDED_ALLOW_IPS=text)
    assert said.startswith(
        "FORWARDED_ALLOW_IPS must be addresses or networks such as 10.0.0.0/8"
    )


@pytest.mark.parametrize("name", ["JWT_USER_CLAIM", "JWT_OWNER_CLAIM"])
def test_a_claim_that_says_something_else_names_nobody(name: str) -> None:
    for claim in ("exp", "iat", "nbf", "scope", "aud", "iss"):
        assert refusal(**{name: claim}).startswith(f"{name} must be none of exp")
