"""The exposition: all that is counted is in it, once, under labels from bounded sets."""

from __future__ import annotations

import gc
import sys

import pytest

from plateau_sse import __version__
from plateau_sse.errors import PROBLEMS, RUN_FAILURES
from plateau_sse.ops.prometheus import RELEASES_MOST, UNSAID, exposition
from plateau_sse.ops.watch import Seen
from plateau_sse.store.figures.by_agent import ENDS, OF_AGENT, OTHER, TOKENS
from plateau_sse.store.figures.tally import (
    BUCKETS,
    CLOSED_BY,
    CUT_FOR,
    DEATHS,
    DIALECTS,
    NAMES,
    REFUSED,
)
from plateau_sse.store.redis.servers import CLOSED
from tests.pictures import HOST, picture, seen, server, worker
from tests.scrapes import PROMTOOL, Scrape, check_with_promtool, parsed


def text_of(now: Seen) -> str:
    return exposition(now, picture(now)["memory"], 64 * 1024**2).decode()


def scraped(now: Seen) -> Scrape:
    return parsed(text_of(now))


# Each another number, so that none can be taken for another.
ALL = {name: 1000 + number for number, name in enumerate(NAMES)}
ALL |= {f"agent:a:b:{what}": 5000 + number for number, what in enumerate(OF_AGENT)}


def test_each_counter_is_shown_once() -> None:
    shown = scraped(seen(by_host={HOST: ALL}))
    histograms = tuple(f"{name}_" for name in BUCKETS)
    for name, value in ALL.items():
        if not name.startswith(histograms):
            found = [it for it, shown_value in shown.values.items() if shown_value == value]
            assert len(found) == 1, (name, found)
            assert found[0].label("host") == HOST
            assert found[0].name.endswith("_total")
    assert shown.total("plateau_cache_hits_total", host=HOST) == ALL["cache_hits"]
    code = shown.total("plateau_runs_failed_total", host=HOST, code="runner_lost")
    assert code == ALL["runs_failed_runner_lost"]
    problem = shown.total("plateau_problems_total", code="no_runner", status="503")
    assert problem == ALL["problems_no_runner"]
    how = shown.total("plateau_process_ends_total", host=HOST, how="workers_died")
    assert how == ALL["workers_died"]


def test_agents_are_told_apart() -> None:
    counts = {"agent:notes:completed": 3, "agent:notes:timeout": 1, "agent:x:completed": 5}
    tokens = {"agent:notes:input_tokens": 700, "agent:notes:output_tokens": 40}
    shown = scraped(seen(by_host={HOST: {**counts, **tokens}}))
    runs = "plateau_agent_runs_total"
    assert shown.total(runs, agent="notes") == 4
    assert shown.total(runs, agent="notes", status="failed", code="timeout") == 1
    assert shown.total(runs, status="completed") == 8
    assert shown.total("plateau_agent_tokens_total", agent="notes", kind="input") == 700


def test_a_histogram_adds_up() -> None:
    counts = {"event_lag_0": 3, "event_lag_4": 2, "event_lag_10": 1, "event_lag_us": 6_250_000}
    shown = scraped(seen(by_host={HOST: counts}))
    name = "plateau_event_lag_seconds"
    buckets = [shown.total(f"{name}_bucket", le=f"{bound:g}") for bound in BUCKETS["event_lag"]]
    assert buckets == [3, 3, 3, 3, 5, 5, 5, 5, 5, 5]
    assert shown.total(f"{name}_bucket", le="+Inf") == shown.total(f"{name}_count") == 6
    assert shown.total(f"{name}_sum") == 6.25
    assert shown.kinds[name] == "histogram"


def test_hosts_are_told_apart() -> None:
    other = worker(host="other", pid=91, open_native=3, open_chat=4)
    by_host = {HOST: {"cache_hits": 1}, "other": {"cache_hits": 2}}
    shown = scraped(seen(by_host=by_host, workers=[worker(), worker("runner", 13), other]))
    assert shown.total("plateau_cache_hits_total", host="other") == 2
    assert shown.total("plateau_cache_hits_total") == 3
    assert shown.total("plateau_responses_open", host=HOST) == 3
    assert shown.total("plateau_responses_open", host="other") == 7
    assert shown.total("plateau_responses_open", host="other", dialect="chat") == 4
    assert shown.total("plateau_memory_pss_bytes", host="other", role="web") == 20 * 1024**2


def test_releases_are_those_of_all_processes() -> None:
    """Who scrapes one address meets one of them at a time."""
    others = [worker(pid=90 + n, version=f"0.0.{n}") for n in range(3)]
    old = worker("runner", 13)
    del old["version"]
    shown = scraped(seen(workers=[worker(), *others, old]))
    found = [it.label("version") for it in shown.values if it.name == "plateau_info"]
    assert found == [__version__, "0.0.0", "0.0.1", "0.0.2", UNSAID]
    many = [worker(pid=n, version=f"9.{n}") for n in range(100)]
    shown = scraped(seen(workers=many))
    assert shown.total("plateau_info") == RELEASES_MOST
    assert shown.total("plateau_info", version=__version__) == 1


def test_labels_come_from_bounded_sets() -> None:
    odd = 'a "quoted"\\host\nof two lines'
    by_host = {HOST: ALL, odd: ALL}
    shown = scraped(seen(by_host=by_host, workers=[worker(), worker("runner", host=odd)]))
    bounds = {f"{bound:g}" for bounds in BUCKETS.values() for bound in bounds}
    allowed = {
        "host": {HOST, odd},
        "code": {*RUN_FAILURES, OTHER, *REFUSED, *PROBLEMS},
        "status": {*ENDS, "failed", *(str(status) for status, _ in PROBLEMS.values())},
        "agent": {"a:b"},
        "kind": set(TOKENS),
        "reason": {*CLOSED_BY, *CUT_FOR},
        "how": set(DEATHS),
        "dialect": set(DIALECTS),
        "role": {"web", "runner", "master", "streams", "cache"},
        "le": {*bounds, "+Inf"},
    }
    for series in shown.values:
        for name, value in series.labels:
            if series.name != "plateau_info":
                assert value in allowed[name], series
    # Whatever happens to it, one host has so many series, and no more.
    of_one = [series for series in shown.values if series.label("host") == HOST]
    assert len(of_one) < 200
    assert len(shown.values) < 450


def test_what_is_not_known_is_left_out() -> None:
    away = seen(streams="away", cache=None, depth=None, by_host={}, workers=[])
    shown = scraped(away)
    assert shown.total("plateau_redis_up", role="streams") == 0
    names = {series.name for series in shown.values}
    assert not {name for name in names if name.endswith("_total")}
    assert names <= {
        "plateau_info",
        "plateau_redis_up",
        "plateau_memory_warn_bytes",
        "plateau_streams_bound_bytes",
    }
    assert shown.total("plateau_streams_bound_bytes") == 64 * 1024**2
    down = scraped(seen(cache="away"))
    assert down.total("plateau_redis_up", role="cache") == 0
    assert down.total("plateau_redis_up", role="streams") == 1


def test_servers_are_told_apart() -> None:
    now = seen(
        streams=server("noeviction", keys=5), cache=server("allkeys-lru", evicted_keys=9)
    )
    shown = scraped(now)
    assert shown.total("plateau_redis_keys", role="streams") == 5
    assert shown.total("plateau_redis_evicted_keys_total", role="cache") == 9


def test_what_processes_say_is_told_by_role() -> None:
    silent = worker(pid=12, age_s=20.0, deaf=1, heavy=1, cpu=0.5)
    shown = scraped(seen(workers=[worker("runner", 13), worker(), silent]))
    assert shown.total("plateau_processes", role="web") == 2
    assert shown.total("plateau_processes_silent", role="web") == 1
    assert shown.total("plateau_processes_silent", role="runner") == 0
    assert shown.total("plateau_processes_cpu_ratio", role="web") == 0.51
    assert shown.total("plateau_workers_deaf") == 1
    assert shown.total("plateau_workers_heavy") == 1
    assert shown.total("plateau_connections") == 10
    assert shown.total("plateau_connections_most") == 1800
    assert shown.total("plateau_runs_followed") == 4


def test_the_bound_of_the_streams_is_the_smaller_one() -> None:
    smaller = scraped(seen(streams=server("noeviction", used_memory=8, maxmemory=10)))
    assert smaller.total("plateau_streams_bound_bytes") == 10
    assert smaller.total("plateau_streams_full_ratio") == 0.8
    none = scraped(seen(streams=server("allkeys-lru", maxmemory=0)))
    assert none.total("plateau_streams_bound_bytes") == 64 * 1024**2
    assert none.total("plateau_redis_wrong", role="streams") == 1
    assert none.total("plateau_redis_wrong", role="cache") == 0


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's prometheus) is not installed")
@pytest.mark.parametrize("by_host", [{}, {HOST: {}}, {HOST: ALL, "other": ALL}])
def test_promtool_has_nothing_to_complain_of(by_host: dict[str, dict[str, int]]) -> None:
    check_with_promtool(text_of(seen(by_host=by_host)))


def test_a_scrape_leaves_nothing_behind() -> None:
    """Counted in blocks of the interpreter, each time another figure."""
    held = []
    for scrapes in range(10):
        for number in range(50):
            text_of(seen(by_host={HOST: {name: 10**6 * scrapes + number for name in NAMES}}))
        gc.collect()
        held.append(sys.getallocatedblocks())
    # The first rounds fill caches. One block a scrape would be 100 in the last two.
    assert held[-1] - held[-3] < 50, held


def test_a_server_that_says_nothing_of_itself_answers() -> None:
    """Its user lacks a right that the service does without."""
    closed = scraped(seen(streams=CLOSED))
    assert closed.total("plateau_redis_up", role="streams") == 1
    away = scraped(seen(streams="it does not answer"))
    assert away.total("plateau_redis_up", role="streams") == 0
