"""Weights on disk: the official files and their safetensors twins, loaded and saved strictly.

One table per network says which file holds it and how its keys are spelled there. Pickles are read
with `weights_only=True`; a missing, unexpected or misshapen key raises WeightsError with the first
five names.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from engines.errors import WeightsError
from engines.models.denoiser import Denoiser
from engines.models.lora import LoraPair, lora_pairs, official_key
from engines.networks import Networks

State = dict[str, Tensor]
# safetensors leaves the type of a path open.
_files: Any = safetensors
_LOAD: Callable[[Path], State] = _files.load_file
_SAVE: Callable[[State, Path], None] = _files.save_file
# Twins in order of preference: safetensors first, then the published pickle.
UNET = ("sdxl/unet/diffusion_pytorch_model.safetensors",)
ADAPTER = ("instantir/adapter.safetensors", "instantir/adapter.pt")
AGGREGATOR = ("instantir/aggregator.safetensors", "instantir/aggregator.pt")
LORA = (
    "instantir/previewer_lora_weights.safetensors",
    "instantir/previewer_lora_weights.bin",
)
TONE = ("instantir/tone.safetensors",)
VISION = ("dinov2/model.safetensors",)
TEXT = ("sdxl/text_encoder/model.safetensors",)
TEXT_2 = ("sdxl/text_encoder_2/model.safetensors",)
CODEC = ("sdxl/vae/diffusion_pytorch_model.safetensors",)
# DINOv2 spells its attention differently on disk than in current transformers: (disk, model).
VISION_SPELLING = (
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
)


def load_networks(networks: Networks, folder: Path) -> None:
    """Fill every network from `folder`, in place, in the networks' own dtype."""
    load_denoiser(networks.denoiser, folder)
    _fill("aggregator", networks.aggregator, _read(folder, AGGREGATOR))
    if networks.tone is not None:
        _fill("tone", networks.tone, _read(folder, TONE))
    _load_encoders(networks, folder)


def load_pretrained(networks: Networks, folder: Path) -> None:
    """Fill what SDXL and DINOv2 bring; what is ours keeps its weights."""
    denoiser = networks.denoiser
    own = denoiser.state_dict()
    state = {key: own[key] for key in adapter_keys(denoiser)}
    state.update({f"unet.{key}": value for key, value in _read(folder, UNET).items()})
    _fill("unet", denoiser, state)
    _load_encoders(networks, folder)


def _load_encoders(networks: Networks, folder: Path) -> None:
    """Fill vision and text encoders and, where it has weights, the codec."""
    vision = {_respelled(key, VISION_SPELLING): v for key, v in _read(folder, VISION).items()}
    _fill("dinov2", networks.vision.dino, vision)
    # Older files wrap the first text encoder as `text_model`.
    first = {key.removeprefix("text_model."): v for key, v in _read(folder, TEXT).items()}
    _fill("text_encoder", networks.text.first, _without_position_ids(first))
    second = _without_position_ids(_read(folder, TEXT_2))
    _fill("text_encoder_2", networks.text.second, second)
    if any(True for _ in networks.codec.parameters()):
        _fill("vae", networks.codec.get_submodule("vae"), _read(folder, CODEC))


def load_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Fill UNet, DCP attention and resampler from the UNet's and the adapter's files."""
    state = {f"unet.{key}": value for key, value in _read(folder, UNET).items()}
    state.update(adapter_state(denoiser, _flat(_read(folder, ADAPTER))))
    _fill("unet and adapter", denoiser, state)


def load_lora(folder: Path) -> dict[str, LoraPair]:
    """The previewer's LoRA pairs, keyed by module path inside a `Denoiser`."""
    return lora_pairs(_read(folder, LORA))


def adapter_state(denoiser: Denoiser, adapter: Mapping[str, Tensor]) -> State:
    """Keys `image_proj.*` and `ip_adapter.{index}.*` -> keys of a `Denoiser`."""
    processors = list(denoiser.unet.attn_processors)
    state: State = {}
    for key, value in adapter.items():
        part, _, rest = key.partition(".")
        if part == "image_proj":
            state[f"resampler.{rest}"] = value
            continue
        index, _, name = rest.partition(".")
        known = index.isdigit() and int(index) < len(processors)
        state[f"unet.{processors[int(index)]}.{name}" if known else key] = value
    return state


def adapter_keys(denoiser: Denoiser) -> dict[str, str]:
    """Key of a `Denoiser` -> key of adapter.pt (flat), for every weight that the adapter holds."""
    index = {f"unet.{name}": i for i, name in enumerate(denoiser.unet.attn_processors)}
    keys: dict[str, str] = {}
    for key in denoiser.state_dict():
        if key.startswith("resampler."):
            keys[key] = f"image_proj.{key.removeprefix('resampler.')}"
        elif ".processor." in key:
            processor, _, name = key.partition(".processor.")
            keys[key] = f"ip_adapter.{index[processor + '.processor']}.{name}"
    return keys


def save_networks(
    networks: Networks, lora: Mapping[str, LoraPair], folder: Path, dtype: torch.dtype
) -> None:
    """Write every network in the official layout as safetensors of the given dtype."""
    denoiser = networks.denoiser.state_dict()
    adapter = adapter_keys(networks.denoiser)
    unet = {k.removeprefix("unet."): v for k, v in denoiser.items() if k not in adapter}
    first, vision = networks.text.first.state_dict(), networks.vision.dino.state_dict()
    on_disk = tuple((disk, model) for model, disk in VISION_SPELLING)
    alpha = {
        f"{official_key(name, 'down').removesuffix('.weight').rpartition('.lora')[0]}.alpha": (
            torch.tensor(pair.scale * len(pair.down))
        )
        for name, pair in lora.items()
    }
    halves = {
        official_key(name, part): getattr(pair, part)
        for name, pair in lora.items()
        for part in ("down", "up")
    }
    files: dict[str, Mapping[str, Tensor]] = {
        UNET[0]: unet,
        ADAPTER[0]: {name: denoiser[key] for key, name in adapter.items()},
        AGGREGATOR[0]: networks.aggregator.state_dict(),
        LORA[0]: {**halves, **alpha},
        VISION[0]: {_respelled(key, on_disk): v for key, v in vision.items()},
        TEXT[0]: {f"text_model.{key}": value for key, value in first.items()},
        TEXT_2[0]: networks.text.second.state_dict(),
    }
    if any(True for _ in networks.codec.parameters()):
        files[CODEC[0]] = networks.codec.get_submodule("vae").state_dict()
    if networks.tone is not None:
        files[TONE[0]] = networks.tone.state_dict()
    for name, state in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cast = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
        _SAVE(cast, folder / name)


def fingerprint(folder: Path) -> str:
    """First 16 hex digits of the sha256 over all weight files of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".safetensors", ".pt", ".bin"}:
            digest.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                for block in _blocks(file.read):
                    digest.update(block)
    return digest.hexdigest()[:16]


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(1 << 20):
        yield block


def _read(folder: Path, names: tuple[str, ...]) -> State:
    for name in names:
        path = folder / name
        if path.suffix == ".safetensors" and path.is_file():
            return _LOAD(path)
        if path.is_file():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    raise WeightsError(f"model folder: none of {', '.join(names)} in {folder}")


def _flat(state: Mapping[str, Any]) -> State:
    """adapter.pt nests two dictionaries; its safetensors twin is flat."""
    flat: State = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            flat[key] = value
        else:
            flat.update({f"{key}.{name}": tensor for name, tensor in value.items()})
    return flat


def _respelled(key: str, spelling: tuple[tuple[str, str], ...]) -> str:
    """The key with the first member of each pair replaced by the second."""
    for old, new in spelling:
        key = key.replace(old, new)
    return key


def _without_position_ids(state: Mapping[str, Tensor]) -> State:
    """Files of older releases carry this constant."""
    return {key: value for key, value in state.items() if not key.endswith("position_ids")}


def _fill(where: str, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Strict load with errors that name the first five keys."""
    own = network.state_dict()
    if missing := [key for key in own if key not in state]:
        raise WeightsError.of_keys(where, "missing", missing)
    if unexpected := [key for key in state if key not in own]:
        raise WeightsError.of_keys(where, "unexpected", unexpected)
    wrong = [
        f"{key} (file {tuple(value.shape)}, model {tuple(own[key].shape)})"
        for key, value in state.items()
        if value.shape != own[key].shape
    ]
    if wrong:
        raise WeightsError.of_keys(where, "misshapen", wrong)
    network.load_state_dict(dict(state), strict=True)
