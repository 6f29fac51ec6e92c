"""The manifests for Kubernetes: its own schema takes them, and they agree with the service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from plateau_sse.api import health
from plateau_sse.serve.redis_server import Role, options
from plateau_sse.settings import Settings
from tests.deploy_faults import PLACE, value_of
from tests.deploy_files import SECRET, SETTINGS, options_of
from tests.dialects.apart import programs_of
from tests.processes import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
KUBECTL = shutil.which("kubectl")

Document = dict[str, Any]


def manifests(folder: Path = FOLDER) -> dict[str, Document]:
    """By kind and name."""
    kustomization = YAML(typ="safe").load((folder / "kustomization.yaml").read_text())
    found = {}
    for name in kustomization["resources"]:
        for document in YAML(typ="safe").load_all((folder / name).read_text()):
            found[f"{document['kind']} {document['metadata']['name']}"] = document
    return found


def settings(folder: Path = FOLDER) -> dict[str, str]:
    kustomization = YAML(typ="safe").load((folder / "kustomization.yaml").read_text())
    (generated,) = kustomization["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generated["literals"])


def faults(folder: Path = FOLDER) -> list[str]:
    found = manifests(folder)
    return [
        fault
        for kind in (_parts, _redis, _services, _shut_in)
        for fault in kind(found, settings(folder))
    ]


def _pod(document: Document) -> Document:
    pod: Document = document["spec"]["template"]["spec"]
    return pod


def _parts(found: dict[str, Document], common: dict[str, str]) -> Iterator[str]:
    paths = {route.path for route in health.routes}
    for part in ("web", "runner"):
        pod = _pod(found[f"Deployment plateau-{part}"])
        (container,) = pod["containers"]
        own = {it["name"]: it["value"] for it in container["env"]}
        # What the image says, and what the secret has.
        given = {"HOST": "0.0.0.0", "PORT": "8000", **common, "API_KEYS": SECRET, **own}
        if unknown := given.keys() - SETTINGS:
            yield f"{part}: no setting: {unknown}"
            continue
        read = Settings.from_env(given)
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        drains_s = float(hook[1]) if hook else 0
        if part == "web" and not drains_s:
            yield f"{part}: it leaves before anybody has heard so"
        if pod["terminationGracePeriodSeconds"] <= read.graceful_timeout_s + drains_s:
            yield f"{part}: killed before its responses have ended"
        if container["args"] != [part]:
            yield f"{part}: it runs {container['args']}"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container.get(probe, {}).get("httpGet", {}).get("path")
            if path is not None and path not in paths:
                yield f"{part}: there is no {path}"
            if probe == "livenessProbe" and path == "/health":
                yield f"{part}: restarted when Redis is away"
        if f"PodDisruptionBudget plateau-{part}" not in found:
            yield f"{part}: all of them may be taken away at once"


def _redis(found: dict[str, Document], common: dict[str, str]) -> Iterator[str]:
    both: tuple[tuple[Role, str, str], ...] = (
        ("streams", "StatefulSet", "REDIS_URL"),
        ("cache", "Deployment", "CACHE_REDIS_URL"),
    )
    for role, kind, variable in both:
        (container,) = _pod(found[f"{kind} plateau-{role}"])["containers"]
        service = found[f"Service plateau-{role}"]["spec"]
        if common[variable] != f"redis://plateau-{role}:{service['ports'][0]['port']}/0":
            yield f"{role}: {variable} names another server"
        shown = options_of(container["command"])
        wanted = options(role, Settings.from_env(common), Path("/data"), 6379)
        for option in wanted.keys() - PLACE:
            if value_of(shown.get(option, "")) != value_of(wanted[option]):
                yield f"{role}: {option} is {shown.get(option)!r}, not {wanted[option]!r}"
    (kept,) = found["StatefulSet plateau-streams"]["spec"]["volumeClaimTemplates"]
    (mount,) = _pod(found["StatefulSet plateau-streams"])["containers"][0]["volumeMounts"]
    if (mount["name"], mount["mountPath"]) != (kept["metadata"]["name"], "/data"):
        yield "streams: what it writes is not kept"


def _services(found: dict[str, Document], _: dict[str, str]) -> Iterator[str]:
    parts = {
        document["spec"]["selector"]["matchLabels"]["part"]: document
        for name, document in found.items()
        if name.startswith(("Deployment", "StatefulSet"))
    }
    for document in parts.values():
        spec = document["spec"]
        labels = spec["template"]["metadata"]["labels"]
        if not spec["selector"]["matchLabels"].items() <= labels.items():
            yield f"{document['metadata']['name']}: it does not select its own"
    for name, document in found.items():
        if not name.startswith("Service"):
            continue
        spec = document["spec"]
        pod = _pod(parts[spec["selector"]["part"]])
        ports = {port["name"] for port in pod["containers"][0]["ports"]}
        if spec["ports"][0]["targetPort"] not in ports:
            yield f"{name}: no such port"


def _shut_in(found: dict[str, Document], _: dict[str, str]) -> Iterator[str]:
    for name, document in found.items():
        if "template" not in document.get("spec", {}):
            continue
        pod = _pod(document)
        if not pod["securityContext"].get("runAsNonRoot"):
            yield f"{name}: it may run as root"
        for container in pod["containers"]:
            context = container["securityContext"]
            if not context.get("readOnlyRootFilesystem"):
                yield f"{name}: its root file system can be written to"
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"{name}: it may get more rights"
            if "memory" not in container["resources"]["limits"]:
                yield f"{name}: its memory has no bound"


def test_the_secrets_that_are_written_down_are_taken() -> None:
    for place in (FOLDER / "kustomization.yaml", REPOSITORY / "docs" / "deploy.md"):
        found = dict(re.findall(r"--from-literal=([A-Z_]+)=(\S+)", place.read_text()))
        assert set(found) == {"API_KEYS", "ADMIN_TOKEN"}
        assert Settings.from_env(found).admin_token


def test_what_is_shipped_is_in_order() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("kustomization.yaml", "STREAM_MAX_MEMORY", "STREAMS_MEMORY", "no setting"),
        ("kustomization.yaml", "plateau-cache:6379", "plateau-streams:6379", "another server"),
        ("web.yaml", "PeriodSeconds: 35", "PeriodSeconds: 25", "killed before"),
        ("web.yaml", "/health/ready", "/ready", "there is no /ready"),
        ("web.yaml", "path: /health/live", "path: /health", "restarted when Redis"),
        ("web.yaml", "preStop", "postStart", "heard so"),
        ("web.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "as root"),
        ("web.yaml", "targetPort: http", "targetPort: web", "no such port"),
        ("web.yaml", "PodDisruptionBudget", "PodDisruption", "at once"),
        ("runner.yaml", "args: [runner]", "args: [web]", "it runs"),
        ("redis-streams.yaml", "noeviction", "allkeys-lru", "maxmemory-policy"),
        ("redis-streams.yaml", "mountPath: /data", "mountPath: /tmp", "not kept"),
        ("redis-cache.yaml", "--maxmemory 10mb", "--maxmemory 100mb", "maxmemory is"),
        ("redis-cache.yaml", "limits: {memory: 32Mi}", "limits: {cpu: 1}", "no bound"),
    ],
)
def test_what_would_not_work_is_found(
    file: str, old: str, new: str, fault: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    found = faults(folder)
    assert any(fault in line for line in found), found


def validated(*files: Path) -> subprocess.CompletedProcess[str]:
    program = programs_of("kubernetes") / "kubernetes-validate"
    return subprocess.run([program, "--strict", *files], capture_output=True, text=True)


def test_its_schema_takes_them(tmp_path: Path) -> None:
    files = [path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml"]
    shown = validated(*files)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    wrong = tmp_path / "web.yaml"
    text = (FOLDER / "web.yaml").read_text()
    wrong.write_text(text.replace("readinessProbe", "readyProbe"))
    assert validated(wrong).returncode != 0


def kustomized(folder: Path) -> tuple[str, list[Document]]:
    assert KUBECTL is not None
    built = subprocess.run(
        [KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert built.returncode == 0, built.stderr
    return built.stdout, list(YAML(typ="safe").load_all(built.stdout))


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
def test_the_example_of_the_guide_changes_what_it_says(tmp_path: Path) -> None:
    guide = (REPOSITORY / "docs" / "deploy.md").read_text()
    (example,) = re.findall(r"```yaml\n(resources: .*?)```", guide, re.DOTALL)
    ours = re.sub(r'"github[^"]*"', '"../kubernetes"', example)
    assert ours != example
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(ours)
    _, documents = kustomized(tmp_path / "mine")
    found = {f"{it['kind']} {it['metadata']['name']}": it for it in documents}
    web = found["Deployment plateau-web"]["spec"]
    assert web["replicas"] == 4
    (container,) = web["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example.org/plateau:")
    (config,) = [it for it in documents if it["kind"] == "ConfigMap"]
    given = {**settings(), **config["data"]}
    assert config["data"].keys() == settings().keys()
    assert given["AGENTS"] == "support=support:answer"
    assert container["envFrom"][0]["configMapRef"]["name"] == config["metadata"]["name"]


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
def test_kustomize_builds_them(tmp_path: Path) -> None:
    text, documents = kustomized(FOLDER)
    assert len(documents) == len(manifests()) + 1
    (config,) = [it for it in documents if it["kind"] == "ConfigMap"]
    named = json.dumps(documents).count(f'"{config["metadata"]["name"]}"')
    # The map itself, and both parts that read it.
    assert named == 3
    for document in documents:
        assert document["metadata"]["namespace"] == "plateau"
    file = tmp_path / "built.yaml"
    file.write_text(text)
    shown = validated(file)
    assert shown.returncode == 0, shown.stdout + shown.stderr
