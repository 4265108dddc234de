import json
import re
from pathlib import Path
from typing import Any

import pytest

from engines.errors import WeightsError
from engines.folder import SHIPPED, model_path, read_folder, resampler_json
from engines.models.resampler import ResamplerConfig
from training import nano

REQUIRED = [
    "dinov2/config.json",
    "dinov2/preprocessor_config.json",
    "sdxl/unet/config.json",
    "sdxl/vae/config.json",
    "sdxl/scheduler/scheduler_config.json",
    "sdxl/text_encoder/config.json",
    "sdxl/text_encoder_2/config.json",
]
RESAMPLER = "instantir/resampler_config.json"
TONE = "instantir/tone_config.json"
RESTORER = "instantir/restorer.json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model folder of configurations, without weights."""
    nano.write_configs(tmp_path)
    return tmp_path


def rewrite(path: Path, **values: Any) -> None:
    before = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**before, **values}), encoding="utf-8")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(WeightsError, match=rf"{re.escape(name)} is missing"):
        read_folder(path)


def test_a_folder_that_does_not_exist_is_an_error_of_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        read_folder(tmp_path / "nowhere")


def test_a_folder_in_a_files_place_is_an_error_of_weights(path: Path) -> None:
    (path / REQUIRED[0]).unlink()
    (path / REQUIRED[0]).mkdir()
    with pytest.raises(WeightsError, match=re.escape(REQUIRED[0])):
        read_folder(path)


def test_every_part_is_read_from_its_own_file(path: Path) -> None:
    for name in REQUIRED:
        rewrite(path / name, read_from=name)
    folder = read_folder(path)
    parts = [folder.vision, folder.preprocessing, folder.unet, folder.codec, folder.scheduler]
    assert [part["read_from"] for part in (*parts, *folder.text)] == REQUIRED


def test_the_tokenizers_lie_beside_the_text_encoders(path: Path) -> None:
    first, second = read_folder(path).tokenizers
    assert (first, second) == (path / "sdxl" / "tokenizer", path / "sdxl" / "tokenizer_2")


def test_without_its_file_the_resampler_is_the_published_one_at_the_networks_widths(
    path: Path,
) -> None:
    (path / RESAMPLER).unlink()
    rewrite(path / "dinov2/config.json", hidden_size=48)
    rewrite(path / "sdxl/unet/config.json", cross_attention_dim=72)
    published = ResamplerConfig(feature_dim=48, output_dim=72)
    assert read_folder(path).resampler == published


def test_a_resampler_file_may_say_only_what_differs(path: Path) -> None:
    (path / RESAMPLER).write_text(json.dumps({"depth": 9}), encoding="utf-8")
    expected = ResamplerConfig(
        depth=9, feature_dim=nano.VISION_WIDTH, output_dim=2 * nano.TEXT_WIDTH
    )
    assert read_folder(path).resampler == expected


def test_a_resampler_file_outweighs_the_networks_widths(path: Path) -> None:
    (path / RESAMPLER).write_text(json.dumps({"embedding_dim": 7}), encoding="utf-8")
    assert read_folder(path).resampler.feature_dim == 7


@pytest.mark.parametrize(("content", "expected"), [(None, 128), ({}, 128), ({"sft_width": 8}, 8)])
def test_the_width_of_the_merges_is_the_published_one_or_what_their_file_says(
    path: Path, content: dict[str, int] | None, expected: int
) -> None:
    file = path / "instantir/aggregator_config.json"
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_text(json.dumps(content), encoding="utf-8")
    assert read_folder(path).sft_width == expected


@pytest.mark.parametrize(("content", "expected"), [(None, None), ({"hidden": 8}, 8)])
def test_a_model_without_the_tone_file_has_no_tone_network(
    path: Path, content: dict[str, int] | None, expected: int | None
) -> None:
    (path / TONE).unlink()
    if content is not None:
        (path / TONE).write_text(json.dumps(content), encoding="utf-8")
    assert read_folder(path).tone_hidden == expected


def test_a_tone_file_without_its_width_is_an_error_of_weights(path: Path) -> None:
    (path / TONE).write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"tone_config.json has no 'hidden'"):
        read_folder(path)


def test_a_resampler_survives_the_round_trip_through_its_file(path: Path) -> None:
    sizes = ResamplerConfig(
        width=1, depth=2, heads=3, head_dim=4, queries=5, feature_dim=6, output_dim=7, ff_mult=8
    )
    (path / RESAMPLER).write_text(json.dumps(resampler_json(sizes)), encoding="utf-8")
    assert read_folder(path).resampler == sizes


def test_resampler_sizes_are_spelled_as_the_published_code_spells_them() -> None:
    assert resampler_json(ResamplerConfig()) == {
        "dim": 1280,
        "depth": 4,
        "heads": 20,
        "dim_head": 64,
        "num_queries": 64,
        "embedding_dim": 1024,
        "output_dim": 2048,
        "ff_mult": 4,
    }


def test_the_restorers_own_settings_are_read(path: Path) -> None:
    own = {"presets": {"only": {"steps": 3}}, "min_side_px": 64, "max_side_px": None}
    (path / RESTORER).write_text(json.dumps(own), encoding="utf-8")
    assert read_folder(path).restorer == own


def test_a_restorer_without_own_settings_has_none(path: Path) -> None:
    (path / RESTORER).unlink()
    assert read_folder(path).restorer == {}


def test_a_shipped_name_is_found_wherever_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.setattr("engines.folder.SHIPPED", tmp_path)
    assert model_path("nano") == tmp_path / "nano"
    with pytest.raises(WeightsError, match="one of: nano"):
        model_path("../nano-of-another-folder")


def test_every_shipped_folder_is_found_by_its_name() -> None:
    for path in SHIPPED.iterdir():
        if path.is_dir():
            assert model_path(path.name) == path


def test_a_folder_can_be_given_as_text(nano_like_folder: Path) -> None:
    assert model_path(str(nano_like_folder)) == nano_like_folder
