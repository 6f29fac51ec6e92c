"""Every setting, read from the environment in one place.

Invariant: `Settings.from_env` is the only reader of settings in `os.environ`; what it returns
is complete, typed and within range, so nothing behind it checks a setting again.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plateau_sse import keysfile, values
from plateau_sse.errors import SettingsError
from plateau_sse.origins import origins_of
from plateau_sse.redis_urls import redis_url_of

JWT_SECRET_BYTES = 32
# What they say in a token is said of itself, and of nobody.
JWT_OWN_CLAIMS = ("exp", "iat", "nbf", "scope", "aud", "iss")
# Their defaults are in their texts, in the notation that is read.
SIZES = (values.cache_memory, values.stream_memory, values.body_size)
# Names of files, which may hold any byte.
PATHS = ("data_dir", "redis_server_bin", "api_keys_file")
# The commands that run a part of the service; `serve` runs all of it.
WEB, RUNNER = "web", "runner"


def _setting(
    default: Any,
    parse: Any,
    text: str,
    *,
    of: tuple[str, ...] = (WEB, RUNNER),
    secret: bool = False,
) -> Any:
    """A `secret` is shown neither in an error nor in a repr; `of` is where it has an effect
    beside `serve`."""
    described = {"parse": parse, "text": text, "secret": secret, "of": of}
    return field(default=default, repr=not secret, metadata=described)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One value an environment variable, under the same name in lower case."""

    host: str = _setting("127.0.0.1", str.strip, "address to listen on", of=(WEB,))
    port: int = _setting(8000, values.whole(1, 65535), "port to listen on", of=(WEB,))
    web_concurrency: int = _setting(2, values.whole(1, 64), "web workers", of=(WEB,))
    data_dir: Path = _setting(
        Path("data"), Path, "where the Redis servers that we start keep their files", of=()
    )
    redis_url: str = _setting(
        "", redis_url_of, "streams, runs, conversations; unset: serve starts one", secret=True
    )
    cache_redis_url: str = _setting(
        "", redis_url_of, "the answer cache; unset: serve starts one", secret=True
    )
    key_prefix: str = _setting(
        "", values.key_prefix, "what the names of all keys begin with, for who shares a server"
    )
    wait_replicas: int = _setting(
        0, values.whole(0, 9), "replicas that must have a new run, and an end, before it counts"
    )
    redis_server_bin: str = _setting(
        "", str.strip, "server to start instead of the bundled one", of=()
    )
    cache_max_memory: int = _setting(
        10 * 1024**2,
        values.cache_memory,
        "bound of the cache that we start (10mb)",
        of=(RUNNER,),
    )
    cache_ttl_s: int = _setting(3600, values.whole(1), "life of a cached answer", of=(RUNNER,))
    stream_max_memory: int = _setting(
        64 * 1024**2, values.stream_memory, "bound of the streams instance (64mb)"
    )
    stream_ttl_s: int = _setting(600, values.whole(61), "life of a finished run's record")
    worker_max_memory: int = _setting(
        0,
        values.worker_memory,
        "memory over which a worker takes no more streams (120mb); 0: any",
        of=(WEB,),
    )
    max_requests: int = _setting(
        1000, values.whole(0), "responses after which a worker is replaced; 0: never", of=(WEB,)
    )
    max_requests_jitter: int = _setting(50, values.whole(0), "spread of that number", of=(WEB,))
    worker_timeout_s: int = _setting(
        120, values.whole(5), "silence after which a worker is replaced", of=(WEB,)
    )
    graceful_timeout_s: int = _setting(20, values.whole(3), "time to finish in when stopping")
    run_timeout_s: int = _setting(
        120, values.whole(1), "longest attempt at a run, from its claim"
    )
    queue_timeout_s: int = _setting(60, values.whole(1), "longest wait of a run in the queue")
    external_idle_s: int = _setting(
        60, values.whole(1), "silence after which an external producer is lost"
    )
    max_attempts: int = _setting(2, values.whole(1, 100), "attempts at a run whose runner dies")
    runner_concurrency: int = _setting(
        32, values.whole(1, 1000), "runs at once in a runner", of=(RUNNER,)
    )
    queue_limit: int = _setting(1000, values.whole(1), "runs that may wait", of=(WEB,))
    rate_limit: int = _setting(
        0, values.whole(0, 1_000_000), "runs an owner may begin in a minute; 0: any", of=(WEB,)
    )
    readers_limit: int = _setting(
        0, values.whole(0, 1_000_000), "streams an owner may have open; 0: any", of=(WEB,)
    )
    max_messages: int = _setting(10, values.whole(1, 1000), "messages kept of a conversation")
    max_content_messages: int = _setting(
        5, values.whole(0, 1000), "of which the latest keep their text"
    )
    max_content_length: int = _setting(200, values.whole(1), "characters kept of such a text")
    max_body_bytes: int = _setting(
        1024**2, values.body_size, "largest body of a request, 16kb to 16mb (1mb)", of=(WEB,)
    )
    memory_warn_mb: int = _setting(
        400, values.whole(1), "total memory over which health degrades", of=(WEB,)
    )
    api_keys: tuple[str, ...] = _setting(
        (), values.listed, "comma-separated keys; each is an owner", secret=True, of=(WEB,)
    )
    api_keys_file: str = _setting(
        "", str.strip, "file of digests of keys, read again when it changes", of=(WEB,)
    )
    jwt_secret: str = _setting(
        "", str.strip, "what tokens of users are signed with (HS256)", secret=True, of=(WEB,)
    )
    jwt_jwks_url: str = _setting(
        "",
        values.endpoint,
        "keys of such tokens, instead; takes plateau-sse[jwks]",
        secret=True,
        of=(WEB,),
    )
    jwt_audience: str = _setting("", str.strip, "what their `aud` must be", of=(WEB,))
    jwt_issuer: str = _setting("", str.strip, "what their `iss` must be", of=(WEB,))
    jwt_owner_claim: str = _setting(
        "", str.strip, "claim that names the owner; unset: one for all", of=(WEB,)
    )
    jwt_user_claim: str = _setting("sub", str.strip, "claim that names the user", of=(WEB,))
    admin_token: str = _setting(
        "", str.strip, "opens /api/admin; unset: closed", secret=True, of=(WEB,)
    )
    allowed_origins: tuple[str, ...] = _setting(
        (), origins_of, "comma-separated origins for CORS", of=(WEB,)
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        values.hosts,
        "names it may be asked as, by commas; without keys: this machine's",
        of=(WEB,),
    )
    allow_anonymous: bool = _setting(
        False, values.flag, "1: serve other addresses without keys", of=(WEB,)
    )
    root_path: str = _setting(
        "",
        values.path_prefix,
        "path that a proxy serves this under: /ai; see docs/deploy.md",
        of=(WEB,),
    )
    forwarded_allow_ips: tuple[values.Network, ...] = _setting(
        values.networks("127.0.0.1,::1"),
        values.networks,
        "proxies whose X-Forwarded-Prefix counts: addresses, networks, *; this machine's",
        of=(WEB,),
    )
    agents: tuple[tuple[str, str], ...] = _setting(
        (),
        values.agents,
        "your agents: name=module:object,…; -study: without it",
        of=(RUNNER,),
    )
    agent_version: str = _setting(
        "",
        str.strip,
        "a part of the version of hosted agents: for prompts from elsewhere",
        of=(RUNNER,),
    )
    openai_base_url: str = _setting(
        "",
        values.endpoint,
        "an OpenAI-compatible endpoint, with its /v1",
        secret=True,
        of=(RUNNER,),
    )
    openai_api_key: str = _setting("", str.strip, "its key", secret=True, of=(RUNNER,))
    openai_auth_header: str = _setting(
        "Authorization",
        values.header,
        "header that the key goes in: api-key for Azure",
        of=(RUNNER,),
    )
    openai_model: str = _setting("", str.strip, "its model where a request names none")
    openai_models: tuple[str, ...] = _setting(
        (), values.listed, "its other models that a request may name, by commas"
    )
    openai_fallback_models: tuple[str, ...] = _setting(
        (),
        values.listed,
        "its models that are asked where the first fails, in turn",
        of=(RUNNER,),
    )
    openai_silence_s: int = _setting(
        60,
        values.whole(1),
        "longest silence of it between two pieces of an answer",
        of=(RUNNER,),
    )
    openai_options_deny: tuple[str, ...] = _setting(
        (), values.listed, "options that it is not given, by commas: service_tier", of=(RUNNER,)
    )
    webhook_url: str = _setting(
        "",
        values.endpoint,
        "where the end of each run is posted; see docs/deploy.md",
        secret=True,
    )
    webhook_secret: bytes = _setting(
        b"",
        values.signing_secret,
        "what that is signed with: whsec_ and base64",
        secret=True,
        of=(RUNNER,),
    )
    otel_exporter_otlp_endpoint: str = _setting(
        "",
        values.endpoint,
        "where traces go, by OTLP over HTTP; needs plateau-sse[otel]",
        secret=True,
    )
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
            if setting.name not in PATHS and not _is_utf8(text):
                # Nobody could sign with it, send it or write it down.
                raise SettingsError(f"{setting.name.upper()} must be text in UTF-8.")
            try:
                values[setting.name] = setting.metadata["parse"](text)
            except ValueError as error:
                shown = "" if setting.metadata["secret"] else f", not {text!r}"
                raise SettingsError(f"{setting.name.upper()} must be {error}{shown}.") from None
        settings = cls(**values)
        settings._check()
        return settings

    @property
    def takes_tokens(self) -> bool:
        """Whether users may come with tokens of their own."""
        return bool(self.jwt_secret or self.jwt_jwks_url)

    @property
    def is_keyless(self) -> bool:
        """Whether nobody is asked who they are."""
        return not (self.api_keys or self.api_keys_file or self.takes_tokens)

    @property
    def silence_s(self) -> int:
        """The longest that a run may be silent before somebody ends it."""
        return max(self.run_timeout_s, self.queue_timeout_s, self.external_idle_s)

    @property
    def run_life_s(self) -> int:
        """By when a run that is asked for has ended, whatever became of it."""
        return self.queue_timeout_s + self.begun_life_s

    @property
    def begun_life_s(self) -> int:
        """By when one has ended that is begun: however often it is handed back, it has the time
        of all its attempts, and may wait as long as one that is new."""
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
        if bool(self.webhook_url) != bool(self.webhook_secret):
            raise SettingsError(
                "WEBHOOK_URL and WEBHOOK_SECRET belong together: whoever is posted to knows "
                "by the signature that it is us. Set both, or neither."
            )
        if self.is_keyless and not (self.allow_anonymous or is_loopback(self.host)):
            raise SettingsError(
                f"HOST={self.host} would let anyone who reaches this machine use it: set "
                "API_KEYS, or ALLOW_ANONYMOUS=1 if that is meant, or bind to 127.0.0.1."
            )
        if self.otel_exporter_otlp_endpoint and not _has_exporter():
            raise SettingsError(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, which needs another package: "
                "pip install 'plateau-sse[otel]'"
            )
        if any(len(key) < 8 or not key.isascii() for key in self.api_keys):
            raise SettingsError(
                "Each of API_KEYS must have at least 8 characters, all of them ASCII."
            )
        if self.api_keys_file:
            keysfile.read(Path(self.api_keys_file))
        self._check_tokens()
        if self.admin_token and (len(self.admin_token) < 8 or not self.admin_token.isascii()):
            raise SettingsError(
                "ADMIN_TOKEN must have at least 8 characters, all of them ASCII, as of: "
                "openssl rand -hex 16"
            )
        if self.admin_token and self.admin_token in self.api_keys:
            raise SettingsError(
                "ADMIN_TOKEN must not be one of API_KEYS: whoever asks could administer."
            )

    def _check_tokens(self) -> None:
        if self.jwt_secret and self.jwt_jwks_url:
            raise SettingsError("Set JWT_SECRET or JWT_JWKS_URL, not both.")
        for name in ("jwt_user_claim", "jwt_owner_claim"):
            if getattr(self, name) in JWT_OWN_CLAIMS:
                raise SettingsError(
                    f"{name.upper()} must be none of {', '.join(JWT_OWN_CLAIMS)}, which say "
                    "something else: sub, org, …"
                )
        if self.jwt_secret.startswith("-----BEGIN"):
            raise SettingsError(
                "JWT_SECRET is a secret that both sides know; the keys of those who sign with "
                "one of two halves are fetched from JWT_JWKS_URL."
            )
        if self.jwt_secret and len(self.jwt_secret.encode()) < JWT_SECRET_BYTES:
            # RFC 7518, 3.2; whoever has a token can try secrets as fast as a machine goes.
            raise SettingsError(
                f"JWT_SECRET must have at least {JWT_SECRET_BYTES} bytes, as of: "
                "openssl rand -hex 32"
            )
        if self.jwt_jwks_url and find_spec("cryptography") is None:
            raise SettingsError(
                "JWT_JWKS_URL takes a package that is not there: "
                "pip install 'plateau-sse[jwks]'"
            )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_exporter() -> bool:
    """Of traces: all of it, since an application may have brought a part."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def help_text(command: str = "serve") -> str:
    """The table of settings that `plateau COMMAND --help` ends with: those that have an effect
    there."""
    lines = ["settings (environment variables):"]
    for setting in fields(Settings):
        if command != "serve" and command not in setting.metadata["of"]:
            continue
        default = setting.default
        shown = (
            f" [{default}]"
            if isinstance(default, int | str | Path) and default not in ("", False)
            else ""
        )
        if setting.metadata["parse"] in SIZES:
            shown = ""
        lines.append(f"  {setting.name.upper():<22} {setting.metadata['text']}{shown}")
    return "\n".join(lines)
