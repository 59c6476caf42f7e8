"""What a group's log tells of its past where it may not be read, or was compacted: what `evkit sample` had copied of it."""

from __future__ import annotations

import pytest
from polars.testing import assert_frame_equal

from evkit import kafka, views
from evkit.errors import OffsetsLogRefused, UnknownGroup
from evkit.offsets_log import OFFSETS_TOPIC
from evkit.runtime.sampler import Sampler
from evkit.system import System
from tests.integration.views.groups import commit, commit_as_member, produce


@pytest.fixture
def moved(evkit_secured_kafka, past):
    """Takes a name; gives whoever owns the cluster, and somebody who may not read its log of offsets. The group of this
    name has read up to 100, was set forward to 180 and back to 20 from outside."""

    def make(name):
        owner = System(evkit_secured_kafka.open_settings)
        kafka.create_topics(owner.settings, {name: 1})
        produce(owner, name, 200)
        commit_as_member(owner, name, name, 100)
        commit(owner, name, name, 180, 20)
        for kind in ("topic", "group"):
            evkit_secured_kafka.allow("analyst", ["DESCRIBE", "READ"], **{kind: name})
        return owner, System(evkit_secured_kafka.settings("analyst"))

    return make


def copy(system):
    sampler = Sampler(system)
    sampler.once()
    sampler.close()


def test_moved_offsets_and_changed_members_are_told_by_the_copy_where_the_log_may_not_be_read(moved, past, caplog):
    group = "moved"
    owner, analyst = moved(group)
    copy(owner)
    past.handle(group, "e1", 10)

    told = views.offset_resets(analyst, group)
    noted = views.annotations(analyst, group=group).to_dicts()
    seen = views.symptoms(analyst, "1h", group=group)

    assert_frame_equal(told.drop("source"), views.offset_resets(owner, group).drop("source"))
    assert set(views.offset_resets(owner, group)["source"]) == {"offsets_log"}
    assert set(told["source"]) == set(views.rebalances(analyst, group)["source"]) == {"commit_log"}
    assert [(r["from_offset"], r["to_offset"], r["moved_by"]) for r in told.to_dicts()] == [
        (100, 180, "outside"), (180, 20, "outside"),
    ]  # fmt: skip
    assert f"offset_resets of {group}: told by what was copied until " in caplog.text
    assert OFFSETS_TOPIC in caplog.text
    assert {(r["kind"], r["source"]) for r in noted} == {("rebalance", "commit_log"), ("offset_reset", "commit_log")}
    assert f"offsets of {group} went back by 160 ({group}, 1 partition)" in {r["text"] for r in noted}
    assert "annotations: rebalances and offsets that went back: told by what was copied" in caplog.text
    assert_frame_equal(seen["offset_resets"], told)
    assert_frame_equal(seen["rebalances"], views.rebalances(analyst, group))
    assert not seen["rebalances"].is_empty()
    for view in (views.offset_resets, views.rebalances):
        with pytest.raises(UnknownGroup, match=f"did you mean '{group}'"):
            view(analyst, group + "s")


def test_where_nothing_was_copied_what_may_not_be_read_is_refused_or_missing(moved, past, caplog):
    group = "uncopied"
    _, analyst = moved(group)
    past.handle(group, "e1", 10)

    for view in (views.offset_resets, views.rebalances):
        with pytest.raises(OffsetsLogRefused, match=OFFSETS_TOPIC):
            view(analyst, group)
    assert views.annotations(analyst, group=group).is_empty()
    assert "rebalances and offsets that went back are missing" in caplog.text
    assert isinstance(views.symptoms(analyst, "1h", group=group)["offset_resets"], OffsetsLogRefused)
