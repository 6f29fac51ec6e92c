"""A service with keys: who may see and do what, and that no secret is kept or logged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.integration.api_client import (
    SSE,
    api_serving,
    ask,
    assert_problem,
    elsewhere,
    finish,
    follow,
    nothing_stays,
    record_of,
    text_of,
    unique,
    wait_for_status,
)
from tests.processes import Serving

ANN, BOB = "key-of-ann-12345", "key-of-bob-67890"
ROUTES = [("GET", ""), ("GET", "/events"), ("POST", "/cancel")]


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(
        tmp_path_factory.mktemp("access"), {"API_KEYS": f"{ANN}, {BOB}"}
    ) as running:
        yield running


def opened(plateau: Serving, key: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=plateau.url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="module")
def ann(plateau: Serving) -> Iterator[httpx.Client]:
    with opened(plateau, ANN) as client:
        yield client


@pytest.fixture(scope="module")
def bob(plateau: Serving) -> Iterator[httpx.Client]:
    with opened(plateau, BOB) as client:
        yield client


@pytest.fixture(scope="module")
def nobody(plateau: Serving) -> Iterator[httpx.Client]:
    with opened(plateau) as client:
        yield client


@pytest.fixture(scope="module")
def run(ann: httpx.Client) -> dict[str, Any]:
    return finish(ann, "echo")


@pytest.fixture(scope="module")
def hit(ann: httpx.Client) -> dict[str, Any]:
    text = unique()
    finish(ann, "echo", text)
    return ask(ann, "echo", text)


def token_of(run: dict[str, Any]) -> str:
    return str(run["events_url"].partition("?token=")[2])


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong-key",
        f"Bearer {ANN}x",
        f"Bearer {ANN[:-1]}",
        f"Bearer {ANN.upper()}",
        f"Bearer {ANN}, {BOB}",
        f"Bearer {ANN} {BOB}",
        f"Basic {ANN}",
        ANN,
        "Bearer " + "k" * 20_000,
    ],
)
def test_no_key_and_wrong_keys(
    plateau: Serving, nobody: httpx.Client, run: dict[str, Any], authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    headers |= elsewhere()
    body = {"agent": "echo", "input": unique()}
    with nothing_stays(plateau):
        answers = [
            nobody.post("/v1/runs", json=body, headers=headers),
            nobody.post("/v1/runs", json=body, headers=headers | SSE),
            # Who may not ask is not told what is wrong with the question.
            nobody.post("/v1/runs", content=b"{", headers=headers),
            *(
                nobody.request(method, f"/v1/runs/{run['id']}{rest}", headers=headers)
                for method, rest in ROUTES
            ),
        ]
    for response in answers:
        assert_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_may_be_written_in_any_case(nobody: httpx.Client, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {BOB}", "Prefer": "wait=30"}
    body = {"agent": "echo", "input": unique()}
    assert nobody.post("/v1/runs", json=body, headers=headers).status_code == 200


def test_a_wrong_key_is_not_made_good_by_a_token(
    nobody: httpx.Client, run: dict[str, Any]
) -> None:
    wrong = {"Authorization": "Bearer wrong-key"}
    assert_problem(nobody.get(run["events_url"], headers=wrong), 401, "unauthorized")


def test_the_run_of_another_owner_is_as_if_it_were_not(
    bob: httpx.Client, run: dict[str, Any], hit: dict[str, Any]
) -> None:
    for found in (run, hit):
        for method, rest in ROUTES:
            path = f"/v1/runs/{found['id']}{rest}"
            # Not even with its token: whoever sends a key is asked for that one.
            for query in ("", f"?token={token_of(found)}"):
                response = bob.request(method, path + query)
                problem = assert_problem(response, 404, "run_not_found")
    never = bob.get("/v1/runs/" + "f" * 32)
    assert never.json() == problem


def test_a_token_alone_opens_its_run(nobody: httpx.Client, run: dict[str, Any]) -> None:
    assert text_of(follow(nobody, run["events_url"])) == run["output"]
    record = nobody.get(f"/v1/runs/{run['id']}?token={token_of(run)}")
    assert record.json()["output"] == run["output"]
    assert_problem(nobody.post(run["cancel_url"]), 409, "run_finished")


def test_a_token_alone_opens_its_hit(nobody: httpx.Client, hit: dict[str, Any]) -> None:
    assert text_of(follow(nobody, hit["events_url"])) == hit["output"]
    assert nobody.get(f"/v1/runs/{hit['id']}?token={token_of(hit)}").json()["cached"] is True


def test_a_token_cancels_its_run(
    ann: httpx.Client, nobody: httpx.Client, tmp_path: Path
) -> None:
    run = ask(ann, "slow", options={"gate": str(tmp_path / "never")})
    wait_for_status(ann, run, "running")
    assert nobody.post(run["cancel_url"]).status_code == 202
    wait_for_status(ann, run, "cancelled")


def test_a_token_opens_nothing_else(
    plateau: Serving, nobody: httpx.Client, run: dict[str, Any], hit: dict[str, Any]
) -> None:
    with nothing_stays(plateau):
        for mine, other in ((run, hit), (hit, run)):
            for method, rest in ROUTES:
                path = f"/v1/runs/{other['id']}{rest}?token={token_of(mine)}"
                assert_problem(nobody.request(method, path), 401, "invalid_token")
        body = {"agent": "echo", "input": unique()}
        for headers in ({}, {"Authorization": f"Bearer {token_of(run)}"}):
            url = f"/v1/runs?token={token_of(run)}"
            assert_problem(nobody.post(url, json=body, headers=headers), 401, "unauthorized")


def test_a_key_is_no_token(nobody: httpx.Client, run: dict[str, Any]) -> None:
    for method, rest in ROUTES:
        path = f"/v1/runs/{run['id']}{rest}"
        assert_problem(nobody.request(method, f"{path}?token={ANN}"), 401, "invalid_token")
        assert_problem(nobody.request(method, f"{path}?key={ANN}"), 401, "unauthorized")


def test_owners_do_not_share_answers(ann: httpx.Client, bob: httpx.Client) -> None:
    body = {"agent": "echo", "input": unique()}
    assert finish(ann, **body)["cached"] is False
    assert finish(bob, **body)["cached"] is False
    mine, theirs = ask(ann, **body), ask(bob, **body)
    assert mine["cached"] and theirs["cached"]
    assert mine["id"] != theirs["id"]
    assert record_of(ann, mine)["output"] == record_of(bob, theirs)["output"]


@pytest.mark.parametrize(
    "path", ["/", "/client.js", "/health", "/health/ready", "/openapi.json"]
)
def test_what_needs_no_key(nobody: httpx.Client, path: str) -> None:
    assert nobody.get(path).status_code == 200


def test_no_secret_is_logged_or_kept(
    plateau: Serving, ann: httpx.Client, nobody: httpx.Client, tmp_path: Path
) -> None:
    secret = "sk-not-to-be-seen-anywhere"
    failed = finish(ann, "failing")
    running = ask(ann, "slow", options={"gate": str(tmp_path / "gate")})
    (tmp_path / "gate").touch()
    wait_for_status(ann, running, "completed")
    for client in (ann, nobody):
        client.get(f"/v1/runs/{failed['id']}/events?token={secret}")
        client.post(f"/v1/runs/{failed['id']}/cancel?token={token_of(failed)}")
        client.get("/v1/runs", headers={"Authorization": f"Bearer {secret}"})
        client.post("/v1/runs", content=b"{", headers={"Authorization": f"Bearer {secret}"})
    output = plateau.stdout + plateau.stderr
    # The agent's error is there, so it is this log that was looked through.
    assert "agent failing failed" in output
    for hidden in (ANN, BOB, secret, token_of(failed), token_of(running)):
        assert hidden not in output
    for url in (plateau.streams_url, plateau.cache_url):
        with Redis.from_url(url, protocol=2) as redis:
            kept = b"".join([redis.dump(key) or b"" for key in redis.scan_iter()])
        assert ANN.encode() not in kept and secret.encode() not in kept
