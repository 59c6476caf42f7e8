"""Relays that a test drives by hand."""

from __future__ import annotations

from evkit import Relay


def drain(relay: Relay) -> int:
    """Publish all that waits, and return how many events that were.

    A step does nothing while another relay leads, and one that was closed a moment ago may still: its lock is gone when
    PostgreSQL has ended its session, which a busy machine does later.
    """
    published = 0
    while (count := relay.step()) or not relay.leading.is_set():
        published += count
    return published
