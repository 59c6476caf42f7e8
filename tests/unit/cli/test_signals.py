"""What a signal does, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

SCRIPT = """
import signal, sys, threading, time
from evkit.cli.signals import on_stop
stop = threading.Event()
"""


def ran(script):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + script], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_signal_that_comes_while_the_main_thread_holds_the_lock_of_what_it_sets_stops_all_the_same():
    done = ran(
        "on_stop(stop.set)\n"
        "with stop._cond: signal.raise_signal(signal.SIGTERM)\n"  # as Event.wait holds it for a moment, each time
        "print(stop.wait(30))"
    )

    assert done.stdout == "True\n"


def test_a_second_signal_has_its_default_effect_after_what_is_to_be_done_at_once():
    done = ran(
        "on_stop(stop.set, lambda: print('at once', flush=True))\n"
        "signal.raise_signal(signal.SIGTERM); print(stop.wait(30), flush=True)\n"
        "signal.raise_signal(signal.SIGTERM); time.sleep(30)"
    )

    assert (done.stdout, done.returncode) == ("True\nat once\n", -signal.SIGTERM)
