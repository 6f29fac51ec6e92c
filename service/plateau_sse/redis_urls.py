"""Addresses of Redis servers, as people write them.

Invariant: one that is taken leads where its author meant; the error for another quotes nothing
of it, since a password may be anywhere in one that is wrong.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit, urlunsplit

FORM = (
    "redis://[user:password@]host[:port][/db], rediss://…, unix://…, "
    "redis+sentinel://[user:password@]host[:port],host[:port]/service[/db] or "
    "redis+cluster://[user:password@]host[:port],host[:port], its password percent-encoded"
)
# What people have for other programs, and what it is called here.
OTHERS = {
    "valkey": "redis://…, which is the same: valkey:// is not supported yet",
    "valkeys": "rediss://…, which is the same: valkeys:// is not supported yet",
    **dict.fromkeys(
        ("sentinel", "redis-sentinel"),
        "redis+sentinel://host[:port],host[:port]/service[/db] for a Sentinel's service",
    ),
    **dict.fromkeys(
        ("cluster", "redis-cluster"), "redis+cluster://host[:port],host[:port] for a cluster"
    ),
}
MANY = (
    "redis+cluster://host,host for a cluster, redis+sentinel://host,host/service for a "
    "Sentinel's service, or the redis://… of one server"
)
SERVICE = "redis+sentinel://host[:port],host[:port]/service[/db]: it names no service"
DATABASE = "redis+cluster://host[:port],host[:port] without a database: a cluster has one only"
PATH = "unix:///path/of/the/socket, with three slashes"
NOWHERE = "redis://host:port/db: it names a port and no host"
OPTION = (
    "rediss://…, rediss+sentinel://… or rediss+cluster://… where it has options of TLS: "
    "ssl_ca_certs, ssl_ca_path, ssl_certfile and ssl_keyfile, ssl_check_hostname, ssl_ciphers, "
    "ssl_min_version (771 for TLS 1.2, 772 for 1.3), ssl_cert_reqs (none, optional or required)"
)
KEY = "a URL with an ssl_certfile where it has an ssl_keyfile"
# How we speak to a server is not for a URL to say.
_OPTION = re.compile(r"(?:(?:db|username|password|ssl_[a-z_]+)=[^=]*)?")
# Sentinels have users of their own, or none.
_SENTINEL_OPTION = re.compile(r"(?:(?:sentinel_(?:username|password)|ssl_[a-z_]+)=[^=]*)?")
_CLUSTER_OPTION = re.compile(r"(?:ssl_[a-z_]+=[^=]*)?")
# Those that both of redis-py's clients take.
_OF_TLS = frozenset(
    (
        *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"),
        *("ssl_certfile", "ssl_keyfile", "ssl_password"),
        *("ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
        *("ssl_include_verify_flags", "ssl_exclude_verify_flags"),
    )
)
_OPTIONS = {"server": _OPTION, "sentinel": _SENTINEL_OPTION, "cluster": _CLUSTER_OPTION}
_DATABASE = re.compile(r"/?[0-9]*")
SENTINEL_PORT, PORT = 26379, 6379

Kind = Literal["server", "sentinel", "cluster"]


class Address(NamedTuple):
    """Where the servers of one role are. `url` is that of the first of `hosts` as a server that
    stands alone: with user, password, database and what TLS needs. `service` is what Sentinels
    call it, `sentinel_url` has their own user and password."""

    kind: Kind
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_url: str = ""

    def at(self, host: str, port: int) -> str:
        """The URL of another of these servers."""
        return _at(self.url, host, port)

    def sentinel_at(self, host: str, port: int) -> str:
        """The URL of one of the Sentinels."""
        return _at(self.sentinel_url, host, port)


def _at(url: str, host: str, port: int) -> str:
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{joined(host, port)}"))


def address_of(url: str) -> Address:
    """Of a URL that `redis_url_of` takes."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind not in ("sentinel", "cluster"):
        return Address("server", url)
    user, at, netloc = parts.netloc.rpartition("@")
    port = SENTINEL_PORT if kind == "sentinel" else PORT
    hosts = tuple(_host(host, port) for host in netloc.split(","))
    options = [option for option in parts.query.split("&") if option]
    theirs = [it for it in options if it.startswith("sentinel_")]
    query = "&".join(it for it in options if it not in theirs)
    service, _, database = parts.path.strip("/").partition("/")
    one = joined(*hosts[0])
    alone = urlunsplit((scheme, f"{user}{at}{one}", f"/{database or 0}", query, ""))
    if kind == "cluster":
        return Address("cluster", alone, hosts)
    asked = "&".join([*(it.removeprefix("sentinel_") for it in theirs), query]).strip("&")
    sentinel_url = urlunsplit((scheme, one, "", asked, ""))
    return Address("sentinel", alone, hosts, unquote(service), sentinel_url)


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or port


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def user_of(url: str) -> str:
    """Whom its server takes for the user."""
    parts = urlsplit(url)
    # As redis-py has it where both are there, or one twice.
    named = parse_qs(parts.query).get("username", [""])[0]
    return unquote(parts.username or "") or named or "default"


def has_password(url: str) -> bool:
    parts = urlsplit(url)
    return parts.password is not None or "password" in parse_qs(parts.query)


def template(url: str, *, asks: bool | None = None, **other: str) -> str:
    """The same address to be filled in: PASSWORD in the place of one, or where the server
    `asks` for it, and no secret. `other`: a scheme or a place (host and port) instead."""
    parts = urlsplit(url)
    user = quote(user_of(url), safe="") if parts.username or "username=" in parts.query else ""
    secret = ":PASSWORD" if (has_password(url) if asks is None else asks) else ""
    place = other.get("place", parts.netloc.rpartition("@")[2])
    options = re.sub(r"((?:ssl|sentinel)_password=)[^&]*", r"\1PASSWORD", parts.query)
    kept = [it for it in options.split("&") if it.startswith(("db=", "ssl_", "sentinel_"))]
    scheme, path = other.get("scheme", parts.scheme), parts.path
    if scheme == "unix" and "place" in other:
        scheme, path = "redis", ""
    who = f"{user}{secret}@" if user or secret else ""
    query = f"?{'&'.join(kept)}" if kept else ""
    return f"{scheme}://{who}{place}{path}{query}"


def redis_url_of(text: str) -> str:
    """A URL that `address_of` and redis-py take; ValueError says what it has to be."""
    # Whoever has such a URL has the library, too; nobody else needs it.
    from redis.asyncio import ConnectionPool
    from redis.exceptions import RedisError

    scheme, found, rest = text.strip().partition("://")
    # One of redis-py's readers takes capitals, the other does not.
    if not found:
        raise ValueError(FORM)
    url = f"{scheme.lower()}{found}{rest}"
    other = OTHERS.get(scheme.lower())
    if other is not None:
        raise ValueError(other)
    try:
        parts = urlsplit(url)
        kind: Kind = address_of(url).kind
        wrong = _shape(kind, parts)
        if not wrong:
            for part in (address_of(url).url, address_of(url).sentinel_url):
                if part:
                    ConnectionPool.from_url(part).make_connection()  # type: ignore[no-untyped-call]
            if _means_it(kind, parts):
                return url
    except (ValueError, TypeError):
        raise ValueError(FORM) from None
    except RedisError:
        raise ValueError(OPTION) from None
    raise ValueError(wrong or FORM)


def _shape(kind: Kind, parts: SplitResult) -> str:
    """What is wrong with how it is put together, '' where nothing is."""
    wrong = _wrong_options(kind, parts)
    if wrong:
        return wrong
    if kind == "server":
        place = parts.netloc.rpartition("@")[2]
        if parts.scheme == "unix":
            # What stands there would be left out of the path.
            return PATH if place else ""
        is_all = not parts.fragment and _are_known(kind, parts)
        if re.fullmatch(r":[0-9]+", place) and is_all:
            return NOWHERE
        return MANY if "," in place else ""
    path = parts.path.strip("/")
    if kind == "sentinel":
        return "" if path else SERVICE
    return "" if path in ("", "0") else DATABASE


def _are_known(kind: Kind, parts: SplitResult) -> bool:
    return all(map(_OPTIONS[kind].fullmatch, parts.query.split("&")))


def _wrong_options(kind: Kind, parts: SplitResult) -> str:
    options = [option for option in parts.query.split("&") if option.startswith("ssl_")]
    of_tls = {option.partition("=")[0] for option in options}
    is_meant = parts.scheme.startswith("rediss") and of_tls <= _OF_TLS
    if of_tls and not (is_meant and all(map(_OPTIONS[kind].fullmatch, options))):
        return OPTION
    said = parse_qs(parts.query)
    if said.get("ssl_min_version", ["771"])[0] not in ("769", "770", "771", "772"):
        return OPTION
    return KEY if "ssl_keyfile" in said and "ssl_certfile" not in said else ""


def _means_it(kind: Kind, parts: SplitResult) -> bool:
    """A `/`, `#` or `?` that is not encoded ends the password: the rest is shown as a path, or
    what stands before it is taken for the server."""
    if not _are_known(kind, parts):
        return False
    if parts.scheme == "unix":
        return parts.path not in ("", "/")
    if kind == "server":
        return parts.port != 0 and bool(_DATABASE.fullmatch(parts.path + parts.fragment))
    if parts.scheme.partition("+")[0] not in ("redis", "rediss") or parts.fragment:
        return False
    hosts = parts.netloc.rpartition("@")[2].split(",")
    ports = [urlsplit(f"//{host}").port for host in hosts]
    if not all(_host(host, PORT)[0] for host in hosts) or 0 in ports:
        return False
    return kind == "cluster" or bool(re.fullmatch(r"/[^/@,]+(?:/[0-9]*)?", parts.path))
