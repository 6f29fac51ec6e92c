"""A conversation's events: run after run on one connection, from any worker, resumable."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from plateau_sse.client.answer import Answer
from plateau_sse.client.place import TERMINAL
from plateau_sse.eventsource import EventReader
from tests.conftest import Server, assert_all_have_a_life
from tests.deployment import Deployment, deployed
from tests.integration.api_client import assert_problem, unique
from tests.processes import wait_until

KEYS = [f"key-of-a-caller-{number}" for number in range(60)]
unused = iter(KEYS)
ENV = {
    "AGENTS": ",".join(
        f"{it}=tests.flight_agents:{it}" for it in ("counted", "parrot", "ends", "silent")
    ),
    "API_KEYS": ",".join(KEYS),
}


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, streams_server: Server, cache_server: Server
) -> Iterator[Deployment]:
    """No test here may ask for `streams_url` or `cache_url`, which empty the servers."""
    folder = tmp_path_factory.mktemp("conversation-events")
    with streams_server.client() as streams, cache_server.client() as cache:
        for client in (streams, cache):
            client.flushall()
        with deployed(
            folder, streams_url=streams_server.url, cache_url=cache_server.url, env=ENV
        ) as running:
            yield running
            assert_all_have_a_life(streams)


class Caller:
    """Asks one worker; whoever follows does so at the other."""

    def __init__(self, deployment: Deployment) -> None:
        self.headers = {"Authorization": f"Bearer {next(unused)}"}
        self.asking, self.following = deployment.urls

    def say(self, conversation: str, text: str, agent: str = "parrot", **more: Any) -> Any:
        body = {"agent": agent, "input": text, "conversation_id": conversation, **more}
        url, headers = f"{self.asking}/v1/runs", self.headers
        if agent != "counted":
            headers = headers | {"Prefer": "wait=20"}
        response = httpx.post(url, json=body, headers=headers, timeout=30)
        assert response.status_code in (200, 202), response.text
        return response.json()

    def url_of(self, conversation: str) -> str:
        response = httpx.get(
            f"{self.following}/v1/conversations/{conversation}", headers=self.headers
        )
        return f"{self.following}{response.json()['events_url']}"


@pytest.fixture
def ann(deployment: Deployment) -> Caller:
    return Caller(deployment)


class Reader:
    """What one connection is told, on a thread of its own."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.response: httpx.Response | None = None
        self.fault: BaseException | None = None
        self.has_ended = False

    def read(self, url: str, last_id: str, headers: dict[str, str]) -> None:
        headers = {**headers, **({"Last-Event-ID": last_id} if last_id else {})}
        reader = EventReader()
        try:
            with httpx.stream("GET", url, headers=headers, timeout=40) as response:
                self.response = response
                for chunk in response.iter_bytes():
                    for message in reader.feed(chunk):
                        self.told.append((message.id or "", json.loads(message.data)))
            self.has_ended = True
        except BaseException as fault:
            self.fault = fault

    def is_on(self) -> bool:
        return self.response is not None

    @property
    def last_id(self) -> str:
        return next((place for place, _ in reversed(self.told) if place), "")

    def texts(self) -> list[str]:
        """Of each answer that was told from its beginning."""
        found: list[Answer] = []
        for _, event in self.told:
            if event["type"] == "run.started":
                found.append(Answer())
            if found:
                found[-1].take(event)
        return [answer.text for answer in found]

    def ends(self) -> int:
        return sum(event["type"] in TERMINAL for _, event in self.told)

    def has_heard(self, ends: int) -> None:
        wait_until(lambda: self.fault or self.ends() >= ends, f"{ends} answers were told")
        assert self.fault is None, self.fault


@contextmanager
def reading(
    url: str, last_id: str = "", headers: dict[str, str] | None = None
) -> Iterator[Reader]:
    """Gone when the block ends: the thread ends with its connection, or at its timeout."""
    reader = Reader()
    thread = threading.Thread(
        target=reader.read, args=(url, last_id, headers or {}), daemon=True
    )
    thread.start()
    wait_until(lambda: reader.is_on() or reader.fault, "it is connected")
    assert reader.fault is None, reader.fault
    yield reader
    if reader.response is not None and not reader.has_ended:
        # From here: a socket that is closed under a thread that reads it wakes nobody.
        stream: Any = reader.response.extensions["network_stream"]
        stream.get_extra_info("socket").shutdown(2)
    thread.join(10)
    assert not thread.is_alive()


def test_run_after_run_is_told_on_one_connection(ann: Caller) -> None:
    url = ann.url_of("c1")
    with reading(url) as one, reading(url) as other:
        runs = [ann.say("c1", text) for text in ("first", "second", "third")]
        for reader in (one, other):
            reader.has_heard(3)
            assert reader.texts() == ["first", "second", "third"]
            started = [event for _, event in reader.told if event["type"] == "run.started"]
            assert [event["run"] for event in started] == [run["id"] for run in runs]
            tags = list(dict.fromkeys(place[:6] for place, _ in reader.told if place))
            assert tags == [run["id"][12:18] for run in runs]


def test_a_post_hands_out_what_opens_it(ann: Caller) -> None:
    run = ann.say("c2", "Hello")
    url = ann.following + run["conversation_events_url"]
    with reading(url) as reader:
        ann.say("c2", "again")
        reader.has_heard(1)
        # What had ended before was in the conversation.
        assert reader.texts() == ["again"]
    assert run["conversation_events_url"] == ann.say("c2", "x")["conversation_events_url"]
    assert (
        "conversation_events_url"
        not in httpx.post(
            f"{ann.asking}/v1/runs", json={"agent": "parrot", "input": "x"}, headers=ann.headers
        ).json()
    )


def test_it_is_opened_by_its_own_token_and_by_its_owners_key(
    ann: Caller, deployment: Deployment
) -> None:
    token = ann.url_of("c1").partition("token=")[2]
    at = f"{ann.following}/v1/conversations"
    for path in (f"c9/events?token={token}", "c1/events?token=x", f"c1/events?token={token}x"):
        assert_problem(httpx.get(f"{at}/{path}"), 401, "invalid_token")
    assert_problem(httpx.get(f"{at}/c1/events"), 401, "unauthorized")
    assert_problem(httpx.post(f"{at}/c1/events?token={token}"), 405, "method_not_allowed")
    bob = Caller(deployment)
    with (
        reading(f"{at}/c1/events", headers=ann.headers) as own,
        reading(f"{at}/c1/events", headers=bob.headers) as others,
        reading(f"{at}/c1/events?user=eve", headers=ann.headers) as eves,
    ):
        ann.say("c1", "of ann")
        ann.say("c1", "of eve", user="eve")
        own.has_heard(1)
        eves.has_heard(1)
        assert own.texts() == ["of ann"] and eves.texts() == ["of eve"]
        assert others.told == []


def test_an_answer_from_the_cache_is_told_as_well(ann: Caller) -> None:
    text = unique()
    ann.say("c1", text)
    with reading(ann.url_of("c2")) as reader:
        assert ann.say("c2", text)["cached"]
        reader.has_heard(1)
        assert reader.texts() == [text]
        where = reader.last_id
    with reading(ann.url_of("c2"), where) as reader:
        ann.say("c2", "next")
        reader.has_heard(1)
        assert reader.texts() == ["next"]


def test_whoever_comes_back_is_told_the_rest_and_what_was_asked_since(
    ann: Caller, tmp_path: Path, streams_server: Server
) -> None:
    note = tmp_path / "note"
    options = {"note": str(note), "gate": str(tmp_path / "gate")}
    url = ann.url_of("c1")
    with reading(url) as reader:
        run = ann.say("c1", unique(), agent="counted", options=options)
        wait_until(lambda: "An answer " in "".join(reader.texts()), "it has begun")
        where = reader.last_id
    (tmp_path / "gate").touch()
    ann.say("c1", "second")
    ann.say("c1", "third")

    def check() -> None:
        with reading(url, where) as reader:
            reader.has_heard(3)
            assert reader.texts() == ["second", "third"]
            rest = [event["text"] for _, event in reader.told if event.get("text")]
            assert rest[0] == f"of {run['id']}."
            assert not [it for _, it in reader.told if it["type"] == "run.restarted"]

    check()
    # The same once the records have gone: it is told from what the conversation keeps.
    with streams_server.client() as client:
        for key in client.scan_iter("run:{*"):
            client.delete(key)
    check()


def test_after_a_message_what_was_asked_behind_it_is_told(ann: Caller) -> None:
    for text in ("first", "second"):
        ann.say("c1", text)
    shown = httpx.get(f"{ann.asking}/v1/conversations/c1", headers=ann.headers).json()
    question, answer = shown["messages"][:2]
    url = ann.url_of("c1")
    both = ["first", "second"]
    for after, expected in ((question["id"], both), (answer["id"], ["second"]), ("0", both)):
        with reading(f"{url}&after={after}") as reader:
            reader.has_heard(len(expected))
            assert reader.texts() == expected
    assert_problem(httpx.get(f"{url}&after=x"), 422, "invalid_request")


def test_an_answer_that_a_quicker_one_has_overtaken_is_told_once(
    ann: Caller, tmp_path: Path
) -> None:
    """Whoever opens the page has the quicker one, and waits for the other; once it has both,
    it has nothing to wait for. What failed before without a word is over."""
    ann.say("c1", "before", agent="silent")
    options = {"note": str(tmp_path / "note"), "gate": str(tmp_path / "gate")}
    slow = ann.say("c1", unique(), agent="counted", options=options)
    wait_until((tmp_path / "note").exists, "it is on")
    ann.say("c1", "quick")

    def shown() -> list[Any]:
        found = httpx.get(f"{ann.asking}/v1/conversations/c1", headers=ann.headers).json()
        return [(it["role"], it["id"]) for it in found["messages"]]

    wait_until(lambda: shown()[-1][0] == "assistant", "the quick one is answered")
    url, said = ann.url_of("c1"), f"An answer of {slow['id']}."
    quick = shown()[-1][1]
    assert quick != slow["id"]
    with reading(f"{url}&after={quick}") as reader:
        wait_until(lambda: "An answer " in "".join(reader.texts()), "the slow one is told")
        middle = reader.last_id
    # Cut off, it comes back by the same URL.
    with reading(f"{url}&after={quick}", middle) as reader:
        (tmp_path / "gate").touch()
        reader.has_heard(1)
        ann.say("c1", "next")
        reader.has_heard(2)
        assert reader.texts() == ["next"]
    wait_until(lambda: ("assistant", slow["id"]) in shown(), "the slow one is kept")
    ids = [it for _, it in shown()]
    assert ids.index(quick) < ids.index(slow["id"])
    with reading(f"{url}&after={slow['id']}") as reader:
        reader.has_heard(1)
        ann.say("c1", "last")
        reader.has_heard(2)
        assert reader.texts() == ["next", "last"]
    with reading(f"{url}&after={quick}") as reader:
        reader.has_heard(3)
        assert reader.texts() == [said, "next", "last"]


def test_a_run_that_is_on_is_told_from_its_beginning(ann: Caller, tmp_path: Path) -> None:
    options = {"note": str(tmp_path / "note"), "gate": str(tmp_path / "gate")}
    run = ann.say("c1", unique(), agent="counted", options=options)
    wait_until((tmp_path / "note").exists, "it is on")
    with reading(ann.url_of("c1")) as reader:
        wait_until(lambda: "An answer " in "".join(reader.texts()), "its beginning was told")
        (tmp_path / "gate").touch()
        reader.has_heard(1)
        assert reader.texts() == [f"An answer of {run['id']}."]


@pytest.mark.parametrize("where", ["000000-1-7", "&after=" + 32 * "0"])
def test_what_the_conversation_has_forgotten_is_said_to_be_missing(
    ann: Caller, where: str
) -> None:
    ann.say("c1", "before")
    url = ann.url_of("c1")
    given = (url + where, "") if where.startswith("&") else (url, where)
    with reading(*given) as reader:
        ann.say("c1", "next")
        reader.has_heard(1)
        assert reader.told[0] == ("", {"type": "conversation.missed"})
        assert reader.texts() == ["next"]


def test_whoever_waits_hears_that_the_connection_lives(ann: Caller) -> None:
    with reading(f"{ann.url_of('c1')}&heartbeat=1") as reader:
        wait_until(lambda: reader.told, "it is told something", timeout_s=20)
        assert reader.told[0] == ("", {"type": "heartbeat"})


def test_what_is_asked_is_told_at_once(ann: Caller) -> None:
    """A sweep would find it, too, within 15 s."""
    with reading(ann.url_of("c1")) as reader:
        for number in range(1, 5):
            ann.say("c1", f"{number}")
            answered = time.monotonic()
            reader.has_heard(number)
            assert time.monotonic() - answered < 3


def test_a_question_after_a_deletion_is_told_to_whoever_has_the_key(ann: Caller) -> None:
    """The URL of what was deleted opens nothing of what is called the same."""
    ann.say("c1", "before")
    url = ann.url_of("c1")
    own = f"{ann.following}/v1/conversations/c1/events"
    with reading(url) as reader, reading(own, headers=ann.headers) as mine:
        httpx.delete(f"{ann.asking}/v1/conversations/c1", headers=ann.headers)
        ann.say("c1", "after")
        mine.has_heard(1)
        assert mine.texts() == ["after"]
        wait_until(lambda: reader.has_ended, "the other has ended")
        assert reader.told == []
    assert_problem(httpx.get(url), 401, "invalid_token")


def test_what_is_kept_of_an_answer_says_how_it_ended(
    ann: Caller, streams_server: Server
) -> None:
    """Who executes the tool that it calls, or waits for a person, is told so later, too."""
    options = {"reason": "tool_calls"}
    first = ann.say("c1", text := unique(), agent="ends", options=options)
    hit = ann.say("c2", text, agent="ends", options=options)
    assert hit["cached"] and hit["id"] != first["id"]
    cut = ann.say("c2", unique(), agent="ends", options={"reason": "length"})

    def check() -> None:
        with reading(f"{ann.url_of('c2')}&after=0") as reader:
            reader.has_heard(2)
        found = [it for _, it in reader.told if it["type"] in ("run.started", *TERMINAL)]
        assert [it.get("agent", it.get("finish_reason")) for it in found] == [
            *("ends", "tool_calls", "ends", "length"),
        ]
        assert [it["cached"] for it in found if it["type"] in TERMINAL] == [True, False]

    assert cut["finish_reason"] == "length"
    check()
    with streams_server.client() as client:
        for key in client.scan_iter("run:{*"):
            client.delete(key)
    check()


def test_another_worker_goes_on_where_one_was_killed(
    tmp_path: Path, streams_server: Server, cache_server: Server
) -> None:
    """Each reader comes back with the last id that it has, as pages do."""
    with deployed(
        tmp_path / "killed",
        streams_url=streams_server.url,
        cache_url=cache_server.url,
        env=ENV,
    ) as deployment:
        ann = Caller(deployment)
        options = {"note": str(tmp_path / "note"), "gate": str(tmp_path / "gate")}
        with reading(ann.url_of("c1")) as reader:
            ann.say("c1", "first")
            reader.has_heard(1)
            run = ann.say("c1", unique(), agent="counted", options=options)
            wait_until(lambda: "An answer " in "".join(reader.texts()), "it has begun")
            deployment.webs[1].kill()
            wait_until(lambda: reader.fault is not None, "the connection is gone")
            where = reader.last_id
            reader.response = None
        ann.following = ann.asking
        with reading(ann.url_of("c1"), where) as reader:
            (tmp_path / "gate").touch()
            reader.has_heard(1)
            ann.say("c1", "third")
            reader.has_heard(2)
            said = [event["text"] for _, event in reader.told if event.get("text")]
            assert said == [f"of {run['id']}.", "third"]
