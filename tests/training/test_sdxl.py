import gzip
import json
from pathlib import Path

import pytest
import torch

from engines.folder import read_folder
from engines.models.text import TextEncoder
from training import sdxl

PUBLISHED = Path(__file__).parents[1] / "engines" / "data" / "keys_full.json.gz"


@pytest.mark.parametrize("key", [key for key in sdxl.UNET if not key.startswith("_")])
def test_the_unet_is_configured_as_published(key: str) -> None:
    published = json.loads(gzip.decompress(PUBLISHED.read_bytes()))["sdxl_unet_config"]
    assert sdxl.UNET[key] == published[key]


def test_the_text_encoders_have_the_widths_the_unet_expects(tmp_path: Path) -> None:
    sdxl.write_configs(tmp_path)
    folder = read_folder(tmp_path)
    with torch.device("meta"):
        text = TextEncoder([dict(config) for config in folder.text], folder.tokenizers)
    tokens, hidden, pooled = text.widths
    assert (tokens, hidden) == (sdxl.TEXT_LENGTH, sdxl.UNET["cross_attention_dim"])
    sizes = 6 * sdxl.UNET["addition_time_embed_dim"]
    assert pooled + sizes == sdxl.UNET["projection_class_embeddings_input_dim"]


def test_prompts_have_the_published_length(tmp_path: Path) -> None:
    sdxl.write_configs(tmp_path)
    folder = read_folder(tmp_path)
    with torch.device("meta"):
        text = TextEncoder([dict(config) for config in folder.text], folder.tokenizers)
    assert [ids.shape for ids in text.tokens(["a", "b c"])] == [(2, 77), (2, 77)]
