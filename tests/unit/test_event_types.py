"""Event types: versions and upcasters are registered once, and a payload is written as strict JSON or not at all."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field

from evkit import Event
from evkit.errors import InvalidEvent, SchemaMismatch, UsageError
from evkit.event_types import Registry, UnknownEventType, encode


class Placed(BaseModel):
    total: int
    note: str | None = None


class Placed2(Placed):
    currency: str = "EUR"


@pytest.fixture
def registry():
    registry = Registry()
    registry.event_type("order.placed", version=1)(Placed)
    registry.event_type("order.placed", version=2)(Placed2)
    return registry


def placed(payload: Any, **more: Any) -> Event:
    return Event("order.placed", "o-1", payload, id="e1", **more)


def free(payload: Any) -> Event:
    """An event of a type that nobody declared."""
    return Event("thing.happened", "t-1", payload, id="e1")


# --- registration -----------------------------------------------------------------------------------------------------


def test_newest_version_is_the_model_that_is_meant_without_one(registry):
    assert registry.versions("order.placed") == [1, 2]
    assert registry.model("order.placed") is Placed2
    assert registry.model("order.placed", 1) is Placed
    assert registry.version_of(Placed, "order.placed") == 1
    assert registry.versions("order.lost") == []


def test_unknown_type_and_version_are_named_with_what_there_is(registry):
    with pytest.raises(UnknownEventType, match=r"did you mean 'order\.placed'\?"):
        registry.model("order.place")
    with pytest.raises(UsageError, match="has no version 7; registered: 1, 2"):
        registry.model("order.placed", 7)


def test_second_model_for_a_version_is_refused(registry):
    class Other(BaseModel):
        pass

    with pytest.raises(UsageError, match=r"version 1 is .*Placed already"):
        registry.event_type("order.placed", version=1)(Other)


def test_same_model_for_two_versions_is_refused(registry):
    with pytest.raises(UsageError, match="a version and a name of its own"):
        registry.event_type("order.placed", version=3)(Placed)


def test_definition_that_runs_again_replaces_the_first():
    """As a notebook cell or a reloaded module does."""
    registry = Registry()

    def cell():
        @registry.event_type("order.placed")
        class Order(BaseModel):
            total: int

        @registry.upcaster("order.placed", from_version=1)
        def more(payload):
            return payload

        return Order

    cell()
    again = cell()

    assert registry.model("order.placed") is again


@pytest.mark.parametrize("version", [0, -1, "1", True, 1.0])
def test_versions_count_from_one(version):
    with pytest.raises(UsageError, match="count from 1"):
        Registry().event_type("order.placed", version=version)
    with pytest.raises(UsageError, match="count from 1"):
        Registry().upcaster("order.placed", from_version=version)


def test_model_that_forbids_unknown_fields_is_refused_wherever_it_is_inside():
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")

    class Outer(BaseModel):
        inner: list[Closed | None]

    for model in (Closed, Outer):
        with pytest.raises(UsageError, match="Closed has extra='forbid', so its consumers would refuse the next"):
            Registry().event_type("x.y")(model)


def test_field_that_could_be_written_and_not_read_is_refused():
    class Renamed(BaseModel):
        total: int = Field(serialization_alias="sum")

    class ReadOnly(BaseModel):
        total: int = Field(validation_alias="sum")

    class Hidden(BaseModel):
        total: int = Field(exclude=True)

    for model in (Renamed, ReadOnly):
        with pytest.raises(UsageError, match="use alias= for both"):
            Registry().event_type("x.y")(model)
    with pytest.raises(UsageError, match="required and excluded"):
        Registry().event_type("x.y")(Hidden)


def test_field_with_choices_of_names_that_include_the_written_one_is_fine():
    class Choices(BaseModel):
        total: int = Field(validation_alias=AliasChoices("total", "sum"))
        both: int = Field(alias="b")

    assert Registry().event_type("x.y")(Choices) is Choices


def test_something_else_than_a_model_is_refused():
    with pytest.raises(UsageError, match="is no pydantic model"):
        Registry().event_type("x.y")(dict)  # type: ignore[type-var]


# --- upcasters --------------------------------------------------------------------------------------------------------


def test_upcasters_run_one_after_the_other_and_leave_the_payload_as_it_was():
    registry = Registry()

    @registry.upcaster("x.y", from_version=1)
    def split(payload):
        payload["names"] = payload.pop("name").split()
        payload["deep"]["seen"] = True
        return payload

    @registry.upcaster("x.y", from_version=3)  # the step from 2 to 3 only added fields
    def count(payload):
        return {**payload, "count": len(payload["names"])}

    old = {"name": "a b", "deep": {}}

    assert registry.upcast("x.y", old, 1, 4) == {"names": ["a", "b"], "deep": {"seen": True}, "count": 2}
    assert old == {"name": "a b", "deep": {}}
    assert registry.upcast("x.y", {"names": []}, 2, 3) == {"names": []}


def test_upcaster_that_fails_or_forgets_to_return_is_a_schema_mismatch_with_its_name():
    registry = Registry()

    @registry.upcaster("x.y", from_version=1)
    def broken(payload):
        return payload["gone"]

    @registry.upcaster("x.y", from_version=2)
    def forgetful(payload):
        payload["x"] = 1

    with pytest.raises(SchemaMismatch, match=r"from version 1 \(.*broken\) failed: KeyError: 'gone'"):
        registry.upcast("x.y", {}, 1, 2)
    with pytest.raises(SchemaMismatch, match=r"forgetful\) returned NoneType"):
        registry.upcast("x.y", {}, 2, 3)


def test_two_upcasters_of_one_step_are_refused():
    registry = Registry()
    registry.upcaster("x.y", from_version=1)(dict)

    with pytest.raises(UsageError, match="two upcasters of 'x.y' from version 1"):
        registry.upcaster("x.y", from_version=1)(lambda payload: payload)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_payload_of_an_undeclared_type_is_compact_utf8():
    data, version = encode(free({"name": "Žofie", "n": [1, 2.5, None, True]}), Registry())

    assert data == '{"name":"Žofie","n":[1,2.5,null,true]}'.encode()
    assert version == 1


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({"x": math.nan}, "has NaN at payload.x, which JSON does not know"),
        ({"x": [1, {"y": -math.inf}]}, r"has -Infinity at payload\.x\[1\]\.y"),
        ({"x": {1: "a"}}, "has the key 1 at payload.x: keys in JSON are text"),
        ({None: 1}, "has the key None at payload:"),
        ({"x": MappingProxyType({1: 2})}, "has the key 1 at payload.x"),
        ({"x": {1, 2}}, "has a value of type set at payload.x"),
        ({"x": b"raw"}, "has a value of type bytes at payload.x"),
        ({"x": object()}, "has a value of type object at payload.x"),
        ({"x": datetime(2026, 1, 1)}, "has a datetime without a time zone at payload.x"),  # noqa: DTZ001
        ({"x": Decimal("NaN")}, "has NaN at payload.x"),
        ({"x": Placed(total=1)}, r"has a Placed at payload\.x: pass its \.model_dump"),
        ({"x": "a\ud800"}, "has a lone surrogate at payload.x"),
        ({"\udfff": 1}, "has a key with a lone surrogate at payload"),
        ({"x": 10**5000}, "is not JSON"),
        ([1], "a payload is a JSON object or a pydantic model"),
        (None, "a payload is a JSON object or a pydantic model"),
    ],
)
def test_what_json_does_not_know_is_refused_with_its_place(payload, sentence):
    with pytest.raises(InvalidEvent, match=sentence) as refused:
        encode(free(payload), Registry())

    assert (refused.value.event_id, refused.value.event_type) == ("e1", "thing.happened")


def test_payload_that_contains_itself_or_has_no_bottom_is_refused():
    circle: dict[str, Any] = {}
    circle["me"] = [circle]
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"d": deep}

    with pytest.raises(InvalidEvent, match="contains itself"):
        encode(free(circle), Registry())
    with pytest.raises(InvalidEvent, match="nested too deeply"):
        encode(free(deep), Registry())
    while deep:  # taking it apart by recursion would overflow the stack
        deep = deep["d"]


def test_times_ids_and_decimals_of_an_undeclared_type_become_text():
    payload = {
        "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "id": UUID(int=1),
        "price": Decimal("0.10"),
        "pair": (1, 2),
        "more": MappingProxyType({"a": 1}),
    }

    assert json.loads(encode(free(payload), Registry())[0]) == {
        "at": "2026-01-02T03:00:00+00:00", "day": "2026-01-02", "id": "00000000-0000-0000-0000-000000000001",
        "price": "0.10", "pair": [1, 2], "more": {"a": 1},
    }  # fmt: skip


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_any_json_object_comes_back_as_it_was(payload):
    assert json.loads(encode(free(payload), Registry())[0]) == payload


@given(json_values, st.sampled_from([math.nan, math.inf, {1}, b"", {2: 3}, "\ud800"]), st.booleans())
def test_one_bad_value_anywhere_refuses_the_whole(good, bad, first):
    inner = {"bad": bad, "good": good} if first else {"good": good, "bad": [bad]}

    with pytest.raises(InvalidEvent, match=r"payload\.here\[0\]\.bad"):
        encode(free({"here": [inner]}), Registry())


def test_instance_is_written_with_the_version_it_is_registered_as(registry):
    assert encode(placed(Placed2(total=3)), registry) == (b'{"total":3,"note":null,"currency":"EUR"}', 2)
    assert encode(placed(Placed(total=3), schema_version=9), registry)[1] == 1


def test_instance_of_an_unregistered_model_takes_the_events_version():
    assert encode(free(Placed(total=3)), Registry()) == (b'{"total":3,"note":null}', 1)


def test_mapping_and_instance_of_a_declared_type_are_the_same_bytes(registry):
    assert encode(placed({"total": 3}), registry) == encode(placed(Placed(total=3)), registry)


def test_mapping_is_validated_by_the_model_of_its_version(registry):
    long = "x" * 500

    with pytest.raises(InvalidEvent, match=r"does not fit version 1 of its type: field 'total' is 'x+… ") as refused:
        encode(placed({"total": long}), registry)

    assert long[:81] not in str(refused.value)


def test_missing_and_misspelt_fields_of_a_mapping_are_named(registry):
    with pytest.raises(InvalidEvent, match="field 'total' is missing; field 'totl' is not declared"):
        encode(placed({"totl": 3}), registry)


def test_misspelt_field_of_a_model_inside_is_named_too():
    registry = Registry()

    @registry.event_type("x.y")
    class Outer(BaseModel):
        inner: Placed

    with pytest.raises(InvalidEvent, match=r"field 'inner\.nte' is not declared"):
        encode(Event("x.y", "k", {"inner": {"total": 1, "nte": "a"}}), registry)


def test_model_that_keeps_unknown_fields_on_purpose_writes_them():
    registry = Registry()

    @registry.event_type("x.y")
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    assert encode(Event("x.y", "k", {"a": 1}), registry)[0] == b'{"a":1}'


def test_version_that_is_not_registered_is_refused(registry):
    with pytest.raises(InvalidEvent, match="has schema version 3, and this type is registered with 1, 2"):
        encode(placed({"total": 1}, schema_version=3), registry)


def test_model_of_another_type_is_refused(registry):
    with pytest.raises(InvalidEvent, match="has a payload of Placed, which is the model of 'order.placed'"):
        encode(free(Placed(total=1)), registry)


def test_subclass_of_a_registered_model_must_fit_like_a_mapping(registry):
    class Same(Placed):
        pass

    class More(Placed):
        extra_field: int = 1

    assert encode(placed(Same(total=3)), registry) == (b'{"total":3,"note":null}', 1)
    with pytest.raises(InvalidEvent, match="field 'extra_field' is not declared"):
        encode(placed(More(total=3)), registry)


class Measured(BaseModel):
    value: float | None = None
    any: Any = None


@pytest.mark.parametrize("kind", ["instance", "mapping"])
def test_nan_inside_a_model_is_refused_and_not_written_as_null(kind):
    registry = Registry()
    registry.event_type("m.taken")(Measured)
    for fields, place in (({"value": math.nan}, "payload.value"), ({"any": [math.inf]}, r"payload\.any\[0\]")):
        payload = Measured(**fields) if kind == "instance" else fields

        with pytest.raises(InvalidEvent, match=place):
            encode(Event("m.taken", "k", payload), registry)
    assert encode(Event("m.taken", "k", {}), registry)[0] == b'{"value":null,"any":null}'


@pytest.mark.parametrize(
    "payload", [Measured(any="\ud800"), Measured.model_construct(value="text"), Measured(any=b"\xff")]
)
def test_instance_that_would_be_written_as_something_else_is_refused(payload):
    with pytest.raises(InvalidEvent, match="Measured that cannot be written as JSON"):
        encode(free(payload), Registry())


def test_computed_fields_are_not_written_because_every_reader_computes_them():
    class Sum(BaseModel):
        a: int = Field(alias="A")

        @computed_field
        def double(self) -> int:
            return 2 * self.a

    assert encode(free(Sum(A=2)), Registry())[0] == b'{"A":2}'
