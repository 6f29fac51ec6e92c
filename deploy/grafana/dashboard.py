"""Makes plateau.json, a dashboard for Grafana 9 or newer:

    python3 deploy/grafana/dashboard.py > deploy/grafana/plateau.json

It asks deploy/prometheus/recording.yml's records, too, so those rules must be loaded.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

WIDTH, HEIGHT, COLUMNS = 8, 8, 3
STAT_WIDTH, STAT_HEIGHT = 4, 4
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Panel(NamedTuple):
    """`asked` are expressions by their legends; `bounds` colour what passes them."""

    title: str
    asked: dict[str, str]
    unit: str = "short"
    text: str = ""
    bounds: tuple[float, ...] = ()
    is_number: bool = False


def rate(name: str, *labels: str) -> str:
    """A second, of all hosts, each taken once however many targets tell of it."""
    within = ", ".join(("host", *labels))
    once = f"max by ({within}) (rate({name}[$__rate_interval]))"
    return f"sum by ({', '.join(labels)}) ({once})" if labels else f"sum({once})"


def quantile(share: float, name: str) -> str:
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', 'le')})"


NUMBERS = (
    Panel("Readers", {"": "sum(plateau:readers)"}, is_number=True),
    Panel("Runs now", {"": "max(plateau_runs_running)"}, is_number=True),
    Panel("Runs that wait", {"": "max(plateau_runs_waiting)"}, bounds=(1, 100), is_number=True),
    Panel(
        "Streams instance",
        {"": "plateau:streams:ratio"},
        "percentunit",
        "Half full shortens the life of records, 85 % closes the door to new runs.",
        (0.5, 0.85),
        is_number=True,
    ),
    Panel(
        "Hit rate, 10 min", {"": "plateau:cache_hit:ratio10m"}, "percentunit", is_number=True
    ),
    Panel(
        "Alerts",
        {"": 'count(ALERTS{alertname=~"Plateau.+", alertstate="firing"}) or vector(0)'},
        bounds=(1,),
        is_number=True,
    ),
)
ROWS: dict[str, tuple[Panel, ...]] = {
    "Memory against its bounds": (
        Panel(
            "Hosts",
            {
                "{{host}}": "plateau:memory_bytes",
                "MEMORY_WARN_MB": "min(plateau_memory_warn_bytes)",
            },
            "bytes",
            "Proportional set size of all processes of a host.",
        ),
        Panel(
            "Streams instance",
            {
                "used": 'max(plateau_redis_used_memory_bytes{role="streams"})',
                "resident": 'max(plateau_redis_rss_bytes{role="streams"})',
                "bound": "min(plateau_streams_bound_bytes)",
            },
            "bytes",
        ),
        Panel(
            "Cache",
            {
                "used": 'max(plateau_redis_used_memory_bytes{role="cache"})',
                "resident": 'max(plateau_redis_rss_bytes{role="cache"})',
                "bound": 'max(plateau_redis_max_memory_bytes{role="cache"})',
            },
            "bytes",
            "Full is normal: old answers make room.",
        ),
        Panel(
            "Processes",
            {
                "{{host}} {{role}}": "max by (host, role) (plateau_memory_pss_bytes)",
            },
            "bytes",
        ),
        Panel(
            "What the host bills",
            {
                "{{host}} {{role}}": "max by (host, role) (plateau_cgroup_used_bytes)",
                "limit of {{host}} {{role}}": (
                    "max by (host, role) (plateau_cgroup_limit_bytes)"
                ),
            },
            "bytes",
            "The cgroups of web workers and of runners, where they have a limit.",
        ),
    ),
    "Readers": (
        Panel("Open streams", {"{{dialect}}": "plateau:readers"}, text="By dialect."),
        Panel(
            "Opened and ended",
            {
                "opened, {{dialect}}": rate("plateau_responses_opened_total", "dialect"),
                "ended: {{reason}}": rate("plateau_responses_closed_total", "reason"),
            },
            "ops",
        ),
        Panel(
            "Events delivered",
            {"{{dialect}}": rate("plateau_events_delivered_total", "dialect")},
            "ops",
        ),
        Panel(
            "Lag of events",
            {
                "median": quantile(0.5, "plateau_event_lag_seconds"),
                "95 %": quantile(0.95, "plateau_event_lag_seconds"),
            },
            "s",
            "From the store to a reader, as each worker's canary finds it.",
            (0.25,),
        ),
        Panel(
            "Turned away, slow, repaired",
            {
                "put off": rate("plateau_streams_put_off_total"),
                "connections cut: {{reason}}": rate("plateau_connections_cut_total", "reason"),
                "bodies refused": rate("plateau_bodies_refused_total"),
                "slow": rate("plateau_readers_slow_total"),
                "repaired": rate("plateau_feeds_repaired_total"),
                "resumed": rate("plateau_responses_resumed_total"),
            },
            "ops",
        ),
        Panel(
            "Connections",
            {
                "{{host}}": "max by (host) (plateau_connections)",
                "most of {{host}}": "max by (host) (plateau_connections_most)",
            },
        ),
    ),
    "Runs": (
        Panel(
            "First token",
            {
                "median": quantile(0.5, "plateau_time_to_first_token_seconds"),
                "95 %": quantile(0.95, "plateau_time_to_first_token_seconds"),
            },
            "s",
            "From asking to the first text, of executed runs.",
            (10,),
        ),
        Panel(
            "Ends by agent",
            {
                "{{agent}} {{status}} {{code}}": rate(
                    "plateau_agent_runs_total", "agent", "status", "code"
                )
            },
            "ops",
        ),
        Panel(
            "Failures by code",
            {"{{code}}": f"{rate('plateau_runs_failed_total', 'code')} > 0"},
            "ops",
        ),
        Panel(
            "Tokens by agent",
            {"{{agent}} {{kind}}": rate("plateau_agent_tokens_total", "agent", "kind")},
            "ops",
        ),
        Panel(
            "Queue",
            {
                "waiting": "max(plateau_runs_waiting)",
                "running": "max(plateau_runs_running)",
                "first in line waits, s": "max(plateau_queue_oldest_seconds)",
                "runners": "max(plateau_runners)",
            },
        ),
        Panel(
            "Taken on, joined, refused",
            {
                "taken on": rate("plateau_runs_created_total"),
                "joined": rate("plateau_runs_joined_total"),
                "attempts begun anew": rate("plateau_runs_restarted_total"),
                "refused: {{code}}": rate("plateau_runs_refused_total", "code"),
            },
            "ops",
        ),
        Panel(
            "Time of a run",
            {
                "median": quantile(0.5, "plateau_run_duration_seconds"),
                "95 %": quantile(0.95, "plateau_run_duration_seconds"),
            },
            "s",
        ),
        Panel(
            "Problems by status",
            {
                "{{status}} {{code}}": (
                    f"{rate('plateau_problems_total', 'status', 'code')} > 0"
                )
            },
            "ops",
            "What requests are answered by when they are not answered.",
        ),
    ),
    "Cache": (
        Panel(
            "Lookups",
            {
                "hits": rate("plateau_cache_hits_total"),
                "misses": rate("plateau_cache_misses_total"),
                "not answered": rate("plateau_cache_errors_total"),
                "too large": rate("plateau_cache_refused_total"),
            },
            "ops",
        ),
        Panel("Hit rate", {"10 min": "plateau:cache_hit:ratio10m"}, "percentunit"),
        Panel(
            "Evicted",
            {
                "{{role}}": "max by (role) (rate("
                "plateau_redis_evicted_keys_total[$__rate_interval]))"
            },
            "ops",
            "Of the cache: normal once it is full. Of the streams: answers lost.",
        ),
    ),
    "Redis": (
        Panel(
            "Answers, and is what it should be",
            {
                "{{role}} up": "min by (role) (plateau_redis_up)",
                "{{role}} wrong": "max by (role) (plateau_redis_wrong)",
            },
        ),
        Panel(
            "Connections",
            {
                "{{role}}": "max by (role) (plateau_redis_clients)",
                "{{role}} blocked": "max by (role) (plateau_redis_clients_blocked)",
            },
        ),
        Panel("Keys", {"{{role}}": "max by (role) (plateau_redis_keys)"}),
        Panel(
            "Clients' buffers",
            {"{{role}}": "max by (role) (plateau_redis_clients_memory_bytes)"},
            "bytes",
        ),
        Panel(
            "Fragmentation",
            {"{{role}}": "max by (role) (plateau_redis_fragmentation_ratio)"},
        ),
    ),
    "Processes": (
        Panel(
            "Cores in use",
            {"{{host}} {{role}}": "max by (host, role) (plateau_processes_cpu_ratio)"},
        ),
        Panel(
            "Processes",
            {
                "{{host}} {{role}}": "max by (host, role) (plateau_processes)",
                "{{host}} {{role}} silent": "max by (host, role) (plateau_processes_silent)",
                "{{host}} deaf": "max by (host) (plateau_workers_deaf)",
            },
        ),
        Panel(
            "Ends",
            {
                "{{host}} {{how}}": "max by (host, how) (increase("
                "plateau_process_ends_total[10m]))"
            },
            text="Within ten minutes.",
        ),
        Panel("Releases", {"{{version}}": "count by (version) (plateau_info)"}),
    ),
}


def panel_of(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    colours = ("green", "orange", "red") if len(panel.bounds) > 1 else ("green", "red")
    steps = [
        {"color": colour, "value": value}
        for colour, value in zip(colours, (None, *panel.bounds), strict=False)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"steps": steps}}
    if not panel.is_number:
        defaults["min"] = 0
        defaults["custom"] = {"fillOpacity": 5, "showPoints": "never"}
        if panel.bounds:
            defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    return {
        "id": number,
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for at, (legend, expression) in enumerate(panel.asked.items())
        ],
    }


def panels() -> list[dict[str, Any]]:
    made = [
        panel_of(
            panel,
            at + 1,
            {"x": at * STAT_WIDTH, "y": 0, "w": STAT_WIDTH, "h": STAT_HEIGHT},
        )
        for at, panel in enumerate(NUMBERS)
    ]
    y = STAT_HEIGHT
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": WIDTH * COLUMNS, "h": 1}
        made.append(
            {"id": len(made) + 1, "type": "row", "title": title, "gridPos": place, "panels": []}
        )
        y += 1
        for at, panel in enumerate(row):
            line, column = divmod(at, COLUMNS)
            where = {"x": column * WIDTH, "y": y + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            made.append(panel_of(panel, len(made) + 1, where))
        y += HEIGHT * -(-len(row) // COLUMNS)
    assert all(one["id"] < other["id"] for one, other in pairwise(made))
    return made


def dashboard() -> dict[str, Any]:
    source = {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    return {
        "uid": "plateau",
        "title": "Plateau",
        "description": "Agent answers over server-sent events. Each alert: docs/runbook.md.",
        "tags": ["plateau"],
        "schemaVersion": 37,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels(),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
