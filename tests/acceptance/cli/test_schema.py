"""`evkit schema` as a service's CI runs it: a file in version control, sentences, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

V1 = """
from pydantic import BaseModel
from evkit import event_type

@event_type("order.placed", version=1)
class Placed(BaseModel):
    total: int
"""
V2_ADDS = """
@event_type("order.placed", version=2)
class Placed2(Placed):
    currency: str = "EUR"
"""
V2_BREAKS = """
@event_type("order.placed", version=2)
class Placed2(BaseModel):
    total: str
"""


class Service:
    """A folder with a module of event types, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "evkit.schemas.json"

    def declares(self, *source: str) -> None:
        (self.folder / "shop_events.py").write_text("".join(source))

    def schema(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-B", "-m", "evkit", "schema", *arguments],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def locked(self) -> dict:
        return json.loads(self.file.read_text())


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    service.declares(V1)
    return service


@pytest.fixture
def locked_service(service):
    assert service.schema("lock", "shop_events").returncode == 0
    return service


def test_lock_writes_the_file_and_a_second_lock_leaves_it_alone(service):
    first = service.schema("lock", "shop_events")
    written = service.file.stat().st_mtime_ns
    second = service.schema("lock", "shop_events")

    assert (first.returncode, first.stdout) == (0, "locked 1 event types, 1 versions in evkit.schemas.json\n")
    assert (second.returncode, second.stdout) == (0, "evkit.schemas.json is up to date: 1 event types, 1 versions\n")
    assert service.file.stat().st_mtime_ns == written
    assert [path.name for path in service.folder.iterdir() if path.suffix == ".json"] == ["evkit.schemas.json"]


def test_check_without_a_change_says_so(locked_service):
    done = locked_service.schema("check", "shop_events")

    assert (done.returncode, done.stdout) == (0, "no difference to evkit.schemas.json\n")


def test_additive_change_passes_the_check_with_a_reminder_to_lock_it(locked_service):
    locked_service.declares(V1, V2_ADDS)

    done = locked_service.schema("check", "shop_events", "--format", "json")
    locked = locked_service.schema("lock", "shop_events")

    assert done.returncode == 0
    assert json.loads(done.stdout) == [
        {"event_type": "order.placed", "version": 2, "field": "", "additive": True,
         "sentence": "version 2 of 'order.placed' adds currency, and goes together with version 1"}
    ]  # fmt: skip
    assert "not locked yet: evkit schema lock shop_events --file evkit.schemas.json" in done.stderr
    assert locked.returncode == 0
    assert list(locked_service.locked()["event_types"]["order.placed"]["versions"]) == ["1", "2"]


def test_breaking_change_fails_the_check_and_is_not_locked(locked_service):
    before = locked_service.file.read_text()
    locked_service.declares(V1, V2_BREAKS)

    checked = locked_service.schema("check", "shop_events")
    locked = locked_service.schema("lock", "shop_events")

    assert checked.returncode == 1
    assert checked.stdout.splitlines() == [
        "BREAKING  'order.placed': version 2 cannot take over from version 1: field 'total' may be integer, where string "
        "is expected",
        "BREAKING  'order.placed': consumers of version 1 cannot read version 2: field 'total' may be string, where "
        "integer is expected",
    ]
    assert locked.returncode == 1
    assert locked.stderr.startswith("evkit: 'order.placed': version 2 cannot take over from version 1")
    assert locked.stderr.endswith("nothing was locked: change the code, or lock it with --reason\n")
    assert locked_service.file.read_text() == before


def test_reason_overrides_and_stays_in_the_file(locked_service):
    locked_service.declares(V1, V2_BREAKS)

    empty = locked_service.schema("lock", "shop_events", "--reason", " ")
    done = locked_service.schema("lock", "shop_events", "--reason", "nobody consumes it yet")
    checked = locked_service.schema("check", "shop_events")
    locked_service.declares(
        V1, V2_BREAKS, V2_ADDS.replace("version=2", "version=1").replace("order.placed", "order.paid")
    )
    later = locked_service.schema("lock", "shop_events")

    assert empty.returncode == 2
    assert done.returncode == 0
    assert "overridden: 'order.placed': consumers of version 1 cannot read version 2" in done.stderr
    assert checked.returncode == 0
    assert later.returncode == 0
    [override] = locked_service.locked()["overrides"]
    assert override["reason"] == "nobody consumes it yet"
    assert len(override["changes"]) == 2


def test_first_lock_refuses_versions_that_do_not_go_together(service):
    service.declares(V1, V2_BREAKS)

    done = service.schema("lock", "shop_events")

    assert done.returncode == 1
    assert not service.file.exists()


def test_diff_shows_a_new_version_against_the_one_before(locked_service):
    same = locked_service.schema("diff", "shop_events")
    locked_service.declares(V1, V2_ADDS)
    done = locked_service.schema("diff", "shop_events")

    assert same.stdout == "no difference to evkit.schemas.json\n"
    assert done.returncode == 0
    assert done.stdout.startswith("--- order.placed version 1\n+++ order.placed version 2 (code)\n")
    assert '+      "currency": {' in done.stdout


@pytest.mark.parametrize(
    ("command", "module", "source", "sentence"),
    [
        ("lock", "no_such_module", V1, "module 'no_such_module' cannot be imported from"),
        ("diff", "shop_events", "x = 1", "declares no event types"),
        ("check", "no_such_module", V1, "module 'no_such_module' cannot be imported from"),
        ("check", "shop_events", "import does_not_exist", "cannot be imported from"),
        ("check", "shop_events", "1 / 0", "module 'shop_events' fails while it is imported: ZeroDivisionError"),
        ("check", "shop_events", "def", "module 'shop_events' fails while it is imported: SyntaxError"),
        ("check", "shop_events", "raise SystemExit(0)", "module 'shop_events' fails while it is imported: SystemExit"),
        ("check", "shop_events", "x = 1", "module 'shop_events' declares no event types"),
        ("check", "shop_events", V1 + V1.replace("Placed", "Other"), "version 1 is shop_events.Placed already"),
        ("check", "..", V1, "module '..' cannot be imported"),
    ],
)  # fmt: skip
def test_module_that_cannot_be_used_is_one_sentence_and_exit_2(service, command, module, source, sentence):
    service.file.write_text('{"evkit_schema_lock": 1, "event_types": {}}')
    service.declares(source)

    done = service.schema(command, module)

    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["lock", "check", "diff"])
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"evkit_schema_lock": 1, "event_types": {"a": 1}}', "\x00\xff"]
)
def test_lock_file_that_is_broken_is_one_sentence_and_exit_2_and_stays_as_it_is(service, command, content):
    service.file.write_text(content, encoding="latin-1")

    done = service.schema(command, "shop_events")

    assert done.returncode == 2
    assert done.stderr.startswith("evkit: ")
    assert "version control" in done.stderr
    assert done.stderr.count("\n") == 1
    assert service.file.read_text(encoding="latin-1") == content


@pytest.mark.parametrize("command", ["check", "diff"])
def test_missing_lock_file_says_how_to_write_it(service, command):
    done = service.schema(command, "shop_events", "--file", "other.json")

    assert done.returncode == 2
    assert done.stderr == (
        "evkit: there is no lock file other.json: write it with `evkit schema lock shop_events --file other.json`\n"
    )


def test_lock_into_a_folder_that_is_not_there_is_exit_2(service):
    done = service.schema("lock", "shop_events", "--file", "no/such/folder.json")

    assert done.returncode == 2
    assert done.stderr == "evkit: lock file no/such/folder.json cannot be written: No such file or directory\n"


def test_demo_can_be_locked_and_checked(service):
    locked = service.schema("lock", "evkit.demo.events")
    checked = service.schema("check", "evkit.demo.events")

    assert locked.stdout == "locked 4 event types, 4 versions in evkit.schemas.json\n"
    assert (checked.returncode, checked.stdout) == (0, "no difference to evkit.schemas.json\n")
