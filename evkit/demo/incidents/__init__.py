"""Incidents with known answers: a small shop on the embedded stack, one thing that goes wrong, and what triage must say.

shop       a relay, two groups, a payment gateway, and the traffic: the system that incidents happen to
groups     billing and shipping, consumers of one topic
gateway    what billing depends on, and what can be slow or away
catalogue  the incidents, each a function that lets it happen, with its answer
grade      play, triage, compare
"""
