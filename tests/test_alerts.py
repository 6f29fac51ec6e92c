"""The rules for Prometheus and the dashboard: each alert fires on its fault and on no other,
and all that they ask for is something that the service shows."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from plateau_sse.ops.prometheus import families
from tests.alerts import FAULTS, HOST, MINUTES, NO_FAULTS, _written, series_of
from tests.metrics_page import PAGE, page
from tests.pictures import picture, seen
from tests.processes import REPOSITORY
from tests.scrapes import PROMTOOL

FOLDER = REPOSITORY / "deploy" / "prometheus"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "plateau.json"
RULES = [FOLDER / "recording.yml", FOLDER / "alerts.yml"]

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool (Debian's prometheus) is not installed"
)


def rules() -> list[dict[str, Any]]:
    found = []
    for path in RULES:
        for group in YAML(typ="safe").load(path.read_text())["groups"]:
            found += group["rules"]
    return found


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100
    )


@needs_promtool
def test_promtool_reads_them() -> None:
    for arguments in (
        ("check", "rules", *(path.name for path in RULES)),
        ("check", "config", "prometheus.yml"),
    ):
        checked = promtool(*arguments)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def group_of(name: str, alert: str | None, series: list[dict[str, str]]) -> dict[str, Any]:
    """One group of tests of promtool's: what fires in the end is this alert alone."""
    firing = [] if alert is None else [{"labels": f'{{alertname="{alert}"}}', "value": 1}]
    return {
        "name": name,
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{MINUTES - 5}m",
                "exp_samples": firing,
            }
        ],
    }


@needs_promtool
def test_each_alert_fires_on_its_fault_and_on_no_other(tmp_path: Path) -> None:
    groups = [
        group_of(alert, alert, list(series_of(changes))) for alert, changes in FAULTS.items()
    ]
    groups += [group_of(name, None, list(series_of(it))) for name, it in NO_FAULTS.items()]
    groups.append(group_of("gone", "PlateauDown", []))
    away = [{"series": 'up{job="plateau",instance="a:8000"}', "values": f"0x{MINUTES}"}]
    groups.append(group_of("unreachable", "PlateauDown", away))
    two = [*series_of([]), *series_of([], "b:8000")]
    groups.append(group_of("two targets are one service", None, two))
    mixed = [*series_of([])]
    mixed += [
        {**it, "series": re.sub('version="[^"]+"', 'version="0.0"', it["series"])}
        for it in series_of([], "b:8000")
    ]
    groups.append(group_of("two releases", "PlateauReleasesMixed", mixed))
    one = [
        {**it, "series": it["series"].replace("b:8000", "a:8000")}
        for it in mixed
        if it["series"].startswith("plateau_info") and 'version="0.0"' in it["series"]
    ]
    alone = [*series_of([]), *one]
    groups.append(group_of("one target tells of both", "PlateauReleasesMixed", alone))
    tested = {*FAULTS, "PlateauDown", "PlateauReleasesMixed"}
    assert tested == set(ALERTS)

    said = run_groups(tmp_path, groups)
    assert said.returncode == 0, said.stdout + said.stderr


@needs_promtool
def test_a_target_more_doubles_nothing(tmp_path: Path) -> None:
    """Each tells of the whole service."""
    series = [*series_of([]), *series_of([], "b:8000")]
    group = group_of("two", None, series)
    for expression, value in (
        ("plateau:runs_ended:increase10m", 1000),
        ("plateau:lookups:increase10m", 4000),
        ("sum(plateau:readers)", 6),
    ):
        sample = {"labels": "{}", "value": value}
        if not expression.startswith("sum"):
            sample["labels"] = expression
        group["promql_expr_test"].append(
            {"expr": expression, "eval_time": "60m", "exp_samples": [sample]}
        )
    said = run_groups(tmp_path, [group])
    assert said.returncode == 0, said.stdout + said.stderr


@needs_promtool
def test_a_process_that_falls_silent_is_told_of_while_it_is_known(tmp_path: Path) -> None:
    """The service forgets it after 90 s of silence, of which 8 are none yet."""
    series = _written("plateau_processes_silent", {"host": HOST, "role": "runner"})
    fires = 'group by (alertname) (ALERTS{alertstate="firing",alertname="PlateauSilent"})'
    silent = [{"labels": '{alertname="PlateauSilent"}', "value": 1}]
    group = {
        "name": "silent",
        "interval": "15s",
        "input_series": [{"series": series, "values": "0x5 1x4 0x30"}],
        "promql_expr_test": [
            {"expr": fires, "eval_time": at, "exp_samples": it}
            for at, it in (("1m15s", []), ("2m15s", silent), ("5m", []))
        ],
    }
    said = run_groups(tmp_path, [group], "15s")
    assert said.returncode == 0, said.stdout + said.stderr


@needs_promtool
def test_an_alert_that_does_not_fire_is_found(tmp_path: Path) -> None:
    said = run_groups(tmp_path, [group_of("wrong", "PlateauNoRunner", list(series_of([])))])
    assert said.returncode != 0 and "PlateauNoRunner" in said.stdout + said.stderr


def run_groups(
    folder: Path, groups: list[dict[str, Any]], every: str = "1m"
) -> subprocess.CompletedProcess[str]:
    tests = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": every,
        "group_eval_order": ["plateau"],
        "tests": groups,
    }
    (folder / "tests.yml").write_text(json.dumps(tests))
    return promtool("test", "rules", "tests.yml", cwd=folder)


# What they ask for, and what they are told by


def expressions() -> dict[str, str]:
    """All that is asked of Prometheus, by who asks."""
    found = {str(rule.get("alert", rule.get("record"))): rule["expr"] for rule in rules()}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']}, {target['refId']}"] = target["expr"]
    return found


def metrics_of(expression: str) -> set[str]:
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    return set(re.findall(r"\bplateau[_:][a-z0-9_:]+", bare))


def test_all_that_is_asked_for_is_shown() -> None:
    now = seen()
    kinds = {it.metric.name: it.metric.type for it in families(now, picture(now)["memory"], 1)}
    known = {rule["record"] for rule in rules() if "record" in rule}
    for name, kind in kinds.items():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        known |= {f"{name}{suffix}" for suffix in suffixes.get(kind, ("",))}
    asked = expressions()
    assert len(asked) > 50
    for who, expression in asked.items():
        found = metrics_of(expression)
        assert found <= known, (who, found - known)
        # Of Prometheus itself: which targets answer, and which alerts there are.
        assert found or who in ("PlateauDown", "Alerts, A")


def test_labels_that_are_asked_for_are_shown() -> None:
    now = seen()
    shown = {label for it in families(now, picture(now)["memory"], 1) for label in it.labels}
    shown |= {"instance", "job", "alertstate", "alertname"}
    for who, expression in expressions().items():
        groups = re.findall(r"\bby \(([^)]*)\)", expression)
        matched = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression)
        used = {label.strip() for group in groups for label in group.split(",")} | set(matched)
        assert used <= shown, (who, used - shown)


def test_each_alert_has_its_section_of_the_runbook() -> None:
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()
    sections = re.split(r"^## ", runbook, flags=re.MULTILINE)[1:]
    by_title = {section.partition("\n")[0]: section for section in sections}
    assert set(ALERTS) == {title for title in by_title if title.startswith("Plateau")}
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert f"`{rule['labels']['severity']}`" in by_title[name], name
        for part in ("**Means:**", "**Look:**", "**Do:**"):
            assert part in by_title[name], (name, part)


def test_the_dashboard_is_what_its_program_makes() -> None:
    made = subprocess.run(
        ["python3", "dashboard.py"], cwd=DASHBOARD.parent, capture_output=True, text=True
    )
    assert made.stdout == DASHBOARD.read_text(), "python3 deploy/grafana/dashboard.py > …json"


def test_the_page_of_metrics_is_what_the_registry_says() -> None:
    said = (REPOSITORY / PAGE).read_text()
    assert said == page(), f"python -m tests.metrics_page > {PAGE}"
