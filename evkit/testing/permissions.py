"""A broker that can say no: users, passwords and ACLs for tests of what a service does when it is refused."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from evkit import kafka
from evkit.settings import Settings

_ITERATIONS = 4096  # Kafka's least: a test's password needs no more, and each sign-in costs so many hashes


class SecuredKafka:
    """The port of the embedded broker where users sign in (SCRAM) and may do what an ACL allows, and nothing else.

    Passwords are drawn at random, held by this object alone, and shown by no repr.

    Args:
        bootstrap_servers  host:port of the broker's open port, where everybody is an administrator
        secured_servers    host:port where users sign in
        postgres_dsn       of the settings that `settings` makes
    """

    def __init__(self, bootstrap_servers: str, secured_servers: str, postgres_dsn: str) -> None:
        self.open_settings = Settings(
            profile="test", postgres_dsn=postgres_dsn, kafka={"bootstrap.servers": bootstrap_servers}
        )
        self._secured_servers = secured_servers
        self._passwords: dict[str, str] = {}
        self._changes = 0
        self._admin = kafka.admin(self.open_settings)

    def settings(self, user: str, password: str | None = None, **properties: str) -> Settings:
        """Settings that sign in as this user, who is made if he is new; with another password than his, to be refused.

        `properties` are librdkafka's, with underscores for dots.
        """
        if user not in self._passwords:
            self.set_password(user)
        return self.open_settings.model_copy(
            update={
                "kafka": {
                    "bootstrap.servers": self._secured_servers,
                    "security.protocol": "SASL_PLAINTEXT",
                    "sasl.mechanism": "SCRAM-SHA-256",
                    "sasl.username": user,
                    "sasl.password": self._passwords[user] if password is None else password,
                    **{name.replace("_", "."): value for name, value in properties.items()},
                }
            }
        )

    def topic(self, name: str = "topic", partitions: int = 1, **config: str) -> str:
        """Make a topic that nobody may use yet; returns its name, which is used once."""
        unique = f"{name}-{secrets.token_hex(3)}"
        kafka.create_topics(self.open_settings, {unique: partitions}, **config)
        return unique

    def set_password(self, user: str) -> str:
        """Give a user a new random password; connections that are open stay open. Returns it."""
        password = secrets.token_urlsafe(24)
        self._changes += 1
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, _ITERATIONS + self._changes)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        self._admin.alter_user_scram_credentials([change])[user].result()

        def is_known() -> bool:
            try:
                answers: Any = self._admin.describe_user_scram_credentials([user])
                found = answers[user].result()
            except kafka.KafkaException:  # not there yet
                return False
            return any(known.iterations == info.iterations for known in found.scram_credential_infos)

        _wait(is_known)
        self._passwords[user] = password
        return password

    def allow(self, user: str, operations: str | Iterable[str] = "ALL", **resource: str) -> None:
        """Allow a user operations ("WRITE", "DESCRIBE", …) on one resource: `topic=`, `group=`, `transactional_id=`.

        A name that ends with `*` is a prefix, and `*` alone is every name.
        """
        self._make_acls(user, operations, AclPermissionType.ALLOW, resource)

    def deny(self, user: str, operations: str | Iterable[str] = "ALL", **resource: str) -> None:
        """Deny a user operations, whatever else allows them; see `allow`."""
        self._make_acls(user, operations, AclPermissionType.DENY, resource)

    def forget_acls(self, user: str) -> None:
        """Delete every ACL of a user: nothing is allowed to him, and nothing denied in particular."""
        for future in self._admin.delete_acls([_every_acl(user)]).values():
            future.result()
        _wait(lambda: not self._known_acls(user))

    def close(self) -> None:
        """Delete the users that were made here, and their ACLs."""
        for user in self._passwords:
            self.forget_acls(user)
        deletions: list[Any] = [
            UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_256) for user in self._passwords
        ]
        for future in self._admin.alter_user_scram_credentials(deletions).values() if deletions else ():
            future.result()
        self._passwords.clear()

    def _make_acls(
        self, user: str, operations: str | Iterable[str], permission: AclPermissionType, resource: dict[str, str]
    ) -> None:
        ((kind, name),) = resource.items()
        # Kafka's own `*`, for every name, is a literal.
        is_prefix = name.endswith("*") and name != "*"
        pattern = ResourcePatternType.PREFIXED if is_prefix else ResourcePatternType.LITERAL
        acls = [
            AclBinding(
                ResourceType[kind.upper()],
                name.removesuffix("*") if is_prefix else name,
                pattern,
                f"User:{user}",
                "*",
                AclOperation[operation],
                permission,
            )
            for operation in ([operations] if isinstance(operations, str) else operations)
        ]
        for future in self._admin.create_acls(acls).values():
            future.result()
        _wait(lambda: self._known_acls(user).issuperset(acls))

    def _known_acls(self, user: str) -> set[AclBinding]:
        return set(self._admin.describe_acls(_every_acl(user)).result())


def _every_acl(user: str) -> AclBindingFilter:
    whatever: Any = None
    return AclBindingFilter(
        ResourceType.ANY, whatever, ResourcePatternType.ANY, f"User:{user}", whatever,
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip


def _wait(is_so: Callable[[], bool]) -> None:
    """The controller has written a change down before the broker goes by it."""
    deadline = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("the broker does not go by a change of users or ACLs after 30 s")
        time.sleep(0.01)
