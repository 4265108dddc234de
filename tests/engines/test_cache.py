"""Engines on disk: built once, never trusted unseen, and never half there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import IO

import pytest

import engines.cache
from engines.cache import BuildCanceledError, EngineCache, EngineKey, Entry
from engines.errors import EngineError

KEY = EngineKey("unet", "weights code", "openvino", "1.0", "cpu", "float32", "any")
PAYLOAD = b"engine" * 100
ANOTHER = b"made anew"
NOW = 1_000_000.0

# Builds one engine and says so; ends its work when it is told to. Its `engines` is a bare package:
# the real one brings torch, which takes seconds.
BUILDER = r"""
import json, sys, types
from pathlib import Path

sys.modules["engines"] = package = types.ModuleType("engines")
package.__path__ = [sys.argv[1]]
from engines.errors import EngineError
from engines.cache import EngineCache, EngineKey

def make(folder):
    (folder / "engine.bin").write_bytes(b"half")
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "engine.bin").write_bytes(b"made by the other process")

EngineCache(Path(sys.argv[2])).built(EngineKey(**json.loads(sys.argv[3])), make)
print("done", flush=True)
"""
THEIRS = b"made by the other process"


class Builder:
    """Another process in the middle of building KEY."""

    def __init__(self, process: subprocess.Popen[str], says: IO[str], hears: IO[str]) -> None:
        self.process, self.says, self.hears = process, says, hears

    def finish(self) -> None:
        self.hears.write("go on\n")
        self.hears.flush()

    def done(self) -> None:
        assert self.says.readline() == "done\n"
        assert self.process.wait(timeout=20) == 0


@contextmanager
def builder(folder: Path) -> Iterator[Builder]:
    package = str(Path(engines.cache.__file__).parent)
    command = [sys.executable, "-c", BUILDER, package, str(folder), json.dumps(asdict(KEY))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "building\n"
            yield Builder(process, process.stdout, process.stdin)
        finally:
            process.kill()


class Maker:
    """Writes an engine and counts how often."""

    def __init__(self, payload: bytes = PAYLOAD) -> None:
        self.payload, self.times = payload, 0

    def __call__(self, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        self.times += 1
        (folder / "engine.bin").write_bytes(self.payload)
        (folder / "parts").mkdir()
        (folder / "parts" / "more.bin").write_bytes(b"more")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "not" / "yet" / "there")


def leftovers(cache: EngineCache) -> list[Path]:
    return [path for path in cache.folder.iterdir() if path.name.endswith(".part")]


def used(cache: EngineCache, key: EngineKey, at: float) -> None:
    os.utime(cache.folder / key.name / "manifest.json", (at, at))


def names(entries: list[Entry]) -> list[str]:
    return [entry.key.graph for entry in entries]


def test_an_engine_is_built_once_and_found_again(cache: EngineCache) -> None:
    make = Maker()
    folder = cache.built(KEY, make)
    assert (folder / "engine.bin").read_bytes() == PAYLOAD
    assert cache.built(KEY, make) == EngineCache(cache.folder).built(KEY, make) == folder
    assert make.times == 1
    (entry,) = cache.entries()
    assert entry.key == KEY
    assert entry.fault() is None
    assert set(entry.files) == {"engine.bin", "parts/more.bin"}
    assert entry.bytes == len(PAYLOAD) + len(b"more")
    assert leftovers(cache) == []


def test_an_engine_appears_whole_by_a_rename(cache: EngineCache) -> None:
    made: list[int] = []

    def make(folder: Path) -> None:
        assert not (cache.folder / KEY.name).exists()
        made.append(folder.stat().st_ino)
        (folder / "engine.bin").write_bytes(b"engine")

    assert [cache.built(KEY, make).stat().st_ino] == made


@pytest.mark.parametrize("name", [field.name for field in fields(EngineKey)])
def test_keys_that_differ_in_anything_are_two_engines(cache: EngineCache, name: str) -> None:
    other = replace(KEY, **{name: "another"})
    assert other.digest != KEY.digest
    make = Maker()
    assert cache.built(KEY, make) != cache.built(other, make)
    assert make.times == 2


def test_values_that_change_places_make_another_key() -> None:
    assert replace(KEY, version="cpu", target="1.0").digest != KEY.digest
    assert replace(KEY).digest == KEY.digest


def _truncate(folder: Path) -> None:
    os.truncate(folder / "engine.bin", 10)


def _change_a_byte(folder: Path) -> None:
    data = bytearray((folder / "engine.bin").read_bytes())
    data[7] ^= 1
    (folder / "engine.bin").write_bytes(data)


def _remove_a_file(folder: Path) -> None:
    (folder / "parts" / "more.bin").unlink()


def _spoil_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1, "key"', encoding="utf-8")


def _empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}", encoding="utf-8")


def _take_another_key(folder: Path) -> None:
    path = folder / "manifest.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["key"]["source"] = "other weights"
    path.write_text(json.dumps(said), encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _change_a_byte,
        _remove_a_file,
        _spoil_the_manifest,
        _empty_the_manifest,
        _take_another_key,
    ],
)
def test_a_damaged_engine_is_built_anew(cache: EngineCache, damage: Callable[[Path], None]) -> None:
    folder = cache.built(KEY, Maker())
    damage(folder)
    make = Maker(ANOTHER)
    assert cache.built(KEY, make) == folder
    assert make.times == 1
    assert (folder / "engine.bin").read_bytes() == ANOTHER
    (entry,) = cache.entries()
    assert entry.fault() is None
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncate, "engine.bin has 10 bytes, it was made with 600"),
        (_change_a_byte, "engine.bin is not what was written"),
        (_remove_a_file, "parts/more.bin is missing"),
    ],
)
def test_a_fault_names_the_file(
    cache: EngineCache, damage: Callable[[Path], None], said: str
) -> None:
    damage(cache.built(KEY, Maker()))
    (entry,) = cache.entries()
    assert entry.fault() == said


@pytest.mark.parametrize("error", [OSError("disk is full"), KeyboardInterrupt()])
def test_a_build_that_raises_leaves_nothing(cache: EngineCache, error: BaseException) -> None:
    def make(folder: Path) -> None:
        (folder / "engine.bin").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        cache.built(KEY, make)
    assert cache.entries() == []
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]
    assert (cache.built(KEY, Maker()) / "engine.bin").read_bytes() == PAYLOAD


def test_a_failed_rebuild_leaves_the_damaged_engine_damaged(cache: EngineCache) -> None:
    _truncate(cache.built(KEY, Maker()))

    def make(folder: Path) -> None:
        raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        cache.built(KEY, make)
    (entry,) = cache.entries()
    assert entry.fault() is not None


def test_two_processes_that_ask_together_build_once(cache: EngineCache) -> None:
    looks = 0
    make = Maker()
    with builder(cache.folder) as other:

        def canceled() -> bool:
            nonlocal looks
            looks += 1
            if looks == 2:  # we have found the lock taken, and wait
                other.finish()
            return False

        folder = cache.built(KEY, make, canceled)
        other.done()
    assert make.times == 0
    assert (folder / "engine.bin").read_bytes() == THEIRS


def test_an_engine_in_the_making_is_not_there_and_is_not_pruned(cache: EngineCache) -> None:
    with builder(cache.folder) as other:
        assert cache.entries() == []
        assert cache.prune(0) == []
        assert len(leftovers(cache)) == 1
        other.finish()
        other.done()
    assert (cache.built(KEY, Maker()) / "engine.bin").read_bytes() == THEIRS


def test_a_killed_builder_leaves_no_engine_and_the_next_one_builds(cache: EngineCache) -> None:
    with builder(cache.folder) as other:
        other.process.kill()
        other.process.wait(timeout=20)
    assert cache.entries() == []
    (left,) = leftovers(cache)
    assert (left / "engine.bin").read_bytes() == b"half"
    folder = cache.built(KEY, Maker())
    assert (folder / "engine.bin").read_bytes() == PAYLOAD
    assert cache.prune(sys.maxsize) == []
    assert leftovers(cache) == []
    assert names(cache.entries()) == ["unet"]


def test_who_waits_for_another_builder_can_be_canceled(cache: EngineCache) -> None:
    looks, make = iter([False, False, True]), Maker()
    with builder(cache.folder) as other:
        with pytest.raises(BuildCanceledError, match=f"engine {KEY.name} was not built: canceled"):
            cache.built(KEY, make, lambda: next(looks))
        other.finish()
        other.done()
    assert make.times == 0
    assert names(cache.entries()) == ["unet"]


def test_an_engine_that_is_there_is_given_out_even_if_canceled(cache: EngineCache) -> None:
    folder = cache.built(KEY, Maker())
    assert cache.built(KEY, Maker(), lambda: True) == folder


@pytest.fixture
def three(cache: EngineCache) -> EngineCache:
    """Engines of 104 bytes: old, middle and new, by when they were used last."""
    for graph, at in (("old", NOW - 300), ("new", NOW - 100), ("middle", NOW - 200)):
        key = replace(KEY, graph=graph)
        cache.built(key, Maker(bytes(100)))
        used(cache, key, at)
    return cache


def test_engines_are_told_in_the_order_of_their_last_use(three: EngineCache) -> None:
    assert names(three.entries()) == ["new", "middle", "old"]
    three.built(replace(KEY, graph="old"), Maker())
    assert names(three.entries()) == ["old", "new", "middle"]


@pytest.mark.parametrize(
    ("keep", "removed"),
    [(312, []), (311, ["old"]), (104, ["old", "middle"]), (103, ["old", "middle", "new"])],
)
def test_the_longest_unused_go_until_few_enough_bytes_are_left(
    three: EngineCache, keep: int, removed: list[str]
) -> None:
    assert names(three.prune(keep, now=NOW)) == removed
    left = [name for name in ("new", "middle", "old") if name not in removed]
    assert names(three.entries()) == left


@pytest.mark.parametrize(
    ("unused_s", "removed"), [(0, []), (300, []), (250, ["old"]), (150, ["middle", "old"])]
)
def test_what_was_not_used_for_long_goes(
    three: EngineCache, unused_s: float, removed: list[str]
) -> None:
    assert names(three.prune(sys.maxsize, unused_s=unused_s, now=NOW)) == removed


def test_what_is_damaged_goes_first_and_counts_for_nothing(three: EngineCache) -> None:
    _change_a_byte(three.folder / replace(KEY, graph="new").name)
    assert names(three.prune(208, now=NOW)) == ["new"]
    assert names(three.entries()) == ["middle", "old"]


def test_a_large_new_engine_does_not_go_before_an_old_small_one(cache: EngineCache) -> None:
    for name, size, used in (("small", 40, 1.0), ("large", 200, 2.0)):
        folder = cache.built(
            replace(KEY, graph=name),
            lambda part, size=size: (part / "engine.bin").write_bytes(bytes(size)),  # pyright: ignore[reportArgumentType]
        )
        os.utime(folder / "manifest.json", (used, used))
    assert names(cache.prune(220)) == ["small"]
    assert names(cache.entries()) == ["large"]


@pytest.mark.parametrize("text", ["{", '{"files": []}', "[]"])
def test_what_has_no_readable_manifest_is_no_engine_and_goes(cache: EngineCache, text: str) -> None:
    folder = cache.built(KEY, Maker())
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    assert cache.entries() == []
    cache.prune(10**9)
    assert not folder.exists()


def test_a_build_that_writes_nothing_is_refused(cache: EngineCache) -> None:
    with pytest.raises(EngineError, match="its build wrote no file"):
        cache.built(KEY, lambda _: None)
    assert cache.entries() == []


def test_others_may_read_an_engine(cache: EngineCache) -> None:
    assert cache.built(KEY, Maker()).stat().st_mode & 0o555 == 0o555


def test_a_folder_that_is_not_there_holds_nothing(cache: EngineCache) -> None:
    assert cache.entries() == cache.prune(0) == []
    assert not cache.folder.exists()
