"""How fast the consumer handles a backlog, each event once: against the form that everybody writes first, the handler's own
statements without a guarantee, FastStream and Quix Streams; and how much memory it takes. What its statements alone take,
and the making of events alone, says how much of it is the consumer.

Each way runs in a process of its own, the ways take turns, three rounds, medians. What each has done is looked up in SQL.

    uv run pytest tests/benchmarks/consumer -s
"""

from __future__ import annotations

import statistics

import pytest

EVENTS, EVENTS_NAIVE, EVENTS_PEERS, EVENTS_SLEPT = 60_000, 20_000, 5_000, 4_000
EVENTS_READ, EVENTS_MANY = 300_000, 1_000_000
ROUNDS = 3


def medians(rounds, ratios_to):
    """One row a way from rounds of rows: medians, and of each ratio within a round the median and the range."""
    rows = []
    for name in [row["way"] for row in rounds[0] if row]:
        runs = [next(r for r in results if r and r["way"] == name) for results in rounds]
        row = {"way": name, "events": runs[0]["events"], "rounds": len(rounds), "proof": runs[0]["proof"]}
        for figure in ("events_per_second", "cpu_seconds_per_100k", "postgres_cpu_seconds_per_100k",
                       "kafka_cpu_seconds_per_100k", "rss_mb", "others_percent"):  # fmt: skip
            row[figure] = statistics.median(r[figure] for r in runs)
        row["events_per_second_range"] = [pick(r["events_per_second"] for r in runs) for pick in (min, max)]
        for other in ratios_to:
            ratios = [
                run["events_per_second"] / next(r for r in results if r and r["way"] == other)["events_per_second"]
                for run, results in zip(runs, rounds, strict=True)
            ]
            row[f"ratio_to_{other}"] = statistics.median(ratios)
            row[f"ratio_to_{other}_range"] = [min(ratios), max(ratios)]
        rows.append(row)
    return rows


@pytest.mark.timeout(1800)
def test_throughput_of_a_handler_with_one_upsert(filled, way, report):
    all_of_them, some, few = filled(EVENTS), filled(EVENTS_NAIVE), filled(EVENTS_PEERS)

    rounds = [
        [
            way("naive", some),
            way("own", all_of_them),
            way("plain", all_of_them),
            way("pipeline", all_of_them),
            way("batch", all_of_them),
            way("statements_pipeline", all_of_them),
            way("statements_batch", all_of_them),
            way("faststream", few),
            way("faststream-ack", few),
            way("quix", few),
        ]
        for _ in range(ROUNDS)
    ]

    report("consumer_throughput", medians(rounds, ["naive", "own"]))


@pytest.mark.timeout(900)
def test_keys_of_one_partition_in_parallel(filled, way, report):
    events = filled(EVENTS_SLEPT, keys=64, partitions=1)

    rounds = [[way("sleep", events), way("sleep_16", events)] for _ in range(ROUNDS)]

    report("consumer_concurrency", medians(rounds, ["sleep"]))


@pytest.mark.timeout(900)
def test_events_to_a_handler_that_does_nothing(filled, way, report):
    events = filled(EVENTS_READ)

    rounds = [[way(name, events) for name in ("bare", "decoded", "noop", "noop_read")] for _ in range(ROUNDS)]

    report("consumer_noop", medians(rounds, ["bare"]))


@pytest.mark.timeout(900)
def test_memory_with_a_backlog_of_a_million(filled, way, report):
    events = filled(EVENTS_MANY)

    # The first two go to the end; the others are slower than the fetch, so that what may be buffered is.
    runs = [way("noop", events), way("batch", events), way("plain", events, 20.0), way("sleep_16", events, 20.0)]

    report(
        "consumer_memory", [{k: r[k] for k in ("way", "events", "events_per_second", "rss_mb", "proof")} for r in runs]
    )
