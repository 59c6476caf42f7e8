"""`evkit dlq foreign`, `import`, and what all other commands do with imported letters, as a person types them."""

from __future__ import annotations

import base64
import json

import pytest
from typer.testing import CliRunner

from evkit import dead_letters, kafka
from evkit.cli import app
from evkit.errors import EvkitError
from evkit.runtime.dead_letters import Selection

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def evkit_command(evkit_system, monkeypatch):
    """`evkit_command("dlq", ...)`: run the command line; a refusal is the result's `exception`."""
    settings = evkit_system.settings
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", settings.bootstrap_servers)
    return lambda *arguments, **environment: CliRunner().invoke(app, list(map(str, arguments)), env=environment)


def refusal(done):
    """(exit code, what a command says that was refused): one sentence, and nothing on stdout."""
    assert isinstance(done.exception, EvkitError), done.exception
    assert done.stdout == ""
    return done.exception.exit_code, str(done.exception)


def letters(system):
    return dead_letters.letters(system, Selection(states=None))


def test_looking_needs_no_database_and_draws_nothing_on_the_terminal(written, evkit_command):
    listed = evkit_command("dlq", "foreign", "--topic", written.topic("orders-dlt"), EVKIT_POSTGRES_DSN=NO_DATABASE)
    document = evkit_command("dlq", "foreign", "--topic", written.topic("orders-dlt"), "-f", "json")

    assert listed.exit_code == 0, listed.stderr
    assert "java.lang.IllegalStateException" in listed.stdout
    assert "\\x1b[31mred" in listed.stdout  # the fourth letter's message would colour the terminal
    for done in (listed, document):
        assert "\x1b" not in done.stdout + done.stderr
    found = json.loads(document.stdout)
    assert [(row["dialect"], row["offset"]) for row in found] == [("spring", offset) for offset in (0, 1, 2, 4)]
    assert found[3]["error_message"] == "\x1b[31mred\x1b[0m\nCaused by: nothing\x07"


def test_import_plans_asks_imports_and_adds_nothing_the_second_time(evkit_system, written, evkit_command):
    command = ("dlq", "import", "--topic", written.topic("orders-dlt"))
    planned = evkit_command(*command, "--dry-run", "-f", "json")
    unasked = evkit_command(*command)
    nothing_yet = letters(evkit_system)
    done = evkit_command(*command, "--yes", "--reason", "we take over")
    again = evkit_command(*command, "--yes")

    assert (planned.exit_code, json.loads(planned.stdout)["imported"]) == (0, 4)
    assert "import 4 letters from the 4 records of topic" in planned.stderr
    assert f"4 of group '{written.topic('billing')}' (in the words of spring)" in planned.stderr
    assert (refusal(unasked)[0], nothing_yet) == (2, [])
    assert (done.exit_code, done.stdout) == (0, "4 imported, 0 known\n")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "4 are letters already" in again.stderr
    assert len(letters(evkit_system)) == 4
    with evkit_system.reading() as connection:
        (act,) = connection.execute("SELECT act, reason, result->'imported' FROM evkit.audit").fetchall()
    assert act == ("dead_letters.import", "we take over", 4)


def test_imported_letters_are_listed_shown_exported_and_archived_like_ours(evkit_system, written, evkit_command):
    topic = written.topic("orders-dlt")
    assert evkit_command("dlq", "import", "--topic", topic, "--yes").exit_code == 0
    found = {letter.offset: letter.letter_id for letter in letters(evkit_system)}

    listed = json.loads(evkit_command("dlq", "list", "-f", "json").stdout)
    groups = json.loads(evkit_command("dlq", "groups", "-f", "json").stdout)
    shown = evkit_command("dlq", "show", found[4])
    story = json.loads(evkit_command("dlq", "show", found[0], "-f", "json").stdout)
    exported = [json.loads(line) for line in evkit_command("dlq", "export").stdout.splitlines()]
    archived = evkit_command("dlq", "archive", found[1], "--note", "known", "--yes")

    source = ("source_dialect", "source_topic", "source_partition", "source_offset")
    for rows in (listed, exported):
        assert sorted(tuple(row[name] for name in source) for row in rows) == [
            ("spring", topic, 0, n) for n in range(4)
        ]
    assert sum(group["n_open"] for group in groups) == 4
    assert shown.exit_code == 0, shown.stderr
    assert f"imported     from {topic}/0 offset 3, in the words of spring" in shown.stdout
    assert "\x1b" not in shown.stdout + shown.stderr
    assert story["source_facts"]["exception_class"].endswith("ListenerExecutionFailedException")
    assert archived.exit_code == 0, archived.stderr
    assert dead_letters.show(evkit_system, found[1]).state == "archived"


@pytest.mark.parametrize(
    ("dialect", "name"), [("spring", "kafka_dlt-original-offset"), ("connect", "__connect.errors.offset")]
)
def test_letters_are_exported_in_the_words_of_spring_and_connect(
    evkit_system, written, evkit_command, tmp_path, dialect, name
):
    assert evkit_command("dlq", "import", "--topic", written.topic("orders-dlt"), "--yes").exit_code == 0
    command = ("dlq", "export", "--dialect", dialect)

    lines = evkit_command(*command).stdout.splitlines()
    table = evkit_command(*command, "-f", "csv").stdout.splitlines()
    parquet = evkit_command(*command, "-f", "parquet", "-o", tmp_path / "letters.parquet")

    offsets = {letter.letter_id: letter.offset for letter in letters(evkit_system)}
    for row in map(json.loads, lines):
        ((value, encoding),) = [part[1:] for part in json.loads(row["headers"]) if part[0] == name]
        value = base64.b64decode(value) if encoding == "base64" else value.encode()
        offset = offsets.pop(row["letter_id"])
        assert value == (offset.to_bytes(8, "big") if dialect == "spring" else str(offset).encode())
    assert offsets == {}
    assert table[0] == "letter_id,timestamp,record_key,record_key_encoding,record_value,record_value_encoding,headers"
    assert parquet.exit_code == 0, parquet.stderr


def test_redrive_without_a_consumer_says_that_imported_letters_may_have_none(evkit_system, written, evkit_command):
    assert evkit_command("dlq", "import", "--topic", written.topic("trips-dlt"), "--yes").exit_code == 0
    (letter,) = letters(evkit_system)

    done = evkit_command("dlq", "redrive", letter.letter_id, "--yes")

    exit_code, sentence = refusal(done)
    assert exit_code == 2
    assert f"without an evkit consumer of group '{letter.consumer_group}' they cannot be redriven here" in sentence
    assert letters(evkit_system) == [letter]


def test_what_is_no_dead_letter_and_what_is_empty_is_counted_and_said(evkit_system, evkit_topic, evkit_command):
    dlq = evkit_topic("dlq")
    producer = kafka.producer(evkit_system.settings)
    producer.produce(dlq, None, None)
    producer.produce(dlq, b"", b"key", headers=[("some\x1b[2J", b"\x1b[2J")])
    producer.produce(
        dlq, None, b"key", headers=[("kafka_dlt-original-topic", b"\x1b[2J"), ("kafka_dlt-original-offset", b"x")]
    )
    assert producer.flush(30) == 0

    done = evkit_command("dlq", "import", "--topic", dlq, "--group", "billing", "--yes")

    assert (done.exit_code, done.stdout) == (0, "1 imported, 0 known\n")
    assert "import 1 letters from the 3 records" in done.stderr
    assert "2 say in no header who has given them up" in done.stderr
    assert "1 of those to import are no events" in done.stderr
    assert "1 of those to import lack something" in done.stderr
    assert "at 0/2: 'kafka_dlt-original-topic' is no topic's name" in done.stderr
    assert "\x1b" not in done.stderr
    (letter,) = letters(evkit_system)
    shown = evkit_command("dlq", "show", letter.letter_id)
    assert (shown.exit_code, "\x1b" in shown.stdout) == (0, False)


def test_import_for_want_of_a_group_or_a_dialect_says_so_and_fails(evkit_system, written, evkit_command):
    nobodys = evkit_command("dlq", "import", "--topic", written.topic("streams-dlq"), "--yes")
    no_letters = evkit_command("dlq", "import", "--topic", written.topic("orders"), "--yes")

    assert (nobodys.exit_code, no_letters.exit_code) == (1, 1)
    assert "6 name no consumer group: --group says whose they are" in nobodys.stderr
    assert "6 say in no header who has given them up" in no_letters.stderr
    assert letters(evkit_system) == []


def test_topic_or_database_that_is_not_there_is_one_sentence(written, evkit_command):
    topic = written.topic("orders-dlt")
    unknown = evkit_command("dlq", "import", "--topic", written.topic("order-dlt"), "--yes")
    unknown_to_look = evkit_command("dlq", "foreign", "--topic", "nothing-like-it")
    no_database = evkit_command("dlq", "import", "--topic", topic, "--yes", EVKIT_POSTGRES_DSN=NO_DATABASE)
    no_dialect = evkit_command("dlq", "export", "--dialect", "karafka")

    assert refusal(unknown)[0] == refusal(unknown_to_look)[0] == 2
    assert f"did you mean '{topic}'" in refusal(unknown)[1]
    assert "'nothing-like-it'" in refusal(unknown_to_look)[1]
    assert (refusal(no_database)[0], "127.0.0.1:1" in refusal(no_database)[1]) == (3, True)
    assert refusal(no_dialect) == (2, "'karafka' is no dialect of dead letters: spring, connect")
