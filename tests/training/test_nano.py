import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from engines.folder import ModelFolder, read_folder
from engines.models.autoencoder import PatchCodec
from engines.models.lora import LoraPair
from engines.networks import Networks, build_networks
from engines.parameterization import Prediction
from engines.params import RestoreParams
from engines.weights import save_networks
from training import nano
from training.captions import ATTRIBUTES, FALLBACK
from training.lora import PreviewerLora
from training.stages import NANO

MAX_BYTES = 40_000_000
WORDS = nano.VOCABULARY_WORDS.split()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano")
    nano.write_configs(path)
    return path


@pytest.fixture(scope="module")
def folder(path: Path) -> ModelFolder:
    return read_folder(path)


@pytest.fixture(scope="module")
def networks(folder: ModelFolder) -> Networks:
    return build_networks(folder)


@pytest.fixture(scope="module")
def tokenizers(folder: ModelFolder) -> list[Any]:
    return [CLIPTokenizer.from_pretrained(str(path)) for path in folder.tokenizers]


@pytest.fixture(scope="module")
def tokenizer(tokenizers: list[Any]) -> Any:
    return tokenizers[0]


def test_the_folder_builds_every_network(networks: Networks) -> None:
    assert all(any(True for _ in part.parameters()) for part in networks.modules()[:-1])
    assert isinstance(networks.codec, PatchCodec)


def test_the_resampler_is_built_at_the_sizes_written_down(folder: ModelFolder) -> None:
    assert folder.resampler == nano.RESAMPLER


def test_nano_estimates_what_is_wrong_with_its_reference(folder: ModelFolder) -> None:
    assert Prediction(folder.scheduler["prediction_type"]) is Prediction.RESIDUAL


def test_pictures_are_worked_on_at_the_size_they_come(folder: ModelFolder) -> None:
    assert (folder.restorer["min_side_px"], folder.restorer["max_side_px"]) == (None, None)


@pytest.mark.parametrize("preset", nano.RESTORER["presets"])
def test_every_preset_makes_valid_parameters(preset: str) -> None:
    values = nano.RESTORER["presets"][preset]
    assert RestoreParams.of(values).steps == values.get("steps", 30)


def test_nano_has_the_three_promised_presets() -> None:
    assert set(nano.RESTORER["presets"]) == {"faithful", "balanced", "fast"}


def test_codec_and_unet_agree_on_the_latents_channels(networks: Networks) -> None:
    assert networks.codec.channels == nano.UNET["in_channels"] == nano.UNET["out_channels"]


def test_vision_sees_a_photograph_at_its_own_size(networks: Networks) -> None:
    pixels = networks.vision.pixels_of(Image.new("RGB", (200, 150)))
    assert pixels.shape == (1, 3, nano.VISION_PX, nano.VISION_PX)


@torch.inference_mode()
def test_text_has_the_widths_the_unet_expects(networks: Networks) -> None:
    hidden, pooled = networks.text(["bright, warm"])
    assert hidden.shape == (1, nano.TEXT_LENGTH, nano.UNET["cross_attention_dim"])
    assert pooled.shape == (1, nano.TEXT_WIDTH)


def test_the_weights_on_disk_are_at_most_40_megabytes(networks: Networks, tmp_path: Path) -> None:
    lora = PreviewerLora(networks.denoiser, NANO.rank, NANO.alpha)
    # An update of zeros would not be smaller on disk.
    pairs = {name: LoraPair(pair.down, pair.up, 1.0) for name, pair in lora.pairs().items()}
    save_networks(networks, pairs, tmp_path, torch.float16)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    counted = [*lora.parameters(), *(p for part in networks.modules() for p in part.parameters())]
    assert 2 * sum(parameter.numel() for parameter in counted) <= size <= MAX_BYTES


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_the_vocabulary_is_one_token_and_comes_back(
    tokenizer: Any, word: str
) -> None:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    assert len(ids) == 1
    assert tokenizer.decode(ids).strip() == word


def test_different_words_are_different_tokens(tokenizer: Any) -> None:
    ids = {word: tokenizer(word, add_special_tokens=False).input_ids[0] for word in WORDS}
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize("words", [*ATTRIBUTES, FALLBACK])
def test_captions_use_only_words_of_the_vocabulary(words: str) -> None:
    assert set(words.split()) <= set(WORDS)


def test_unknown_words_are_spelled_and_come_back(tokenizer: Any) -> None:
    ids = tokenizer("zebra", add_special_tokens=False).input_ids
    assert len(ids) > 1
    assert tokenizer.decode(ids).strip() == "zebra"


def test_any_script_becomes_tokens_the_text_encoder_has(tokenizer: Any) -> None:
    ids = tokenizer("Größe 写真 🌅").input_ids
    assert max(ids) < len(tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["größe", "写真", "🌅"]


def test_a_prompt_stands_between_the_start_and_the_end_token(
    tokenizer: Any, folder: ModelFolder
) -> None:
    config = folder.text[0]
    ids = tokenizer("bright sky").input_ids
    assert (ids[0], ids[-1]) == (config["bos_token_id"], config["eos_token_id"])


def test_long_and_short_prompts_get_the_models_length(networks: Networks) -> None:
    for ids in networks.text.tokens(["", "sky " * 100]):
        assert ids.shape == (2, nano.TEXT_LENGTH)


def test_both_tokenizers_agree(tokenizers: list[Any]) -> None:
    one, other = (tokenizer("high contrast, soft").input_ids for tokenizer in tokenizers)
    assert one == other


def test_the_vocabulary_has_an_entry_for_every_id_of_the_text_encoder(path: Path) -> None:
    vocabulary = json.loads((path / "sdxl/tokenizer/vocab.json").read_text(encoding="utf-8"))
    config = json.loads((path / "sdxl/text_encoder/config.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(config["vocab_size"]))


def test_a_vocabulary_starts_with_the_256_bytes_and_their_word_ends() -> None:
    vocabulary, merges = nano.byte_vocabulary([])
    assert len(vocabulary) == 2 * 256 + 2
    assert merges == []


def test_words_that_begin_alike_share_their_merges() -> None:
    vocabulary, merges = nano.byte_vocabulary(["sky", "skin"])
    assert merges == [("s", "k"), ("sk", "y</w>"), ("sk", "i"), ("ski", "n</w>")]
    assert {"sk", "sky</w>", "ski", "skin</w>"} <= set(vocabulary)


def test_configurations_are_the_same_every_time(path: Path, tmp_path: Path) -> None:
    nano.write_configs(tmp_path)
    written = {file.relative_to(tmp_path): file for file in tmp_path.rglob("*") if file.is_file()}
    assert all((path / name).read_bytes() == file.read_bytes() for name, file in written.items())
