"""What the audit keeps aside, in memory or in files, and what it finds out from it, against the plain way to do it."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import UsageError
from evkit.views.audit import events as audit_events
from evkit.views.audit import order as audit_order
from evkit.views.audit.events import Examined
from evkit.views.audit.groups import Marks
from evkit.views.audit.log import LogIndex, hashed
from evkit.views.audit.order import Order
from evkit.views.audit.spill import Spill
from evkit.views.audit.verdict import VERDICTS

PAGE = 7
keys = st.sampled_from(["", "a", "b", "c"])
# Topic, key, partition, and how far it came; small numbers, so that they meet.
events = st.lists(st.tuples(st.sampled_from(["t", "u"]), keys, st.integers(0, 2), st.integers(0, 9), st.integers(0, 3)))


@pytest.fixture(params=[0, 1 << 20], ids=["files", "memory"], scope="module")
def bytes_max(request):
    return request.param


def asked(order, frame, n):
    """Fed page by page, as the audit does it; {position: (over_position, over_at)}."""
    for first in range(0, n, PAGE):
        order.add(frame.slice(first, PAGE))
    order.close()
    found = pl.concat([order.overtaken(page) for page in range(n // PAGE + 1)])
    return {position: (over, at) for position, over, at in found.iter_rows()}


@given(events)
def test_in_the_log_an_event_has_overtaken_the_first_that_stands_furthest_of_the_earlier_ones_of_its_key(
    bytes_max, given_events
):
    frame = pl.DataFrame(
        [(n, *event) for n, event in enumerate(given_events)],
        schema=["position", "topic", "key", "partition", "at", "_"],
        orient="row",
    ).cast({"position": pl.Int64, "topic": pl.String, "key": pl.String, "partition": pl.Int32, "at": pl.Int64})

    with Spill(bytes_max) as spill, pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_order, "EVENTS", 5)
        found = asked(Order(spill, None, len(given_events), lambda at: at // PAGE), frame, len(given_events))

    expected, furthest = {}, {}
    for position, (topic, key, partition, at, _) in enumerate(given_events):
        over = furthest.get((topic, key, partition))
        if key and over is not None and at < over[1]:
            expected[position] = over
        if over is None or at > over[1]:
            furthest[topic, key, partition] = (position, at)
    assert found == expected


@given(events)
def test_a_group_has_handled_an_event_too_early_when_the_clock_is_sure_or_the_transactions_agree(
    bytes_max, given_events
):
    step = 30_000  # so that some are within what the clock may be off by, and some are not
    frame = pl.DataFrame(
        [(n, topic, key, at * step, txid) for n, (topic, key, _, at, txid) in enumerate(given_events)],
        schema={"position": pl.Int64, "topic": pl.String, "key": pl.String, "at": pl.Int64, "txid": pl.Int64},
        orient="row",
    )

    with Spill(bytes_max) as spill, pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_order, "EVENTS", 5)
        found = asked(Order(spill, 0, len(given_events), lambda at: at // PAGE), frame, len(given_events))

    expected, before = {}, defaultdict(list)
    for position, (topic, key, _, at, txid) in enumerate(given_events):
        earlier = before[topic, key]
        if key and earlier:
            over, latest, _ = max(earlier, key=lambda e: (e[1], -e[0]))
            behind = latest - at * step
            if behind > 100_000 or (behind > 0 and txid < max(e[2] for e in earlier)):
                expected[position] = (over, latest)
        earlier.append((position, at * step, txid))
    assert found == expected


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3))), st.lists(st.sampled_from("abcdefxyz")),
    st.integers(1, 4),
)  # fmt: skip
def test_the_index_has_every_record_of_an_id_and_none_of_another(bytes_max, records, wanted, heaps):
    with Spill(bytes_max) as spill:
        index = LogIndex({}, spill, [("t", n) for n in range(4)], heaps)
        for first in range(0, len(records), 3):
            part = records[first : first + 3]
            ids = pl.Series([i.encode() for i, _ in part], dtype=pl.Binary)
            index.add(hashed(ids).to_numpy(), np.array([p for _, p in part]), np.arange(first, first + len(part)))
        index.close()
        found = index.find(pl.Series(wanted, dtype=pl.String)).rows()

    for event_id, (n, place, offset, places, offsets) in zip(wanted, found, strict=True):
        there = sorted((p, o) for o, (i, p) in enumerate(records) if i == event_id)
        assert n == len(there)
        assert (place, offset) == (there[0] if there else (-1, -1))
        assert (n < 2 and places is None) or list(zip(places, offsets, strict=True)) == there
    assert index.records == len(records)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers())), st.integers(0, 200))
def test_what_is_kept_aside_comes_back_once_and_in_order(given_records, limit):
    limited = [(heap, value % 1000) for heap, value in given_records]
    frame = pl.DataFrame({"a": ["x", None, ""], "b": [1, 2, None]})
    with Spill(limit) as spill:
        for number, (heap, value) in enumerate(limited):
            spill.throw("h", 0, np.array([heap]), np.array([value]))
            spill.keep(("f", 0, number), frame)

        for heap in range(6):
            expected = [value for of, value in limited if of == heap]
            assert spill.heap(("h", 0, heap), np.int64, keep=True).tolist() == expected
            assert spill.heap(("h", 0, heap), np.int64).tolist() == expected
            assert not len(spill.heap(("h", 0, heap), np.int64))
        for number in range(len(limited)):
            assert spill.taken(("f", 0, number)).equals(frame)
        folder = spill._folder and Path(spill._folder.name)
        assert folder is None or not list(folder.iterdir())
    assert folder is None or not folder.exists()


@given(st.lists(st.lists(st.integers(0, 300))), st.lists(st.integers(-20, 320)))
def test_marks_count_what_was_dealt_with_below_an_offset(added, wanted):
    made = Marks(10, 250)
    for offsets in added:
        made.add(np.array(offsets, dtype=np.int64))

    inside = {o for of in added for o in of if 10 <= o <= 250}
    assert made.below(wanted).tolist() == [sum(o < offset for o in inside) for offset in wanted]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from([None, "g", "h"]), st.sampled_from(VERDICTS))),
    st.integers(0, 9),
)
def test_of_too_many_rows_the_worst_are_kept_in_the_order_of_their_positions(rows, rows_max):
    given_rows = [{"position": p, "group": g, "verdict": v} for (p, g), v in {(p, g): v for p, g, v in rows}.items()]
    found = Examined(rows_max, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_events, "SPARE", 2)
        for row in given_rows:
            found.keep(row)
        found.close()

    assert found.left_out == max(0, len(given_rows) - rows_max)
    harm = Counter(VERDICTS.index(row["verdict"]) for row in found.rows)
    assert sorted(harm.elements()) == sorted(VERDICTS.index(r["verdict"]) for r in given_rows)[:rows_max]
    places = [(row["position"], row["group"] or "") for row in found.rows]
    assert places == sorted(places)


def test_temporary_folder_that_cannot_be_written_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    with Spill(0) as spill, pytest.raises(UsageError, match=r"cannot write there: No such file.*TMPDIR"):
        spill.keep(("page", -1, 0), pl.DataFrame({"a": [1]}))
