"""The nano model's configuration: the classes of the full model at a size a laptop CPU can run.

`write_configs` makes a model folder without weights; `training.train` fills it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.folder import resampler_json
from engines.models.resampler import ResamplerConfig

TEXT_WIDTH = 64
TEXT_LENGTH = 32
VISION_WIDTH = 96
VISION_PX = 128
PATCH = 2
SFT_WIDTH = 32
TONE_HIDDEN = 64
LATENT_SCALE = 2.0
VOCABULARY_WORDS: str = (
    "bright dark warm cool colourful colorful monochrome high low contrast soft sharp night sunset "
    "day photo photograph realistic detailed highly blurry noisy worst best quality sky water"
)

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 16,
    "attention_head_dim": [2, 2, 2],
    "block_out_channels": [64, 64, 64],
    "cross_attention_dim": 2 * TEXT_WIDTH,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3 * PATCH * PATCH,
    "layers_per_block": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 64,  # every channel by itself: learns several times faster here
    "out_channels": 3 * PATCH * PATCH,
    "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * 16,
    "sample_size": 64,
    "transformer_layers_per_block": [1, 1, 1],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "residual",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
CODEC: dict[str, Any] = {
    "_class_name": "PatchCodec",
    "patch": PATCH,
    "scaling_factor": LATENT_SCALE,
}
VISION: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": VISION_WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "mlp_ratio": 4,
    "image_size": VISION_PX,
    "patch_size": 16,
}
PREPROCESSING: dict[str, Any] = {
    "size": {"shortest_edge": VISION_PX},
    "crop_size": {"height": VISION_PX, "width": VISION_PX},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
# Nano samples where it was trained most: at small time steps, at one size conditioning, and
# without guidance, which halves its cost. It takes the words of a prompt for a description: the
# published default, "highly detailed" and more, would have it invent contrast.
SAMPLING: dict[str, Any] = {
    "prompt": "",
    "negative_prompt": "",
    "denoising_start": 9,  # most training is there; more steps than that begin higher up
    "guidance_scale": 1.0,
    "micro": {"original_size": [256, 256], "target_size": [256, 256]},
}
RESTORER: dict[str, Any] = {
    "min_side_px": None,
    "max_side_px": None,
    "tile_px": 384,
    "overlap_px": 64,
    "bf16": True,  # on the test photographs its results are within one grey level of float32's
    "presets": {
        "faithful": {**SAMPLING, "denoising_start": 100, "steps": 30},
        "balanced": {
            **SAMPLING,
            "steps": 2,
            "sampler": "ddim",
            "adaptive": "reuse",
            "mirror": True,
        },
        "fast": {**SAMPLING, "steps": 2, "sampler": "ddim"},
    },
}
RESAMPLER = ResamplerConfig(
    width=96,
    depth=2,
    heads=3,
    head_dim=32,
    queries=16,
    feature_dim=VISION_WIDTH,
    output_dim=2 * TEXT_WIDTH,
)


def write_tiny_configs(folder: Path) -> None:
    """Like nano, with fewer channels: trains in seconds, restores nothing well."""
    width = 32
    sizes = {"block_out_channels": [width] * 3, "norm_num_groups": width}
    _write(folder, {**UNET, **sizes, "attention_head_dim": [1, 1, 1]})


def write_configs(folder: Path) -> None:
    """Write every configuration and tokenizer file of the nano model into `folder`."""
    _write(folder, UNET)


def _write(folder: Path, unet: dict[str, Any]) -> None:
    vocabulary, _ = byte_vocabulary(VOCABULARY_WORDS.split())
    text = _text_config(len(vocabulary))
    files: dict[str, Any] = {
        "sdxl/unet/config.json": unet,
        "sdxl/vae/config.json": CODEC,
        "sdxl/scheduler/scheduler_config.json": SCHEDULER,
        "sdxl/text_encoder/config.json": text,
        "sdxl/text_encoder_2/config.json": text,
        "dinov2/config.json": VISION,
        "dinov2/preprocessor_config.json": PREPROCESSING,
        "instantir/resampler_config.json": resampler_json(RESAMPLER),
        "instantir/aggregator_config.json": {"sft_width": SFT_WIDTH},
        "instantir/tone_config.json": {"hidden": TONE_HIDDEN},
        "instantir/restorer.json": RESTORER,
    }
    write_files(folder, files)
    write_tokenizers(folder, TEXT_LENGTH)


def write_tokenizers(folder: Path, length: int) -> None:
    """Write both byte-pair tokenizers of `VOCABULARY_WORDS`, for prompts of `length` tokens."""
    vocabulary, merges = byte_vocabulary(VOCABULARY_WORDS.split())
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    for name in ("tokenizer", "tokenizer_2"):
        files = {"tokenizer_config.json": config, "vocab.json": vocabulary}
        write_files(folder / "sdxl" / name, files)
        (folder / "sdxl" / name / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def write_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Write JSON files, by their paths in `folder`."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def byte_vocabulary(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP-style byte-pair vocabulary and merges in which each of `words` is one token."""
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts = ["".join(pair), *parts[2:]]
            if pair not in merges:
                merges.append(pair)
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _byte_letters() -> list[str]:
    """One printable character for each byte, as byte-level BPE spells them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def _text_config(vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": TEXT_LENGTH,
        "hidden_act": "gelu",
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
