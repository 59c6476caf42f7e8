"""The work that every way of consuming does, and how a way is measured. Standard library only: peers import it too.

A way is a process: it prints "ready", waits for a line, works, and prints one line of JSON. Its clock runs from the first
event that its handler is given to the commit of the last one's effect, so that joining a group counts for nobody.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

# One upsert an event. The sum of the events' numbers tells an event that came twice from another that never came.
UPSERT = (
    "INSERT INTO effect VALUES (%s, 1, %s)"
    " ON CONFLICT (key) DO UPDATE SET n = effect.n + 1, total = effect.total + excluded.total"
)
# The same for a list of them, as a list handler would write it.
UPSERT_ALL = (
    "INSERT INTO effect SELECT key, count(*), sum(i) FROM unnest(%s::text[], %s::bigint[]) AS e (key, i) GROUP BY key"
    " ON CONFLICT (key) DO UPDATE SET n = effect.n + excluded.n, total = effect.total + excluded.total"
)
# What the naive form and the peers write for the same guarantee, in the transaction of the effect.
INBOX_ROW = (
    'INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", key, received_at)'
    " VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp()) ON CONFLICT DO NOTHING"
)


class Clock:
    """Seconds and CPU seconds of this process between `begin` and `end`."""

    begun = 0.0

    def begin(self):
        if not self.begun:
            self.begun, self._cpu = time.perf_counter(), time.process_time()

    def end(self):
        self.seconds, self.cpu_seconds = time.perf_counter() - self.begun, time.process_time() - self._cpu


def memory_mb():
    """Peak resident memory; not ru_maxrss, which begins with what the parent had at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(way, *args):
    """Run `way(clock, *args)`, which returns how many events the clock has seen from their beginning to their end."""
    clock = Clock()
    print("ready", flush=True)
    sys.stdin.readline()
    events = way(clock, *args)
    told = {"events": events, "seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "rss_mb": memory_mb()}
    print(json.dumps(told), flush=True)
