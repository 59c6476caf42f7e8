"""What commands print of somebody else's text says something, and does nothing to the terminal."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import unicodedata

from hypothesis import example, given, settings
from hypothesis import strategies as st

from evkit.cli import check, logs, output
from evkit.cli.output import Format

# Text of payloads and of error messages: anything, with what terminals act on more often than chance would have it.
ANY_TEXT = st.text(
    st.characters()
    | st.sampled_from("\x1b\x07\x00\r\n\t\x7f\x9b\x85\u202e\u2066\u2028\ufeff\ud800\U000e0041[];=@+-,\"'")
)
# Not the separators and marks that only say how letters join (ZWJ), which are part of names and of emoji.
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printed(work):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        work()
    return out.getvalue() + err.getvalue()


def acting(text):
    """The characters of printed text that would act on a terminal; line ends are the printer's own."""
    return [c for c in text if c != "\n" and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI)]


@settings(deadline=None, max_examples=50)
@given(ANY_TEXT)
@example("\x1b]0;pwned\x07\x1b[2J")
@example("\x9b2J\u202egnp.exe")
def test_nothing_that_a_command_prints_acts_on_the_terminal(text):
    row = {"key": text, "error_message": text, "n": 1}
    finding = {"severity": "CRITICAL", "monitor": "dead_letters", "sentence": text}
    record = logging.LogRecord("evkit", logging.WARNING, "", 0, "%s", (text,), None)
    printers = {
        "table": lambda: output.print_rows([row], list(row), title=text),
        "empty": lambda: output.print_rows([], ["a"], empty=text),
        "facts": lambda: output.print_facts({text: text}),
        "json": lambda: output.print_rows([row], list(row), Format.json),
        "document": lambda: output.print_json({text: [text, text.encode("utf-8", "surrogatepass")]}),
        "text": lambda: output.print_text(text),
        "remark": lambda: output.say(text),
        "error": lambda: output.say(text, logging.ERROR),
        "findings": lambda: check._print_findings([finding]),
        "log lines": lambda: print(logs.Lines().format(record)),
        "log JSON": lambda: print(logs.JsonLines().format(record)),
        "shown": lambda: print(output.shown(text)),
    }

    found = {name: acting(printed(work)) for name, work in printers.items()}

    assert not any(found.values()), found
    assert [c for c in acting(printed(lambda: output.print_rows([row], list(row), Format.csv))) if c != "\r"] == []


@settings(deadline=None, max_examples=50)
@given(ANY_TEXT)
def test_a_cell_of_a_table_is_one_line(text):
    lines = printed(lambda: output.print_rows([{"a": text}], ["a"])).splitlines()

    assert len([line for line in lines if line.strip()]) <= 3  # names, rule, and the row, which may be blank


@settings(deadline=None, max_examples=50)
@given(ANY_TEXT)
def test_json_says_the_very_text_however_it_is_escaped(text):
    assert json.loads(printed(lambda: output.print_json([text]))) == [text]


def test_a_spreadsheet_runs_nothing_of_what_a_csv_file_says():
    rows = [{"a": '=HYPERLINK("http://x","y")', "b": "+1", "c": "-1+cmd()", "d": "@x", "e": -1, "f": "a=b"}]

    written = printed(lambda: output.print_rows(rows, list(rows[0]), Format.csv))

    assert list(csv.reader(io.StringIO(written)))[1] == [
        '\'=HYPERLINK("http://x","y")', "'+1", "'-1+cmd()", "'@x", "-1", "a=b",
    ]  # fmt: skip


def test_text_of_more_lines_keeps_them_and_escapes_the_rest():
    assert output.safe("a\tb\n\x1b[1mc", lines=True) == "a    b\n\\x1b[1mc"
    assert output.safe("a\nb") == "a\\nb"
