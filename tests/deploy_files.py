"""The files that deploy Plateau, read as those who run them would read them.

Invariant: what the code decides is asked of the code: which settings there are, what they may
be, which options a Redis server of a role needs, how long an end may take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML

from plateau_sse.errors import SettingsError
from plateau_sse.settings import Settings
from tests.processes import REPOSITORY

FILES = (
    "Dockerfile",
    ".dockerignore",
    "docker-compose.yml",
    "render.yaml",
    "deploy/render-scaled.yaml",
)
BLUEPRINTS = ("render.yaml", "deploy/render-scaled.yaml")
SETTINGS = {setting.name.upper() for setting in fields(Settings)}
# What whoever deploys it is asked for, and what a host generates: 256 bits in base64.
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYw+/="
# `${NAME}`, `${NAME:-default}`, `${NAME:?why}`; `$$` is a dollar.
REFERENCE = re.compile(r"\$\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}")

Environment = dict[str, str]
Service = dict[str, Any]


class Instruction(tuple[str, str]):
    """Of a Dockerfile: its name, and its arguments as one line."""

    @property
    def words(self) -> list[str]:
        """The arguments of the exec form; those of the shell form come as one."""
        text = self[1]
        return json.loads(text) if text.startswith("[") else [text]


def parse_dockerfile(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.split(None, 1) for line in whole.splitlines() if line.strip())
    return [Instruction((name.upper(), rest.strip())) for name, rest in pairs]


@dataclass(frozen=True)
class Part:
    """A process of ours as a file starts it: `command` is `serve`, `web` or `runner`."""

    where: str
    command: str
    environment: Environment
    grace_s: float
    published: tuple[str, ...] = ()


class DeployFiles:
    """All of them; `text` is what they say by name."""

    def __init__(self, text: Mapping[str, str]) -> None:
        self.text = text
        self.dockerfile = parse_dockerfile(text["Dockerfile"])
        self.compose = _loaded(text["docker-compose.yml"])
        self.blueprints = {name: _loaded(text[name]) for name in BLUEPRINTS}

    @classmethod
    def shipped(cls, folder: Path = REPOSITORY) -> Self:
        return cls({name: (folder / name).read_text() for name in FILES})

    def changed(self, name: str, old: str, new: str) -> DeployFiles:
        """A copy in which `old`, which must be in that file, is `new`."""
        assert old in self.text[name], f"{name} has no {old!r}"
        return DeployFiles({**self.text, name: self.text[name].replace(old, new)})

    # The image

    def last_stage(self) -> list[Instruction]:
        first = max(i for i, it in enumerate(self.dockerfile) if it[0] == "FROM")
        return self.dockerfile[first:]

    def image(self, name: str) -> str:
        """The arguments of the last such instruction of the image; '' without one."""
        found = [it[1] for it in self.last_stage() if it[0] == name]
        return found[-1] if found else ""

    def image_environment(self) -> Environment:
        words = " ".join(it[1] for it in self.last_stage() if it[0] == "ENV").split()
        return dict(word.split("=", 1) for word in words if not word.startswith("PATH="))

    def health_of_image(self) -> list[str]:
        words: list[str] = Instruction(
            ("CMD", self.image("HEALTHCHECK").partition("CMD ")[2].strip())
        ).words
        return words

    # Who runs what, with which environment

    def services(self) -> dict[str, Service]:
        found: dict[str, Service] = self.compose["services"]
        return found

    def parts(self) -> Iterator[Part]:
        for name, service in self.services().items():
            if "build" in service:
                yield Part(
                    f"docker-compose.yml, {name}",
                    (service.get("command") or ["serve"])[0],
                    self.image_environment() | interpolated(service.get("environment", {})),
                    _seconds(service.get("stop_grace_period", "10s")),
                    tuple(service.get("ports", ())),
                )
        for file, blueprint in self.blueprints.items():
            for service in blueprint["services"]:
                if service["type"] != "keyvalue":
                    yield Part(
                        f"{file}, {service['name']}",
                        service.get("dockerCommand", "plateau serve").split()[-1],
                        # The host says which port.
                        self.image_environment() | {"PORT": "10000"} | given(service),
                        service.get("maxShutdownDelaySeconds", 30),
                    )


@cache
def _loaded(text: str) -> Service:
    loaded: Service = YAML(typ="safe").load(text)
    return loaded


def interpolated(environment: Mapping[str, Any]) -> Environment:
    """As Compose resolves it for somebody who has set what must be set, and nothing else."""
    return {name: resolved(str(value)) for name, value in environment.items()}


def resolved(text: str) -> str:
    def value(match: re.Match[str]) -> str:
        return str(match[3]) if match[2] == ":-" else SECRET

    return REFERENCE.sub(value, text)


def given(service: Service) -> Environment:
    """As Render fills it in for somebody who leaves empty what may be; a reference to a store
    becomes `redis://NAME:6379`."""
    found = {}
    for variable in service.get("envVars", ()):
        if variable.get("generateValue"):
            value = SECRET + variable["key"]
        elif variable.get("sync") is False:
            value = ""
        elif "fromService" in variable:
            value = f"redis://{variable['fromService']['name']}:6379"
        else:
            value = variable["value"]
        found[variable["key"]] = value
    return found


def settings_of(part: Part) -> Settings | str:
    """Its settings, or why they are none."""
    unknown = sorted(part.environment.keys() - SETTINGS)
    if unknown:
        return f"{', '.join(unknown)}: no setting"
    wrong = [name for name, value in part.environment.items() if not isinstance(value, str)]
    if wrong:
        return f"{', '.join(wrong)}: not in quotes"
    try:
        return Settings.from_env(part.environment)
    except SettingsError as error:
        return str(error)


def options_of(command: list[str]) -> dict[str, str]:
    """The configuration that a Redis server's command line stands for."""
    words = resolved(" ".join(command[1:]))
    pairs = (option.strip().partition(" ") for option in words.split("--")[1:])
    return {name: value.strip('"') for name, _, value in pairs}


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+)s", text)
    assert match, text
    return float(match[1])
