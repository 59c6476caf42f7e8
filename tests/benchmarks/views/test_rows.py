"""How fast a million rows become a frame, against a COPY of the same rows to nowhere and against rows that become Python
objects first: each in a process of its own, in turns, three rounds.

    uv run pytest tests/benchmarks/views -s
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = 3
ROWS = int(os.environ.get("EVKIT_BENCHMARK_ROWS", "1000000"))
READ = Path(__file__).with_name("read.py")
FILL = (
    'INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", key, attempt, failed_at,'
    " duration_seconds, handler, error_class, error_message, stack_trace, fingerprint, disposition, code_version)"
    " SELECT 'billing', gen_random_uuid()::text, 'order.placed', 'order', i %% 6, i, 'k' || i %% 1000, 1 + i %% 3,"
    " now() - i * interval '1 ms', random(), 'billing.bill', 'ValueError', 'no such customer: ' || i %% 500, '',"
    " 'f' || i %% 50, 'retry', '1.4.2' FROM generate_series(1, %s) AS i"
)


@pytest.mark.timeout(3600)
def test_a_million_failed_attempts(evkit_system, report):
    with evkit_system.writing(autocommit=True) as connection:
        connection.execute(FILL, (ROWS,))
        connection.execute("VACUUM ANALYZE evkit.attempt")

    def read(way):
        words = [sys.executable, str(READ), way, evkit_system.settings.postgres_dsn, str(ROWS)]
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    runs = {way: [] for way in ("copy", "view", "rows", "narrow_copy", "narrow", "narrow_rows")}
    for _ in range(ROUNDS):
        for way, found in runs.items():
            found.append(read(way))

    def median(way, name):
        return statistics.median(run[name] for run in runs[way])

    def ratios(way, other, name="seconds"):
        return [a[name] / b[name] for a, b in zip(runs[way], runs[other], strict=True)]

    rows = []
    for way, limit, slow in (
        ("view", "copy", "rows"),
        ("rows", "copy", None),
        ("narrow", "narrow_copy", "narrow_rows"),
        ("narrow_rows", "narrow_copy", None),
    ):
        to_copy = ratios(way, limit)
        rows.append(
            {
                "way": way, "columns": runs[way][0]["columns"], "rows": ROWS, "rounds": ROUNDS,
                "seconds": median(way, "seconds"), "ratio_to_copy": statistics.median(to_copy),
                "ratio_to_copy_range": [min(to_copy), max(to_copy)],
                "cpu_seconds": median(way, "cpu_seconds"), "megabytes_over_base": median(way, "megabytes"),
                "megabytes_of_frame": median(way, "frame_megabytes"),
                "times_faster_than_rows": statistics.median(ratios(slow, way)) if slow else None,
            }
        )  # fmt: skip
    report("views_rows", rows)
