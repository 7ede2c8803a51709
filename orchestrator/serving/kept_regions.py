"""The file that keeps which shared memory regions are registered, so that the next worker knows them too."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from orchestrator.serving.shared_memory import Identity, Registration

FILE_MAX_BYTES = 2**20  # 256 regions with the longest names and keys
log = logging.getLogger("orch.worker")

Entry = tuple[Registration, Identity]
Stamp = tuple[int, int]


class KeptRegions:
    """Reads and writes one file, which the worker that is replaced and its successor may share for a moment.

    `run` runs what it is given elsewhere: a slow disk must not hold up the event loop. Losing the file loses no more
    than a restart of any other server would, so it is never synced.
    """

    def __init__(self, path: Path, run: Callable[[Callable[[], None]], object]) -> None:
        self._path = path
        self._run = run
        self._lock = threading.Lock()
        self._latest: Sequence[Entry] | None = None
        self._writing = False
        self._stamp: Stamp | None = None

    def news(self) -> list[Entry]:
        """Return what is in the file, if somebody else has written it since the last look."""
        try:
            stamp = _stamp(self._path.stat())
            if stamp == self._stamp:
                return []
            with self._path.open("rb") as file:
                text = file.read(FILE_MAX_BYTES)
        except OSError:
            return []
        self._stamp = stamp
        try:
            return [_entry(item) for item in json.loads(text)]
        except (ValueError, TypeError, KeyError):
            log.warning("%s is damaged: clients must register their shared memory again", self._path)
            return []

    def keep(self, entries: Sequence[Entry]) -> None:
        """Write these in place of what was there, soon."""
        with self._lock:
            self._latest = entries
            if self._writing:
                return
            self._writing = True
        self._run(self._write_all)

    def _write_all(self) -> None:
        while True:
            with self._lock:
                entries, self._latest = self._latest, None
                if entries is None:
                    self._writing = False
                    return
            try:
                self._write(entries)
            except OSError as error:
                log.warning("cannot keep the shared memory regions in %s: %s", self._path, error.strerror)

    def _write(self, entries: Sequence[Entry]) -> None:
        text = json.dumps([asdict(registration) | identity._asdict() for registration, identity in entries])
        staging = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            stamp = _stamp(os.fstat(file.fileno()))
        staging.replace(self._path)
        self._stamp = stamp


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_mtime_ns


def _entry(item: dict[str, object]) -> Entry:
    name, key, offset, size = item["name"], item["key"], item["offset"], item["byte_size"]
    device, inode = item["device"], item["inode"]
    if not (isinstance(name, str) and isinstance(key, str)):
        raise TypeError
    return Registration(name, key, _number(offset), _number(size)), Identity(_number(device), _number(inode))


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value
