"""What a command that runs for long shows, and how it is told to stop."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evkit.cli.signals import on_stop


def stop_event() -> threading.Event:
    """Set by the first signal that asks to stop."""
    stop = threading.Event()
    on_stop(stop.set)
    return stop


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, to be called with (done, planned); elsewhere nothing: results and log lines are enough."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

        def progress(done: int, planned: int) -> None:
            bar.total = planned
            bar.update(done - bar.n)

        yield progress
