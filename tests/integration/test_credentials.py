"""Every route of the router × every kind of credential: exact statuses.

Invariant: a route without a rule here fails. The routes come from the application itself.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from redis import Redis

from plateau_sse.app import create_app
from plateau_sse.settings import Settings
from tests import tokens
from tests.integration.api_client import (
    api_serving,
    ask,
    assert_problem,
    elsewhere,
    finish,
    unique,
    wait_for_status,
)
from tests.processes import Serving
from tests.tokens import token, unsigned

ANN, BOB, ADMIN = "key-of-ann-12345", "key-of-bob-67890", "token-of-the-operators"
OPEN, ADMINS = "open", "admin"


class Rule(NamedTuple):
    """What a route answers: `mine` to who may, `others` to who has a good credential that is
    another's, `run_token` to the run's own token. `scope` is what a token needs, None for any;
    `own`: the object is somebody's."""

    scope: str | None
    mine: int
    others: int = 404
    run_token: int = 401
    own: bool = True
    body: Any = None


def _new(body: Any, status: int = 200) -> Rule:
    return Rule("runs:create", status, status, own=False, body=body)


_ASKED = {"agent": "echo", "input": "Hello", "cache": {"mode": "off"}}
_CHAT = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
_UI = {
    "id": "another-chat",
    "messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}],
}
_AGUI = {
    "threadId": "another-thread",
    "runId": "r1",
    "messages": [{"id": "1", "role": "user", "content": "Hello"}],
}
# It ends with its reader.
FOLLOWED = "/v1/conversations/{conversation_id}/events"
RULES: dict[tuple[str, str], Rule | str] = {
    ("POST", "/v1/runs"): _new(_ASKED, 202),
    ("GET", "/v1/runs"): Rule("runs:read", 200, 200, own=False),
    ("GET", "/v1/runs/{run_id}"): Rule("runs:read", 200, run_token=200),
    ("GET", "/v1/runs/{run_id}/events"): Rule("runs:read", 200, run_token=200),
    ("POST", "/v1/runs/{run_id}/events"): Rule("runs:create", 409, body=[]),
    ("POST", "/v1/runs/{run_id}/cancel"): Rule("runs:create", 409, run_token=409),
    ("GET", "/v1/conversations"): Rule("conversations", 200, 200, own=False),
    # Another's is as one that has not begun.
    ("GET", FOLLOWED): Rule("conversations", 200, 200),
    ("GET", "/v1/conversations/{conversation_id}"): Rule("conversations", 200, 200),
    ("DELETE", "/v1/conversations/{conversation_id}"): Rule("conversations", 204, 204),
    ("DELETE", "/api/admin/cache"): ADMINS,
    ("GET", "/api/admin/metrics"): ADMINS,
    ("GET", "/api/admin/runs"): ADMINS,
    ("POST", "/api/admin/runs/{run_id}/cancel"): ADMINS,
    ("GET", "/metrics"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/health/live"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("POST", "/v1/chat/completions"): _new(_CHAT),
    ("GET", "/v1/agents"): Rule(None, 200, 200, own=False),
    ("GET", "/v1/models"): Rule(None, 200, 200, own=False),
    ("GET", "/v1/models/{model:path}"): Rule(None, 200, 200, own=False),
    ("POST", "/v1/responses"): _new({"model": "echo", "input": "Hello"}),
    ("GET", "/v1/responses/{response_id}"): Rule("runs:read", 200),
    ("POST", "/v1/responses/{response_id}/cancel"): Rule("runs:create", 200),
    ("DELETE", "/v1/responses/{response_id}"): Rule("runs:create", 200),
    ("POST", "/api/chat"): _new({**_UI, "agent": "echo"}),
    ("GET", "/api/chat/{chat_id:path}/stream"): Rule("runs:read", 200, 204),
    ("POST", "/api/chat/{chat_id:path}/stop"): Rule("runs:create", 200, 204),
    ("POST", "/agui"): _new(_AGUI),
    ("POST", "/agui/{agent}"): _new(_AGUI),
    ("GET", "/agui/{thread_id:path}/events"): Rule("runs:read", 200, 204),
}
PAGES = "/page.css /page.js /answer.js /markdown.js /asking.js /log.js /smd.js "
PAGES += "/client.js /ops /ops.css /ops.js /figures.js /chart.js /docs /docs.css /docs.js "
PAGES += "/conversation.js /history.js /live.js /requests.js /snippets.js /talk.js /turn.js "
PAGES += "/icon.svg /docs/swagger-ui.css /docs/swagger-ui-bundle.js /"
RULES |= {("GET", path): OPEN for path in PAGES.split()}


def routes() -> set[tuple[str, str]]:
    application = create_app(Settings())
    return {
        (method, route.path)  # type: ignore[attr-defined]
        for route in application._starlette.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }


class Objects(NamedTuple):
    """Ulla's, of which the others have this name in them."""

    name: str
    run: dict[str, Any]
    other_run: dict[str, Any]

    def path(self, template: str, kind: str = "") -> str:
        filled = template.replace(":path", "").format(
            run_id=self.run["id"],
            conversation_id=f"c-{self.name}",
            response_id=f"resp_{self.run['id']}",
            model="echo",
            chat_id=f"chat-{self.name}",
            thread_id=f"thread-{self.name}",
            agent="echo",
        )
        if kind in ("/agui", "/api/admin/cache"):
            # Of an agent that answers nobody here: answers are looked at by others.
            filled += "?agent=echo" if kind == "/agui" else "?agent=none"
        return filled


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = tokens.ENV | {
        "API_KEYS": f"{ANN},{BOB}",
        "ADMIN_TOKEN": ADMIN,
        "WEB_CONCURRENCY": "1",
        "MAX_REQUESTS": "0",
    }
    with api_serving(tmp_path_factory.mktemp("credentials"), env) as running:
        yield running


def opened(plateau: Serving, key: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=plateau.url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="module")
def nobody(plateau: Serving) -> Iterator[httpx.Client]:
    with opened(plateau) as client:
        yield client


@pytest.fixture(scope="module")
def ulla(plateau: Serving) -> Iterator[httpx.Client]:
    with opened(plateau, token()) as client:
        yield client


@pytest.fixture(scope="module")
def objects(ulla: httpx.Client) -> Objects:
    return made(ulla)


def made(ulla: httpx.Client) -> Objects:
    name = unique()

    def said(response: httpx.Response) -> None:
        assert response.status_code == 200, response.text

    said(ulla.post("/api/chat?agent=echo", json={**_UI, "id": f"chat-{name}"}))
    said(ulla.post("/agui/echo", json={**_AGUI, "threadId": f"thread-{name}"}))
    finish(ulla, "echo", "A secret of Ulla's", conversation_id=f"c-{name}")
    return Objects(name, finish(ulla, "echo"), finish(ulla, "echo"))


# Who they are: a credential that is none, or is no good; a good one that is another's; Ulla's.
BAD = {
    "no key": "",
    "wrong key": "wrong-key-of-nobody",
    "admin token": ADMIN,
    "a run's token": "?",
    "another secret": token(secret="another" + tokens.SECRET),
    "tampered": tokens.tampered(),
    "wrong audience": token(aud="another"),
    "no audience": token(aud=None),
    "wrong issuer": token(iss="https://evil.example"),
    "no issuer": token(iss=None),
    "wrong algorithm": token(alg="HS512"),
    "no algorithm": unsigned(),
    "no signature": token().rpartition(".")[0] + ".",
    "no end": token(exp=None),
    "no user": token(sub=None),
    "an empty user": token(user=""),
    "half a character": token(user="\ud800"),
    "a list of users": token(sub=["ulla"]),
    "a long user": token(user="u" * 501),
    "no owner": token(org=None),
    "not yet": token(nbf=int(time.time()) + 3600),
    "two dots": "..",
    "long": "a." + "b" * 20_000 + ".c",
}
OTHERS = {
    "another key": ANN,
    "another owner's token": token("ulla", "bebra"),
    "another user's token": token("otto"),
}
MINE = {
    "a token": token(),
    "one with a list of scopes": token(scope=tokens.SCOPES.split()),
    "one for several audiences": token(aud=["x", tokens.AUDIENCE]),
}


def test_every_route_has_a_rule() -> None:
    assert routes() == set(RULES)


@pytest.mark.parametrize(("method", "path"), sorted(RULES))
def test_a_route(
    nobody: httpx.Client, ulla: httpx.Client, objects: Objects, method: str, path: str
) -> None:
    rule = RULES[method, path]
    goes_once = method == "DELETE" or path.endswith("stop")
    if goes_once:
        objects = made(ulla)
    url = objects.path(path, path)
    run_token = objects.run["events_url"].partition("?token=")[2]
    other_token = objects.other_run["events_url"].partition("?token=")[2]

    def status(key: str, **params: str) -> int:
        key = run_token if key == "?" else key
        headers = elsewhere() | ({"Authorization": f"Bearer {key}"} if key else {})
        body = None if isinstance(rule, str) else rule.body
        with nobody.stream(
            method, url, headers=headers, json=body, params=params or None
        ) as response:
            if path != FOLLOWED:
                response.read()
        if response.status_code == 401:
            assert response.headers["www-authenticate"].startswith("Bearer"), response.headers
        return response.status_code

    if rule == OPEN:
        found = {name: status(key) for name, key in (BAD | OTHERS | MINE).items()}
        assert set(found.values()) <= ({200, 503} if path == "/health" else {200}), found
        return
    if rule == ADMINS:
        refused = {name: status(key) for name, key in (BAD | OTHERS | MINE).items()}
        # Nothing is left to be cancelled of a run that has ended.
        assert refused.pop("admin token") == (409 if path.endswith("/cancel") else 200)
        assert set(refused.values()) == {401}, refused
        return
    assert isinstance(rule, Rule)
    found = {name: status(key) for name, key in BAD.items()}
    assert set(found.values()) == {401}, found
    assert status(token(exp=int(time.time()) - 60)) == 401
    if rule.scope is not None:
        others = " ".join({*tokens.SCOPES.split(), "runs:write"} - {rule.scope})
        lacking = [token(scope=others), token(scope=None), token(scope=rule.scope.upper())]
        assert {status(one) for one in lacking} == {403}
    found = {name: status(key) for name, key in OTHERS.items()}
    assert set(found.values()) == {rule.others}, found
    if rule.own:
        assert status("", token=run_token) == rule.run_token
        assert status("", token=other_token) == 401
        # Who sends a credential is asked for that.
        assert status(OTHERS["another user's token"], token=run_token) == rule.others
    mine = {name: status(key) for name, key in MINE.items()}
    if goes_once:
        # The first has done it.
        assert mine.pop("a token") == rule.mine
    else:
        assert set(mine.values()) == {rule.mine}, mine


def test_what_each_refusal_is_called(plateau: Serving, objects: Objects) -> None:
    path = objects.path("/v1/runs/{run_id}")

    def told(key: str) -> httpx.Response:
        with opened(plateau, key) as client:
            return client.get(path)

    expired = told(token(exp=int(time.time()) - 60))
    problem = assert_problem(expired, 401, "token_expired")
    assert "fetch another" in problem["detail"]
    assert "expired" in expired.headers["www-authenticate"]
    lacking = told(token(scope="runs:create"))
    assert "runs:read" in assert_problem(lacking, 403, "insufficient_scope")["detail"]
    assert 'scope="runs:read"' in lacking.headers["www-authenticate"]
    for wrong, said in (
        (token(aud="x"), "JWT_AUDIENCE"),
        (token(iss="x"), "JWT_ISSUER"),
        (token(sub=None), "JWT_USER_CLAIM"),
        (token(org=None), "JWT_OWNER_CLAIM"),
        (token(alg="HS512"), "alg"),
        (tokens.tampered(), "signature"),
    ):
        assert said in assert_problem(told(wrong), 401, "unauthorized")["detail"]


def test_a_user_has_conversations_of_its_own(plateau: Serving, ulla: httpx.Client) -> None:
    name, text = f"c-{unique()}", unique()
    finish(ulla, "echo", text, conversation_id=name)
    assert text in ulla.get(f"/v1/conversations/{name}").text
    with opened(plateau, token("otto")) as otto, opened(plateau, ANN) as ann:
        for other in (otto, ann):
            assert other.get(f"/v1/conversations/{name}").json()["messages"] == []
            assert other.delete(f"/v1/conversations/{name}").status_code == 204
        url = f"/v1/conversations/{name}?user=ulla"
        assert_problem(otto.get(url), 403, "other_user")
        assert_problem(otto.delete(url), 403, "other_user")
        body = {"agent": "echo", "input": "x", "user": "ulla"}
        assert_problem(otto.post("/v1/runs", json=body), 403, "other_user")
    assert text in ulla.get(f"/v1/conversations/{name}?user=ulla").text


def test_a_user_is_listed_its_own_alone(plateau: Serving) -> None:
    def listed(client: httpx.Client, name: str, query: str = "") -> list[str]:
        page = client.get(f"/v1/{name}?{query}")
        assert page.status_code == 200, page.text
        return [one["id"] for one in page.json()[name]]

    with (
        opened(plateau, token("una", "usa")) as una,
        opened(plateau, token("ute", "usa")) as ute,
    ):
        mine = [finish(una, "echo", conversation_id="mine")["id"], finish(una, "echo")["id"]]
        other = finish(ute, "echo", conversation_id="other")["id"]
        assert listed(una, "runs") == mine[::-1]
        assert listed(una, "runs", "conversation_id=mine") == mine[:1]
        assert listed(una, "runs", "conversation_id=other") == []
        assert listed(una, "conversations") == ["mine"]
        assert listed(ute, "runs") == [other] and listed(ute, "conversations") == ["other"]
        for name in ("runs?conversation_id=mine&", "conversations?"):
            assert_problem(ute.get(f"/v1/{name}user=una"), 403, "other_user")


def test_a_conversations_url_ends_with_the_token_that_asked_for_it(
    plateau: Serving, nobody: httpx.Client
) -> None:
    """Whoever has a key is given one that lasts. Its time cannot be put off."""
    brief = token("uwe", exp=int(time.time()) + 2)
    with opened(plateau, brief) as uwe:
        path = uwe.get("/v1/conversations/c1").json()["events_url"]
        posted = ask(uwe, "echo", conversation_id="c1")["conversation_events_url"]
    assert posted == path
    bearer = {"Authorization": f"Bearer {brief}"}
    with (
        nobody.stream("GET", path) as by_url,
        nobody.stream("GET", path.partition("?")[0], headers=bearer) as by_token,
    ):
        for followed in (by_url, by_token):
            assert followed.status_code == 200
            # In good order, though nothing has ended it but its time.
            assert "retry:" in followed.read().decode().splitlines()[-1]
    problem = assert_problem(nobody.get(path), 401, "token_expired")
    assert "read the conversation" in problem["detail"]
    place, until, proof = path.partition("token=")[2].split("-")
    for forged in (f"{place}-0-{proof}", f"{place}-{int(until) + 900}-{proof}"):
        url = f"{path.partition('?')[0]}?token={forged}"
        assert_problem(nobody.get(url), 401, "invalid_token")


def test_users_share_what_follows_from_the_question_alone(
    plateau: Serving, ulla: httpx.Client
) -> None:
    text = f"A plateau is high and flat. It is called {unique()}."
    for agent, shared in (("study", True), ("echo", False)):
        assert finish(ulla, agent, text)["cached"] is False
        with opened(plateau, token("otto")) as otto:
            answer = otto.post("/v1/runs", json={"agent": agent, "input": text})
            assert (answer.headers["x-cache"] == "hit") is shared
            if shared:
                again = otto.get(f"/v1/runs/{answer.json()['id']}")
                assert again.status_code == 200
        with opened(plateau, token("ulla", "bebra")) as other:
            body = {"agent": agent, "input": text}
            assert other.post("/v1/runs", json=body).headers["x-cache"] == "miss"
            if shared:
                path = f"/v1/runs/{answer.json()['id']}"
                assert_problem(other.get(path), 404, "run_not_found")


def test_a_run_that_has_expired_is_still_its_users(
    plateau: Serving, ulla: httpx.Client
) -> None:
    text = f"A mesa is flat and has steep sides. It is called {unique()}."
    for agent in ("study", "echo"):
        run = finish(ulla, agent, text)
        with Redis.from_url(plateau.streams_url, protocol=2) as redis:
            for key in redis.scan_iter(f"run:{{{run['id']}}}*"):
                redis.delete(key)
        path = f"/v1/runs/{run['id']}"
        assert ulla.get(path).json()["output"] == run["output"]
        for who in (token("otto"), token("ulla", "bebra"), ANN):
            with opened(plateau, who) as other:
                assert other.get(path).status_code == 404
        with opened(plateau) as page:
            assert page.get(path, params={"token": f"user {run['id']}"}).status_code == 404
            by_token = path + "?" + run["events_url"].partition("?")[2]
            assert page.get(by_token).json()["output"] == run["output"]


def test_the_hit_of_a_user_is_no_other_users(plateau: Serving, ulla: httpx.Client) -> None:
    text = unique()
    finish(ulla, "echo", text)
    hit = ask(ulla, "echo", text)
    assert hit["cached"] and ulla.get(f"/v1/runs/{hit['id']}").status_code == 200
    with opened(plateau, token("otto")) as otto:
        for path in (f"/v1/runs/{hit['id']}", f"/v1/runs/{hit['id']}/events"):
            assert_problem(otto.get(path), 404, "run_not_found")
        assert otto.get(f"/v1/responses/resp_{hit['id']}").status_code == 404


def test_a_key_of_one_user_is_not_anothers(plateau: Serving, ulla: httpx.Client) -> None:
    key = {"Idempotency-Key": unique()}
    body = {"agent": "echo", "input": unique()}
    mine = ulla.post("/v1/runs", json=body, headers=key).json()
    assert ulla.post("/v1/runs", json=body, headers=key).json()["id"] == mine["id"]
    with opened(plateau, token("otto")) as otto:
        theirs = otto.post("/v1/runs", json=body, headers=key)
        assert theirs.status_code == 202 and theirs.json()["id"] != mine["id"]


def test_an_open_response_ends_when_its_token_does(
    plateau: Serving, ulla: httpx.Client, tmp_path: Any
) -> None:
    gate = tmp_path / "gate"
    run = ask(ulla, "slow", options={"gate": str(gate)})
    wait_for_status(ulla, run, "running")
    # Good for as long as clocks may differ, from the start.
    short = token(exp=int(time.time()) - 2)
    path = f"/v1/runs/{run['id']}/events"
    with opened(plateau, short) as client:
        began = time.monotonic()
        with client.stream("GET", path) as response:
            said = response.read().decode()
        assert response.status_code == 200 and time.monotonic() - began < 10
        # In order: whole, with the time after which to come back, and without an end.
        assert "before" in said and said.rstrip().rpartition("\n")[2].startswith("retry:")
        assert "run.completed" not in said
        assert_problem(client.get(path), 401, "token_expired")
    with opened(plateau) as page:
        # A run's own token goes on.
        gate.touch()
        with page.stream("GET", run["events_url"]) as response:
            assert "run.completed" in response.read().decode()


def test_it_costs_nothing_where_nobody_uses_it() -> None:
    code = (
        "import sys; from plateau_sse.app import create_app; import plateau_sse.runner.process;"
        # redis asks which release of cryptography there is.
        "create_app(); print([m for m in sys.modules if m == 'jwt' or '.hazmat' in m])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found
