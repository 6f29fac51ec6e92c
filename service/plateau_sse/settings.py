"""Every setting, read from the environment in one place.

Invariant: `Settings.from_env` is the only reader of settings in `os.environ`; what it returns
is complete, typed and within range, so nothing behind it checks a setting again.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plateau_sse.errors import SettingsError
from plateau_sse.origins import origins_of

UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1024,
    "m": 10**6,
    "mb": 1024**2,
    "g": 10**9,
    "gb": 1024**3,
}


def parse_size(text: str) -> int:
    """Bytes from Redis' own notation: `10mb` is 10 MiB, `10m` 10,000,000."""
    match = re.fullmatch(r"([0-9]{1,15})([bkmg]{0,2})", text.strip().lower())
    if match is None or match[2] not in UNITS or not int(match[1]):
        # Redis takes 0 for no bound at all.
        raise ValueError("a size such as 10mb")
    return int(match[1]) * UNITS[match[2]]


BODY_BYTES_LEAST, BODY_BYTES_MOST = 16 * 1024, 16 * 1024**2


def _body_size(text: str) -> int:
    size = parse_size(text)
    if not BODY_BYTES_LEAST <= size <= BODY_BYTES_MOST:
        raise ValueError("a size from 16kb to 16mb")
    return size


def _flag(text: str) -> bool:
    values = {
        "1": True,
        "true": True,
        "yes": True,
        "0": False,
        "false": False,
        "no": False,
        "": False,
    }
    if text.strip().lower() not in values:
        raise ValueError("1 or 0")
    return values[text.strip().lower()]


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _redis_url(text: str) -> str:
    """A URL that redis-py takes. The error quotes nothing of it: a password may be anywhere in
    one that is wrong."""
    # Whoever has such a URL has the library, too; nobody else needs it.
    from redis.asyncio import ConnectionPool

    url = text.strip()
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
        parts = urlsplit(url)
        # A `/` or `#` that is not encoded ends the password, and the rest is shown as a path.
        if parts.scheme == "unix" or re.fullmatch(r"/?[0-9]*", parts.path + parts.fragment):
            return url
    except (ValueError, TypeError):
        pass
    raise ValueError(
        "redis://[user:password@]host[:port][/db], rediss://… or unix://…, its password "
        "percent-encoded"
    )


def _endpoint(text: str) -> str:
    """An address that can be asked. The error quotes nothing of it, as above."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    except ValueError:
        pass
    raise ValueError("http://host[:port]/… or https://…")


def _agents(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in _list(text):
        name, equals, target = part.partition("=")
        module, colon, attribute = target.partition(":")
        if not (name.strip() and equals and module.strip() and colon and attribute.strip()):
            raise ValueError("name=module:callable, separated by commas")
        pairs.append((name.strip(), target.strip()))
    return tuple(pairs)


PREFIX_CHARS = 200
# A dot segment would lead somewhere else once a client has resolved it.
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~@:+-]+)*")


def path_prefix(text: str) -> str:
    """What stands before our paths in URLs: '' or `/segments`, without the slash at its end."""
    prefix = text.strip(" \t").removesuffix("/")
    if len(prefix) > PREFIX_CHARS or not _PREFIX.fullmatch(prefix):
        raise ValueError(
            "a path such as /ai or /apps/ai, of letters, digits and -._~@:+, with at most "
            f"{PREFIX_CHARS} characters"
        )
    return prefix


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(text: str) -> tuple[Network, ...]:
    """gunicorn reads the variable, too, and ends with a traceback where it cannot."""
    parts = [part.strip() for part in text.split(",")]
    if parts == ["*"]:
        parts = ["0.0.0.0/0", "::/0"]
    try:
        return tuple(ipaddress.ip_network(part) for part in parts)
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8,::1, or * for all") from None


def _whole(least: int, most: int = 2**31) -> Any:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\s*[0-9]{1,10}\s*", text) or not least <= int(text) <= most:
            raise ValueError(
                f"a whole number from {least}" + (f" to {most}" if most < 2**31 else "")
            )
        return int(text)

    return parse


def _setting(default: Any, parse: Any, text: str, *, secret: bool = False) -> Any:
    """A `secret` is shown neither in an error nor in a repr."""
    described = {"parse": parse, "text": text, "secret": secret}
    return field(default=default, repr=not secret, metadata=described)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One value an environment variable, under the same name in lower case."""

    host: str = _setting("127.0.0.1", str.strip, "address to listen on")
    port: int = _setting(8000, _whole(1, 65535), "port to listen on")
    web_concurrency: int = _setting(2, _whole(1, 64), "web workers")
    data_dir: Path = _setting(
        Path("data"), Path, "where the Redis servers that we start keep their files"
    )
    redis_url: str = _setting(
        "", _redis_url, "streams, runs, conversations; unset: serve starts one", secret=True
    )
    cache_redis_url: str = _setting(
        "", _redis_url, "the answer cache; unset: serve starts one", secret=True
    )
    redis_server_bin: str = _setting(
        "", str.strip, "server to start instead of the bundled one"
    )
    cache_max_memory: int = _setting(
        10 * 1024**2, parse_size, "bound of the cache that we start (10mb)"
    )
    cache_ttl_s: int = _setting(3600, _whole(1), "life of a cached answer")
    stream_max_memory: int = _setting(
        64 * 1024**2, parse_size, "bound of the streams instance (64mb)"
    )
    stream_ttl_s: int = _setting(600, _whole(61), "life of a finished run's record")
    max_requests: int = _setting(
        1000, _whole(0), "responses after which a worker is replaced; 0: never"
    )
    max_requests_jitter: int = _setting(50, _whole(0), "spread of that number")
    worker_timeout_s: int = _setting(120, _whole(5), "silence after which a worker is replaced")
    graceful_timeout_s: int = _setting(20, _whole(3), "time to finish in when stopping")
    run_timeout_s: int = _setting(120, _whole(1), "longest attempt at a run, from its claim")
    queue_timeout_s: int = _setting(60, _whole(1), "longest wait of a run in the queue")
    external_idle_s: int = _setting(
        60, _whole(1), "silence after which an external producer is lost"
    )
    max_attempts: int = _setting(2, _whole(1, 100), "attempts at a run whose runner dies")
    runner_concurrency: int = _setting(32, _whole(1, 1000), "runs at once in a runner")
    queue_limit: int = _setting(1000, _whole(1), "runs that may wait")
    max_messages: int = _setting(10, _whole(1, 1000), "messages kept of a conversation")
    max_content_messages: int = _setting(
        5, _whole(0, 1000), "of which the latest keep their text"
    )
    max_content_length: int = _setting(200, _whole(1), "characters kept of such a text")
    max_body_bytes: int = _setting(
        1024**2, _body_size, "largest body of a request, 16kb to 16mb (1mb)"
    )
    memory_warn_mb: int = _setting(400, _whole(1), "total memory over which health degrades")
    api_keys: tuple[str, ...] = _setting(
        (), _list, "comma-separated keys; each is an owner", secret=True
    )
    admin_token: str = _setting("", str.strip, "opens /api/admin; unset: closed", secret=True)
    allowed_origins: tuple[str, ...] = _setting(
        (), origins_of, "comma-separated origins for CORS"
    )
    allow_anonymous: bool = _setting(False, _flag, "1: serve other addresses without keys")
    root_path: str = _setting(
        "", path_prefix, "path that a proxy serves this under: /ai; see docs/deploy.md"
    )
    forwarded_allow_ips: tuple[Network, ...] = _setting(
        _networks("127.0.0.1,::1"),
        _networks,
        "proxies whose X-Forwarded-Prefix counts: addresses, networks, *; this machine's",
    )
    agents: tuple[tuple[str, str], ...] = _setting(
        (), _agents, "your agents: name=module:callable,…"
    )
    openai_base_url: str = _setting(
        "", _endpoint, "an OpenAI-compatible endpoint, with its /v1", secret=True
    )
    openai_api_key: str = _setting("", str.strip, "its key", secret=True)
    openai_model: str = _setting("", str.strip, "its model where a request names none")
    log_format: str = _setting("text", str.strip, "text or json")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `environ`, the process' own by default; SettingsError names what is wrong."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for setting in fields(cls):
            text = environ.get(setting.name.upper(), "")
            if not text.strip():
                continue
            try:
                values[setting.name] = setting.metadata["parse"](text)
            except ValueError as error:
                shown = "" if setting.metadata["secret"] else f", not {text!r}"
                raise SettingsError(f"{setting.name.upper()} must be {error}{shown}.") from None
        settings = cls(**values)
        settings._check()
        return settings

    @property
    def silence_s(self) -> int:
        """The longest that a run may be silent before somebody ends it."""
        return max(self.run_timeout_s, self.queue_timeout_s, self.external_idle_s)

    @property
    def run_life_s(self) -> int:
        """By when a run has ended, whatever became of it."""
        return self.queue_timeout_s + self.max_attempts * self.run_timeout_s

    @property
    def job_bytes(self) -> int:
        """What is kept of a request while it is answered, at most: its body, what its
        conversation remembers (six bytes are the longest escape in JSON), and what stands
        around both."""
        remembered = self.max_content_messages * (6 * self.max_content_length + 64)
        return self.max_body_bytes + remembered + 4096

    def _check(self) -> None:
        if self.log_format not in ("text", "json"):
            raise SettingsError(f"LOG_FORMAT must be text or json, not {self.log_format!r}.")
        if not (self.api_keys or self.allow_anonymous or is_loopback(self.host)):
            raise SettingsError(
                f"HOST={self.host} would let anyone who reaches this machine use it: set "
                "API_KEYS, or ALLOW_ANONYMOUS=1 if that is meant, or bind to 127.0.0.1."
            )
        if any(len(key) < 8 or not key.isascii() for key in self.api_keys):
            raise SettingsError(
                "Each of API_KEYS must have at least 8 characters, all of them ASCII."
            )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def help_text() -> str:
    """The table of settings that `plateau serve --help` ends with."""
    lines = ["settings (environment variables):"]
    for setting in fields(Settings):
        default = setting.default
        shown = (
            f" [{default}]"
            if isinstance(default, int | str | Path) and default not in ("", False)
            else ""
        )
        if setting.metadata["parse"] in (parse_size, _body_size):
            shown = ""
        lines.append(f"  {setting.name.upper():<22} {setting.metadata['text']}{shown}")
    return "\n".join(lines)
