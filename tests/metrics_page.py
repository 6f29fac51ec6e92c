"""docs/metrics.md, made from the registry:

python -m tests.metrics_page > docs/metrics.md
"""

from __future__ import annotations

import sys

from plateau_sse.ops.prometheus import COUNTERS, families
from plateau_sse.store.figures.by_agent import AGENTS_MOST, NAME_BYTES
from plateau_sse.store.figures.stats import HOSTS_MOST
from plateau_sse.store.figures.tally import BUCKETS
from tests.pictures import picture, seen

PAGE = "docs/metrics.md"

HEAD = f"""\
# Metrics

What `GET /metrics` tells Prometheus. This page is made from the registry
(`python -m tests.metrics_page > {PAGE}`), and a test compares.
[deploy/prometheus](../deploy/prometheus) has the rules and alerts that use it,
[deploy/grafana](../deploy/grafana) a dashboard, [runbook.md](runbook.md) what to do about each
alert.

- Whichever web worker is asked tells of the whole service, of all its hosts and processes. One
  target is enough; with several take each figure once (`max by (host, …)`) before adding up, as
  the rules do.
- Counters carry the label `host` and outlive the processes that count, kill -9 included. A host
  that has counted nothing for a day is forgotten.
- Labels are bounded: {HOSTS_MOST} hosts; {AGENTS_MOST} agents a process, whose names have at
  most {NAME_BYTES} bytes (the rest are `other`; runs of external producers are `external`);
  everything else comes from lists in the code ([errors.md](errors.md) has the codes).
- A series of an agent begins when something happens for the first time; all others begin at 0.
- None has the name of a run, an owner, a key or a conversation. Whoever reaches the service can
  read them: a proxy that faces the world keeps them in, as both examples in `deploy/` do.

| metric | type | labels | what |
|---|---|---|---|
"""


def page() -> str:
    now = seen()
    rows = []
    values = {counter.title: counter for counter in COUNTERS}
    for family in families(now, picture(now)["memory"], 1):
        metric = family.metric
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = []
        for label in family.labels:
            counter = values.get(metric.name.removeprefix("plateau_"))
            if counter is not None and label == counter.label:
                shown = ", ".join(value for value, _ in counter.series())
                labels.append(f"`{label}`: {shown}")
            else:
                labels.append(f"`{label}`")
        rows.append(
            f"| `{name}` | {metric.type} | {'; '.join(labels)} | {metric.documentation} |"
        )
    bounds = "\n".join(
        f"- `{name}`: {', '.join(f'{bound:g}' for bound in found)}"
        for name, found in BUCKETS.items()
    )
    tail = (
        f"\nUpper bounds of the histograms, in seconds; one more bucket has none:\n\n{bounds}\n"
    )
    return HEAD + "\n".join(rows) + "\n" + tail


if __name__ == "__main__":
    sys.stdout.write(page())
