"""What is wrong with the files that deploy Plateau: one function a kind of fault.

Invariant: each fault names its file and what it is about; `faults` of what is shipped is empty.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plateau_sse.api import health
from plateau_sse.serve.redis_server import STOP_WITHIN_S, Role, options
from plateau_sse.settings import Settings, is_loopback
from plateau_sse.store.redis import servers
from plateau_sse.values import parse_size
from tests.deploy_files import (
    BLUEPRINTS,
    DeployFiles,
    Part,
    Service,
    interpolated,
    options_of,
    settings_of,
)
from tests.processes import REPOSITORY

MEMORY = 512 * 1024**2
REDIS_PORT = 6379
LIVE = "/health/live"
# How much of a streams instance's limit its data and its clients may take: the rest is for
# the pages that are copied while the append-only file is rewritten.
STREAMS_MOST, CACHE_MOST = 0.6, 0.5
# Of a server's own, not of its role.
PLACE = {
    "bind",
    "port",
    "protected-mode",
    "daemonize",
    "supervised",
    "loglevel",
    "logfile",
    "dir",
    "proc-title-template",
}
# Of what Render documents of a blueprint, that we use.
FIELDS = {
    "web": {
        "type",
        "name",
        "runtime",
        "plan",
        "numInstances",
        "dockerCommand",
        "healthCheckPath",
        "maxShutdownDelaySeconds",
        "envVars",
    },
    "keyvalue": {"type", "name", "plan", "maxmemoryPolicy", "ipAllowList"},
}
FIELDS["worker"] = FIELDS["web"] - {"healthCheckPath"}


def faults(files: DeployFiles) -> list[str]:
    kinds = (
        _settings,
        _ports,
        _health,
        _compose_redis,
        _compose_order,
        _compose_logs,
        _memory,
        _ends,
        _image,
        _copies,
        _blueprints,
    )
    return [fault for kind in kinds for fault in kind(files)]


def _known(files: DeployFiles) -> Iterator[tuple[Part, Settings]]:
    """The parts whose settings are in order."""
    for part in files.parts():
        settings = settings_of(part)
        if isinstance(settings, Settings):
            yield part, settings


def _settings(files: DeployFiles) -> Iterator[str]:
    for part in files.parts():
        settings = settings_of(part)
        if isinstance(settings, str):
            yield f"{part.where}: {settings}"
    for part, settings in _known(files):
        if part.command != "serve" and not settings.redis_url:
            yield f"{part.where}: no REDIS_URL"
        if part.command != "serve" and not settings.cache_redis_url:
            yield f"{part.where}: no CACHE_REDIS_URL"
        if part.command != "runner" and not settings.api_keys:
            yield f"{part.where}: no API_KEYS"
        # Compose leaves it to whoever starts it.
        if "render" in part.where and part.command != "runner" and not settings.admin_token:
            yield f"{part.where}: no ADMIN_TOKEN"
        if settings.redis_url and settings.redis_url == settings.cache_redis_url:
            yield f"{part.where}: one server for both roles"


def _ports(files: DeployFiles) -> Iterator[str]:
    port = files.image_environment().get("PORT", "")
    if files.image("EXPOSE") != port:
        yield f"Dockerfile: EXPOSE is not PORT={port}"
    for part, settings in _known(files):
        if part.command != "runner" and is_loopback(settings.host):
            yield f"{part.where}: HOST={settings.host} is reached by nobody"
        wanted = f"127.0.0.1:8000:{settings.port}"
        if "compose" in part.where and part.published != (
            (wanted,) if part.command == "web" else ()
        ):
            yield f"{part.where}: ports {part.published}"
        if "render" in part.where and settings.port != 10000:
            yield f"{part.where}: PORT is the host's to say"
    for name, service in files.services().items():
        if "build" not in service and service.get("ports"):
            yield f"docker-compose.yml, {name}: a Redis port is published"


def _health(files: DeployFiles) -> Iterator[str]:
    paths = {route.path for route in health.routes}
    module = ["python", "-m", "plateau_sse.serve.healthcheck"]
    of_image = files.health_of_image()
    if of_image != [*module, LIVE] or LIVE not in paths:
        yield f"Dockerfile: HEALTHCHECK is {of_image}"
    for name, service in files.services().items():
        check = service.get("healthcheck", {}).get("test")
        if "build" not in service:
            if not check:
                yield f"docker-compose.yml, {name}: no health check"
        elif check not in (
            (["CMD", *module, "runner"],) if service["command"] == ["runner"] else (None,)
        ):
            yield f"docker-compose.yml, {name}: the health check is {check}"
    for file in BLUEPRINTS:
        for service in files.blueprints[file]["services"]:
            if service["type"] == "web" and service.get("healthCheckPath") != LIVE:
                yield f"{file}: healthCheckPath is {service.get('healthCheckPath')}"


def _roles(files: DeployFiles) -> dict[str, Role]:
    """The Redis services of docker-compose.yml, by what the parts use them for."""
    found: dict[str, Role] = {}
    for part, settings in _known(files):
        if "compose" in part.where:
            urls: dict[Role, str] = {
                "streams": settings.redis_url,
                "cache": settings.cache_redis_url,
            }
            found |= {urlsplit(url).hostname or "": role for role, url in urls.items()}
    return found


def _compose_redis(files: DeployFiles) -> Iterator[str]:
    roles = _roles(files)
    for part, settings in _known(files):
        for url in (settings.redis_url, settings.cache_redis_url):
            if "compose" in part.where and (
                urlsplit(url).hostname not in files.services()
                or urlsplit(url).port != REDIS_PORT
            ):
                yield f"{part.where}: no such server: {url}"
    for name, role in roles.items():
        service = files.services().get(name, {})
        found = options_of(service.get("command", []))
        wanted = options(role, Settings(), Path("/data"), REDIS_PORT)
        for option in wanted.keys() - PLACE:
            if value_of(found.get(option, "")) != value_of(wanted[option]):
                yield (
                    f"docker-compose.yml, {name}: {option} is {found.get(option)!r}, "
                    f"{role} needs {wanted[option]!r}"
                )
        kept = any(volume.endswith(":/data") for volume in service.get("volumes", ()))
        if role == "streams" and not kept:
            yield f"docker-compose.yml, {name}: what it writes is not kept"


def value_of(text: str) -> str:
    """Sizes as bytes: 64mb is 67108864."""
    return str(_size(text) or text) if text[-1:].isalpha() else text


def _size(text: str) -> int:
    """In bytes; 0 for none."""
    try:
        return parse_size(text)
    except ValueError:
        return 0


def _compose_order(files: DeployFiles) -> Iterator[str]:
    healthy = {name: {"condition": "service_healthy"} for name in _roles(files)}
    for name, service in files.services().items():
        if "build" in service and service.get("depends_on") != healthy:
            yield f"docker-compose.yml, {name}: does not wait for both servers"


def _compose_logs(files: DeployFiles) -> Iterator[str]:
    for name, service in files.services().items():
        if not service.get("logging", {}).get("options", {}).get("max-size"):
            yield f"docker-compose.yml, {name}: its log has no bound"


def _memory(files: DeployFiles) -> Iterator[str]:
    told = interpolated(
        {name: service.get("mem_limit", "") for name, service in files.services().items()}
    )
    limits = {name: _size(limit.replace("m", "mb")) for name, limit in told.items()}
    if sum(limits.values()) != MEMORY:
        shown = ", ".join(f"{name} {limit / 1024**2:g}" for name, limit in limits.items())
        yield f"docker-compose.yml: the memory limits do not add up to 512 MB: {shown}"
    bounds: dict[Role, int] = {}
    for name, role in _roles(files).items():
        found = options_of(files.services().get(name, {}).get("command", []))
        bounds[role] = _size(found.get("maxmemory", ""))
        clients = _size(found.get("maxmemory-clients", ""))
        most = STREAMS_MOST if role == "streams" else CACHE_MOST
        if bounds[role] + clients > most * limits.get(name, 0):
            yield f"docker-compose.yml, {name}: its bounds are too near its memory limit"
    for part, settings in _known(files):
        ours = (settings.stream_max_memory, settings.cache_max_memory)
        if "compose" in part.where and ours != (bounds.get("streams"), bounds.get("cache")):
            yield f"{part.where}: its bounds are not those of the servers"
        if settings.memory_warn_mb * 1024**2 >= MEMORY:
            yield f"{part.where}: MEMORY_WARN_MB is over what there is"


def _ends(files: DeployFiles) -> Iterator[str]:
    for part, settings in _known(files):
        own_servers_s = STOP_WITHIN_S if part.command == "serve" else 0
        needed = settings.graceful_timeout_s + own_servers_s
        if part.grace_s <= needed:
            yield f"{part.where}: killed after {part.grace_s:g} s, needs more than {needed:g}"


def _image(files: DeployFiles) -> Iterator[str]:
    user = files.image("USER").partition(":")[0]
    if not user.isdigit() or int(user) == 0:
        yield f"Dockerfile: it runs as {user or 'root'}"
    for name, wanted in (("ENTRYPOINT", "/usr/local/bin/entrypoint"), ("CMD", "serve")):
        if files.image(name) != f'["{wanted}"]':
            yield f"Dockerfile: {name} is {files.image(name)}"
    installs = [it[1] for it in files.dockerfile if it[0] == "RUN" and "install" in it[1]]
    for step in " && ".join(installs).split("&&"):
        words = shlex.split(step)
        if words[:1] == ["pip"] and "install" in words:
            locked = {"--require-hashes", "requirements/serve.txt"} <= set(words)
            if not locked and not {"--no-deps", "--no-build-isolation"} <= set(words):
                yield f"Dockerfile: not locked: {step.strip()}"
    for name, service in files.services().items():
        if "build" in service and not (service.get("read_only") and service.get("tmpfs")):
            yield f"docker-compose.yml, {name}: its root file system can be written to"


def _copies(files: DeployFiles) -> Iterator[str]:
    let_through = [
        line[1:] for line in files.text[".dockerignore"].splitlines() if line.startswith("!")
    ]
    for instruction in files.dockerfile:
        if instruction[0] != "COPY" or instruction[1].startswith("--from"):
            continue
        for source in instruction[1].split()[:-1]:
            if not (REPOSITORY / source).exists():
                yield f"Dockerfile: there is no {source}"
            if not any(fnmatch.fnmatch(source, pattern) for pattern in let_through):
                yield f".dockerignore: keeps {source} out"


def _blueprints(files: DeployFiles) -> Iterator[str]:
    for file in BLUEPRINTS:
        services = {service["name"]: service for service in files.blueprints[file]["services"]}
        for name, service in services.items():
            unknown = service.keys() - FIELDS.get(service["type"], set())
            if unknown:
                yield f"{file}, {name}: unknown: {', '.join(sorted(unknown))}"
            if service["type"] != "keyvalue" and service.get("runtime") != "docker":
                yield f"{file}, {name}: runtime is {service.get('runtime')}"
            if service["type"] == "keyvalue" and service.get("ipAllowList") != []:
                yield f"{file}, {name}: it can be reached from outside"
            # Free services have no shutdown delay, and free stores keep nothing.
            if service.get("plan") in (None, "free"):
                yield f"{file}, {name}: plan is {service.get('plan')}"
            for variable in service.get("envVars", ()):
                if "fromService" in variable:
                    yield from _reference(f"{file}, {name}", variable, services)


def _reference(
    where: str, variable: dict[str, Any], services: dict[str, Service]
) -> Iterator[str]:
    """Of a variable to a store, which must be what that variable's role needs."""
    role = servers.CACHE if "CACHE" in variable["key"] else servers.STREAMS
    source = variable["fromService"]
    store = services.get(source["name"], {})
    if store.get("type") != source["type"] or source["property"] != "connectionString":
        yield f"{where}: there is no {source['name']} of that type"
    elif store.get("maxmemoryPolicy") != role.policy:
        yield f"{where}, {source['name']}: {role.name} needs {role.policy}"
