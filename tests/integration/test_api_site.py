"""Health, the pages, the OpenAPI document, and what no route is there for."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from plateau_sse import __version__, api
from tests.integration.api_client import api_serving, assert_problem, finish
from tests.processes import Serving

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PAGES = {
    "/": "text/html; charset=utf-8",
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/client.js": "text/javascript; charset=utf-8",
    "/answer.js": "text/javascript; charset=utf-8",
    "/talk.js": "text/javascript; charset=utf-8",
    "/turn.js": "text/javascript; charset=utf-8",
    "/requests.js": "text/javascript; charset=utf-8",
    "/history.js": "text/javascript; charset=utf-8",
    "/snippets.js": "text/javascript; charset=utf-8",
    "/conversation.js": "text/javascript; charset=utf-8",
    "/markdown.js": "text/javascript; charset=utf-8",
    "/asking.js": "text/javascript; charset=utf-8",
    "/log.js": "text/javascript; charset=utf-8",
    "/smd.js": "text/javascript; charset=utf-8",
    "/ops": "text/html; charset=utf-8",
    "/ops.css": "text/css; charset=utf-8",
    "/ops.js": "text/javascript; charset=utf-8",
    "/figures.js": "text/javascript; charset=utf-8",
    "/live.js": "text/javascript; charset=utf-8",
    "/chart.js": "text/javascript; charset=utf-8",
    "/docs": "text/html; charset=utf-8",
    "/docs.css": "text/css; charset=utf-8",
    "/docs.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


# Health


def test_the_whole_picture(client: httpx.Client) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    report = response.json()
    assert report["status"] == "up"
    components = {"streams", "cache", "delivery", "runner", "queue", "memory", "web"}
    assert set(report["components"]) == components
    assert all(part["status"] == "up" for part in report["components"].values())
    assert report["components"]["runner"]["alive"] == 1
    assert report["components"]["memory"]["total_mb"] > 10
    assert report["components"]["cache"]["policy"] == "allkeys-lru"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_a_probe(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "up"})
    assert response.headers["cache-control"] == "no-store"
    assert client.head(path).status_code == 200


# Pages


@pytest.mark.parametrize("path", PAGES)
def test_a_page(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == PAGES[path]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    # Always asked for again, seldom sent again.
    assert response.headers["cache-control"] == "no-cache"
    tag = response.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', f'W/"other",W/{tag}', "*"):
        unchanged = client.get(path, headers={"If-None-Match": known})
        assert (unchanged.status_code, unchanged.content) == (304, b""), known
        assert unchanged.headers["etag"] == tag
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(response.content))


@pytest.mark.parametrize("path", ["/", "/ops", "/docs"])
def test_a_page_holds_nothing_that_its_policy_forbids(client: httpx.Client, path: str) -> None:
    page = client.get(path).text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
    loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"([^\"]+)\"", page)
    assert loaded and all(not re.match(r"(?:[a-z]+:)?//", address) for address in loaded)


def test_the_client_module_may_be_imported_from_anywhere(client: httpx.Client) -> None:
    for origin in ("https://anywhere.example", "null"):
        response = client.get("/client.js", headers={"Origin": origin})
        assert response.headers.get_list("access-control-allow-origin") == ["*"]
        assert response.headers["cross-origin-resource-policy"] == "cross-origin"


# The OpenAPI document


def routes() -> set[tuple[str, str]]:
    """Path and method of all that the modules of plateau_sse.api serve."""
    found = set()
    for module in pkgutil.iter_modules(api.__path__):
        for route in getattr(
            importlib.import_module(f"plateau_sse.api.{module.name}"), "routes", []
        ):
            assert isinstance(route, Route)
            assert route.methods
            # Names in a path of the document may hold slashes as they are.
            path = route.path.replace(":path}", "}")
            found |= {(path, method) for method in route.methods - {"HEAD"}}
    return found


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (path, method.upper()): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method.upper() in METHODS
    }


def test_the_document_lists_the_routes_and_nothing_else(document: dict[str, Any]) -> None:
    assert set(operations(document)) == routes()


def fill(path: str) -> str:
    path = path.replace("{run_id}", "f" * 32).replace("{conversation_id}", "none")
    return path.replace("{model}", "none").replace("{chat_id}", "none")


def is_event_stream(response: httpx.Response) -> bool:
    return "text/event-stream" in response.headers.get("content-type", "")


def test_a_method_is_answered_where_it_is_described_and_nowhere_else(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    described = operations(document)
    for path in document["paths"]:
        for method in METHODS:
            # The head says it all; events of a conversation go on for ever.
            with client.stream(method, fill(path)) as response:
                if not is_event_stream(response):
                    response.read()
            if (path, method) in described:
                if response.headers.get("content-type") == "application/problem+json":
                    code = response.json()["code"]
                    assert code not in ("not_found", "method_not_allowed"), (path, method)
                continue
            if path.startswith(
                ("/v1/chat/", "/v1/models", "/v1/responses", "/api/chat", "/agui")
            ):
                # In the shape of their own.
                assert response.status_code == 405, (path, method)
            else:
                assert_problem(response, 405, "method_not_allowed")
            allowed = set(response.headers["allow"].replace(" ", "").split(","))
            assert allowed - {"HEAD"} == {verb for at, verb in described if at == path}


def test_the_document_is_well_formed(client: httpx.Client, document: dict[str, Any]) -> None:
    response = client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert document["openapi"].startswith("3.1.")
    assert (document["info"]["title"], document["info"]["version"]) == ("Plateau", __version__)
    for (path, method), operation in operations(document).items():
        where = f"{method} {path}"
        assert operation["summary"], where
        own = operation.get("parameters", [])
        parameters = [*document["paths"][path].get("parameters", []), *own]
        names = [(parameter["name"], parameter["in"]) for parameter in parameters]
        assert len(names) == len(set(names)), where
        in_path = {name for name, place in names if place == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), where
        for parameter in parameters:
            assert parameter["in"] in ("path", "query", "header"), where
            assert parameter["schema"], where
            assert parameter.get("required", False) is (parameter["in"] == "path"), where
        assert operation["responses"], where
        for status, answer in operation["responses"].items():
            assert re.fullmatch(r"[2-5]\d\d", status), where
            assert answer["description"], where
        schemes = document["components"]["securitySchemes"]
        for requirement in operation.get("security", document["security"]):
            assert set(requirement) <= set(schemes), where


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for member in node.values():
            yield from references(member)
    elif isinstance(node, list):
        for member in node:
            yield from references(member)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert found
    for reference in found:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert isinstance(node, dict)
    named = {reference.rpartition("/")[2] for reference in found}
    assert named == set(document["components"]["schemas"])


def test_the_document_describes_a_run_as_it_is(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    described = schemas["Run"]
    for agent in ("echo", "failing"):
        run = finish(client, agent)
        assert set(run) <= set(described["properties"])
        assert set(described["required"]) <= set(run)
        assert run["status"] in described["properties"]["status"]["enum"]
    request = schemas["RunRequest"]
    assert request["required"] == ["agent"]
    assert request["additionalProperties"] is False


# Nothing there


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/runs/x/y", "/page.html"])
def test_a_path_that_nothing_is_at(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path), 404, "not_found")


def test_a_slash_too_many_is_another_path(client: httpx.Client) -> None:
    # A redirect would repeat whatever `Host` the client sent.
    assert_problem(client.get("/health/live/"), 404, "not_found")
