"""Each rule speaks where it should, names the figure, and is silent otherwise."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest

from plateau_sse.ops import cgroup
from plateau_sse.ops.advice import (
    CPU_MOST,
    EVICTIONS_STEADY,
    LOOKUPS_LEAST,
    RULES,
    SLOW_MANY,
    WAIT_MOST_S,
    advise,
    silent,
)
from plateau_sse.ops.watch import Seen
from plateau_sse.settings import Settings
from plateau_sse.store.queue.queue import Depth
from plateau_sse.store.redis.servers import fullness, together
from tests.pictures import MIB, picture, seen, server, worker


class Case(NamedTuple):
    """`wrong` makes `rule` say something with all of `words` in it; `right`, which is nearly
    the same, does not."""

    rule: str
    wrong: Seen
    words: tuple[str, ...]
    right: Seen
    settings: Settings = Settings()


def lately(**counts: int) -> Seen:
    return seen(lately=Counter(counts))


def web(**changed: Any) -> Seen:
    return seen(workers=[worker("runner", 13), worker(pid=11), worker(pid=12, **changed)])


CASES = [
    Case(
        "streams_down",
        seen(streams="Connection refused", depth=None, by_host={}, workers=[]),
        ("Connection refused",),
        seen(),
    ),
    Case("deaf", web(deaf=1), ("box:12", "does not hear"), web(deaf=0)),
    Case(
        "no_runner",
        seen(depth=Depth(3, 0, 0, 1.0)),
        ("no runner is alive",),
        # Nobody knows.
        seen(depth=None),
    ),
    Case(
        "policy",
        seen(streams=server("allkeys-lru")),
        ("policy of the streams is allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
        seen(streams="no answer within 2 s"),
    ),
    Case(
        "policy",
        seen(cache=server("volatile-ttl")),
        ("policy of the cache is volatile-ttl", "CONFIG SET maxmemory-policy allkeys-lru"),
        seen(cache=None),
    ),
    Case(
        "policy",
        seen(cache=server("allkeys-lru", maxmemory=0)),
        ("no bound", "CONFIG SET maxmemory 10mb"),
        # Its own bound is that of the settings.
        seen(streams=server("noeviction", maxmemory=0)),
    ),
    Case(
        "memory",
        seen(),
        ("78 MiB", "MEMORY_WARN_MB=77"),
        # Its processes do not say what they use: the rest is no sum.
        seen(workers=[]),
        Settings(memory_warn_mb=77),
    ),
    Case(
        "silent",
        web(age_s=9.4),
        ("web box:12 has said nothing for 9 s",),
        web(age_s=7.9),
    ),
    Case(
        "hanging",
        seen(workers=[worker("runner", 13, hanging=2), worker(pid=11)]),
        ("threads of agents hang", "runner box:13: 2"),
        seen(workers=[worker("runner", 13, hanging=0), worker(pid=11)]),
    ),
    Case(
        "versions",
        seen(apart={"notes": {"1": ["box:1", "box:2"], "2": ["box:3"]}}),
        ("agent notes is 1 (box:1, box:2) and 2 (box:3)",),
        seen(),
    ),
    Case(
        "versions",
        seen(apart={f"a{n}": {"1": ["r"] * 5, "2": ["s"]} for n in range(5)}),
        ("a0 is 1 (r, r, r and 2 more) and 2 (s); agent a1", "and 2 more agents"),
        seen(),
    ),
    Case(
        "cache_down",
        seen(cache="refused"),
        ("every lookup is a miss", "refused"),
        seen(cache=None),
    ),
    Case(
        "died",
        lately(workers_died=2, runners_died=1),
        ("2 workers, 1 runner",),
        lately(workers_recycled=5),
    ),
    Case(
        "connections",
        web(connections=811),
        ("box:12 has 811 of the 900 connections",),
        web(connections=810),
    ),
    Case(
        "connections",
        lately(streams_put_off=3, connections_cut_refused=2),
        ("3 streams found no room", "2 connections found none"),
        lately(connections_cut_head=7),
    ),
    Case(
        "heavy",
        web(heavy=1, pss=130 * MIB, memory_most=120 * MIB),
        ("box:12 has 130.0 of the 120.0 MiB", "takes no more streams"),
        web(heavy=0, pss=119 * MIB, memory_most=120 * MIB),
    ),
    Case("timeouts", lately(workers_timed_out=1), ("1", "WORKER_TIMEOUT_S=120"), lately()),
    Case(
        "queue",
        seen(depth=Depth(7, 32, 1, WAIT_MOST_S)),
        ("7 runs wait", "for 10 s", "32 are executed"),
        seen(depth=Depth(7, 32, 1, WAIT_MOST_S - 0.1)),
    ),
    Case(
        "full",
        seen(streams=server("noeviction", used_memory=33 * MIB)),
        ("52% full", "records live a minute only"),
        seen(streams=server("noeviction", used_memory=31 * MIB)),
    ),
    Case(
        "full",
        # Of the smaller of the two bounds.
        seen(streams=server("noeviction", used_memory=18 * MIB, maxmemory=20 * MIB)),
        ("90% full", "new runs are refused"),
        seen(streams=server("noeviction", used_memory=18 * MIB, maxmemory=0)),
    ),
    Case(
        "refused",
        lately(runs_refused_queue_full=3, runs_refused_no_runner=1),
        ("3 by queue_full", "1 by no_runner"),
        lately(runs_failed_timeout=3),
    ),
    Case(
        "evictions",
        lately(cache_evicted_keys=EVICTIONS_STEADY),
        (f"{EVICTIONS_STEADY} answers were evicted",),
        lately(cache_evicted_keys=EVICTIONS_STEADY - 1),
    ),
    Case(
        "misses",
        lately(cache_hits=LOOKUPS_LEAST, cache_misses=4 * LOOKUPS_LEAST),
        ("80% of 250 lookups",),
        # Too few to say anything; and a rate that is well.
        lately(cache_misses=LOOKUPS_LEAST - 1),
    ),
    Case("cpu", web(cpu=0.93), ("box:12 uses 93% of a core",), web(cpu=CPU_MOST)),
    Case("slow", lately(readers_slow=SLOW_MANY), ("20 readers",), lately(readers_slow=19)),
]


@pytest.mark.parametrize("case", CASES, ids=[case.rule for case in CASES])
def test_a_rule_speaks_where_it_should(case: Case) -> None:
    wrong = {row["rule"]: row for row in picture(case.wrong, case.settings)["advice"]}
    assert case.rule in wrong, wrong
    said = wrong[case.rule]
    assert all(word in said["says"] for word in case.words), said
    assert said["change"] and said["level"] in ("warning", "error")
    right = {row["rule"]: row["says"] for row in picture(case.right, case.settings)["advice"]}
    assert case.rule not in right, right


def test_the_cgroup_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def rules(used: int | None, limit: int | None) -> dict[str, str]:
        monkeypatch.setattr(cgroup, "memory", lambda: (used, limit))
        return {row["rule"]: row["says"] for row in picture(seen())["advice"]}

    assert rules(95 * MIB, 100 * MIB) == {"cgroup": "95% of the 100 MiB that this host may use"}
    for used, limit in ((89 * MIB, 100 * MIB), (95 * MIB, None), (None, None), (0, 0)):
        assert not rules(used, limit)


def test_the_cgroups_of_other_containers_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory", lambda: (None, None))

    def says(used: int, limit: int) -> str:
        full = worker("runner", 1, host="other", group_used=used, group_limit=limit)
        advice = picture(seen(workers=[worker(pid=11), full]))["advice"]
        return str(next((row["says"] for row in advice if row["rule"] == "cgroup"), ""))

    assert says(105 * MIB, 112 * MIB) == "94% of the 112 MiB that the runner of other may use"
    assert says(60 * MIB, 112 * MIB) == says(105 * MIB, 0) == ""


def test_every_rule_has_a_case() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(names) == {case.rule for case in CASES} | {"cgroup"}


def test_a_service_that_is_well_needs_no_advice() -> None:
    assert picture(seen())["advice"] == []


def test_a_service_that_has_just_begun_needs_none() -> None:
    new = seen(lately=Counter(), lately_s=0.0, by_host={}, depth=Depth(0, 0, 1, 0.0))
    assert picture(new)["advice"] == []


def test_where_nothing_is_known_only_that_is_said() -> None:
    """The store is away: neither its runners nor its processes are blamed for it."""
    away = seen(
        streams="away", cache="away", depth=None, by_host={}, workers=[], lately=Counter()
    )
    assert [row["rule"] for row in picture(away)["advice"]] == ["streams_down", "cache_down"]


def test_the_worst_comes_first() -> None:
    both = seen(cache="away", depth=Depth(0, 0, 0, 0.0))
    rows = advise(picture(both), Settings())
    assert [(row["rule"], row["level"]) for row in rows] == [
        ("no_runner", "error"),
        ("cache_down", "warning"),
    ]


def test_who_is_silent_is_told_apart_by_role() -> None:
    found = picture(web(age_s=9.4))
    assert silent(found, "web") and not silent(found, "runner")


def test_a_cluster_is_as_full_as_the_fullest_of_its_primaries() -> None:
    """Each has the bound for itself, and its own where that is less."""
    each = [server("noeviction", used_memory=19 * MIB) for _ in range(3)]
    each[2] |= {"maxmemory": 32 * MIB}
    for one in each:
        one["primaries"] = [(one["used_memory"], one["maxmemory"])]
    whole = together(each)
    assert whole["used_memory"] == 57 * MIB
    share, bound = fullness(whole, 64 * MIB)
    assert (share, bound) == (19 / 32, (64 + 64 + 32) * MIB)
    assert fullness(each[0], 64 * MIB) == (19 / 64, 64 * MIB)
