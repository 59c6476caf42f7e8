"""frames → causes: what is wrong, the worst first, each with its likely cause and what to type next. Pure.

`triage(evkit.views.symptoms(system, window))` runs every rule and ranks what they find by harm: lost, wrong, late, noisy;
among equal harm by how many events it concerns. A rule looks at several frames at once, where a monitor judges one number:
a group that is behind is explained by the plainest thing that can explain it, and is not told a second time as slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evkit.monitors.thresholds import Thresholds
from evkit.monitors.triage import late, lost, noisy, wrong
from evkit.monitors.triage.cause import Cause, Diagnosis, Harm
from evkit.monitors.triage.evidence import Evidence

__all__ = ["RULES", "Cause", "Diagnosis", "Harm", "triage"]

# As many as somebody who was just woken can take in.
CAUSES_MAX = 5

RULES: tuple[Callable[[Evidence], list[Cause]], ...] = (
    lost.retention_loss,
    lost.offset_skip,
    lost.audit,
    wrong.dead_letters,
    wrong.unpublishable,
    wrong.offset_rewind,
    late.relay,
    late.open_transaction,
    late.hanging_transaction,
    late.groups,
    noisy.flaky,
    noisy.clock_skew,
)


def triage(
    measured: Mapping[str, Any], thresholds: Thresholds | None = None, *, limit: int | None = CAUSES_MAX
) -> Diagnosis:
    """What is wrong, by all rules.

    Args:
        measured    what `evkit.views.symptoms` returned: a frame by name, or the error that prevented it
        thresholds  from where on something is wrong
        limit       most causes; None: all

    A frame that is missing or an error is told in `unmeasured`; the rules that need it then find nothing, which is not
    the same as nothing being wrong.
    """
    evidence = Evidence(measured, thresholds or Thresholds())
    found = [cause for rule in RULES for cause in rule(evidence)]
    found.sort(key=lambda c: (c.harm.rank, -c.events))
    shown = found if limit is None else found[:limit]
    return Diagnosis(shown, len(found) - len(shown), evidence.unmeasured)
