"""The previewer's LoRA: official file keys to module names, and fusing it into a weight."""

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from engines.errors import WeightsError
from engines.models.denoiser import Denoiser

# Modules that the previewer adapts; text keys and values of cross-attentions are not among them.
TARGET_SUFFIXES = (
    "to_q",
    "to_kv",
    "0.to_out",
    "attn1.to_k",
    "attn1.to_v",
    "to_k_ip",
    "to_v_ip",
    "ln_k_ip.linear",
    "ln_v_ip.linear",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
_KEY = re.compile(r"^(?P<module>.+)\.(?P<part>lora\.down|lora\.up|lora_A|lora_B)\.weight$")
_DOWN = ("lora.down", "lora_A")


@dataclass(frozen=True, slots=True)
class LoraPair:
    """Low-rank update of one module: weight += scale * up @ down."""

    down: Tensor
    up: Tensor
    scale: float


def module_name(key: str) -> str:
    """Official module path -> path inside a `Denoiser`."""
    name = key.removeprefix("unet.").replace("attn2.processor.", "attn2.")
    name = re.sub(r"attn2\.(?=to_k_ip|to_v_ip|ln_k_ip|ln_v_ip)", "attn2.processor.", name)
    resampler = "encoder_hid_proj.image_projection_layers.0."
    if name.startswith(resampler):
        return "resampler." + name.removeprefix(resampler)
    return "unet." + name


def official_key(name: str, part: str) -> str:
    """Path inside a `Denoiser` and "down" or "up" -> key as the official trainer writes it."""
    attention = re.search(r"\.(to_q|to_k|to_v|to_out\.0)$", name) is not None
    spelling = {"down": "lora_A", "up": "lora_B"}[part] if not attention else f"lora.{part}"
    if name.startswith("resampler."):
        resampler = "unet.encoder_hid_proj.image_projection_layers.0."
        name = resampler + name.removeprefix("resampler.")
    return f"{name.replace('.processor.', '.')}.{spelling}.weight"


def lora_targets(modules: Iterable[tuple[str, nn.Module]]) -> list[str]:
    """Names of the modules that the previewer's LoRA adapts, in module order."""
    return [
        name
        for name, module in modules
        if isinstance(module, nn.Linear | nn.Conv2d)
        and any(name.endswith("." + suffix) for suffix in TARGET_SUFFIXES)
    ]


def lora_pairs(state: Mapping[str, Tensor]) -> dict[str, LoraPair]:
    """Read a LoRA file (either spelling) into pairs keyed by module path inside a `Denoiser`.

    The scale is alpha / rank, with alpha 1 unless the file carries one.
    Raises WeightsError on keys that are no LoRA keys, or pairs with one half missing.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    unknown: list[str] = []
    for key, value in state.items():
        match = _KEY.match(key)
        if match is not None:
            part = "down" if match["part"] in _DOWN else "up"
            halves.setdefault(module_name(match["module"]), {})[part] = value
        elif key.endswith(".alpha"):
            alphas[module_name(key.removesuffix(".alpha"))] = float(value)
        else:
            unknown.append(key)
    unknown += [name for name, pair in halves.items() if len(pair) != 2]
    if unknown:
        raise WeightsError.of_keys("LoRA", "unexpected or incomplete", unknown)
    return {
        name: LoraPair(pair["down"], pair["up"], alphas.get(name, 1.0) / len(pair["down"]))
        for name, pair in halves.items()
    }


def lora_delta(pair: LoraPair) -> Tensor:
    """The full-size weight update of a pair, fp32; convolutions (r, I, kh, kw) and (O, r, 1, 1)."""
    down, up = pair.down.float(), pair.up.float()
    return pair.scale * torch.einsum("or,r...->o...", up.flatten(1), down)


@torch.no_grad()
def fuse_lora(denoiser: nn.Module, pairs: Mapping[str, LoraPair]) -> None:
    """Add every pair to its weight, in place.

    Raises WeightsError where a pair names no module, has another shape, or a target has no pair.
    """
    _check(denoiser, pairs)
    for name, pair in pairs.items():
        weight = denoiser.get_parameter(f"{name}.weight")
        weight.add_(lora_delta(pair).to(weight.device, weight.dtype))


def with_lora_beside(denoiser: Denoiser, pairs: Mapping[str, LoraPair]) -> Denoiser:
    """A second network of the same weights, to each of which its pair is added when it is read.

    It computes what a copy with the LoRA fused does, and takes the memory of the pairs alone.
    Raises WeightsError as `fuse_lora`.
    """
    _check(denoiser, pairs)
    shared = {id(own): own for own in (*denoiser.parameters(), *denoiser.buffers())}
    other = copy.deepcopy(denoiser, shared)
    dtype = next(denoiser.parameters()).dtype
    for name, pair in pairs.items():
        beside = _Beside(pair, dtype)
        register_parametrization(other.get_submodule(name), "weight", beside, unsafe=True)
    return other


class _Beside(nn.Module):
    def __init__(self, pair: LoraPair, dtype: torch.dtype) -> None:
        super().__init__()
        self.down = nn.Buffer(pair.down.to(dtype))
        self.up = nn.Buffer(pair.up.to(dtype))
        self.scale = pair.scale

    def forward(self, weight: Tensor) -> Tensor:
        delta = lora_delta(LoraPair(self.down, self.up, self.scale))
        return (weight + delta).to(weight.dtype)


def _check(denoiser: nn.Module, pairs: Mapping[str, LoraPair]) -> None:
    """Raises WeightsError where pairs and targets do not fit."""
    missing = [name for name in lora_targets(denoiser.named_modules()) if name not in pairs]
    if missing:
        raise WeightsError.of_keys("LoRA", "missing", missing)
    stored = ".parametrizations.weight.original"  # of engines.one_byte
    shapes = {
        name.removesuffix(stored).removesuffix(".weight"): weight.shape
        for name, weight in denoiser.named_parameters()
    }
    made = {name: _shape(pair) for name, pair in pairs.items()}
    wrong = [f"{name} {shape}" for name, shape in made.items() if shapes.get(name) != shape]
    if wrong:
        raise WeightsError.of_keys("LoRA", "without a module of that shape", wrong)


def _shape(pair: LoraPair) -> tuple[int, ...]:
    """Of the weight that the pair updates."""
    return len(pair.up), *pair.down.shape[1:]
