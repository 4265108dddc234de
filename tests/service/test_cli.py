"""The commands as a user meets them: exit status, words on stderr, files written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from service.cli import main
from service.supervisor import listen
from tests.service.test_executor import png

ROOT = Path(__file__).resolve().parents[2]
FAKE = ("--engine", "tests.faults.fake:load", "--log-level", "WARNING")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    path.write_bytes(png(size=(48, 32)))
    return path


def restore(source: Path, target: Path, *more: str) -> int:
    return main(["restore", str(source), str(target), *FAKE, "--model", str(target.parent), *more])


def test_restore_writes_the_picture_and_shows_progress_on_stderr(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore(source, tmp_path / "out.webp", "--steps", "3") == 0
    with Image.open(tmp_path / "out.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (48, 32))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "in.png" in shown.err
    assert "3/3" in shown.err


@pytest.mark.parametrize(
    ("target", "more", "words"),
    [
        ("out.tiff", (), "OUT must end in one of .png, .jpg, .jpeg, .webp"),
        ("no/such/out.png", (), "no such folder"),
        ("out.png", ("--steps", "0"), "steps: Input should be greater than or equal to 1"),
        ("out.png", ("--preset", "best"), "preset: Input should be 'faithful', 'balanced'"),
        ("out.png", ("--adaptive", "true"), "unknown parameter"),
        ("out.png", ("--engine", "tests.faults.raises_in_load:load"), "weights are damaged"),
        ("out.png", ("--engine", "no_such_module:load"), "cannot load model"),
    ],
)
def test_restore_says_what_is_wrong(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    more: tuple[str, ...],
    words: str,
) -> None:
    model = ("--model", str(tmp_path))
    assert main(["restore", str(source), str(tmp_path / target), *FAKE, *model, *more]) == 2
    assert "instantir: error: " in (shown := capsys.readouterr().err)
    assert words in shown
    assert "Traceback" not in shown
    assert not (tmp_path / target).exists()


def test_restore_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert restore(tmp_path / "absent.png", tmp_path / "out.png") == 2
    assert f"no such file: {tmp_path / 'absent.png'}" in capsys.readouterr().err


def test_restore_refuses_a_damaged_picture(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_bytes(source.read_bytes()[:80])
    assert restore(source, tmp_path / "out.png") == 2
    assert "the PNG is damaged or cut short" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["api", "worker"])
def test_the_parts_need_an_address_of_redis(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([part]) == 2
    assert "instantir serve" in capsys.readouterr().err


def test_serve_on_a_port_in_use_says_so_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        command = [
            *(sys.executable, "-m", "service.cli", "serve"),
            *("--port", str(port), "--data-dir", str(tmp_path / "data")),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_setting_that_does_not_exist_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["serve", "--no-such-setting", "1"])
    assert left.value.code == 2
    assert main(["worker", "--slots", "0"]) == 2
    assert "slots: Input should be greater than or equal to 1" in capsys.readouterr().err


def test_every_setting_can_be_given_as_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    from service.settings import Settings

    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    missing = [n for n in Settings.model_fields if f"--{n.replace('_', '-')}" not in shown]
    assert missing == []


def test_commands_about_engines_are_handed_on_with_the_folder_of_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INSTANTIR_ENGINE_CACHE", str(tmp_path))
    assert main(["engines", "list"]) == 0
    assert capsys.readouterr().out == f"0 engines, 0.0 MB in {tmp_path}\n"
    monkeypatch.delenv("INSTANTIR_ENGINE_CACHE")
    monkeypatch.setenv("INSTANTIR_DATA_DIR", str(tmp_path))
    assert main(["engines", "verify"]) == 0
    assert main(["export", "--model", "no-such-model", "--out", str(tmp_path / "out")]) == 2
    assert "model is 'no-such-model'" in capsys.readouterr().err
