"""A window that has ended → what of a judgement is of now all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evkit.cli.output import say

if TYPE_CHECKING:
    from evkit.system import System
    from evkit.window import Window

# What is measured as it is, whatever window is asked for.
OF_NOW = ("what waits in the outbox", "held handlers", "the state of dead letters")


def of_now(system: System, seen: Window) -> tuple[str, ...]:
    """What is of now although the window has ended before; () for a window that goes on until now."""
    return OF_NOW if seen.is_past(system.now()) else ()


def say_of_now(system: System, seen: Window) -> None:
    """One sentence about it, where there is something to say."""
    if names := of_now(system, seen):
        say(
            f"the window ended at {seen.end:%Y-%m-%d %H:%M:%S} UTC; {', '.join(names[:-1])} and {names[-1]} are of now all "
            "the same"
        )
