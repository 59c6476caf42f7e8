"""What is looked at again later: in memory up to a limit, then in a temporary folder, so an audit may be of any length.

Two kinds: frames, each kept once and taken once; and records of a fixed width, thrown into numbered heaps, of which one at
a time is looked at whole.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl

from evkit.errors import UsageError

# What is kept in memory: more than an audit of a hundred thousand events needs, less than anybody misses.
BYTES_MAX = 64 << 20

Name = tuple[str, int, int]  # what, of which group (-1: of none), page or heap


class Spill:
    """A context manager: the folder, if there had to be one, goes with it. May be used from several threads."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max, self._held = bytes_max, 0
        self._frames: dict[Name, pl.DataFrame] = {}
        self._pieces: dict[Name, list[Any]] = {}
        self._written: set[Name] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, name: Name, frame: pl.DataFrame) -> None:
        """Keep a frame."""
        with self._lock:
            self._frames[name] = frame
            self._grown(int(frame.estimated_size()))

    def taken(self, name: Name) -> pl.DataFrame:
        """The frame that was kept under this name; it is not kept any longer."""
        with self._lock:
            if (frame := self._frames.pop(name, None)) is not None:
                self._held -= int(frame.estimated_size())
                return frame
            self._written.remove(name)
        path = self._path(name)
        frame = pl.read_ipc(path)
        path.unlink()
        return frame

    def throw(self, what: str, group: int, heaps: Any, records: Any) -> None:
        """Put each record onto the heap of its number, behind those that are there."""
        if not len(records):
            return  # of a batch without one that is wanted; NumPy would make a piece of nothing
        order = np.argsort(heaps, kind="stable")
        numbers, begins = np.unique(heaps[order], return_index=True)
        for number, piece in zip(numbers.tolist(), np.split(records[order], begins[1:]), strict=True):
            self.put((what, group, number), piece)

    def put(self, name: Name, records: Any) -> None:
        """Put records onto one heap."""
        with self._lock:
            self._pieces.setdefault(name, []).append(records)
            self._grown(records.nbytes)

    def heap(self, name: Name, dtype: Any, *, keep: bool = False) -> Any:
        """All that is on a heap, in the order in which it came; afterwards the heap is gone, or kept."""
        with self._lock:
            pieces = self._pieces.get(name, []) if keep else self._pieces.pop(name, [])
            is_written = name in self._written
            if not keep:
                self._written.discard(name)
                self._held -= sum(piece.nbytes for piece in pieces)
            found = [np.fromfile(self._path(name), dtype=dtype)] if is_written else []
        if is_written and not keep:
            self._path(name).unlink()
        found += pieces
        return np.concatenate(found) if len(found) > 1 else found[0] if found else np.empty(0, dtype=dtype)

    def _grown(self, size: int) -> None:
        self._held += size
        if self._held <= self._bytes_max:
            return
        try:
            self._write()
        except OSError as error:
            raise UsageError(
                f"the audit keeps what is over {self._bytes_max >> 20} MB in {tempfile.gettempdir()} and cannot write "
                f"there: {error.strerror or error}; make room, or name another folder by TMPDIR"
            ) from None

    def _write(self) -> None:
        for name, frame in self._frames.items():
            frame.write_ipc(self._path(name), compression="lz4")
        for name, pieces in self._pieces.items():
            with self._path(name).open("ab") as file:
                for piece in pieces:
                    piece.tofile(file)
        self._written |= {*self._frames, *self._pieces}
        self._frames, self._pieces, self._held = {}, {}, 0

    def _path(self, name: Name) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="evkit-audit-")
        what, group, number = name
        return Path(self._folder.name) / f"{what}-{group}-{number}"
