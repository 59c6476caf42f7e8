"""Where PostgreSQL and Kafka are: evkit.toml, the environment, or the embedded stack.

Looked up in this order, the first that speaks wins, value by value:

1. environment: EVKIT_POSTGRES_DSN, EVKIT_KAFKA_BOOTSTRAP_SERVERS (EVKIT_PROFILE chooses the profile)
2. a profile of evkit.toml, which is the file that EVKIT_CONFIG names, or the first `evkit.toml` from the working
   directory upwards, or the one in the user's config folder
3. the embedded stack, when it is up (`evkit up`)

    default_profile = "prod"

    [profiles.prod]
    postgres_dsn = "env:ORDERS_DSN"              # a secret is a reference: env:NAME or file:PATH

    [profiles.prod.kafka]                        # any librdkafka property
    "bootstrap.servers" = "broker-1:9092,broker-2:9092"
    "security.protocol" = "SASL_SSL"
    "sasl.password" = "file:/run/secrets/kafka"

    [[profiles.prod.masking]]                    # what no view shows of a payload: see masking.py; [[masking]] is for
    field = "customer.email"                     # every profile; action = "hash" wants masking_key = "env:NAME" in it

A Kafka without a PostgreSQL is a system too: any cluster, any group, whoever wrote them. Where Kafka is named and
PostgreSQL is not, there is none: the embedded one is not put beside somebody else's Kafka.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from evkit.errors import SettingsError, StackNotRunning, closest
from evkit.masking import NO_KEY, Policy

CONFIG_NAME = "evkit.toml"

# A profile that names a freeze's folder instead of a section of evkit.toml.
FREEZE_PREFIX = "freeze:"

# librdkafka properties whose value is never shown.
SECRET_PROPERTIES = ("password", "secret", "ssl.key.pem", "ssl.keystore", "sasl.oauthbearer.config", "token")

# Settings that may be references, and the variable that has the last word.
_SECRETS = {"postgres_dsn": "EVKIT_POSTGRES_DSN", "masking_key": "EVKIT_MASKING_KEY"}

# What `openssl rand -hex 8` gives; shorter ones are words.
_KEY_CHARACTERS_MIN = 16


class Settings(BaseModel):
    """One system: where its PostgreSQL and its Kafka are.

    Attributes:
        profile                  name of the profile, "embedded" for the embedded stack, "environment" without a file
        postgres_dsn             libpq connection string or URI, never shown by repr; empty when there is no PostgreSQL
        kafka                    librdkafka properties; `bootstrap.servers` is always there
        kafka_timeout_seconds    how long a question to the broker may take before it counts as unreachable
        postgres_timeout_seconds the same for connecting to PostgreSQL
        snapshot_seconds_max     how long a view may hold a snapshot, and so how long one of its queries may run
        statement_timeout_seconds  how long one query of a command that is no view may run (a plan, a list of letters)
        event_bytes_max          largest payload that `outbox.write` accepts, in bytes of JSON
        masking_key              what policies of action hash hash by, at least 16 characters; never shown by repr
        masking                  what must not be seen of payloads (masking.py)
        thresholds               TOML file that monitors judge by (see `evkit.monitors.Thresholds`); in evkit.toml a path
                                 beside it. None: the defaults
        outbox_retention_days    published events older than this may be dropped; None ("forever" in evkit.toml) keeps all
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = "environment"
    postgres_dsn: str = Field(default="", repr=False)
    kafka: dict[str, str] = Field(repr=False)
    # Ten seconds outlast a broker's restart of a few seconds and are short enough for somebody who is waiting.
    kafka_timeout_seconds: float = Field(default=10.0, gt=0)
    postgres_timeout_seconds: float = Field(default=10.0, gt=0)
    # A snapshot keeps vacuum from all dead rows of the database, and what relays and services update often is bloated soon.
    # On a replica without hot_standby_feedback nobody minds a longer one.
    snapshot_seconds_max: float = Field(default=5.0, ge=0.01)
    statement_timeout_seconds: float = Field(default=60.0, gt=0)
    # The broker's default message.max.bytes is 1,048,588; the rest is room for key, headers and batch overhead.
    event_bytes_max: int = Field(default=900_000, gt=0)
    thresholds: Path | None = None
    # An event leaves no trace in the outbox after this, so it must outlast the longest way back: Kafka keeps records for 7
    # days by default, letters are redriven within weeks, and last month's incident is still asked about.
    outbox_retention_days: float | None = Field(default=30.0, gt=0)
    masking_key: str = Field(default="", repr=False)
    masking: tuple[Policy, ...] = ()  # behind its key

    @field_validator("masking_key")
    @classmethod
    def _long(cls, given: str) -> str:
        if given and len(given) < _KEY_CHARACTERS_MIN:
            raise ValueError(f"a key of fewer than {_KEY_CHARACTERS_MIN} characters can be guessed")
        return given

    @field_validator("masking")
    @classmethod
    def _keyed(cls, given: tuple[Policy, ...], info: ValidationInfo) -> tuple[Policy, ...]:
        key = info.data.get("masking_key", "")
        if not key and any(policy.action == "hash" for policy in given):
            raise ValueError(NO_KEY)
        return tuple(policy.keyed(key) if policy.action == "hash" else policy for policy in given)

    @field_validator("outbox_retention_days", mode="before")
    @classmethod
    def _forever(cls, given: object) -> object:
        return None if given == "forever" else given  # TOML has no word for nothing

    @property
    def bootstrap_servers(self) -> str:
        """Broker addresses as given, host:port with commas between."""
        return self.kafka["bootstrap.servers"]

    def secrets(self) -> list[str]:
        """Values that must appear in no notebook, report or log."""
        from psycopg.conninfo import conninfo_to_dict

        found = [v for k, v in self.kafka.items() if any(s in k for s in SECRET_PROPERTIES)]
        found.append(self.masking_key)
        password = conninfo_to_dict(self.postgres_dsn).get("password")
        if password:
            found.append(str(password))
        return [v for v in found if v]


def profile_asked(profile: str | None = None, environ: Mapping[str, str] | None = None) -> str | None:
    """The profile given, or the one that EVKIT_PROFILE names."""
    return profile or (os.environ if environ is None else environ).get("EVKIT_PROFILE") or None


def local_home() -> Path:
    """Folder of the embedded stack: EVKIT_LOCAL_HOME, or `evkit/default` in the user's data folder.

    For root it is /var/lib/evkit/default: PostgreSQL does not run as root, and the account that it runs as must not be
    let into /root for it.
    """
    if home := os.environ.get("EVKIT_LOCAL_HOME"):
        return Path(home).expanduser().absolute()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/evkit/default")
    from platformdirs import user_data_path

    return user_data_path("evkit", appauthor=False) / "default"


def freezes_home() -> Path:
    """Folder in which freezes that were opened are kept loaded: EVKIT_FREEZES_HOME, or one in the user's cache folder.

    For root it is below /var/lib, for the same reason.
    """
    if home := os.environ.get("EVKIT_FREEZES_HOME"):
        return Path(home).expanduser().absolute()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/evkit/freezes")
    from platformdirs import user_cache_path

    return user_cache_path("evkit", appauthor=False) / "freezes"


def load(profile: str | None = None, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Settings of a profile, or of what the environment and the embedded stack say when there is none.

    Reads files, writes nothing. The embedded stack is not started.

    Raises:
        SettingsError: the file cannot be read, has an unknown or missing entry, or a secret's reference leads nowhere.
        StackNotRunning: nothing is configured, and the embedded stack is not up.
    """
    env = os.environ if environ is None else environ
    profile = profile_asked(profile, env)
    if profile is not None and profile.startswith(FREEZE_PREFIX):
        raise SettingsError(f"'{profile}' is a freeze, and this needs a system that runs: give another profile")
    path = _config_path(env, cwd or Path.cwd())
    values: dict[str, Any] = {}
    if path is not None:
        values = _profile_values(path, profile)
        if "thresholds" in values:
            values["thresholds"] = path.parent / Path(str(values["thresholds"])).expanduser()
    elif profile not in (None, "embedded"):
        raise SettingsError(
            f"profile '{profile}' was asked for, and there is no {CONFIG_NAME}: "
            f"write one, or set EVKIT_CONFIG to its path"
        )
    kafka = {str(k): _resolved(str(v), str(k), env) for k, v in dict(values.pop("kafka", {})).items()}
    for name, variable in _SECRETS.items():
        if given := env.get(variable):
            values[name] = given
        elif name in values:
            values[name] = _resolved(str(values[name]), name, env)
    if servers := env.get("EVKIT_KAFKA_BOOTSTRAP_SERVERS"):
        kafka["bootstrap.servers"] = servers
    if "bootstrap.servers" not in kafka:
        stack = _embedded()
        if stack is None:
            raise StackNotRunning(
                "nothing says where the system is (kafka bootstrap.servers is not set) and the embedded stack is not up: "
                "start it with `evkit up`, or set EVKIT_KAFKA_BOOTSTRAP_SERVERS, and EVKIT_POSTGRES_DSN where there are "
                f"evkit's tables, or write {CONFIG_NAME}"
            )
        if "postgres_dsn" not in values:
            values.setdefault("profile", "embedded")
        values.setdefault("postgres_dsn", stack["postgres_dsn"])
        kafka["bootstrap.servers"] = stack["kafka_bootstrap_servers"]
    try:
        return Settings(kafka=kafka, **values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"setting '{name}' in {path or 'the environment'}: {first['msg'].lower()}") from None


def _embedded() -> dict[str, str] | None:
    """What the embedded stack wrote about itself, or None when it is not up."""
    try:
        stack = json.loads((local_home() / "stack.json").read_text())
        return {k: str(stack[k]) for k in ("postgres_dsn", "kafka_bootstrap_servers")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _config_path(env: Mapping[str, str], cwd: Path) -> Path | None:
    if named := env.get("EVKIT_CONFIG"):
        path = Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(f"EVKIT_CONFIG names {path}, and there is no such file")
        return path
    for folder in (cwd, *cwd.parents):
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
    from platformdirs import user_config_path

    path = user_config_path("evkit", appauthor=False) / CONFIG_NAME
    return path if path.is_file() else None


def _profile_values(path: Path, profile: str | None) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from None
    everywhere = {"masking": content["masking"]} if "masking" in content else {}
    profiles = content.get("profiles", {})
    profile = profile or content.get("default_profile") or (next(iter(profiles)) if len(profiles) == 1 else None)
    if profile is None or (profile == "embedded" and profile not in profiles):
        return everywhere
    if profile not in profiles:
        near = closest(profile, profiles)
        hint = f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(sorted(profiles)) or 'none'}"
        raise SettingsError(f"{path} has no profile '{profile}'{hint}")
    values = dict(profiles[profile])
    unknown = sorted(set(values) - set(Settings.model_fields))
    if unknown:
        near = closest(unknown[0], Settings.model_fields)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise SettingsError(f"profile '{profile}' in {path} has an unknown setting '{unknown[0]}'{hint}")
    for masking in (everywhere.get("masking", []), values.get("masking", [])):
        if not isinstance(masking, list):
            raise SettingsError(f"setting 'masking' in {path} is no list of policies: write [[masking]]")
    if everywhere or "masking" in values:
        values["masking"] = [*everywhere.get("masking", []), *values.get("masking", [])]
    return values | {"profile": profile}


def _resolved(value: str, name: str, env: Mapping[str, str]) -> str:
    """A reference's value: `env:NAME` and `file:PATH` are looked up, anything else is itself."""
    kind, _, rest = value.partition(":")
    if kind == "env":
        if rest not in env:
            raise SettingsError(f"setting '{name}' refers to the environment variable {rest}, which is not set")
        return env[rest]
    if kind == "file":
        try:
            return Path(rest).expanduser().read_text().strip()
        except OSError as error:
            raise SettingsError(f"setting '{name}' refers to the file {rest}: {error.strerror}") from None
    return value
