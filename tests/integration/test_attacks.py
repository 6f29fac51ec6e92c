"""What hostile clients try, each with its figures: the worker has its memory back, its loop was
never held for long, the store is within its bound, and another owner's run is unharmed."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
from benchmarks.measuring import cpu_s, private_kib
from redis import Redis

from plateau_sse.keysfile import digest
from plateau_sse.values import parse_size
from tests.integration.api_client import (
    api_serving,
    ask,
    assert_problem,
    elsewhere,
    finish,
    unique,
    wait_for_status,
)
from tests.integration.wire import raw_post, statuses
from tests.integration.witness import Canary, Witness
from tests.processes import Serving, wait_until

ANN, BOB, EVE = "key-of-ann-12345", "key-of-bob-67890", "key-of-eve-45678"
ADMIN = "token-of-the-operators"
MIB = 1024**2
GROWTH_KIB = 32 * 1024
HELD_S = 0.1
# Of the bound of the streams instance.
OVER = 1.25
WORKER, RUNNER = "gunicorn: worker", "plateau: runner"


@dataclass
class Attacked:
    """`evil` is who attacks, `ann` another owner."""

    plateau: Serving
    evil: httpx.Client
    ann: httpx.Client

    def metric(self, name: str) -> float:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        lines = self.ann.get("/metrics", headers=headers).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextmanager
def under_attack(folder: Path, *, raises: bool = False, **env: str) -> Iterator[Attacked]:
    """A service of one worker, and on leaving what it has to be like; `raises`: an agent
    does."""
    keys = folder / "keys"
    owners = {"ann": ANN, "bob": BOB, "eve": EVE}
    lines = [f"{name} web sha256:{digest(key)}\n" for name, key in owners.items()]
    keys.write_text("".join(lines))
    env = {
        "API_KEYS_FILE": str(keys),
        "ADMIN_TOKEN": ADMIN,
        "WEB_CONCURRENCY": "1",
        "MAX_REQUESTS": "0",
        **env,
    }
    bound = parse_size(env.get("STREAM_MAX_MEMORY", "64mb"))

    def opened(key: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=running.url, headers=headers, timeout=60, trust_env=False)

    with (
        api_serving(folder, env) as running,
        opened(EVE) as evil,
        opened(ANN) as ann,
        Redis.from_url(running.streams_url, protocol=2) as streams,
    ):
        # What is made once, is made.
        for client in (evil, ann):
            finish(client, "echo")
        (worker,), (runner,) = running.pids(WORKER), running.pids(RUNNER)
        before = [private_kib([pid]) for pid in (worker, runner)]
        with Witness(running.url, BOB) as witness, Canary(running.url, worker) as canary:
            yield Attacked(running, evil, ann)
            assert streams.info("memory")["used_memory"] < OVER * bound
            assert finish(ann, "echo")["status"] == "completed"
        witness.check()
        assert canary.songs and canary.longest_s < HELD_S, canary.longest_s
        assert running.pids(WORKER) == [worker] and running.pids(RUNNER) == [runner]
        for pid, had in zip((worker, runner), before, strict=True):
            wait_until(
                lambda pid=pid, had=had: private_kib([pid]) - had < GROWTH_KIB,  # type: ignore[misc]
                "what it took is given back",
            )
        assert raises or "Traceback" not in running.stderr, running.stderr[-4000:]


def at_once(number: int, of: Callable[[int], Any], threads: int = 4) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(of, range(number)))


def test_conversations_of_others_are_not_pushed_out(tmp_path: Path) -> None:
    """By hits with new ids, which cost nothing else."""
    with under_attack(tmp_path, STREAM_MAX_MEMORY="8mb") as it:
        finish(it.ann, "echo", "what Ann has said", conversation_id="c-ann")
        text = unique()
        finish(it.evil, "echo", text)
        body = b'{"agent": "echo", "input": "%b", "conversation_id": "c-%%d"}' % text.encode()

        def hits(number: int) -> int:
            """On a connection of their own."""
            key = b"Authorization: Bearer " + EVE.encode()
            done = 0
            with socket.create_connection(("127.0.0.1", it.plateau.port), timeout=60) as peer:
                for at in range(400):
                    peer.sendall(raw_post(key, body=body % (1000 * number + at)))
                    answer = HTTPResponse(peer)
                    answer.begin()
                    answer.read()
                    done += answer.status == 200
            return done

        assert sum(at_once(6, hits)) == 2400
        wait_until(
            lambda: it.metric("plateau_conversations_evicted_total") > 100, "some made room"
        )
        said = it.ann.get("/v1/conversations/c-ann").json()["messages"]
        assert said[0]["content"] == "what Ann has said"


def test_large_questions_take_no_others_room(tmp_path: Path) -> None:
    with under_attack(tmp_path, RUNNER_CONCURRENCY="1") as it:
        gate = tmp_path / "gate"
        first = ask(it.evil, "slow", options={"gate": str(gate)})
        wait_for_status(it.evil, first, "running")
        large = "x" * (1000 * 1000)

        def post(client: httpx.Client) -> httpx.Response:
            body = {"agent": "big", "input": unique() + large, "options": {"steps": 1}}
            return client.post("/v1/runs", json=body)

        answers = at_once(60, lambda _: post(it.evil), threads=6)
        taken = [answer for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code != 202]
        for answer in refused:
            assert_problem(answer, 429, "owner_limit")
        assert 10 <= len(taken) <= 17 and refused
        # Neither her large question nor her small one is turned away for it.
        waiting = [post(it.ann), it.ann.post("/v1/runs", json={"agent": "echo", "input": "x"})]
        assert [answer.status_code for answer in waiting] == [202, 202]
        gate.touch()
        for answer in waiting:
            wait_for_status(it.ann, answer.json(), "completed")
        # They have ended: there is room again.
        wait_until(lambda: post(it.evil).status_code == 202, "there is room again")


def test_answers_of_one_owner_leave_room(tmp_path: Path) -> None:
    """Of producers outside, that say as much as they may and do not end."""
    with under_attack(tmp_path, STREAM_MAX_MEMORY="8mb") as it:
        text = "".join(chr(97 + number % 26) for number in range(200 * 1024))

        def fill(number: int) -> int:
            run = ask(it.evil, "external")
            path = f"/v1/runs/{run['id']}/events"
            said = [{"type": "message.delta", "text": f"{number} {text}"}]
            answer = it.evil.post(path, json=said)
            if answer.status_code != 200:
                assert_problem(answer, 429, "owner_limit")
                # Its end is taken all the same.
                assert it.evil.post(path, json=[{"type": "run.completed"}]).status_code == 200
            return answer.status_code

        found = [fill(number) for number in range(60)]
        assert 5 <= found.count(200) and found[-1] == 429, found
        finish(it.ann, "echo")


def test_what_study_makes_of_texts_is_given_back(tmp_path: Path) -> None:
    """Six at once of distinct words, as many as it takes; more than that is no question."""

    def words(number: int, size: int) -> str:
        found: list[str] = []
        length, at = 0, number * 100_000
        while length < size:
            found.append(f"w{7 * at}" + "." * (len(found) % 12 == 11))
            length, at = length + len(found[-1]) + 1, at + 1
        return " ".join(found)[:size]

    with under_attack(tmp_path) as it:
        finish(it.evil, "study", "A text. Another one, of a few words.")
        (runner,) = it.plateau.pids(RUNNER)
        before = private_kib([runner])

        def study(number: int) -> str:
            text, options = words(number, 64 * 1024 - 8), {"pace_ms": 0}
            return str(finish(it.evil, "study", text, options=options)["status"])

        for _ in range(3):
            assert at_once(6, study, threads=6) == ["completed"] * 6
        large = {"agent": "study", "input": words(99, 900_000)}
        for answer in at_once(6, lambda _: it.evil.post("/v1/runs", json=large)):
            assert_problem(answer, 413, "too_large")
        wait_until(
            lambda: private_kib([runner]) - before < GROWTH_KIB, "what it took is given back"
        )


def test_values_of_any_depth_are_no_fault_of_ours(tmp_path: Path) -> None:
    with under_attack(tmp_path) as it:
        run = ask(it.evil, "external")
        found = set[int]()
        for depth in [*range(90, 130), *range(955, 975), 5000, 100_000]:
            deep = '{"a":' * depth + "1" + "}" * depth
            for event in (
                '[{"type":"tool.call","id":"a","name":"n","arguments":%s}]',
                '[{"type":"tool.result","id":"a","output":%s}]',
                '[{"type":"data","name":"d","value":%s}]',
            ):
                path = f"/v1/runs/{run['id']}/events"
                answer = it.evil.post(path, content=event % deep)
                found.add(answer.status_code)
                if answer.status_code in (409, 413):
                    run = ask(it.evil, "external")
        assert found <= {200, 400, 409, 413, 422} and {200, 422} <= found, found


def test_what_there_is_not_costs_nothing(tmp_path: Path) -> None:
    """Without a key, and pipelined. That it replaces no worker is in `test_worker`."""
    with under_attack(tmp_path) as it:

        def shout(number: int) -> int:
            paths = (b"/x", b"/v1/x", b"/v1/runs/" + b"f" * 32, b"/health/live")
            data = b"".join(
                b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % paths[at % 4] for at in range(500)
            )
            with socket.create_connection(("127.0.0.1", it.plateau.port), timeout=60) as peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                read = b"".join(iter(lambda: peer.recv(65536), b""))
            found = statuses(read)
            assert set(found) == {b"404", b"401", b"200"}
            return len(found)

        assert sum(at_once(8, shout)) == 4000


def test_whether_it_is_well_costs_little_however_often_it_is_asked(tmp_path: Path) -> None:
    with under_attack(tmp_path) as it:
        (worker,) = it.plateau.pids(WORKER)
        many = 400

        def cost_s(path: str) -> float:
            # Nobody's: the states alone, from elsewhere.
            with httpx.Client(base_url=it.plateau.url, trust_env=False) as client:
                before = cpu_s([worker])
                for _ in range(many):
                    assert client.get(path, headers=elsewhere()).status_code == 200
                return cpu_s([worker]) - before

        assert cost_s("/health") < 4 * cost_s("/health/live") + 0.1
        shown = it.plateau.url.partition("//")[2].partition(":")[0]
        with httpx.Client(base_url=it.plateau.url, trust_env=False) as client:
            short = client.get("/health", headers=elsewhere()).text
        assert "redis" not in short and shown not in short and "pid" not in short


def test_nobody_writes_our_log(tmp_path: Path) -> None:
    """Lines of an agent's exception, which holds what it was asked; and nothing of it goes to
    whoever asked."""
    forged = "2026-11-28 09:00:00 CRITICAL [1] all keys are forged"
    with under_attack(tmp_path, raises=True) as it:
        for end in ("\n", "\r\n", "\r", "\x85", "\u2028", "\x1b[2K\r"):
            asked = f"{unique()}{end}{forged}\x1b]0;PWN\x07"
            record = finish(it.evil, "failing", asked)
            assert record["status"] == "failed"
            assert "forged" not in json.dumps(record["error"])
        said = it.plateau.stderr
        assert said.count("all keys are forged") >= 6
        assert not [line for line in said.splitlines() if line.startswith(forged[:10])]
        assert "\x1b" not in said and "\x07" not in said
