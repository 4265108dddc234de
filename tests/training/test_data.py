import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import data
from training.captions import caption
from training.data import Batch, PatchSource, detail, held_out_names, load_picture
from training.degrade import DegradationConfig
from training.edits import EDITS

MILD = DegradationConfig(strength=(0.0, 0.1))
WORDS = {word for name in EDITS for word in name.split()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate([(120, 80), (80, 120), (100, 100)]):
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a picture", encoding="utf-8")
    return tmp_path


def equal(a: Batch, b: Batch) -> bool:
    same = torch.equal(a.clean, b.clean) and torch.equal(a.degraded, b.degraded)
    return same and a.captions == b.captions and a.severities == b.severities


def test_a_batch_has_the_promised_shapes_and_range(folder: Path) -> None:
    batch = PatchSource(folder, 1, 32).batch(0, 5)
    for tensor in (batch.clean, batch.degraded):
        assert tensor.shape == (5, 3, 32, 32)
        assert tensor.dtype == torch.float32
        assert -1.0 <= float(tensor.min()) < float(tensor.max()) <= 1.0
    assert len(batch.captions) == len(batch.severities) == 5
    assert not torch.equal(batch.clean, batch.degraded)


def test_captions_are_those_of_the_clean_patches(folder: Path) -> None:
    batch = PatchSource(folder, 1, 32).batch(3, 4)
    for patch, words in zip(batch.clean, batch.captions, strict=True):
        assert caption(patch.add(1.0).div(2.0).permute(1, 2, 0).numpy()) == words


def test_a_batch_depends_on_seed_and_iteration_alone(folder: Path) -> None:
    source = PatchSource(folder, 1, 32)
    first = source.batch(7, 3)
    source.batch(8, 3)
    assert equal(first, source.batch(7, 3))
    assert equal(first, PatchSource(folder, 1, 32).batch(7, 3))
    assert not equal(first, source.batch(8, 3))
    assert not equal(first, PatchSource(folder, 2, 32).batch(7, 3))


def test_a_resumed_run_continues_the_same_sequence(folder: Path) -> None:
    whole = list(itertools.islice(PatchSource(folder, 4, 32).batches(0, 2), 6))
    resumed = list(itertools.islice(PatchSource(folder, 4, 32).batches(3, 2, ahead=1), 3))
    assert all(equal(a, b) for a, b in zip(whole[3:], resumed, strict=True))


def test_held_out_pictures_are_never_read(folder: Path) -> None:
    assert PatchSource(folder, 1, 32, held_out=["1.png"]).names == ["0.png", "2.png"]
    with pytest.raises(ValueError, match="no picture"):
        PatchSource(folder, 1, 32, held_out=["0.png", "1.png", "2.png"])


def test_the_names_a_test_set_was_made_from_are_read_from_its_meta(tmp_path: Path) -> None:
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps([{"file": "00.png", "source": "set/a.jpg"}]), encoding="utf-8")
    assert held_out_names(meta) == {"set__a.jpg"}


def test_detailed_crops_are_preferred(tmp_path: Path) -> None:
    picture = np.full((64, 256, 3), 128, np.uint8)
    picture[:, :64] = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "half.png")
    batch = PatchSource(tmp_path, 0, 32).batch(0, 120)
    detailed = batch.clean.flatten(1).std(dim=1) > 0.05
    # At random a crop of 32..64 px meets the textured quarter in under 45 % of the cases.
    assert float(detailed.float().mean()) > 0.6


def test_detail_orders_flat_below_textured() -> None:
    flat = np.full((16, 16, 3), 90, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert 0.0 < detail(flat) < detail(noisy)


def test_large_pictures_are_reduced_and_small_ones_kept(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), "red").save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png", 50).shape == (50, 100, 3)
    assert load_picture(tmp_path / "a.png", 384).shape == (100, 200, 3)


def test_a_picture_under_the_crop_and_a_cache_over_its_limit_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"0\.png"):
        PatchSource(folder, 1, 96)
    monkeypatch.setattr(data, "CACHE_LIMIT_BYTES", 40_000)
    with pytest.raises(ValueError, match="40000 bytes"):
        PatchSource(folder, 1, 32)


def test_where_pictures_are_edited_none_is_damaged(photos: Path) -> None:
    edited = PatchSource(photos, 1, 32, edit_share=1.0).batch(0, 8)
    assert edited.severities == [0.0] * 8
    assert (edited.clean - edited.degraded).flatten(1).abs().mean(dim=1).min() > 0.01


def test_a_share_of_the_pictures_is_edited_and_the_captions_of_the_others_ask_for_nothing(
    photos: Path,
) -> None:
    batch = PatchSource(photos, seed=1, crop_px=32, edit_share=0.25).batch(0, 200)
    same = [torch.equal(*pair) for pair in zip(batch.clean, batch.degraded, strict=True)]
    assert 1 - sum(same) / len(same) == pytest.approx(0.25, abs=0.12)
    silent = [text for text, kept in zip(batch.captions, same, strict=True) if kept]
    assert not [text for text in silent if set(text.replace(",", "").split()) & WORDS]


def test_detailed_pictures_are_preferred(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "busy.png")
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "plain.png")
    crops = PatchSource(tmp_path, 1, 32).batch(0, 40).clean
    busy = (crops.flatten(1).std(dim=1) > 0.1).float().mean().item()
    assert 0.8 < busy <= 1.0
