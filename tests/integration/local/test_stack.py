"""The embedded stack: up, down, and back again after everything that can happen to it in between."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import psycopg
import pytest

from evkit import kafka
from evkit.errors import StackError
from evkit.local import Stack, jars, server, stack
from evkit.settings import Settings
from evkit.testing.faults import kill9


def open_folder():
    """A folder that PostgreSQL's account may enter, which pytest's own folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="evkit-stack-"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def home():
    """A stack's folder for this module; whatever runs there at the end is stopped."""
    folder = open_folder()
    yield folder
    Stack(folder).delete()


@pytest.fixture
def other_home():
    """A second folder, for one test."""
    folder = open_folder()
    yield folder
    Stack(folder).delete()


@pytest.fixture
def up(home):
    return Stack(home).up()


def topics(info):
    return kafka.topics(Settings(postgres_dsn="", kafka={"bootstrap.servers": info.kafka_bootstrap_servers}))


def write_something(info):
    settings = Settings(postgres_dsn="", kafka={"bootstrap.servers": info.kafka_bootstrap_servers})
    kafka.create_topics(settings, {"kept": 2})
    with psycopg.connect(info.postgres_dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def has_everything(info):
    with psycopg.connect(info.postgres_dsn) as connection:
        return connection.execute("SELECT count(*) > 0 FROM kept").fetchone()[0] and topics(info).get("kept") == 2


def test_data_survives_down_and_up_and_a_later_start_asks_no_network(home, up, monkeypatch):
    write_something(up)
    assert Stack(home).down()
    assert not Stack(home).status().up
    monkeypatch.setitem(sys.modules, "jgo", None)  # who tries to fetch jars fails

    again = Stack(home).up()

    assert not again.already_up
    assert has_everything(again)
    # The first broker of a machine has left its classes for those after it.
    assert f"-XX:AOTCache={jars.class_archive()}" in psutil.Process(again.kafka_pid).cmdline()
    assert list((home / "kafka").glob("*.aot")) == []


def test_versions_are_those_that_are_promised(up):
    with psycopg.connect(up.postgres_dsn) as connection:
        assert connection.info.server_version // 10000 == 18
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
    cmdline = psutil.Process(up.kafka_pid).cmdline()
    assert any("kafka_2.13-4.3.1.jar" in argument for argument in cmdline)


def test_up_twice_says_that_it_is_up_and_starts_nothing(home, up):
    again = Stack(home).up()

    assert again.already_up
    assert (again.postgres_pid, again.kafka_pid) == (up.postgres_pid, up.kafka_pid)


def test_servers_listen_on_this_machine_alone(up):
    for pid in (up.postgres_pid, up.kafka_pid):
        addresses = {c.laddr.ip for c in psutil.Process(pid).net_connections(kind="tcp") if c.status == "LISTEN"}
        assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}


@pytest.mark.parametrize("which", [["postgres_pid"], ["kafka_pid"], ["postgres_pid", "kafka_pid"]])
def test_killed_servers_are_started_again_with_their_data(home, up, which):
    write_something(up)
    for name in which:
        kill9(getattr(up, name))
        psutil.wait_procs([p for p in psutil.process_iter() if p.pid == getattr(up, name)], timeout=60)

    again = Stack(home).up()

    assert not again.already_up
    assert has_everything(again)
    for name in {"postgres_pid", "kafka_pid"} - set(which):
        assert getattr(again, name) == getattr(up, name)


def test_pids_that_somebody_else_has_by_now_mislead_nobody(home, up):
    Stack(home).down()
    note = {**up.__dict__} if hasattr(up, "__dict__") else {n: getattr(up, n) for n in up.__slots__}
    (home / "stack.json").write_text(json.dumps({**note, "postgres_pid": os.getpid(), "kafka_pid": os.getpid()}))
    (home / "postgres" / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{home}/postgres/data\n")

    assert not Stack(home).status().up
    assert not Stack(home).up().already_up


def test_port_that_was_taken_since_is_replaced_and_the_listener_follows(home, up):
    Stack(home).down()
    taken = [
        int(up.kafka_bootstrap_servers.rpartition(":")[2]),
        int(up.postgres_dsn.rpartition(":")[2].partition("/")[0]),
    ]
    with socket.socket() as one, socket.socket() as two:
        for listener, port in zip((one, two), taken, strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()

        again = Stack(home).up()

        assert str(taken[0]) not in again.kafka_bootstrap_servers
        assert str(taken[1]) not in again.postgres_dsn
        assert topics(again) is not None


def test_half_made_data_is_made_anew(other_home):
    """As a kill -9 of `evkit up` leaves it: in the middle of initdb, of the format, of the note."""
    for name in ("postgres/data.new", "postgres/data", "kafka/data.new", "kafka/data"):
        (other_home / name).mkdir(parents=True)
        (other_home / name / "half").write_text("?")
    (other_home / "stack.json").write_text('{"postgres_dsn": "postg')

    with Stack(other_home) as info:
        assert topics(info) == {}
    assert not Stack(other_home).status().up


def test_two_starts_at_the_same_time_make_one_stack(home, up):
    Stack(home).down()
    command = [sys.executable, "-m", "evkit", "up", "--home", str(home)]

    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=200) for process in both]

    assert [process.returncode for process in both] == [0, 0], answers
    assert sorted(out.splitlines()[0] for out, _ in answers) == ["it is up already", "up"]


def test_full_disk_is_said_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(stack, "FREE_MEGABYTES_MIN", 10**9)

    with pytest.raises(StackError, match=r"MB free at .* needs 1000000000"):
        Stack(tmp_path).up()

    assert server.find("-D", str(tmp_path / "postgres" / "data"), "-p") is None


def test_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StackError, match=r"cannot use .*: Not a directory; set EVKIT_LOCAL_HOME"):
        Stack(tmp_path / "file" / "stack").up()


def test_server_that_ends_while_starting_is_told_with_its_last_words(home, up):
    Stack(home).down()
    version = home / "postgres" / "data" / "PG_VERSION"
    kept = version.read_text()
    try:
        version.write_text("9\n")
        with pytest.raises(StackError, match="PostgreSQL ended with 1 while starting: .*incompatible.*log: "):
            Stack(home).up()
    finally:
        version.write_text(kept)
    assert not Stack(home).up().already_up


@pytest.mark.parametrize("taken", ["postgres", "kafka", "controller"])
def test_port_that_is_taken_before_the_server_has_it_is_given_up_for_another(home, up, monkeypatch, taken):
    """Between the choice of a port and a broker's bind are two seconds, and others are given ports as well."""
    write_something(up)
    Stack(home).down()
    stranger, chosen, find_free = socket.socket(), [], server.free_port
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections to the server that was there linger

    def free_port(preferred=None):
        port = find_free(preferred)
        if preferred == had[taken]:
            chosen.append(port)
            stranger.bind(("127.0.0.1", port))
            stranger.listen()
        return port

    had = {
        "postgres": Stack(home)._postgres.port(),
        "kafka": Stack(home)._kafka.port(),
        "controller": Stack(home)._kafka._configured("CONTROLLER"),
    }
    monkeypatch.setattr(server, "free_port", free_port)
    told = []

    with stranger:
        again = Stack(home).up(told.append)

    assert len(chosen) == 1
    assert any("Address already in use" in sentence and "trying other ports" in sentence for sentence in told)
    assert has_everything(again)


def test_broker_that_cannot_start_says_why(home, up):
    Stack(home).down()
    meta = home / "kafka" / "data" / "meta.properties"
    kept = meta.read_text()
    try:
        meta.write_text(kept.replace("node.id=1", "node.id=7"))
        with pytest.raises(StackError, match="Apache Kafka ended with 1 while starting: .*node.*7"):
            Stack(home).up()
    finally:
        meta.write_text(kept)
    assert not Stack(home).up().already_up


def test_killed_owner_leaves_no_server_behind(other_home):
    """What a killed test run leaves: nothing. The owner dies by kill -9, before it could do anything about it."""
    script = (
        "import sys, threading; from evkit.local import Stack\n"
        f"print(Stack({str(other_home)!r}, owned=True).up().kafka_pid, flush=True); threading.Event().wait()"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    servers = [psutil.Process(int(owner.stdout.readline()))]
    status = Stack(other_home).status()
    assert status.up
    servers.append(psutil.Process(status.postgres_pid))

    kill9(owner.pid)
    owner.communicate()

    _, alive = psutil.wait_procs(servers, timeout=120)
    assert alive == []
    assert not Stack(other_home).status().up


def test_ordinary_user_can_bring_it_up(other_home):
    """When the tests run as root, another user's eyes are borrowed by a user namespace."""
    command = [sys.executable, "-m", "evkit", "up", "--home", str(other_home / "stack")]
    if os.geteuid() == 0:
        if shutil.which("unshare") is None:
            pytest.skip("needs util-linux's unshare to be an ordinary user while running as root: install util-linux")
        command = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--", *command]
        probe = subprocess.run([*command[:5], "id", "-u"], capture_output=True, text=True, check=False)
        if probe.stdout.strip() != "65534":
            pytest.skip(
                "needs user namespaces to be an ordinary user while running as root: run the tests as another user"
            )

    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("up\n")
        postgres = psutil.Process(Stack(other_home / "stack").status().postgres_pid)
        assert "pgserver" not in postgres.cmdline()[0].split("/")[:2]
    finally:
        Stack(other_home / "stack").down()


def test_status_and_down_of_nothing_are_sentences(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "evkit", *arguments, "--home", str(tmp_path / "none")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert (run("status").returncode, "`evkit up` starts it" in run("status").stdout) == (3, True)
    assert json.loads(run("status", "--format", "json").stdout)["up"] is False
    assert (run("down").returncode, "was not up" in run("down").stdout) == (0, True)
    assert not Path(tmp_path / "none").exists()


def test_progress_is_told_while_something_takes_time(tmp_path, monkeypatch):
    """The first start has jars to fetch; who watches is told so (here they come from jgo's own cache)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told, done = [], threading.Event()
    found = jars.kafka_jars(told.append)
    done.set()

    assert "fetching Apache Kafka 4.3.1" in told[0]
    assert "is there (46 jars)" in told[-1]
    assert all(jar.is_file() for jar in found)
    assert list((tmp_path / "cache" / "evkit").iterdir()) == [jars.jar_folder()]
