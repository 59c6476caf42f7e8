"""results/*.json → the README's performance section: write it anew, between its two marks.

uv run python tests/benchmarks/readme.py
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- performance: made by tests/benchmarks/readme.py -->", "<!-- performance: end -->"

# What is fair to say of each way beside its figures.
CONSUMER_WAYS = {
    "naive": "the form that everybody writes first: a transaction an event, with an inbox row",
    "own": "the handler's own statements: a transaction a polled batch, no inbox, not deduplicated",
    "plain": "`def bill(event, tx)`",
    "pipeline": "the same with `pipeline=True`",
    "batch": "`def bill(events, tx)` with `batch=True`",
    "statements_pipeline": "the statements of `pipeline=True` alone, their values at hand: no Kafka, no events",
    "statements_batch": "the statements of `batch=True` alone",
    "faststream": "FastStream, its default policy (the offset before the handler: a crash loses the event)",
    "faststream-ack": "FastStream, `AckPolicy.ACK`",
    "quix": "Quix Streams",
    "bare": "the client alone, same settings, nothing looked at",
    "decoded": "the client, and an `Event` with its payload made of each record; no consumer",
    "noop": "an `Event`, its payload parsed, to a handler that does nothing",
    "noop_read": "the same, and the handler reads the payload",
    "sleep_16": "5 ms of sleep an event, 16 lanes",
}

WAYS = {
    "naive": "the loop that everybody writes first: poll every 100 ms, publish one, wait, mark one",
    "bare": "the bare producer: from memory, same headers, a callback for each event, nothing marked",
    "relay": "the relay, at least once",
    "exactly-once": "the relay, exactly once",
    "poll": "nothing: the relay looks again by itself",
    "notify": "NOTIFY at the commit",
    "wake": "`Relay.wake()` in the writer's process",
}

SOURCES = {
    "sample": "samples",
    "commit_log": "the copied log of commits",
    "offsets_log": "Kafka's own log of commits",
    "inbox": "evkit's tables (1,000,000 events)",
}


def load(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured(document, what):
    """The last line under a table: where and with what."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    when, machine = document["measured_at"][:10], document["machine"]
    return f"Measured {when} on {machine}, broker, database and {what} sharing them; {versions}."


def consumer_section():
    if not (RESULTS / "consumer_throughput.json").exists():
        return (
            "The consumer has not been measured on a quiet machine yet: `uv run pytest tests/benchmarks/consumer -s`."
        )
    throughput, concurrency = load("consumer_throughput"), load("consumer_concurrency")
    rows = [
        [
            CONSUMER_WAYS[r["way"]],
            f"{r['events_per_second']:,.0f}",
            f"{r['ratio_to_naive']:.2g}",
            f"{r['ratio_to_own']:.2g}",
            f"{r['cpu_seconds_per_100k']:.1f}",
            f"{r['postgres_cpu_seconds_per_100k']:.1f}",
        ]
        for r in throughput["rows"]
    ]
    parallel = next(r for r in concurrency["rows"] if r["way"] == "sleep_16")
    events = max(r["events"] for r in throughput["rows"])
    return f"""### The consumer

A backlog of {events:,} events, one upsert an event, batches of 500; every way but the handler's own statements writes an
inbox row in the transaction of the effect, and the effects were counted at the end: each once. Medians of
{throughput["rows"][0]["rounds"]} interleaved rounds, each way in a process of its own (the slow ones with fewer events):

{table(["way", "events/s", "× naive", "× own statements", "CPU-s per 100,000", "PostgreSQL CPU-s per 100,000"], rows)}

A handler that waits for something else, 5 ms for each of {parallel["events"]:,} events of 64 keys in one partition:
`concurrency=16` is {parallel["ratio_to_sleep"]:.1f} times as fast as 1, each key in order.

{noop_part()}

{measured(throughput, "consumer")} Again: `uv run pytest tests/benchmarks/consumer -s`, then
`uv run python tests/benchmarks/readme.py`."""


def noop_part():
    """From the topic to a handler that does nothing, and memory; a sentence while they are not measured."""
    if not (RESULTS / "consumer_noop.json").exists():
        return (
            "A handler without inbox, and memory with a backlog of a million, have no figures of a quiet machine yet."
        )
    noop, memory = load("consumer_noop"), load("consumer_memory")
    rows = [
        [
            CONSUMER_WAYS[r["way"]],
            f"{r['events_per_second']:,.0f}",
            f"{r['ratio_to_bare']:.2g}",
            f"{r['cpu_seconds_per_100k']:.2f}",
        ]
        for r in noop["rows"]
    ]
    most = max(r["rss_mb"] for r in memory["rows"])
    return f"""From the topic to a handler without inbox (`inbox=False`), {noop["rows"][0]["events"]:,} events:

{table(["way", "events/s", "× the client alone", "CPU-s per 100,000"], rows)}

Memory is bounded whatever the backlog: at most {most:.0f} MB with {memory["rows"][0]["events"]:,} records waiting, also
with 16 lanes and handlers slower than the fetch."""


def redrive_section():
    """Redrives and replays against the live consumer; says of each whether it was measured."""
    parts = ["### Redrive and replay"]
    if (RESULTS / "redrive.json").exists():
        document = load("redrive")
        (row,) = document["rows"]
        parts.append(f"""{row["letters"]:,} letters, each key parked behind its letter, by the ramp (1, 10, 100, the rest):
{row["letters_per_second"]:,.0f} a second, {row["ratio_to_consumer"]:.2g} of what the consumer with the same handler (one
upsert) does with the events.""")
    if (RESULTS / "replay_throughput.json").exists():
        document = load("replay_throughput")
        rows = [
            [CONSUMER_WAYS[r["handler"]], r["way"], f"{r['events_per_second']:,.0f}", f"{r['ratio_to_live']:.2g}"]
            for r in document["rows"]
        ]
        parts.append(f"""A replay of {document["rows"][0]["events"]:,} events against the live consumer of the same handler:

{table(["handler", "way", "events/s", "× live"], rows)}""")
    if len(parts) == 1:
        return "\n\n".join([*parts, "Not measured on a quiet machine yet."])
    return "\n\n".join([*parts, measured(document, "consumer")])


def views_section():
    """What questions about the past cost; a row for each benchmark there is."""
    rows = []
    for r in load("views_rows")["rows"]:
        if r["times_faster_than_rows"]:
            cost = f"{r['ratio_to_copy']:.2g} × a COPY of these to nowhere, {r['megabytes_over_base']:.0f} MB over base"
            rows.append([
                f"{r['rows']:,} rows of {r['columns']} columns", f"{r['seconds']:.1f} s",
                f"{cost}; by psycopg's rows {r['times_faster_than_rows']:.1f} times as long",
            ])  # fmt: skip
    (now,) = load("lag_now")["rows"]
    rows.append([
        f"lag of {now['groups']} groups, {now['partitions']} partitions", f"{now['seconds']:.2f} s",
        f"{now['ratio']:.2g} × asking Kafka for the offsets alone",
    ])  # fmt: skip
    rows += [
        [f"24 hours of lag of 100 partitions, by the minute, from {SOURCES[r['source']]}", f"{r['seconds']:.1f} s", ""]
        for r in load("lag_history")["rows"]
    ]
    journey = next(r for r in load("views_journey")["rows"] if r["journey by"] == "event_id")
    rows.append(
        [
            "the journey of one of 1,000,000 events",
            f"{journey['ms']:.0f} ms",
            f"{journey['times one look']:.2g} × one look-up",
        ]
    )
    audit = load("audit")["rows"]
    whole = next(r for r in audit if r["way"] == "audit, the topic read")
    rows.append([
        "audit of 1,000,000 events, the topic read", f"{whole['seconds']:.0f} s",
        f"{whole['ratio']:.2g} × a COPY of the rows to nowhere, {whole['mb_over_base']:.0f} MB over base",
    ])  # fmt: skip
    scan = next(r for r in load("views_scan")["rows"] if r["way"] == "scan")
    rows.append([
        f"scan of {scan['records']:,} records", f"{scan['records'] / scan['records_per_second']:.1f} s",
        f"{scan['speed_to_bare']:.2g} of the speed of the client alone",
    ])  # fmt: skip
    return f"""### The views

{table(["what is asked for", "takes", "against"], rows)}

{measured(load("audit"), "reader")} Again:
`uv run pytest tests/benchmarks/views -s`, then `uv run python tests/benchmarks/readme.py`."""


def section():
    throughput, latency, memory = load("relay_throughput"), load("relay_latency"), load("relay_memory")
    rows = [
        [
            WAYS[r["way"]],
            f"{r['events_per_second']:,.0f}",
            f"{r['ratio_to_naive']:.0f}",
            f"{r['ratio_to_bare']:.2g}",
            f"{r['cpu_seconds_per_100k']:.2f}",
            f"{r['postgres_cpu_seconds_per_100k']:.2f}",
            f"{r['rss_mb']:.0f}",
        ]
        for r in throughput["rows"]
    ]
    latency_rows = [
        [
            WAYS[r["way"]],
            f"{r['p50_ms']:.1f}",
            f"{r['p99_ms']:.1f}",
            f"{r['p50_to_own_commit']:.1f}",
            f"{r['idle_relay_cpu_percent']:.1f} %",
        ]
        for r in latency["rows"]
    ]
    most = max(memory["rows"], key=lambda r: r["events"])
    least = min(memory["rows"], key=lambda r: r["events"])
    return f"""{BEGIN}
### The relay

A backlog of {throughput["rows"][-1]["events"]:,} events of 256 bytes with six headers each: read, published, confirmed one
by one and marked; medians of {throughput["rows"][0]["rounds"]} interleaved rounds, each way in a process of its own:

{table(["way", "events/s", "× naive", "× bare", "CPU-s per 100,000", "PostgreSQL CPU-s per 100,000", "RSS MB"], rows)}

Memory does not grow with the backlog: {least["rss_mb"]:.0f} MB at {least["events"]:,} events, {most["rss_mb"]:.0f} MB at
{most["events"]:,}.

From the commit to a consumer's hands, at
{latency["rows"][0]["transactions_per_second"]:.0f} single-row transactions a second:

{table(["what wakes the relay", "p50 ms", "p99 ms", "p50 × the writer's own commit", "CPU of an idle relay"], latency_rows)}

{measured(throughput, "relay")} Absolute
figures are that machine's, the ratios travel. Again: `uv run pytest tests/benchmarks/relay -s`, then
`uv run python tests/benchmarks/readme.py`.

{consumer_section()}

{redrive_section()}

{views_section()}
{END}"""


def main():
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(before + section() + rest.partition(END)[2])


if __name__ == "__main__":
    main()
