"""Settings that are valid, and risky where they come together."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path
from urllib.parse import urlsplit

from plateau_sse import keysfile
from plateau_sse.cli.checks import Finding, ok, warning
from plateau_sse.cli.servers import Server
from plateau_sse.ops.cgroup import cores
from plateau_sse.redis_urls import address_of, has_password, template
from plateau_sse.serve.banner import page_url
from plateau_sse.serve.redis_cli import setting
from plateau_sse.settings import Settings, is_loopback

SECRET = '"$(openssl rand -hex 16)"'  # noqa: S105


def check(settings: Settings, servers: tuple[Server, ...]) -> Iterator[Finding]:
    yield ok("settings", f"all can be read; the service is to be at {page_url(settings)}")
    yield _access(settings)
    yield _admin(settings)
    yield _workers(settings)
    for server in servers:
        if server.url and not server.is_ours:
            yield _encryption(server)


def _access(settings: Settings) -> Finding:
    name = "settings.access"
    if not settings.is_keyless:
        return ok(name, f"{', '.join(_who(settings))}: nobody else is served")
    if is_loopback(settings.host):
        return ok(name, f"HOST={settings.host} and no API_KEYS: for this machine only")
    return warning(
        name,
        f"HOST={settings.host}, ALLOW_ANONYMOUS=1 and no API_KEYS: who reaches it may use it",
        f"API_KEYS={SECRET}",
    )


def _who(settings: Settings) -> Iterator[str]:
    if settings.api_keys:
        yield f"API_KEYS has {len(settings.api_keys)}"
    if settings.api_keys_file:
        found = keysfile.read(Path(settings.api_keys_file)).values()
        yield f"API_KEYS_FILE has {len(found)} of {len({key.owner for key in found})} owners"
    if settings.takes_tokens:
        yield "tokens are taken" + (
            "" if settings.jwt_audience else ", whatever their `aud` (JWT_AUDIENCE)"
        )


def _admin(settings: Settings) -> Finding:
    name = "settings.admin_token"
    if settings.admin_token:
        return ok(name, "ADMIN_TOKEN is set: /api/admin is open to it")
    closed = "ADMIN_TOKEN is not set: /api/admin is closed"
    if is_loopback(settings.host) and settings.is_keyless:
        return ok(name, closed)
    return warning(name, f"{closed}, to whoever runs this, too", f"ADMIN_TOKEN={SECRET}")


def _workers(settings: Settings) -> Finding:
    name = "settings.web_concurrency"
    workers, found = settings.web_concurrency, cores()
    # Two serve on while one of them is replaced, however few cores there are.
    most = max(2, ceil(found))
    if workers <= most:
        return ok(name, f"WEB_CONCURRENCY={workers} on {found:g} cores")
    return warning(
        name,
        f"WEB_CONCURRENCY={workers} on {found:g} cores: more workers cost memory and gain "
        "nothing",
        f"WEB_CONCURRENCY={most}",
    )


def _encryption(server: Server) -> Finding:
    name, address = f"settings.{server.variable.lower()}", address_of(server.url)
    parts = urlsplit(address.url)
    hosts = [host for host, _ in address.hosts] or [parts.hostname or "localhost"]
    if parts.scheme == "unix" or all(map(is_loopback, hosts)):
        return ok(name, f"{server.variable} stays on this machine")
    if parts.scheme == "rediss" and "ssl_cert_reqs=none" in parts.query:
        text = f"{server.variable} is encrypted for whoever answers: it trusts every server"
        trusting = template(server.url).replace("ssl_cert_reqs=none", "ssl_cert_reqs=required")
        return warning(name, text, setting(server.variable, trusting))
    if parts.scheme == "rediss":
        return ok(name, f"{server.variable} is encrypted")
    open_to_all = "" if has_password(address.url) else " and asks for no password"
    scheme = urlsplit(server.url).scheme.replace("redis", "rediss", 1)
    return warning(
        name,
        f"{server.variable} goes to {', '.join(hosts)} in the clear{open_to_all}",
        setting(server.variable, template(server.url, scheme=scheme)),
    )
