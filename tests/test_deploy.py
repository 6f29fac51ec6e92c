"""What deploys Plateau agrees with Plateau, and a check that says so can say otherwise, too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from plateau_sse import __version__
from tests.deploy_faults import faults
from tests.deploy_files import SETTINGS, DeployFiles
from tests.processes import REPOSITORY

COMPOSE, BLUEPRINT, SCALED = "docker-compose.yml", "render.yaml", "deploy/render-scaled.yaml"


def test_what_is_shipped_is_in_order() -> None:
    assert faults(DeployFiles.shipped()) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        # Variables that are no settings, or whose values are none.
        ("Dockerfile", "DATA_DIR=/data", "DATA_DIRECTORY=/data", "DATA_DIRECTORY: no setting"),
        (COMPOSE, "WEB_CONCURRENCY: ", "WEB_WORKERS: ", "WEB_WORKERS: no setting"),
        (COMPOSE, "WEB_CONCURRENCY:-2", "WEB_CONCURRENCY:-two", "WEB_CONCURRENCY must be"),
        (
            COMPOSE,
            "${API_KEYS:?choose a key of at least 8 characters}",
            "${API_KEYS:-}",
            "API_KEYS",
        ),
        (BLUEPRINT, "RUNNER_CONCURRENCY", "CONCURRENCY", "CONCURRENCY: no setting"),
        (BLUEPRINT, 'value: "2"', "value: 2", "WEB_CONCURRENCY: not in quotes"),
        (BLUEPRINT, "key: AGENTS", "key: AGENT", "AGENT: no setting"),
        (BLUEPRINT, "generateValue: true", 'value: ""', "API_KEYS"),
        (SCALED, "key: ADMIN_TOKEN", "key: LOG_FORMAT", "LOG_FORMAT must be"),
        (SCALED, "key: ADMIN_TOKEN", "key: OPENAI_API_KEY", "no ADMIN_TOKEN"),
        (SCALED, "CACHE_REDIS_URL", "CACHE_URL", "CACHE_URL: no setting"),
        (SCALED, "key: CACHE_REDIS_URL", "key: REDIS_SERVER_BIN", "no CACHE_REDIS_URL"),
        # Ports and paths.
        ("Dockerfile", "EXPOSE 8000", "EXPOSE 8080", "EXPOSE"),
        ("Dockerfile", "PORT=8000", "PORT=80", "EXPOSE"),
        ("Dockerfile", "/health/live", "/healthz", "HEALTHCHECK"),
        (COMPOSE, "127.0.0.1:8000:8000", "8000:8000", "ports"),
        (COMPOSE, "127.0.0.1:8000:8000", "127.0.0.1:8000:80", "ports"),
        (COMPOSE, "mem_limit: 32m", 'mem_limit: 32m\n    ports: ["6379:6379"]', "published"),
        (COMPOSE, "redis-cache:6379", "redis-cache:6380", "no such server"),
        (COMPOSE, "redis://redis-streams", "redis://redis", "no such server"),
        (COMPOSE, "healthcheck, runner]", "healthcheck, /health]", "the health check"),
        (BLUEPRINT, "/health/live", "/health", "healthCheckPath"),
        (BLUEPRINT, "value: 0.0.0.0", "value: 127.0.0.1", "reached by nobody"),
        (
            BLUEPRINT,
            "key: CACHE_MAX_MEMORY\n        value: 10mb",
            'key: PORT\n        value: "8000"',
            "PORT",
        ),
        (SCALED, "/health/live", "/live", "healthCheckPath"),
        # Redis servers that are not what their role needs.
        (COMPOSE, "policy noeviction", "policy allkeys-lru", "maxmemory-policy"),
        (COMPOSE, "policy allkeys-lru", "policy volatile-lru", "maxmemory-policy"),
        (COMPOSE, "--maxmemory ${CACHE_MAX_MEMORY:-10mb}", "--maxmemory 100mb", "maxmemory is"),
        (COMPOSE, "--maxmemory-clients 2560kb", "--maxmemory-clients 0", "maxmemory-clients"),
        (COMPOSE, "pubsub 4mb 1mb 10", "pubsub 0 0 0", "client-output-buffer-limit"),
        (COMPOSE, "--appendonly yes", "--appendonly no", "appendonly"),
        (COMPOSE, '["streams:/data"]', "[]", "is not kept"),
        (BLUEPRINT, "noeviction", "allkeys-lru", "streams needs noeviction"),
        (
            BLUEPRINT,
            "name: plateau-streams\n    # The",
            "name: other\n    # The",
            "there is no",
        ),
        (BLUEPRINT, "ipAllowList: []", "ipAllowList: [{source: 0.0.0.0/0}]", "outside"),
        (SCALED, "noeviction", "allkeys-lru", "streams needs noeviction"),
        (SCALED, "allkeys-lru", "noeviction", "cache needs allkeys-lru"),
        (COMPOSE, "  logging: *logging\n  image: valkey", "  image: valkey", "no bound"),
        # Memory.
        (COMPOSE, "mem_limit: 224m", "mem_limit: 256m", "do not add up"),
        (COMPOSE, "    mem_limit: ${RUNNER_MEMORY:-112m}\n", "", "do not add up"),
        (COMPOSE, "Y: ${STREAM_MAX_MEMORY:-64mb}", "Y: 128mb", "not those of"),
        # Ends and beginnings.
        (
            COMPOSE,
            "stop_grace_period: 30s\n  depends",
            "stop_grace_period: 20s\n  depends",
            "killed after 20",
        ),
        (
            COMPOSE,
            "redis-cache: {condition: service_healthy}",
            "redis-cache: {condition: service_started}",
            "does not wait",
        ),
        (BLUEPRINT, "Seconds: 45", "Seconds: 30", "killed after 30"),
        (BLUEPRINT, "maxShutdownDelaySeconds", "maxShutdownDelay", "unknown"),
        (
            BLUEPRINT,
            "plan: starter\n    healthCheckPath",
            "plan: free\n    healthCheckPath",
            "plan is free",
        ),
        # The image.
        ("Dockerfile", "USER 10001:10001", "USER root", "runs as root"),
        ("Dockerfile", " --require-hashes", "", "not locked"),
        ("Dockerfile", 'CMD ["serve"]', "CMD plateau serve", "CMD is"),
        ("Dockerfile", "COPY service service", "COPY services service", "there is no services"),
        (".dockerignore", "!service\n", "", "keeps service out"),
        (COMPOSE, "read_only: true", "read_only: false", "can be written to"),
    ],
)
def test_what_would_not_work_is_found(file: str, old: str, new: str, fault: str) -> None:
    found = faults(DeployFiles.shipped().changed(file, old, new))
    assert any(fault in line for line in found), found


@pytest.mark.parametrize("arguments", [["web"], ["plateau", "web"]])
def test_the_image_takes_a_part_with_or_without_the_command(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "plateau").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "plateau").chmod(0o755)
    shown = subprocess.run(
        [REPOSITORY / "deploy" / "entrypoint", *arguments],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "web\n"


def test_what_the_guide_names_is_a_setting() -> None:
    guide = (REPOSITORY / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"\b[A-Z][A-Z]+_[A-Z_]+\b", guide))
    # Others read these: a test of upgrades, OpenSSL, and redis-cli, which deploy/backup runs.
    assert named - SETTINGS == {"UPGRADE_FROM", "SSL_CERT_FILE", "REDISCLI_AUTH"}


def test_compose_accepts_its_file(tmp_path: Path) -> None:
    """By the schema of the Compose specification."""

    def check(file: Path) -> subprocess.CompletedProcess[str]:
        schema = ["--builtin-schema", "vendor.compose-spec"]
        command = [sys.executable, "-m", "check_jsonschema", *schema, str(file)]
        return subprocess.run(command, capture_output=True, text=True)

    assert check(REPOSITORY / COMPOSE).returncode == 0
    assert check(REPOSITORY / "deploy" / "compose-agents.yml").returncode == 0
    wrong = tmp_path / COMPOSE
    wrong.write_text((REPOSITORY / COMPOSE).read_text().replace("depends_on:", "depend_on:"))
    assert "depend_on" in check(wrong).stdout


def test_an_agents_directory_is_mounted_where_the_image_looks(tmp_path: Path) -> None:
    more = YAML(typ="safe").load((REPOSITORY / "deploy" / "compose-agents.yml").read_text())
    ((name, service),) = more["services"].items()
    files = DeployFiles.shipped()
    assert name in files.services() and files.services()[name]["command"] == ["runner"]
    (mount,) = service["volumes"]
    assert mount["target"] == files.image("WORKDIR") and mount["read_only"]


def test_the_version_is_in_one_place_and_the_changelog_has_it() -> None:
    assert 'dynamic = ["version"]' in (REPOSITORY / "pyproject.toml").read_text()
    versions = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(version for version in versions if version != "Unreleased") == __version__
    assert len(set(versions)) == len(versions)
