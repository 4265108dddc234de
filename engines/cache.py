"""Built engines on disk: found again by what they were made from, and never trusted unseen.

    FOLDER/NAME-DIGEST/manifest.json   the key, and size and sha256 of every file
    FOLDER/NAME-DIGEST/...             what was built
    FOLDER/NAME-DIGEST.lock            held by who builds it

An entry appears whole, by a rename, or not at all.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from engines.errors import EngineError

_log = logging.getLogger(__name__)

_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_LOOK_S: Final = 0.1  # how often a waiting builder looks whether the other one is done
_PART: Final = ".part"

Canceled = Callable[[], bool]


class BuildCanceledError(EngineError):
    """Nothing was left behind."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that an engine depends on; two that differ in anything are two entries."""

    graph: str
    source: str  # fingerprint of the weights, and of the code that makes the graph
    backend: str
    version: str  # of the backend's library
    target: str  # compute capability, or the processor's features
    precision: str
    profile: str  # shapes it is made for

    @property
    def digest(self) -> str:
        """First 24 hex digits of the sha256 over all of it."""
        text = json.dumps([_FORMAT, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.graph}-{self.digest}"


@dataclass(frozen=True, slots=True)
class Entry:
    """An engine in the cache."""

    folder: Path
    key: EngineKey
    files: dict[str, tuple[int, str]]  # name -> bytes, sha256
    made_at: float
    used_at: float

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(size for size, _ in self.files.values())

    def fault(self) -> str | None:
        """What is wrong with its files; None where nothing is."""
        for name, (size, digest) in self.files.items():
            path = self.folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes, it was made with {size}"
            if _sha256(path) != digest:
                return f"{name} is not what was written"
        return None


class EngineCache:
    """Engines in a folder, which processes share. Made where it does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def built(
        self, key: EngineKey, make: Callable[[Path], None], canceled: Canceled = lambda: False
    ) -> Path:
        """The folder of the engine; made by `make` in an empty folder where it is not there.

        Processes that ask at the same time build once. A damaged engine is built anew. Raises
        BuildCanceledError when `canceled` says so while waiting, and what `make` raises.
        """
        if self._good(key) is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(key, canceled):
                if self._good(key) is None:
                    self._make(key, make)
        folder = self.folder / key.name
        with suppress(OSError):  # a cache that is read only serves as well
            os.utime(folder / _MANIFEST)
        return folder

    def entries(self) -> list[Entry]:
        """All engines, those used last first."""
        found = [_read(path.parent) for path in self.folder.glob(f"*/{_MANIFEST}")]
        return sorted((e for e in found if e is not None), key=lambda e: -e.used_at)

    def prune(
        self, keep_bytes: int, *, unused_s: float = 0.0, now: float | None = None
    ) -> list[Entry]:
        """Remove what is damaged, what was not used for `unused_s` (0: nothing for that), and the
        longest unused until `keep_bytes` are left; returns what was removed. Leftovers of builds
        that died go as well, and folders whose manifest cannot be read.
        """
        now = time.time() if now is None else now
        kept: list[Entry] = []
        removed: list[Entry] = []
        for entry in self.entries():
            old = 0 < unused_s < now - entry.used_at
            (removed if old or entry.fault() is not None else kept).append(entry)
        while sum(entry.bytes for entry in kept) > keep_bytes:
            removed.append(kept.pop())
        for entry in removed:
            self._remove(entry.folder)
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.is_dir() and _read(folder) is None:
                self._remove(folder)
        return removed

    def _remove(self, folder: Path) -> None:
        """Unless somebody is building it just now."""
        with _try_lock(self.folder / f"{folder.name.partition('.')[0]}.lock") as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)

    def _good(self, key: EngineKey) -> Entry | None:
        entry = _read(self.folder / key.name)
        if entry is None:
            return None
        fault = "it was made from something else" if entry.key != key else entry.fault()
        if fault is None:
            return entry
        _log.warning("engine %s is built anew: %s", key.name, fault)
        return None

    def _make(self, key: EngineKey, make: Callable[[Path], None]) -> None:
        part = Path(tempfile.mkdtemp(prefix=f"{key.name}.", suffix=_PART, dir=self.folder))
        try:
            part.chmod(0o755)
            make(part)
            files = {
                path.relative_to(part).as_posix(): (path.stat().st_size, _sha256(path))
                for path in sorted(part.rglob("*"))
                if path.is_file()
            }
            if not files:
                raise EngineError(f"engine {key.name}: its build wrote no file")
            said = {"format": _FORMAT, "key": asdict(key), "files": files, "made_at": time.time()}
            (part / _MANIFEST).write_text(json.dumps(said, indent=1), encoding="utf-8")
            for path in part.rglob("*"):
                _sync(path)
            final = self.folder / key.name
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            _sync(self.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def _locked(self, key: EngineKey, canceled: Canceled) -> Generator[None]:
        path = self.folder / f"{key.name}.lock"
        wait, said = threading.Event(), False
        while True:
            if canceled():
                raise BuildCanceledError(f"engine {key.name} was not built: canceled")
            with _try_lock(path) as mine:
                if mine:
                    yield
                    return
            if not said:
                _log.info("engine %s is being built by another process", key.name)
                said = True
            wait.wait(_LOOK_S)


@contextmanager
def _try_lock(path: Path) -> Generator[bool]:
    """Whether the lock is ours for the block; the system lets go of it when a process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _read(folder: Path) -> Entry | None:
    """The entry in a folder; None where there is none, or its manifest cannot be read."""
    path = folder / _MANIFEST
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = {name: (int(size), str(digest)) for name, (size, digest) in said["files"].items()}
        used = path.stat().st_mtime
        return Entry(folder, EngineKey(**said["key"]), files, float(said["made_at"]), used)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
