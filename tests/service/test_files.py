"""Files restored without a server, and again from what they say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from service import provenance
from service.cli import main
from service.errors import InvalidImage, InvalidRequest
from service.files import rerun_file, restore_file
from service.jobs import RestoreOptions
from service.settings import Settings
from tests.faults.fake import FakeRestorer, diary
from tests.service.test_executor import png


def quiet(*_: int) -> None:
    """Nobody looks at the steps."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(engine="tests.faults.fake:load", model=str(tmp_path))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    path.write_bytes(png())
    return path


@pytest.fixture(params=["png", "jpeg", "webp", "avif"])
def restored(request, source: Path, settings: Settings) -> Path:
    target = source.with_name(f"out.{request.param}")
    options = RestoreOptions(
        output_format=request.param, output_quality=71, seed=9, prompt='"<\u00e4>"'
    )
    restore_file(source, target, options, settings, quiet)
    return target


def test_a_file_is_restored_without_a_service(settings: Settings, tmp_path: Path) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.jpg"
    source.write_bytes(png())
    seen: list[tuple[int, int]] = []
    options = RestoreOptions(preset="fast", output_format="jpeg")
    restore_file(source, target, options, settings, lambda *at: seen.append(at))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert target.read_bytes().startswith(b"\xff\xd8\xff")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("in.png", "out.jpg", "diary", "gate-begin", "gate-step")
    }


def test_a_file_that_is_no_picture_is_refused_before_the_model_loads(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "in.png").write_bytes(png()[:60])
    with pytest.raises(InvalidImage):
        restore_file(
            tmp_path / "in.png",
            tmp_path / "out.png",
            RestoreOptions(),
            settings,
            lambda *_: None,
        )
    assert diary(tmp_path, "load") == []


def test_a_file_says_how_it_was_made(restored: Path) -> None:
    said = provenance.read(restored.read_bytes())
    assert said is not None
    assert said.parameters == {"prompt": '"<\u00e4>"', "steps": 4, "seed": 9}
    assert (said.model, said.fingerprint) == ("fake", "0123456789abcdef")
    assert (said.output_format, said.output_quality) == (restored.suffix[1:], 71)


def test_a_file_is_made_again_byte_for_byte(
    restored: Path, source: Path, settings: Settings
) -> None:
    again = restored.with_name("again")
    made = rerun_file(restored, source, again, settings, quiet)
    assert (made.identical, made.largest_difference) == (True, 0)
    assert again.read_bytes() == restored.read_bytes()


def test_another_source_is_refused(source: Path, settings: Settings, tmp_path: Path) -> None:
    restore_file(source, tmp_path / "out.png", RestoreOptions(), settings, quiet)
    source.write_bytes(png(size=(40, 40)))
    with pytest.raises(InvalidRequest, match="is not what out.png was made from"):
        rerun_file(tmp_path / "out.png", source, None, settings, quiet)


def test_another_model_is_refused(
    source: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore_file(source, tmp_path / "out.png", RestoreOptions(), settings, quiet)
    monkeypatch.setattr(FakeRestorer, "fingerprint", "fedcba9876543210")
    with pytest.raises(InvalidRequest, match="fedcba9876543210"):
        rerun_file(tmp_path / "out.png", source, None, settings, quiet)


def test_a_picture_of_somebody_else_cannot_be_made_again(source: Path, settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match="does not say how it was made"):
        rerun_file(source, source, None, settings, quiet)


def test_the_command_says_whether_it_is_the_same(
    source: Path, settings: Settings, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.png"
    restore_file(source, out, RestoreOptions(), settings, quiet)
    flags = ["--engine", settings.engine, "--model", settings.model]
    assert main(["rerun", str(out), str(source), *flags]) == 0
    assert capsys.readouterr().out == "identical\n"

    monkeypatch.setattr(FakeRestorer, "finish", lambda _, r: Image.new("RGB", r.image.size, "red"))
    monkeypatch.setattr(FakeRestorer, "backend", "fake 2")
    assert main(["rerun", str(out), str(source), *flags]) == 1
    said = capsys.readouterr().out
    assert said.startswith("different, by ")
    assert said.endswith("it was made on fake 1, this is fake 2\n")
