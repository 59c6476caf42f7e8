"""No secret leaves a kernel, in whatever way it is written."""

from __future__ import annotations

import html
import json
from urllib.parse import quote

import pytest

from evkit.reporting.redaction import Redactor
from evkit.settings import Settings

SECRET = "p@ss'w\"ör<d>\\1"


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        f"connected with {SECRET}!",
        repr(SECRET),
        json.dumps(SECRET),
        html.escape(SECRET),
        f"postgresql://evkit:{quote(SECRET, safe='')}@db.internal:5432/evkit",
    ],
)
def test_known_secret_is_hidden_however_it_is_written(written):
    hidden = Redactor([SECRET]).text(written)

    assert "***" in hidden
    for form in (SECRET, quote(SECRET, safe=""), json.dumps(SECRET)[1:-1], html.escape(SECRET)):
        assert form not in hidden


def test_password_of_any_url_is_hidden_and_the_rest_stays():
    text = Redactor([]).text("see https://ann:geheim@wiki.internal/a?b=c and postgresql://u:x@127.0.0.1:5/d")

    assert text == "see https://ann:***@wiki.internal/a?b=c and postgresql://u:***@127.0.0.1:5/d"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("host=db password=geheim user=u", "host=db password=*** user=u"),
        ("password='ge heim' x", "password=*** x"),
        ("sasl.password=geheim", "sasl.password=***"),
        ("http://example.org/a:b@c", "http://example.org/a:b@c"),
        ("no password here", "no password here"),
    ],
)
def test_passwords_as_properties_are_hidden(text, hidden):
    assert Redactor([]).text(text) == hidden


def test_longer_secret_is_hidden_before_the_one_it_begins_with():
    assert Redactor(["abc", "abcdef"]).text("abcdef abc") == "*** ***"


def test_document_is_redacted_at_every_depth_and_keeps_its_shape():
    document = {"a": ["x geheim", {"b": "geheim", "n": 1, "none": None}], "geheim": True}

    assert Redactor(["geheim"]).document(document) == {
        "a": ["x ***", {"b": "***", "n": 1, "none": None}],
        "geheim": True,
    }


def test_secrets_come_from_the_settings():
    settings = Settings(
        postgres_dsn="postgresql://u:geheim@127.0.0.1/x",
        kafka={"bootstrap.servers": "127.0.0.1:9", "sasl.password": "heimlich"},
    )

    assert Redactor.of(settings).text("geheim heimlich") == "*** ***"
