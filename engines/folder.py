"""Model folders: the official layout on disk, read into one description.

FOLDER/sdxl/        diffusers layout: unet, vae, scheduler, text encoders and tokenizers
FOLDER/dinov2/      {config,preprocessor_config}.json
FOLDER/instantir/   adapter, aggregator and LoRA weights, and four optional files of ours:
    resampler_config.json   sizes that cannot be read off shapes (default: the published ones)
    aggregator_config.json  {"sft_width"} of its merges (default: the published 128)
    tone_config.json        {"hidden"} width of the tone network (default: the model has none)
    restorer.json           {"presets", "min_side_px", "max_side_px", "tile_px", "overlap_px"} of
                            this model (default: engines.presets, and the published sides), and
                            {"bf16"}: whether it is as good in bfloat16 (default: no)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import WeightsError
from engines.models.aggregator import SFT_WIDTH
from engines.models.resampler import ResamplerConfig

_RESAMPLER_KEYS = {
    "width": "dim",
    "depth": "depth",
    "heads": "heads",
    "head_dim": "dim_head",
    "queries": "num_queries",
    "feature_dim": "embedding_dim",
    "output_dim": "output_dim",
    "ff_mult": "ff_mult",
}

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Everything about a model that is not a weight."""

    path: Path
    unet: Mapping[str, Any]
    codec: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    text: tuple[Mapping[str, Any], Mapping[str, Any]]
    vision: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    resampler: ResamplerConfig
    sft_width: int
    tone_hidden: int | None
    restorer: Mapping[str, Any]

    @property
    def tokenizers(self) -> tuple[Path, Path]:
        """Folders of the two tokenizers."""
        return self.path / "sdxl" / "tokenizer", self.path / "sdxl" / "tokenizer_2"


def model_path(model: str | Path) -> Path:
    """Folder of a shipped model's name, or the folder itself. Raises WeightsError."""
    shipped = SHIPPED / str(model)
    if str(model) == Path(str(model)).name and shipped.is_dir():
        return shipped
    if Path(model).is_dir():
        return Path(model)
    names = ", ".join(sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()))
    raise WeightsError(f"model is {str(model)!r}, neither a folder nor one of: {names}")


def read_folder(path: Path) -> ModelFolder:
    """Read the configuration files of a model folder. Raises WeightsError on a missing one."""
    vision = _json(path / "dinov2" / "config.json")
    unet = _json(path / "sdxl" / "unet" / "config.json")
    resampler = path / "instantir" / "resampler_config.json"
    aggregator = path / "instantir" / "aggregator_config.json"
    tone = path / "instantir" / "tone_config.json"
    restorer = path / "instantir" / "restorer.json"
    return ModelFolder(
        path=path,
        unet=unet,
        codec=_json(path / "sdxl" / "vae" / "config.json"),
        scheduler=_json(path / "sdxl" / "scheduler" / "scheduler_config.json"),
        text=(
            _json(path / "sdxl" / "text_encoder" / "config.json"),
            _json(path / "sdxl" / "text_encoder_2" / "config.json"),
        ),
        vision=vision,
        preprocessing=_json(path / "dinov2" / "preprocessor_config.json"),
        resampler=_resampler(
            _json(resampler) if resampler.exists() else {},
            {
                "feature_dim": _entry(vision, "hidden_size", "dinov2/config.json"),
                "output_dim": _entry(unet, "cross_attention_dim", "sdxl/unet/config.json"),
            },
        ),
        sft_width=(_json(aggregator) if aggregator.exists() else {}).get("sft_width", SFT_WIDTH),
        tone_hidden=_entry(_json(tone), "hidden", tone.name) if tone.exists() else None,
        restorer=_json(restorer) if restorer.exists() else {},
    )


def resampler_json(config: ResamplerConfig) -> dict[str, int]:
    """The contents of resampler_config.json."""
    return {key: getattr(config, name) for name, key in _RESAMPLER_KEYS.items()}


def _resampler(values: Mapping[str, Any], defaults: dict[str, int]) -> ResamplerConfig:
    given = {name: values[key] for name, key in _RESAMPLER_KEYS.items() if key in values}
    return ResamplerConfig(**{**defaults, **given})


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"model folder: {path} is missing")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"model folder: {path} is not JSON: {error}") from error


def _entry(config: Mapping[str, Any], key: str, where: str) -> int:
    if key not in config:
        raise WeightsError(f"model folder: {where} has no {key!r}")
    return int(config[key])
