"""`instantir engines` and `instantir export` as a user sees them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from engines import commands, memory
from engines.backends import openvino
from engines.cache import BuildCanceledError, EngineCache, EngineKey

KEY = EngineKey("unet", "weights code", "openvino", "1.0", "some processor", "f32", "any")
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def write(part: Path) -> None:
    (part / "model.blob").write_bytes(bytes(10**6))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two engines of a million bytes, the UNet used last."""
    cache = EngineCache(tmp_path / "engines")
    for graph in ("aggregator", "unet"):
        cache.built(replace(KEY, graph=graph), write)
    return cache.folder


def damaged(folder: Path) -> Path:
    (path,) = folder.glob("unet-*/model.blob")
    path.write_bytes(bytes(999))
    return path.parent


def told(capsys: Capture) -> list[str]:
    return capsys.readouterr().out.splitlines()


def refused(capsys: Capture) -> str:
    """What went wrong: one line on stderr, nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_list_says_what_each_engine_is(folder: Path, capsys: Capture) -> None:
    assert commands.run(["list"], folder) == 0
    lines = told(capsys)
    assert [line.partition("-")[0] for line in lines[:6:3]] == ["unet", "aggregator"]
    assert "openvino 1.0, f32, for some processor" in lines[1]
    assert lines[2].count(" UTC") == 2
    assert lines[-1].startswith("2 engines, 2.0 MB in ")


def test_list_in_json_has_every_field_of_the_key(folder: Path, capsys: Capture) -> None:
    assert commands.run(["list", "--json"], folder) == 0
    first = json.loads(capsys.readouterr().out)[0]
    expected = asdict(KEY)
    assert {name: first[name] for name in expected} == expected
    assert first["bytes"] == 10**6
    assert first["made_at"] <= first["used_at"]


def test_verify_finds_good_engines_good(folder: Path, capsys: Capture) -> None:
    assert commands.run(["verify"], folder) == 0
    assert told(capsys) == ["2 engines, 0 damaged"]


def test_verify_names_the_file_and_its_fault(folder: Path, capsys: Capture) -> None:
    name = damaged(folder).name
    assert commands.run(["verify"], folder) == 1
    fault = "model.blob has 999 bytes, it was made with 1000000"
    assert told(capsys) == [f"{name}: {fault}", "2 engines, 1 damaged"]
    assert commands.run(["verify", "--json"], folder) == 1
    assert json.loads(capsys.readouterr().out) == {"engines": 2, "damaged": {name: fault}}


def test_verify_finds_engines_that_cannot_say_what_they_are(folder: Path, capsys: Capture) -> None:
    unread, other = (next(folder.glob(f"{graph}-*.lock")) for graph in ("unet", "aggregator"))
    (unread.with_suffix("") / "manifest.json").write_text("no JSON", encoding="utf-8")
    other.with_suffix("").rename(folder / f"{KEY.graph}-{'0' * 24}")
    assert commands.run(["verify"], folder) == 1
    assert told(capsys) == [
        f"unet-{'0' * 24}: it was made from something else",
        f"{unread.stem}: its manifest cannot be read",
        "2 engines, 2 damaged",
    ]


def test_prune_says_what_it_removed(folder: Path, capsys: Capture) -> None:
    assert commands.run(["prune"], folder) == 0
    assert told(capsys) == ["0 removed, 0.0 MB; 2 left, 2.0 MB"]
    name = damaged(folder).name
    assert commands.run(["prune", "--keep-gb", "1", "--unused-days", "1"], folder) == 0
    assert told(capsys) == [f"removed {name}, 1.0 MB", "1 removed, 1.0 MB; 1 left, 1.0 MB"]
    assert commands.run(["prune", "--keep-gb", "0"], folder) == 0
    assert told(capsys)[-1] == "1 removed, 1.0 MB; 0 left, 0.0 MB"


def test_prune_counts_in_days(folder: Path, capsys: Capture) -> None:
    two_days_ago = time.time() - 2 * 86_400
    for path in folder.glob("unet-*/manifest.json"):
        os.utime(path, (two_days_ago, two_days_ago))
    assert commands.run(["prune", "--unused-days", "3"], folder) == 0
    assert told(capsys)[-1].startswith("0 removed")
    assert commands.run(["prune", "--unused-days", "1"], folder) == 0
    assert [line.partition("-")[0] for line in told(capsys)[:-1]] == ["removed unet"]


@pytest.mark.parametrize("value", ["-1", "inf", "many"])
def test_numbers_that_mean_nothing_are_refused(tmp_path: Path, capsys: Capture, value: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        commands.run(["prune", f"--keep-gb={value}"], tmp_path)
    assert stopped.value.code == 2
    assert "--keep-gb" in capsys.readouterr().err


@pytest.mark.slow
def test_build_tells_each_graph_and_finds_it_the_next_time(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    argv = ["build", "--model", str(nano_like_folder)]
    assert commands.run(argv, tmp_path) == 0
    first = told(capsys)
    graphs = ("previewer", "aggregator", "unet")
    assert [line.split()[:2] for line in first[:-1]] == [
        [graph, by] for graph in graphs for by in ("onnx", "openvino")
    ]
    assert all(" s " in line and line.endswith(" MB") for line in first[:-1])
    assert commands.run(argv, tmp_path) == 0
    second = told(capsys)
    assert [line.split()[0] for line in second[:-1]] == list(graphs)
    assert all("was there" in line for line in second[:-1])
    assert commands.run(["verify"], tmp_path) == 0


@pytest.mark.usefixtures("interruptible")
def test_a_build_that_is_interrupted_leaves_nothing_half_written(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Path:
        assert len(list(tmp_path.glob("*.part"))) == 1
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(openvino.onnx_files, "exported", interrupted)
    assert commands.run(["build", "--model", str(nano_like_folder)], tmp_path) == 130
    assert refused(capsys) == "instantir: canceled"
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert EngineCache(tmp_path).entries() == []


def test_what_cannot_be_done_is_one_line_and_a_status(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert commands.run(["build", "--model", "nothing"], tmp_path) == 2
    assert refused(capsys).startswith("instantir: error: model is 'nothing', neither a folder")
    file = tmp_path / "file"
    file.touch()
    assert commands.run(["build", "--model", str(nano_like_folder)], file) == 1
    assert refused(capsys).startswith("instantir: error: [Errno")
    assert commands.run(["build", "--backend", "tensorrt-rtx"], tmp_path) == 2
    assert "no GPU: name a compute capability, as --sm 89" in refused(capsys)
    monkeypatch.setattr(openvino, "available", lambda: False)
    assert commands.run(["build"], tmp_path) == 2
    assert "install the packages openvino and onnx" in refused(capsys)


def test_a_canceled_wait_has_the_status_of_an_interrupt(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def canceled(self: EngineCache) -> None:
        raise BuildCanceledError("engine unet was not built: canceled")

    monkeypatch.setattr(EngineCache, "entries", canceled)
    assert commands.run(["list"], folder) == 130
    assert refused(capsys) == "instantir: error: engine unet was not built: canceled"


def test_plan_for_one_gpu_tells_every_option(
    sdxl_like_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    argv = ["plan", "--model", str(sdxl_like_folder), "--gpu-memory", "8"]
    assert commands.run(argv, tmp_path) == 0
    lines = told(capsys)
    assert lines[2].split()[:3] == ["8", "resident", "16"]
    assert [line.split()[0] for line in lines[3:8]] == list(memory.OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_plan_says_by_how_much_a_gpu_is_too_small(
    sdxl_like_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    argv = ["plan", "--model", str(sdxl_like_folder), "--gpu-memory", "1"]
    assert commands.run(argv, tmp_path) == 0
    lines = told(capsys)
    assert lines[2].endswith(" GB too little")
    assert lines[3].split()[:3] == ["resident", "not", "one"]


def test_plan_in_json_has_the_table(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert commands.run(["plan", "--model", str(nano_like_folder), "--json"], tmp_path) == 0
    said = json.loads(capsys.readouterr().out)
    sizes = [one["gpu_bytes"] / memory.GIB for one in said["plans"]]
    assert sizes == [8, 12, 16, 24, 40, 80]
    assert [fit["option"] for fit in said["plans"][0]["options"]] == list(memory.OPTIONS)
    assert said["graphs"]["unet"]["row_bytes"].keys() >= {"768x768", "768x1024", "1024x1024"}


def test_plan_as_a_table_lists_every_graph(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert commands.run(["plan", "--model", str(nano_like_folder)], tmp_path) == 0
    text = capsys.readouterr().out
    for word in ("previewer_conditioning", "1024x1024", "resident", "Estimated, not measured"):
        assert word in text


def test_export_writes_the_graphs_that_are_asked_for(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "made" / "here"
    argv = ["--model", str(nano_like_folder), "--out", str(out), "--precision", "float16"]
    assert commands.export_command([*argv, "--graphs", "aggregator_embed,decode"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["aggregator_embed.onnx", "decode.onnx"]
    lines = told(capsys)
    assert [line.split()[:2] for line in lines[:2]] == [
        ["aggregator_embed", "float16"],
        ["decode", "float32"],
    ]
    assert lines[2].startswith("2 graphs in ")
    assert "peak memory" in lines[2]


def test_export_refuses_a_graph_that_is_not_in_the_table(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    argv = ["--model", str(nano_like_folder), "--out", str(tmp_path / "out")]
    assert commands.export_command([*argv, "--graphs", "unet,vae"]) == 2
    assert refused(capsys).startswith("instantir: error: graphs: vae is unknown, known: previewer")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_export_leaves_nothing_half_written(
    nano_like_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engines.export

    def interrupted(graph: object, path: Path, dtype: object) -> None:
        path.write_bytes(b"half")
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(engines.export, "export", interrupted)
    argv = ["--model", str(nano_like_folder), "--out", str(tmp_path / "out")]
    assert commands.export_command(argv) == 130
    assert list((tmp_path / "out").iterdir()) == []
    assert refused(capsys) == "instantir: canceled"
