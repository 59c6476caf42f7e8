"""Incidents with known answers: triage names each cause among its first two findings, and nothing when all is calm."""

from __future__ import annotations

import pytest

from evkit.demo.incidents.catalogue import INCIDENTS
from evkit.demo.incidents.grade import grade
from evkit.settings import Settings
from evkit.system import System


@pytest.fixture
def system(own_stack):
    """A stack of its own: triage looks at every group of a cluster, and other tests leave theirs."""
    kafka = {"bootstrap.servers": own_stack.kafka_bootstrap_servers}
    return System(Settings(profile="incident", postgres_dsn=own_stack.postgres_dsn, kafka=kafka))


def test_there_are_at_least_ten_incidents_besides_the_calm():
    assert len([i for i in INCIDENTS.values() if i.cause]) >= 10


@pytest.mark.parametrize("name", INCIDENTS)
def test_triage_finds_the_cause_of(name, system, tmp_path):
    graded = grade(INCIDENTS[name], system, tmp_path)

    found = [f"{cause.name}: {cause.sentence}" for cause in graded.diagnosis.causes]
    assert graded.passed, found
    assert not graded.diagnosis.unmeasured
