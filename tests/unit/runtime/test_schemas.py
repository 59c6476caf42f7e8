"""Schema evolution: what check lets pass is readable both ways, what is not is flagged, and old events reach new models."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AnyUrl,
    AwareDatetime,
    Base64Str,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    HttpUrl,
    JsonValue,
    PlainSerializer,
    PrivateAttr,
    StringConstraints,
    computed_field,
    create_model,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from evkit import Event
from evkit.errors import SchemaMismatch, UsageError
from evkit.event_types import Registry, encode
from evkit.runtime import schemas
from evkit.runtime.compatibility import refusals
from evkit.runtime.schemas import check, lock, read

TYPE = "order.placed"
T = TypeVar("T")


def registered(*models: type[BaseModel]) -> Registry:
    """The models as versions 1, 2, … of one type."""
    registry = Registry()
    for version, model in enumerate(models, 1):
        registry.event_type(TYPE, version)(model)
    return registry


def model(name: str = "Order", **fields: Any) -> type[BaseModel]:
    """A model of annotations, each required, or (annotation, default)."""
    full = {n: f if isinstance(f, tuple) else (f, ...) for n, f in fields.items()}
    return create_model(name, **full)


def changes_of(*models: type[BaseModel]) -> list[schemas.Change]:
    """What check says of the last version when all before it are locked."""
    return check(registered(*models), lock(registered(*models[:-1])))


def flagged(*models: type[BaseModel]) -> str:
    return "\n".join(change.sentence for change in changes_of(*models) if not change.additive)


def of_version(version: int, payload: Any) -> Event:
    return Event(TYPE, "o-1", payload, id="e1", schema_version=version)


# --- reading ----------------------------------------------------------------------------------------------------------


class V1(BaseModel):
    name: str


class V2(BaseModel):
    first: str
    last: str = ""
    name: str = ""


class V3(V2):
    age: int | None = None


@pytest.fixture
def registry():
    registry = registered(V1, V2, V3)

    @registry.upcaster(TYPE, from_version=1)
    def split_name(payload):
        first, _, last = payload["name"].partition(" ")
        return {**payload, "first": first, "last": last}

    return registry


def test_old_event_goes_through_the_upcasters_to_the_handlers_model(registry):
    assert read(of_version(1, {"name": "Ada King"}), V3, registry) == V3(first="Ada", last="King", name="Ada King")


def test_version_that_only_added_fields_gets_their_defaults(registry):
    assert read(of_version(2, {"first": "Ada"}), V3, registry) == V3(first="Ada", age=None)


def test_handler_with_an_older_model_ignores_what_newer_versions_added(registry):
    assert read(of_version(3, {"first": "Ada", "name": "Ada", "age": 3}), V1, registry) == V1(name="Ada")
    assert read(of_version(9, {"name": "Ada", "much": {"later": 1}}), V1, registry) == V1(name="Ada")


def test_reading_leaves_the_events_payload_as_it_was(registry):
    old = of_version(1, {"name": "Ada King"})
    before = copy.deepcopy(old.payload)

    read(old, V3, registry)

    assert old.payload == before


def test_instance_that_is_the_model_already_is_given_back(registry):
    payload = V1(name="Ada")

    assert read(of_version(1, payload), V1, registry) is payload
    assert read(of_version(1, payload), V2, registry).first == "Ada"


def test_model_that_is_not_registered_is_simply_tried(registry):
    class Name(BaseModel):
        name: str

    assert read(of_version(1, {"name": "Ada"}), Name, registry).name == "Ada"


def test_strict_model_reads_dates_from_the_text_that_json_has():
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        at: datetime
        id: UUID

    payload = {"at": "2026-01-02T03:04:05Z", "id": str(UUID(int=1))}

    assert read(of_version(1, payload), Strict, registered(Strict)).id == UUID(int=1)
    with pytest.raises(SchemaMismatch, match="field 'at' is 5"):
        read(of_version(1, {**payload, "at": 5}), Strict, registered(Strict))


@pytest.mark.parametrize(
    ("version", "payload", "target", "sentence"),
    [
        (2, {"first": 7}, V2,
         r"event e1 \('order\.placed', schema version 2\) does not fit V2, version 2: field 'first' is 7 \("
         r"Input should be a valid string\)$"),
        (4, {}, V2, "field 'first' is missing; deploy the handler with the newer model, then redrive"),
        (2, {"last": "King"}, V3, "field 'first' is missing; register an upcaster from version 2, or give the new"),
        (1, {"nom": "Ada"}, V2, r"event e1 \(version 1\): the upcaster of 'order\.placed' from version 1 .*KeyError"),
    ],
)  # fmt: skip
def test_mismatch_says_which_event_which_field_and_what_to_do(registry, version, payload, target, sentence):
    with pytest.raises(SchemaMismatch, match=sentence):
        read(of_version(version, payload), target, registry)


def test_mismatch_does_not_show_long_values(registry):
    with pytest.raises(SchemaMismatch) as mismatch:
        read(of_version(2, {"first": ["secret" * 100]}), V2, registry)

    assert len(str(mismatch.value)) < 250


# --- the rule, by example ---------------------------------------------------------------------------------------------


class Colour(Enum):
    red = "red"
    blue = "blue"


class Inner(BaseModel):
    a: int


class Wider(Inner):
    b: int = 0


class Other(BaseModel):
    kind: Literal["other"]
    y: int


class One(BaseModel):
    kind: Literal["one"]
    x: int


class Tree(BaseModel):
    value: int
    kids: list[Tree] = []


class TreeMore(BaseModel):
    value: int
    kids: list[TreeMore] = []
    more: str = ""


class TreeText(BaseModel):
    value: str
    kids: list[TreeText] = []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"x": int}, {"x": int, "y": (int, 0)}),
        ({"x": int}, {"x": int, "y": (int | None, None)}),
        ({"x": (int, 0)}, {"x": (int, 1)}),
        ({"x": Inner}, {"x": Wider}),
        ({"x": list[Inner]}, {"x": list[Wider]}),
        ({"x": dict[str, Inner]}, {"x": dict[str, Wider]}),
        ({"x": Inner | None}, {"x": Wider | None}),
        ({"x": Tree}, {"x": TreeMore}),
        ({"x": Colour}, {"x": Literal["red", "blue"]}),
        ({"x": Literal["a", "b"]}, {"x": Literal["b", "a"]}),
        ({"x": Annotated[One | Other, Field(discriminator="kind")]}, {"x": One | Other}),
        ({"x": Annotated[int, Field(ge=1)]}, {"x": Annotated[int, Field(ge=1, description="count")]}),
        ({}, {"x": (JsonValue, None)}),
    ],
)
def test_additive_changes_pass_without_a_sentence_of_doubt(old, new):
    changes = changes_of(model(**old), model("Order2", **new))

    assert [change.additive for change in changes] == [True], changes


def as_words(value: int) -> str:
    return f"about {value}"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ({"x": int}, {"x": int, "y": int}, "field 'y' is required and is not known there: give it a default"),
        ({"x": (int, 0)}, {"x": int}, "field 'x' is required and may be left out there"),
        ({"x": int}, {"x": (int, 0)}, "consumers of version 1 cannot read version 2: field 'x' is required"),
        ({"x": int, "y": (int, 0)}, {"x": int}, "field 'y' is gone"),
        ({"x": int, "y": int}, {"x": int}, "field 'y' is required and is not known there"),
        ({"x": int}, {"x": str}, "field 'x' may be integer, where string is expected"),
        ({"x": int}, {"x": float}, "consumers of version 1 cannot read version 2: field 'x' may be number, where integer"),
        ({"x": float}, {"x": int}, "version 2 cannot take over from version 1: field 'x' may be number, where integer"),
        ({"x": int}, {"x": int | None}, "consumers of version 1 cannot read version 2: field 'x' may be null"),
        ({"x": int | None}, {"x": int}, "version 2 cannot take over from version 1: field 'x' may be null"),
        ({"x": int}, {"x": int | str}, "field 'x' may be string, where integer is expected"),
        ({"x": Literal["a", "b"]}, {"x": Literal["a"]}, 'version 2 cannot .* may be "b", where only "a" is known'),
        ({"x": Literal["a"]}, {"x": Literal["a", "b"]}, 'consumers of version 1 .* may be "b", where only "a" is known'),
        ({"x": Literal[1]}, {"x": Literal[True]}, "may be 1, where only true is known"),
        ({"x": Literal["a"]}, {"x": str}, 'consumers of version 1 .* any string, where only "a" is known'),
        ({"x": int}, {"x": Annotated[int, Field(ge=3)]}, "to be at least 3, and the other version has no such limit"),
        ({"x": Annotated[int, Field(le=9)]}, {"x": int}, "consumers of version 1 .* to be at most 9"),
        ({"x": Annotated[int, Field(gt=3)]}, {"x": Annotated[int, Field(ge=3)]}, r"at least \(but not equal to\) 3"),
        ({"x": str}, {"x": Annotated[str, Field(max_length=5)]}, "of length at most 5"),
        ({"x": list[int]}, {"x": Annotated[list[int], Field(min_length=1)]}, "of items at least 1"),
        ({"x": str}, {"x": Annotated[str, Field(pattern="^a")]}, r"to have pattern \^a, and the other version has none"),
        ({"x": int}, {"x": Annotated[int, Field(multiple_of=5)]}, "to have multipleOf 5"),
        ({"x": str}, {"x": date}, "field 'x' is expected to have format date"),
        ({"x": list[int]}, {"x": set[int]}, "uniqueItems"),
        ({"x": list[int]}, {"x": list[str]}, r"field 'x\[\]' may be integer, where string is expected"),
        ({"x": tuple[int, str]}, {"x": tuple[int, str, int]}, "has 2 places, where 3 are expected"),
        ({"x": tuple[int, str]}, {"x": tuple[int, int]}, r"field 'x\[1\]' may be string"),
        ({"x": dict[str, int]}, {"x": dict[str, str]}, r"field 'x\.\*' may be integer"),
        ({"x": dict[str, int]}, {"x": dict[int, int]}, 'keys {"type": "int"}'),
        ({"x": dict[str, int]}, {"x": Inner}, "field 'x.a' is required and is not known there"),
        ({"x": Any}, {"x": int}, "field 'x' may be anything, where integer is expected"),
        ({"x": Inner}, {"x": Other}, "field 'x.a' is gone"),
        ({"x": Wider}, {"x": Inner}, "field 'x.b' is gone"),
        ({"x": Tree}, {"x": TreeText}, "field 'x.value' may be integer"),
        ({"x": One}, {"x": Annotated[One | Other, Field(discriminator="kind")]}, "consumers of version 1"),
        ({"x": datetime}, {"x": AwareDatetime}, "tz_constraint"),
        ({"x": date}, {"x": Annotated[date, Field(gt=date(2020, 1, 1))]}, "evkit cannot judge what it does"),
        ({"x": Decimal}, {"x": Annotated[Decimal, Field(max_digits=4)]}, "decimal"),
        ({"x": str}, {"x": Decimal}, "version 2 cannot take over from version 1: field 'x' has 'decimal"),
        ({"x": int}, {"x": ByteSize}, "pydantic ByteSize._validate"),
        ({"x": str}, {"x": Annotated[str, StringConstraints(strip_whitespace=True)]}, "strip_whitespace"),
        ({"x": int}, {"x": Annotated[int, AfterValidator(lambda v: v)]}, "code <lambda>"),
        ({"x": int}, {"x": Annotated[int, BeforeValidator(lambda v: v)]}, "code <lambda>"),
        ({"x": int}, {"x": Annotated[int, PlainSerializer(as_words)]}, "code as_words"),
        ({"x": int}, {"x": Annotated[int, Field(json_schema_extra={"x-odd": 1})]}, "differs in 'x-odd', and evkit"),
    ],
)  # fmt: skip
def test_breaking_changes_are_flagged_in_a_sentence(old, new, sentence):
    text = flagged(model(**old), model("Order2", **new))

    assert text
    assert re.search(sentence, text), text


def test_discriminator_that_need_not_be_written_is_flagged():
    class A(BaseModel):
        kind: Literal["a"] = "a"

    class B(BaseModel):
        kind: Literal["b"] = "b"

    text = flagged(model(x=A | B), model("Order2", x=Annotated[A | B, Field(discriminator="kind")]))

    assert "field 'x' is told apart by 'kind', which may be left out there" in text


# --- what a JSON Schema does not show ---------------------------------------------------------------------------------


def at_least(limit: int) -> Any:
    def long_enough(value: int) -> int:
        if value < limit:
            raise ValueError("too little")
        return value

    return AfterValidator(long_enough)


class Clock:
    def __call__(self, value: int) -> int:
        return value


def test_validator_that_both_versions_inherit_is_no_change():
    class Base(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def positive(cls, value: int) -> int:
            if value < 0:
                raise ValueError("negative")
            return value

    class Next(Base):
        y: int = 0

    assert flagged(Base, Next) == ""


def test_validators_that_differ_in_code_or_in_what_they_were_made_with_are_flagged():
    class Checked(BaseModel):
        x: int

        @model_validator(mode="after")
        def refuse_all(self) -> Checked:
            raise ValueError("never")

    class Built(BaseModel):
        x: int

        def model_post_init(self, context: Any) -> None:
            raise ValueError("never")

    class BuiltWithPrivate(BaseModel):
        x: int
        _seen: bool = PrivateAttr(False)

        def model_post_init(self, context: Any) -> None:
            raise ValueError("never")

    class Configured(BaseModel):
        model_config = ConfigDict(str_max_length=3)
        x: int

    for changed in (Checked, Built, BuiltWithPrivate, Configured):
        assert "the payload has" in flagged(model(x=int), changed)
    assert flagged(model(x=Annotated[int, at_least(1)]), model("B", x=Annotated[int, at_least(1)], y=(int, 0))) == ""
    assert "code long_enough" in flagged(
        model(x=Annotated[int, at_least(1)]), model("B", x=Annotated[int, at_least(2)])
    )


def test_code_that_cannot_be_compared_is_never_taken_for_equal():
    text = flagged(
        model(x=Annotated[int, AfterValidator(Clock())]), model("B", x=Annotated[int, AfterValidator(Clock())])
    )

    assert "which evkit cannot compare" in text


def test_validator_of_a_field_that_is_new_concerns_nobody():
    assert flagged(model(x=int), model("B", x=int, y=(Annotated[int, at_least(3)], 3))) == ""


def test_computed_and_private_fields_are_not_written_and_no_change():
    class More(BaseModel):
        x: int
        _seen: bool = PrivateAttr(False)

        @computed_field
        def double(self) -> int:
            return 2 * self.x

    assert flagged(model(x=int), More) == ""


# --- versions ---------------------------------------------------------------------------------------------------------


def test_lock_is_the_same_text_whatever_the_order_of_fields_and_the_words_about_them():
    one = model(a=int, b=(str, ""))
    other = create_model(
        "Order", __doc__="Words.", b=(str, Field("", description="more words", examples=["x"])), a=(int, ...)
    )

    assert json.dumps(lock(registered(one))) == json.dumps(lock(registered(other)))
    assert check(registered(other), json.loads(json.dumps(lock(registered(one))))) == []


def test_field_that_is_called_title_is_not_taken_for_words():
    assert "field 'title' is gone" in flagged(
        model(title=(str, ""), description=(str, "")), model("B", description=(str, ""))
    )


@pytest.mark.parametrize(
    "changed", [{"x": int, "y": (int, 0)}, {"x": str}, {"x": (int, 0)}, {"x": Annotated[int, at_least(1)]}]
)
def test_locked_version_must_not_change_in_place_not_even_additively(changed):
    [change] = check(registered(model(**changed)), lock(registered(model(x=int))))

    assert not change.additive
    assert change.sentence.startswith("version 1 of 'order.placed' is locked and was changed in place (")


def test_renamed_class_inside_is_no_change():
    renamed = create_model("Renamed", a=(int, ...))

    assert check(registered(model(x=Inner)), lock(registered(model(x=renamed)))) == []


def test_new_version_is_compared_with_every_earlier_one_and_not_only_the_last():
    """FULL_TRANSITIVE: a name that was a number in version 1 must not come back as text in version 3."""
    locked = lock(registered(model("A", a=int, x=(int, 0)), model("B", a=int)))

    changes = check(
        registered(model("A", a=int, x=(int, 0)), model("B", a=int), model("C", a=int, x=(str, ""))), locked
    )

    assert [(c.version, c.field, c.additive) for c in changes if "version 1" in c.sentence] == [(3, "x", False)] * 2
    assert [c.additive for c in changes if "version 2" in c.sentence] == [True]


def test_version_or_type_that_is_gone_is_flagged():
    locked = lock(registered(model(x=int), model("B", x=int, y=(int, 0))))
    only_two = Registry()
    only_two.event_type(TYPE, 2)(model("B", x=int, y=(int, 0)))

    [gone] = check(only_two, locked)
    [lost] = check(Registry(), locked)

    assert gone.sentence.startswith("version 1 of 'order.placed' is locked and no longer declared")
    assert lost.sentence.startswith("event type 'order.placed' is locked and no longer declared")
    assert not gone.additive
    assert not lost.additive


def test_first_lock_compares_the_versions_with_each_other():
    nothing = {**lock(Registry())}

    assert not all(c.additive for c in check(registered(model(x=int), model("B", x=str)), nothing))
    assert all(c.additive for c in check(registered(model(x=int), model("B", x=int, y=(int, 0))), nothing))


def test_upcaster_provides_for_reading_old_events_and_not_for_old_consumers():
    kept = registered(model(x=int), model("B", x=int, y=int))
    kept.upcaster(TYPE, from_version=1)(lambda payload: {**payload, "y": 0})
    dropped = registered(model(x=int), model("B", y=int))
    dropped.upcaster(TYPE, from_version=1)(lambda payload: {"y": 0})
    locked = lock(registered(model(x=int)))

    assert all(change.additive for change in check(kept, locked))
    assert "consumers of version 1 cannot read version 2: field 'x' is required" in "".join(
        c.sentence for c in check(dropped, locked) if not c.additive
    )


def test_way_through_a_version_that_nobody_declared_is_flagged():
    registry = Registry()
    registry.event_type(TYPE, 1)(model(x=int))
    registry.event_type(TYPE, 4)(model("D", x=int, y=int))
    registry.upcaster(TYPE, from_version=1)(lambda payload: {**payload, "y": 0})

    sentences = [c.sentence for c in check(registry, lock(Registry())) if not c.additive]

    assert sentences == [
        "'order.placed': the way from version 1 to 4 leads through version 2, which is not declared: declare it, "
        "or add upcasters"
    ]


def test_upcaster_that_is_gone_is_flagged(registry):
    [change] = check(registered(V1, V2, V3), lock(registry))

    assert change.sentence.startswith("the upcaster of 'order.placed' from version 1 is gone")
    assert not change.additive


@pytest.mark.parametrize(
    "document",
    [
        {}, {"evkit_schema_lock": 2, "event_types": {}}, {"evkit_schema_lock": 1},
        {"evkit_schema_lock": 1, "event_types": 3},
        {"evkit_schema_lock": 1, "event_types": {"a": {"versions": {"one": {}}, "upcasters": []}}},
        {"evkit_schema_lock": 1, "event_types": {"a": {"versions": {"1": {"schema": 1, "beside": []}}, "upcasters": []}}},
    ],
)  # fmt: skip
def test_what_is_no_lock_is_said_in_a_sentence(document):
    with pytest.raises(UsageError, match="this is no schema lock"):
        check(Registry(), document)


def test_model_without_a_json_schema_or_closed_somewhere_inside_cannot_be_locked():
    class Late(BaseModel):
        inner: list[LateInner]  # unknown at registration, so only the lock sees that it is closed

    registry = registered(Late)
    LateInner = create_model("LateInner", __config__=ConfigDict(extra="forbid"), a=(int, ...))
    Late.model_rebuild(_types_namespace={"LateInner": LateInner})

    with pytest.raises(UsageError, match="Late forbids unknown fields somewhere inside"):
        lock(registry)
    with pytest.raises(UsageError, match="version 1: Order has no JSON Schema"):
        lock(registered(create_model("Order", __config__=ConfigDict(arbitrary_types_allowed=True), x=(Clock, ...))))


# --- the rule, for models that nobody thought of ----------------------------------------------------------------------


@dataclass
class Place:
    city: str
    code: int = 0


@dataclass
class CheckedPlace:
    city: str
    code: int = 0

    def __post_init__(self) -> None:
        if not self.city.startswith("a"):
            raise ValueError("not a city of ours")


class Pair(TypedDict):
    left: int
    right: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int


class Box(BaseModel, Generic[T]):
    content: T


class Kept(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


small = st.integers(-20, 20)
words = st.text("ab ", max_size=4)
# What a field may be, and payload values that fit it.
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, small),
    (float, st.floats(-9, 9) | small),
    (str, words),
    (bool, st.booleans()),
    (int | None, small | st.none()),
    (int | str, small | words),
    (str | None, words | st.none()),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Literal["a", "b", "c"], st.sampled_from(["a", "b", "c"])),
    (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    (Colour, st.sampled_from(["red", "blue"])),
    (Annotated[int, Field(ge=0)], st.integers(0, 20)),
    (Annotated[int, Field(gt=0, le=9)], st.integers(1, 9)),
    (Annotated[int, Field(multiple_of=2)], small.map(lambda n: 2 * n)),
    (Annotated[str, Field(max_length=2)], st.text("ab ", max_size=2)),
    (Annotated[str, Field(min_length=1)], st.text("ab ", min_size=1, max_size=4)),
    (Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)], st.text("ab", min_size=1, max_size=3)),
    (Annotated[str, Field(pattern="^a")], words.map(lambda w: "a" + w)),
    (date, st.dates().map(str)),
    (datetime, st.datetimes().map(lambda t: t.isoformat())),
    (AwareDatetime, st.datetimes().map(lambda t: t.isoformat() + "Z")),
    (UUID, st.uuids().map(str)),
    (Decimal, st.decimals(-9, 9, places=3).map(str)),
    (Annotated[Decimal, Field(max_digits=2, decimal_places=1)], st.decimals(0, 9, places=1).map(str)),
    (Annotated[date, Field(ge=date(2000, 1, 1))], st.dates(date(2000, 1, 1)).map(str)),
    (list[int], st.lists(small, max_size=3)),
    (list[int | None], st.lists(small | st.none(), max_size=3)),
    (Annotated[list[int], Field(min_length=1)], st.lists(small, min_size=1, max_size=3)),
    (set[int], st.lists(small, max_size=3, unique=True)),
    (tuple[int, str], st.tuples(small, words).map(list)),
    (tuple[int, ...], st.lists(small, max_size=3)),
    (dict[str, int], st.dictionaries(words, small, max_size=3)),
    (dict[int, int], st.dictionaries(small.map(str), small, max_size=3)),
    (dict[str, Any], st.dictionaries(words, small | words, max_size=3)),
    (Inner, st.fixed_dictionaries({"a": small})),
    (Wider, st.fixed_dictionaries({"a": small}, optional={"b": small})),
    (Inner | None, st.fixed_dictionaries({"a": small}) | st.none()),
    (One | Other, st.fixed_dictionaries({"kind": st.just("one"), "x": small})
        | st.fixed_dictionaries({"kind": st.just("other"), "y": small})),
    (Annotated[One | Other, Field(discriminator="kind")], st.fixed_dictionaries({"kind": st.just("one"), "x": small})
        | st.fixed_dictionaries({"kind": st.just("other"), "y": small})),
    (One, st.fixed_dictionaries({"kind": st.just("one"), "x": small})),
    (Tree, st.recursive(st.fixed_dictionaries({"value": small}),
        lambda kids: st.fixed_dictionaries({"value": small}, optional={"kids": st.lists(kids, max_size=2)}), max_leaves=4)),
    (AnyUrl, words.map(lambda w: f"x://{len(w)}")),
    (HttpUrl, words.map(lambda w: f"http://h{len(w)}/")),
    (IPv4Address, st.ip_addresses(v=4).map(str)),
    (time, st.times().map(str)),
    (timedelta, st.integers(0, 10**6).map(lambda n: f"PT{n}S")),
    (ByteSize, st.integers(0, 9)),
    (Path, words.map(lambda w: f"/{w}")),
    (bytes, words),
    (Base64Str, st.sampled_from(["", "YQ==", "YWI="])),
    (list[Decimal], st.lists(st.integers(-9, 9).map(str), max_size=2)),
    (Place, st.fixed_dictionaries({"city": words}, optional={"code": small})),
    (CheckedPlace, st.fixed_dictionaries({"city": words.map(lambda w: "a" + w)}, optional={"code": small})),
    (Pair, st.fixed_dictionaries({"left": small}, optional={"right": words})),
    (Point, st.tuples(small, small).map(list)),
    (Box[int], st.fixed_dictionaries({"content": small})),
    (Box[str], st.fixed_dictionaries({"content": words})),
    (Kept, st.fixed_dictionaries({"a": small}, optional={"b": words})),
    (JsonValue, small | words | st.none() | st.lists(small, max_size=2)),
    (Annotated[int, at_least(5)], st.integers(5, 20)),
]  # fmt: skip

# name → (kind, default or none at all)
Shape = dict[str, tuple[int, bool]]
names = st.sampled_from("abcde")
kinds = st.integers(0, len(KINDS) - 1)
shapes = st.dictionaries(names, st.tuples(kinds, st.booleans()), min_size=1, max_size=4)


def model_of(name: str, shape: Shape) -> type[BaseModel]:
    # A default is never validated, so that None is one for every kind; a reader never sees what was not written.
    return model(name, **{n: (KINDS[k][0], None) if optional else KINDS[k][0] for n, (k, optional) in shape.items()})


def payloads_of(shape: Shape) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {n: KINDS[k][1] for n, (k, optional) in shape.items() if not optional},
        optional={n: KINDS[k][1] for n, (k, optional) in shape.items() if optional},
    )


@st.composite
def changed(draw: st.DrawFn, shape: Shape) -> Shape:
    new = dict(shape)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(names)
        how = draw(st.sampled_from(["add", "add", "drop", "retype", "loosen"]))
        if how == "add":
            new.setdefault(name, (draw(kinds), draw(st.booleans())))
        elif how == "drop":
            new.pop(name, None)
        elif name in new:
            kind, optional = new[name]
            new[name] = (draw(kinds), optional) if how == "retype" else (kind, not optional)
    return new


def fits(target: type[BaseModel], payload: dict[str, Any]) -> bool:
    try:
        read(of_version(1, payload), target, Registry())
    except SchemaMismatch:
        return False
    return True


def assert_rule(old: Shape, new: Shape, data: st.DataObject) -> None:
    """If check passes a pair, whatever fits one side fits the other."""
    one, two = model_of("One", old), model_of("Two", new)
    passed = flagged(one, two) == ""
    event("passed" if passed else "flagged")
    if passed:
        for shape, writer, reader in ((old, one, two), (new, two, one)):
            payload = data.draw(payloads_of(shape))
            assert fits(writer, payload), "the strategy must fit its own kind"
            assert fits(reader, payload), (reader.model_json_schema(), payload)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(shapes, st.data())
def test_whatever_check_passes_is_readable_both_ways(old, data):
    assert_rule(old, data.draw(changed(old)), data)


def locked_entry(kind: int) -> Any:
    return lock(registered(model_of("Side", {"x": (kind, False)})))["event_types"][TYPE]["versions"]["1"]


@pytest.fixture(scope="module")
def readers():
    """Every kind as a model of one field, with what is locked of it."""
    return [(model_of("Reader", {"x": (kind, False)}), locked_entry(kind)) for kind in range(len(KINDS))]


@pytest.mark.parametrize("written", range(len(KINDS)), ids=lambda kind: str(KINDS[kind][0])[:60])
def test_reader_without_refusals_reads_whatever_the_writer_may_write(readers, written):
    """Each kind against each, one direction alone: more passes than both ways (numbers read integers, and so on)."""
    writer = locked_entry(written)
    willing = [model for model, entry in readers if refusals(entry, writer, keep_all=False) == []]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(KINDS[written][1])
    def read_by_all(value):
        for reader in willing:
            assert fits(reader, {"x": value}), (reader.model_json_schema(), value)

    read_by_all()


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda kind: str(KINDS[kind][0])[:60])
def test_adding_a_second_field_of_a_type_passes(kind):
    """pydantic moves a type that is used twice to another place of its core schema."""
    assert (
        flagged(model_of("One", {"a": (kind, False)}), model_of("Two", {"a": (kind, False), "v": (kind, True)})) == ""
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(shapes, st.dictionaries(st.sampled_from("vwxyz"), kinds, max_size=3))
def test_adding_fields_with_defaults_always_passes(old, more):
    assert flagged(model_of("One", old), model_of("Two", {**old, **{n: (k, True) for n, k in more.items()}})) == ""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(shapes, st.data())
def test_new_required_fields_and_dropped_fields_are_always_flagged(shape, data):
    fewer = {n: s for n, s in shape.items() if n != data.draw(st.sampled_from(sorted(shape)))}

    assert flagged(model_of("One", shape), model_of("Two", {**shape, "z": (data.draw(kinds), False)})) != ""
    assert flagged(model_of("One", shape), model_of("Two", fewer)) != "" or fewer == shape


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(kinds, st.data())
def test_what_a_model_writes_it_can_read(kind, data):
    target = model_of("One", {"x": (kind, False)})
    registry = registered(target)

    written, version = encode(of_version(1, data.draw(payloads_of({"x": (kind, False)}))), registry)

    assert read(of_version(version, json.loads(written)), target, registry)
