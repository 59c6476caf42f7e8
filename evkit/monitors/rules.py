"""thresholds → alert rules for Prometheus and Grafana, over the series of `evkit metrics serve`.

The same bounds as `evkit check` has, group by group, so that pager and check do not contradict each other. What cannot be
measured alarms too: a series that is gone says nothing, and must not be taken for calm.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from evkit.monitors.exported import window_label
from evkit.monitors.thresholds import Thresholds, strength
from evkit.views.slo import BURNS

# Longer than anybody waits between two measurements; one that takes so long is no monitoring either.
_STALE_SECONDS = 300
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert.

    Attributes:
        alert     its name
        expr      in PromQL
        severity  warning or critical
        summary   a sentence, with Prometheus' templates in it
        command   what to type next
        lasting   how long it must be so, as Prometheus writes durations
    """

    alert: str
    expr: str
    severity: str
    summary: str
    command: str
    lasting: str = "1m"


def rules(thresholds: Thresholds | None = None) -> list[Rule]:
    """The alerts of a service's thresholds: the six monitors, consumers, objectives, and the measuring itself."""
    bounds = thresholds or Thresholds()
    found: list[Rule] = []
    for severity in ("warning", "critical"):
        found += _of_groups(bounds, severity)
        found += _of_the_outbox(bounds, severity)
    found += _of_objectives()
    found += _of_measuring()
    return found


def _of_groups(bounds: Thresholds, severity: str) -> list[Rule]:
    """An alert for the groups that have the service's bounds, and one for each table that has others."""
    kinds = (
        ("ConsumerLag", "evkit_consumer_lag_seconds", "lag_seconds", "{{ $labels.group }} is "
         "{{ $value | humanizeDuration }} behind in {{ $labels.topic }}/{{ $labels.partition }}",
         "evkit view lag --group {{ $labels.group }}"),
        ("Latency", "evkit_latency_p99_seconds", "latency_p99_seconds", "{{ $labels.group }}: p99 is "
         "{{ $value | humanizeDuration }} from the write to the handler's commit",
         "evkit view latency --group {{ $labels.group }}"),
        ("DeadLetters", "evkit_dead_letters_open", "open_letters", "{{ $labels.group }}: {{ $value }} open dead letters",
         "evkit dlq groups --group {{ $labels.group }}"),
        ("AttemptErrors", "evkit_attempt_error_ratio", "attempt_error_ratio", "{{ $labels.group }}: "
         "{{ $value | humanizePercentage }} of the attempts of {{ $labels.event_type }} fail",
         "evkit view errors --group {{ $labels.group }}"),
    )  # fmt: skip
    found = []
    for name, metric, threshold, summary, command in kinds:
        field = f"{threshold}_{severity}"
        others = {subject: table[field] for subject, table in bounds.group.items() if field in table}
        for subject, bound in ((None, getattr(bounds, field)), *others.items()):
            chosen = _selector(subject, tuple(others))
            expr = f"{metric}{chosen} >= {bound:g}"
            if threshold == "attempt_error_ratio":
                fewest = bounds.attempts_min if subject is None else bounds.of_group(subject).attempts_min
                expr += f" and evkit_attempts{chosen} >= {fewest}"
            found.append(Rule(f"Evkit{name}{severity.capitalize()}", expr, severity, summary, command))
    return found


def _selector(subject: str | None, others: tuple[str, ...]) -> str:
    """The label matchers of one table's groups: its own, without those that a stronger table speaks for."""
    if subject is None:
        return f"{{group!~{_quoted('|'.join(map(_regex, others)))}}}" if others else ""
    stronger = [o for o in others if o != subject and strength(o) > strength(subject)]
    matchers = [f"group=~{_quoted(_regex(subject))}"]
    if stronger:
        matchers.append(f"group!~{_quoted('|'.join(map(_regex, stronger)))}")
    return "{" + ",".join(matchers) + "}"


def _regex(pattern: str) -> str:
    """A pattern of a table as a regular expression of Prometheus (RE2, anchored)."""
    special = r"\.+()|^$]{}"
    return "".join({"*": ".*", "?": "."}.get(c, "\\" + c if c in special else c) for c in pattern)


def _quoted(text: str) -> str:
    """A string of PromQL or YAML; what YAML allows in no string is written as its number."""
    return _UNPRINTABLE.sub(lambda c: f"\\u{ord(c.group()):04x}", json.dumps(text, ensure_ascii=False))


def _of_the_outbox(bounds: Thresholds, severity: str) -> list[Rule]:
    def bound(name: str) -> float:
        return float(getattr(bounds, f"{name}_{severity}"))

    kind = severity.capitalize()
    step = "evkit outbox status"
    return [
        Rule(f"EvkitRelayLag{kind}", f"evkit_outbox_oldest_pending_seconds >= {bound('relay_seconds'):g}", severity,
             "the oldest event waits {{ $value | humanizeDuration }} in the outbox", step),
        Rule(f"EvkitUnpublishable{kind}", f"evkit_outbox_unpublishable_events >= {bound('unpublishable_events'):g}",
             severity, "{{ $value }} events cannot be published", step),
        Rule(f"EvkitOutboxHole{kind}", f"evkit_outbox_hole_seconds >= {bound('hole_seconds'):g}", severity,
             "a transaction keeps an outbox position open for {{ $value | humanizeDuration }}", step),
    ]  # fmt: skip


def _of_objectives() -> list[Rule]:
    found = []
    for burn in BURNS:
        long, short = window_label(burn.long_seconds), window_label(burn.short_seconds)
        # `ignoring`: both sides have their own window.
        expr = (
            f'evkit_slo_burn_rate{{window="{long}"}} >= {burn.rate:g} '
            f'and ignoring(window) evkit_slo_burn_rate{{window="{short}"}} >= {burn.rate:g} '
            f'and ignoring(window) evkit_slo_enough_events{{window="{long}"}} == 1'
        )
        found.append(
            Rule(
                f"EvkitSloBurns{long}",
                expr,
                "critical" if burn.page else "warning",
                "{{ $labels.slo }} of {{ $labels.group }}{{ $labels.topic }} burns its budget "
                f"{{{{ $value | humanize }}}} times too fast over {long} and {short}",
                "evkit check",
                "2m" if burn.page else "15m",
            )
        )
    return found


def _of_measuring() -> list[Rule]:
    return [
        Rule("EvkitConsumerStands", 'evkit_consumer_status{status=~"stop|stall|data_loss"} > 0', "critical",
             "{{ $labels.group }}: {{ $value }} partitions, status {{ $labels.status }}",
             "evkit view consumer-status --group {{ $labels.group }}", "2m"),
        Rule("EvkitNotMeasured", "evkit_monitor_measured == 0", "warning", "{{ $labels.monitor }} could not be measured",
             "evkit check", "5m"),
        Rule("EvkitMeasuringStale", f"time() - evkit_measured_timestamp_seconds > {_STALE_SECONDS}", "warning",
             "nothing was measured for {{ $value | humanizeDuration }}", "evkit check", "2m"),
        Rule("EvkitMeasuringBroken", "evkit_measuring_failed == 1", "warning", "the measurement breaks",
             "evkit check", "2m"),
        Rule("EvkitMetricsGone", "absent(evkit_measured_timestamp_seconds)", "critical",
             "nobody scrapes evkit metrics serve, or it is not running", "evkit metrics serve", "5m"),
    ]  # fmt: skip


def rule_file(thresholds: Thresholds | None = None) -> str:
    """The alerts as a rule file: YAML that Prometheus loads by `rule_files`, and Grafana imports.

    Texts are written as JSON strings, which are YAML's too: nothing that a name holds can end one.
    """
    lines = [
        "# Alert rules over `evkit metrics serve`, made by `evkit metrics rules` of the service's thresholds.",
        "groups:",
        "  - name: evkit",
        "    rules:",
    ]
    for rule in rules(thresholds):
        lines += [
            f"      - alert: {rule.alert}",
            f"        expr: {_quoted(rule.expr)}",
            f"        for: {rule.lasting}",
            "        labels:",
            f"          severity: {rule.severity}",
            "        annotations:",
            f"          summary: {_quoted(rule.summary)}",
            f"          command: {_quoted(rule.command)}",
        ]
    return "\n".join(lines) + "\n"
