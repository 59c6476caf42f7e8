"""results/*.json → the README's performance section: write it anew, between its two marks.

uv run python tests/benchmarks/readme.py
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- performance: made by tests/benchmarks/readme.py -->", "<!-- performance: end -->"

WAYS = {
    "naive": "the loop that everybody writes first: poll every 100 ms, publish one, wait, mark one",
    "bare": "the bare producer: from memory, same headers, a callback for each event, nothing marked",
    "relay": "the relay, at least once",
    "exactly-once": "the relay, exactly once",
    "poll": "nothing: the relay looks again by itself",
    "notify": "NOTIFY at the commit",
    "wake": "`Relay.wake()` in the writer's process",
}


def load(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
    versions = ", ".join(f"{name} {version}" for name, version in throughput["versions"].items())
    most = max(memory["rows"], key=lambda r: r["events"])
    least = min(memory["rows"], key=lambda r: r["events"])
    return f"""{BEGIN}
A backlog of {throughput["rows"][-1]["events"]:,} events of 256 bytes with six headers each: read, published, confirmed one
by one and marked; medians of {throughput["rows"][0]["rounds"]} interleaved rounds, each way in a process of its own:

{table(["way", "events/s", "× naive", "× bare", "CPU-s per 100,000", "PostgreSQL CPU-s per 100,000", "RSS MB"], rows)}

Memory does not grow with the backlog: {least["rss_mb"]:.0f} MB at {least["events"]:,} events, {most["rss_mb"]:.0f} MB at
{most["events"]:,}.

From the commit to a consumer's hands, at
{latency["rows"][0]["transactions_per_second"]:.0f} single-row transactions a second:

{table(["what wakes the relay", "p50 ms", "p99 ms", "p50 × the writer's own commit", "CPU of an idle relay"], latency_rows)}

Measured {throughput["measured_at"][:10]} on {throughput["machine"]}, broker, database and relay sharing them; {versions}.
Absolute figures are that machine's, the ratios travel. Again: `uv run pytest tests/benchmarks/relay -s`, then
`uv run python tests/benchmarks/readme.py`.
{END}"""


def main():
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(before + section() + rest.partition(END)[2])


if __name__ == "__main__":
    main()
