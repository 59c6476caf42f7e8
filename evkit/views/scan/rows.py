"""messages → rows of a scan, a column at a time; headers and values are opened only for who asked for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import compress
from typing import Any, cast

import polars as pl

from evkit import decoding
from evkit.errors import Undecodable
from evkit.event import CE_ID, CE_TYPE, CONTENT_TYPE
from evkit.fields import Steps, steps_of, text_of, value_at
from evkit.kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Message, record_of
from evkit.masking import WITHHELD, Policy, applying, masked_document, masked_headers, masked_value
from evkit.views.columns.column import Column
from evkit.views.columns.scan import SCAN_PAYLOAD
from evkit.views.scan.reader import Batch
from evkit.views.scan.where import Condition, conditions

_TYPES = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "append"}
# The years 1 to 9999 in milliseconds: a producer may write any number as its time.
_MILLIS = (-62_135_596_800_000, 253_402_300_799_999)


class Rows:
    """What a scan makes of its messages.

    Attributes:
        extra     the columns of headers, fields and payload, after those of `views.COLUMNS["scan"]`
        matched   rows, by partition
        unparsed  records whose fields are null because the value could not be parsed, by partition
    """

    def __init__(
        self,
        topic: str,
        *,
        headers: Iterable[str] = (),
        fields: Iterable[str] = (),
        where: str | Iterable[str] = (),
        payload: bool = False,
        between: tuple[datetime, datetime] | None = None,
        masking: Iterable[Policy] = (),
    ) -> None:
        self.topic, self.payload, self.between = topic, payload, between
        self._policies = applying(masking, topic, None)
        self.conditions = conditions(where)
        shown = [f"header:{name}" for name in dict.fromkeys(headers)] + [f"field:{p}" for p in dict.fromkeys(fields)]
        asked = dict.fromkeys(c.column for c in self.conditions if ":" in c.column)
        self._headers = {c: c.partition(":")[2] for c in (*shown, *asked) if c.startswith("header:")}
        self._fields: dict[str, Steps] = {
            c: steps_of(c.partition(":")[2]) for c in (*shown, *asked) if c.startswith("field:")
        }
        self.extra = tuple(
            Column(c, "string", "", f"{c.partition(':')[0]} {c.partition(':')[2]}; null where there is none")
            for c in shown
        ) + (SCAN_PAYLOAD if payload else ())
        self.matched: Counter[int] = Counter()
        self.unparsed: Counter[int] = Counter()
        self._unparsed: pl.DataFrame | None = None  # of the batch that is being read

    @property
    def needs(self) -> tuple[list[str], bool]:
        """Names of the headers that are opened, and whether values are."""
        return list(self._headers.values()), bool(self._fields) or self.payload

    def of(self, batch: Batch) -> pl.DataFrame:
        """The rows of a batch, with the place of each in it in column `index`."""
        messages: Sequence[Message] = batch.messages
        self._unparsed = None
        made = pl.DataFrame(
            {
                "index": pl.Series(range(len(messages)), dtype=pl.Int64),
                "topic": pl.Series([self.topic], dtype=pl.String).new_from_index(0, len(messages)),
                "partition": pl.Series(batch.partitions, dtype=pl.Int32),
                "offset": pl.Series(batch.offsets, dtype=pl.Int64),
                "key": _text(map(Message.key, messages)),
            }
        )
        # Conditions on the key cost nothing; the others are worth asking only of what is left.
        made, messages = self._kept(made, messages, ["key"])
        made = made.with_columns(*_times(messages))
        if self.between is not None:
            first, last = self.between
            inside = pl.col("timestamp").is_between(first, last, closed="left").fill_null(False)
            made, messages = _where(made, messages, inside)
        made = made.with_columns(*self._events(messages))
        made, messages = self._kept(made, messages, ["event_id", "event_type"])
        made = made.with_columns(*self._header_columns(made, messages))
        made, messages = self._kept(made, messages, self._headers)
        values = list(map(Message.value, messages))
        made = made.with_columns(
            pl.Series("value_bytes", [None if v is None else len(v) for v in values], dtype=pl.Int64),
            *self._value_columns(made, messages),
        )
        made, messages = self._kept(made, messages, self._fields)
        return made

    def count(self, chunk: pl.DataFrame, until: int) -> None:
        """Count the rows of the last batch, of which the messages before `until` were scanned."""
        self.matched.update(chunk["partition"])
        if self._unparsed is not None:
            self.unparsed.update(self._unparsed.filter(pl.col("index") < until)["partition"])

    def _kept(
        self, made: pl.DataFrame, messages: Sequence[Message], columns: Iterable[str]
    ) -> tuple[pl.DataFrame, Sequence[Message]]:
        wanted: list[Condition] = [c for c in self.conditions if c.column in columns]
        for condition in wanted:
            made, messages = _where(made, messages, condition.expression())
        return made, messages

    def _events(self, messages: Sequence[Message]) -> list[pl.Series]:
        ids: list[bytes | str | None] = []
        types: list[bytes | str | None] = []
        for message in messages:
            raw: Any = dict(message.headers() or ())
            event_id, event_type = raw.get(CE_ID), raw.get(CE_TYPE)
            if event_id is None or event_type is None:
                event_id, event_type = _identity(message, raw)
            ids.append(event_id)
            types.append(event_type)
        return [_text(ids).alias("event_id"), _text(types).alias("event_type")]

    def _of_policies(self, made: pl.DataFrame) -> list[tuple[Policy, ...]]:
        """The policies that each record is under."""
        of_type = {t: applying(self._policies, self.topic, t) for t in made["event_type"].unique()}
        return [of_type[t] for t in made["event_type"]]

    def _header_columns(self, made: pl.DataFrame, messages: Sequence[Message]) -> list[pl.Series]:
        if not self._headers:
            return []
        raw: list[dict[str, Any]] = [dict(message.headers() or ()) for message in messages]
        if self._policies:
            under = self._of_policies(made)
            raw = [dict(masked_headers(of.items(), policies)) for of, policies in zip(raw, under, strict=True)]
        return [_text([of.get(name) for of in raw]).alias(column) for column, name in self._headers.items()]

    def _value_columns(self, made: pl.DataFrame, messages: Sequence[Message]) -> list[pl.Series]:
        """Fields and payload as they may be seen, and whether anything of them had to be hidden."""
        shows = bool(self._fields or self._headers or self.payload)
        under = self._of_policies(made) if self._policies and shows else [()] * len(messages)
        states: list[str | None] = ["masked" if policies else None for policies in under]
        found: list[pl.Series] = []
        if self._fields:
            documents = [document_of(message) for message in messages]
            self._unparsed = made.filter([found is None for found in documents])
            if self._policies:
                documents = [masked_document(of, policies) for of, policies in zip(documents, under, strict=True)]
            found += [
                pl.Series(column, [text_of(value_at(of, steps)) for of in documents], dtype=pl.String)
                for column, steps in self._fields.items()
            ]
        if self.payload or (self._fields and self._policies):
            values: list[Any] = list(map(Message.value, messages))
            seen = [masked_value(value, policies) for value, policies in zip(values, under, strict=True)]
            states = [
                WITHHELD if hidden == WITHHELD else state for (_, hidden), state in zip(seen, states, strict=True)
            ]
        if self.payload:
            found.append(_text([value for value, _ in seen]).alias("value"))
            said = [
                headers_text(masked_headers(cast(Any, m.headers() or ()), policies))
                for m, policies in zip(messages, under, strict=True)
            ]
            found.append(pl.Series("headers", said, dtype=pl.String))
        return [*found, pl.Series("masking", states, dtype=pl.String)]


def _where(made: pl.DataFrame, messages: Sequence[Message], wanted: pl.Expr) -> tuple[pl.DataFrame, Sequence[Message]]:
    mask = made.select(wanted.alias("wanted"))["wanted"]
    return (made, messages) if mask.all() else (made.filter(mask), list(compress(messages, mask)))


def _times(messages: Sequence[Message]) -> list[pl.Series]:
    stamps = [message.timestamp() for message in messages]
    micros = [at * 1000 if kind in _TYPES and _MILLIS[0] <= at <= _MILLIS[1] else None for kind, at in stamps]
    return [
        pl.Series("timestamp", micros, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
        pl.Series("timestamp_type", [_TYPES.get(kind, "none") for kind, _ in stamps], dtype=pl.String),
    ]


def _identity(message: Message, raw: dict[str, bytes | None]) -> tuple[str | None, str | None]:
    """Id and type of a record that is no CloudEvents event in binary mode."""
    if not raw:
        return None, None
    record = record_of(message, datetime.now(UTC))
    if decoding.is_structured(raw.get(CONTENT_TYPE)):
        try:
            event = decoding.decode(record)
            return event.id, event.type
        except Undecodable:
            pass
    return decoding.identity(record)


def document_of(message: Message) -> dict[str, Any] | None:
    """The payload of a record: of an event as `decoding` reads it, of anything else the JSON object that its value is.

    None when it cannot be read; a tombstone has an empty one.
    """
    value = message.value()
    if value is None:
        return {}
    raw: Any = dict(message.headers() or ())
    try:
        if decoding.is_structured(raw.get(CONTENT_TYPE)) or ("id" in raw and CE_ID not in raw):
            return dict(decoding.decode(record_of(message, datetime.now(UTC))).payload)
    except Undecodable:
        pass
    try:
        return decoding.json_object(value)
    except Undecodable:
        return None


def headers_text(headers: Iterable[tuple[str, Any]]) -> str:
    """Headers as a JSON list of [name, value]."""
    return json.dumps([[name, readable(value)] for name, value in headers], ensure_ascii=False)


def readable(raw: bytes | str | None) -> str | None:
    """Bytes as text; what is no UTF-8 is escaped."""
    return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw


def _text(raw: Iterable[Any]) -> pl.Series:
    return pl.Series("key", [None if of is None else readable(of) for of in raw], dtype=pl.String)
