"""How much of what was promised was kept."""

from __future__ import annotations

from evkit.views.columns.column import Column, count, flag, seconds, text, time

SLO = (
    text("slo", "freshness, correctness, relay or completeness"),
    text("group", "consumer group; null for the relay, which has none"),
    text("topic", "topic of the relay's events; null for a group's objective"),
    seconds("window_seconds", "length of the window, which ends at measured_at"),
    seconds("target_seconds", "in how much time an event must get there; null for correctness"),
    Column("objective", "float64", "0..1", "share of events that must be good"),
    count("good", "events judged good in the window; null when it could not be measured"),
    count("bad", "events judged bad; those that still wait and whose time is over are among them"),
    count("unmeasured", "events that cannot be judged, for nobody wrote down when they were written"),
    Column("bad_ratio", "float64", "0..1", "bad / (good + bad); null without an event"),
    Column("burn_rate", "float64", "1", "bad_ratio / (1 - objective): 1 uses up the budget just in the period"),
    Column("budget_used_ratio", "float64", "0..1", "share of the period's budget that this window alone has used up"),
    count("events_min", "fewer events than this say nothing about a ratio"),
    flag("enough", "true when good + bad is at least that; null when it could not be measured"),
    time("measured_at", "end of the window; one value for the whole call"),
)
