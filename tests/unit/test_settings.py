"""Where the servers are: environment, evkit.toml, embedded stack; and no secret in any text."""

from __future__ import annotations

import json

import pytest

from evkit.errors import SettingsError, StackNotRunning
from evkit.settings import Settings, load

DSN = "postgresql://ops:s3cret@db:5432/orders"


@pytest.fixture(autouse=True)
def no_stack(tmp_path, monkeypatch):
    monkeypatch.setenv("EVKIT_LOCAL_HOME", str(tmp_path / "stack"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def toml(folder, text):
    (folder / "evkit.toml").write_text(text)
    return folder


def test_environment_alone_is_enough(tmp_path):
    settings = load(environ={"EVKIT_POSTGRES_DSN": DSN, "EVKIT_KAFKA_BOOTSTRAP_SERVERS": "b:9092"}, cwd=tmp_path)

    assert (settings.postgres_dsn, settings.bootstrap_servers, settings.profile) == (DSN, "b:9092", "environment")


def test_profile_of_a_file_found_upwards_and_environment_wins(tmp_path):
    toml(tmp_path, f'[profiles.prod]\npostgres_dsn = "{DSN}"\n[profiles.prod.kafka]\n"bootstrap.servers" = "b:9092"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    assert load(environ={}, cwd=below).bootstrap_servers == "b:9092"
    assert load(environ={"EVKIT_KAFKA_BOOTSTRAP_SERVERS": "c:1"}, cwd=below).bootstrap_servers == "c:1"


def test_secrets_are_references_and_are_known_as_secrets(tmp_path):
    (tmp_path / "pw").write_text("hush\n")
    toml(
        tmp_path,
        '[profiles.prod]\npostgres_dsn = "env:DSN"\n[profiles.prod.kafka]\n"bootstrap.servers" = "b:1"\n'
        f'"sasl.password" = "file:{tmp_path}/pw"\n',
    )

    settings = load(environ={"DSN": DSN}, cwd=tmp_path)

    assert settings.kafka["sasl.password"] == "hush"
    assert sorted(settings.secrets()) == ["hush", "s3cret"]
    assert "hush" not in repr(settings)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "profile", "sentence"),
    [
        ("[profiles.prod]\npostgres_dns = 'x'\n", "prod", "did you mean 'postgres_dsn'"),
        ("[profiles.prod]\n", "prd", "no profile 'prd'; did you mean 'prod'"),
        ("[profiles.prod\n", None, "cannot be read as TOML"),
        ("[profiles.prod]\npostgres_dsn = 'env:NOPE'\n", "prod", "NOPE, which is not set"),
        ("[profiles.prod]\npostgres_dsn = 'file:/no/such'\n", "prod", "/no/such"),
        (
            "[profiles.p]\nkafka_timeout_seconds = -1\npostgres_dsn='x'\nkafka={'bootstrap.servers'='b'}\n",
            "p",
            "greater than 0",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, text, profile, sentence):
    toml(tmp_path, text)

    with pytest.raises(SettingsError, match=sentence):
        load(profile, environ={}, cwd=tmp_path)


def test_nothing_configured_and_no_stack_says_what_to_do(tmp_path):
    with pytest.raises(StackNotRunning, match="evkit up"):
        load(environ={}, cwd=tmp_path)


def test_embedded_stack_is_the_default_when_it_is_up(tmp_path):
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "stack.json").write_text(
        json.dumps(
            {"postgres_dsn": "postgresql://postgres@127.0.0.1:1/evkit", "kafka_bootstrap_servers": "127.0.0.1:2"}
        )
    )

    settings = load(environ={}, cwd=tmp_path)

    assert (settings.profile, settings.bootstrap_servers) == ("embedded", "127.0.0.1:2")


def test_half_written_stack_file_is_no_stack(tmp_path):
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "stack.json").write_text('{"postgres_dsn": "post')

    with pytest.raises(StackNotRunning):
        load(environ={}, cwd=tmp_path)


def test_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="extra"):
        Settings(postgres_dsn="x", kafka={"bootstrap.servers": "b"}, kafka_timeout=3)


def test_a_kafka_alone_is_a_system_without_postgresql_also_beside_the_embedded_stack(tmp_path):
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "stack.json").write_text(json.dumps({"postgres_dsn": DSN, "kafka_bootstrap_servers": "c:2"}))

    settings = load(environ={"EVKIT_KAFKA_BOOTSTRAP_SERVERS": "b:9092"}, cwd=tmp_path)

    assert (settings.postgres_dsn, settings.bootstrap_servers) == ("", "b:9092")
    assert settings.secrets() == []


def test_masking_is_of_every_profile_and_of_one(tmp_path):
    toml(
        tmp_path,
        '[[masking]]\nfield = "email"\n[profiles.p.kafka]\n"bootstrap.servers" = "b:1"\n'
        '[[profiles.p.masking]]\ntopic = "order*"\nheader = "tenant"\naction = "remove"\n',
    )

    settings = load(environ={}, cwd=tmp_path)

    assert [(p.topic, p.field, p.header, p.action) for p in settings.masking] == [
        ("*", "email", None, "mask"), ("order*", None, "tenant", "remove"),
    ]  # fmt: skip
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[masking]]\nfield = "a..b"\n', "setting 'masking.0' in .*field 'a..b' is no path"),
        (
            '[[masking]]\nfield = "a"\naction = "hide"\n',
            "setting 'masking.0.action' in .*'mask', 'remove', 'replace' or 'hash'",
        ),
        ('[[masking]]\nfeld = "a"\n', "setting 'masking.0.feld' in .*not permitted"),
        ('masking = "a"\n', "is no list of policies: write"),
    ],
)
def test_a_bad_masking_policy_is_one_sentence(tmp_path, text, sentence):
    toml(tmp_path, text + '[profiles.p.kafka]\n"bootstrap.servers" = "b:1"\n')

    with pytest.raises(SettingsError, match=sentence):
        load("p", environ={}, cwd=tmp_path)
