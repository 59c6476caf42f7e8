from __future__ import annotations

import json

import polars as pl
import pytest

from evkit import views
from evkit.errors import InvalidParameter
from evkit.window import Window
from tests.integration.views.rows import deal, fail, write


@pytest.fixture
def deployed(past):
    """Of 200 events those of version 2 in region north failed; half of all were handled by version 2."""
    for i in range(200):
        event, created = f"e{i:03}", 400 - i
        version, region = str(1 + i % 2), "north" if i % 10 == 1 else "south"
        write(past, event, created, key=f"k{i % 20}", payload={"region": region}, published=created,
              headers=json.dumps({"tenant": region}))  # fmt: skip
        common = {"key": f"k{i % 20}", "code_version": version}
        if version == "2" and region == "north":
            fail(past, "billing", event, created, disposition="dead", **common)
            deal(past, "billing", event, created, created=created, outcome="dead", **common)
        else:
            deal(past, "billing", event, created - 1, created=created, **common)
    return past


def test_what_the_failed_have_in_common_is_found_and_nothing_else(evkit_system, deployed):
    frame = views.differs(
        evkit_system,
        deployed.window(600),
        attributes=["event_type", "topic", "code_version", "$.region", "header:tenant"],
    )

    assert set(frame["attribute"]) == {"code_version", "$.region", "header:tenant"}
    first = frame.to_dicts()[0]
    assert (first["attribute"], first["value"], first["n_selection"], first["n_background"]) == (
        "$.region",
        "north",
        20,
        0,
    )
    assert (first["selection_ratio"], first["lift"], first["distinct"]) == (1.0, None, True)


def test_error_class_is_no_finding_about_the_failed_but_keys_are(evkit_system, deployed):
    frame = views.differs(evkit_system, deployed.window(600))

    assert "error_class" not in set(frame["attribute"])
    assert {"k1", "k11"} <= set(frame.filter(frame["attribute"] == "key")["value"])


@pytest.mark.parametrize("kind", ["value", "window", "frame"])
def test_a_selection_may_be_a_value_a_window_inside_or_a_frame_of_events(evkit_system, deployed, kind):
    wanted = [f"e{i:03}" for i in range(100)]
    selection = {
        "value": "code_version=2",
        "window": Window(deployed.at(401), deployed.at(300)),
        "frame": pl.DataFrame({"event_id": wanted, "group": ["billing"] * 100}),
    }[kind]

    noise = views.differs(
        evkit_system, deployed.window(600), selection, attributes=["$.region", "code_version"], noise=True
    )

    region = noise.filter((noise["attribute"] == "$.region") & (noise["value"] == "north"))
    assert region.select("n_selection", "n_background").rows() == [(20, 0) if kind == "value" else (10, 10)]
    assert region["distinct"].to_list() == [kind == "value"]
    assert ("code_version" in set(noise["attribute"])) == (kind != "value")


def test_a_selection_of_nothing_or_of_everything_is_said(evkit_system, deployed, caplog):
    assert views.differs(evkit_system, deployed.window(600), "pending").is_empty()
    assert "nothing is selected of the 200 events" in caplog.text
    assert views.differs(evkit_system, deployed.window(600), "group=billing").is_empty()
    assert "everything is selected of the 200 events" in caplog.text
    views.differs(evkit_system, deployed.window(600), events_max=50)
    assert "only the newest 50 events" in caplog.text


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"selection": "faild"}, "did you mean 'failed'"),
        ({"selection": "code_versoin=2"}, "did you mean 'code_version'"),
        ({"selection": 7}, "this is a int"),
        ({"selection": pl.DataFrame({"id": []})}, "needs a column event_id"),
        ({"attributes": ["handlr"]}, "did you mean 'handler'"),
        ({"attributes": ["$..x"]}, "is no path into a payload"),
    ],
)
def test_bad_input_is_a_sentence(evkit_system, deployed, asked, sentence):
    with pytest.raises(InvalidParameter, match=sentence):
        views.differs(evkit_system, deployed.window(600), **asked)
