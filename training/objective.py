"""What nano is trained on: one forward pass of previewer and main network, and its loss.

Both networks learn to estimate x0 from a noisy latent. Sampling starts from the noised input, so
most training latents do too; the others are noised clean latents, so that the network also learns
to keep what earlier steps have put right.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.models.lora import LoraPair, lora_delta, lora_targets
from engines.networks import Networks
from engines.schedule import TRAIN_STEPS, add_noise

RANK = 16
TEXT_DROP = 0.1
VISION_DROP = 0.05
CLEAN_START = 0.05
AGGREGATOR_DROP = 0.05
SMALL_SHARE = 0.9  # of the time steps that are drawn among the small ones, where nano samples
SMALL_STEPS = 40
ROLLOUT = 0.5  # of the latents start from an own earlier estimate, once there are previews
SIZE_PX = 256.0  # size conditioning, the same for every picture
CHARBONNIER_EPS = 1e-3  # latent units; where the absolute error is rounded off


class PreviewerLora(nn.Module):
    """Trainable low-rank updates of every previewer target of a denoiser; starts at zero."""

    def __init__(self, denoiser: nn.Module, rank: int = RANK) -> None:
        super().__init__()
        self.names = lora_targets(denoiser.named_modules())
        weights = dict(denoiser.named_parameters())
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        for name in self.names:
            weight = weights[f"{name}.weight"]
            kernel = weight.shape[2:]
            self.down.append(torch.randn(rank, *weight.shape[1:]) / weight[0].numel() ** 0.5)
            self.up.append(torch.zeros(weight.shape[0], rank, *(1 for _ in kernel)))

    def pairs(self) -> dict[str, LoraPair]:
        """The updates as the loader reads them, at scale 1."""
        return {
            name: LoraPair(down, up, 1.0)
            for name, down, up in zip(self.names, self.down, self.up, strict=True)
        }

    @torch.no_grad()
    def fill(self, pairs: Mapping[str, LoraPair]) -> None:
        """Take over updates that were read from a file."""
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            down.copy_(pairs[name].down)
            up.copy_(pairs[name].up * pairs[name].scale)

    def fused(self, denoiser: nn.Module) -> dict[str, Tensor]:
        """Weights of the previewer, differentiable in the update alone."""
        weights = {name: weight.detach() for name, weight in denoiser.named_parameters()}
        for name, pair in self.pairs().items():
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + lora_delta(pair)
        return weights


@dataclass(frozen=True, slots=True)
class Draw:
    """The random part of one training step, drawn from a seeded generator."""

    timesteps: Tensor  # (B,) int64
    noise: Tensor  # (B, C, h, w)
    clean_start: Tensor  # (B, 1, 1, 1), 1 where the clean latent is noised, else the degraded one
    rollout: Tensor  # (B, 1, 1, 1), 1 where an earlier estimate is noised, as in later steps
    sizes: Tensor  # (B, 6) size conditioning in pixels
    drop_text: Tensor  # (B,) bool
    drop_vision: Tensor  # (B,) bool
    keep_aggregator: Tensor  # (B, 1, 1, 1), 0 where the main network does without, else 1


def draw(generator: torch.Generator, shape: torch.Size) -> Draw:
    """Draw a step's randomness for latents of `shape`; small time steps are drawn more often."""
    rows = shape[0]
    sizes = torch.tensor([SIZE_PX, SIZE_PX, 0.0, 0.0, SIZE_PX, SIZE_PX])
    small = torch.rand(rows, generator=generator) < SMALL_SHARE
    limit = torch.where(small, SMALL_STEPS, TRAIN_STEPS - 1)
    return Draw(
        timesteps=1 + (torch.rand(rows, generator=generator) * limit).long(),
        noise=torch.randn(shape, generator=generator),
        clean_start=(torch.rand((rows, 1, 1, 1), generator=generator) < CLEAN_START).float(),
        rollout=(torch.rand((rows, 1, 1, 1), generator=generator) < ROLLOUT).float(),
        sizes=sizes.expand(rows, -1),
        drop_text=torch.rand(rows, generator=generator) < TEXT_DROP,
        drop_vision=torch.rand(rows, generator=generator) < VISION_DROP,
        keep_aggregator=(
            torch.rand((rows, 1, 1, 1), generator=generator) >= AGGREGATOR_DROP
        ).float(),
    )


def absolute_error(estimate: Tensor, clean: Tensor) -> Tensor:
    """The loss: mean absolute error in latent units, smooth at zero (Charbonnier)."""
    square = (estimate.float() - clean).pow(2)
    return (square + CHARBONNIER_EPS**2).sqrt().mean()


def gain(estimate: Tensor, degraded: Tensor, clean: Tensor) -> Tensor:
    """How much PSNR an estimate has over its input, in dB, mean over the pictures of a batch."""

    def error(latents: Tensor) -> Tensor:
        return (latents.float() - clean).pow(2).flatten(1).mean(dim=1) + CHARBONNIER_EPS**2

    return 10 * (error(degraded) / error(estimate)).log10().mean()


@dataclass(frozen=True, slots=True)
class Estimates:
    """x0 estimates (B, C, h, w) of the main network and, once it is trained, the previewer."""

    main: Tensor
    preview: Tensor | None


@dataclass(frozen=True, slots=True)
class Example:
    """A batch in latent space (B, C, h, w) with its pixels for the vision encoder."""

    clean: Tensor
    degraded: Tensor
    pixels: Tensor  # (B, 3, H, W) degraded, in [-1, 1]
    captions: list[str]
    earlier: Tensor | None = None  # (B, C, h, w), an own estimate of x0


def estimates(
    networks: Networks,
    lora: PreviewerLora | None,
    example: Example,
    chance: Draw,
    alphas: Tensor,
) -> Estimates:
    """Forward pass. Without `lora` the reference is the degraded latent itself."""
    start = torch.where(chance.clean_start > 0, example.clean, example.degraded)
    if example.earlier is not None:
        start = torch.where(chance.rollout > 0, example.earlier, start)
    noisy = add_noise(start, chance.noise, alphas[chance.timesteps].view(-1, 1, 1, 1))
    dropped = zip(example.captions, chance.drop_text.tolist(), strict=True)
    text, pooled = networks.text(["" if drop else caption for caption, drop in dropped])
    features = _features(networks, example, chance)
    denoiser, aggregator = networks.denoiser, networks.aggregator
    steps = chance.timesteps.float()
    emb = denoiser.embed(steps, pooled, chance.sizes)
    preview = None
    if lora is not None:
        context = (noisy, emb.detach(), text.detach())
        preview = example.degraded + _previewed(denoiser, lora, context, features.detach())
    reference = example.degraded if preview is None else preview.detach()
    aggregator_emb = aggregator.embed(steps, pooled, chance.sizes)
    residuals = [
        residual * chance.keep_aggregator
        for residual in aggregator(example.degraded, reference, aggregator_emb)
    ]
    tokens = denoiser.resampler(features)
    return Estimates(reference + denoiser(noisy, emb, text, tokens, residuals), preview)


def _features(networks: Networks, example: Example, chance: Draw) -> Tensor:
    vision = networks.vision
    seen = F.interpolate(example.pixels, size=(vision.crop, vision.crop), mode="bicubic")
    seen = vision.normalize(seen / 2 + 0.5)
    drop = chance.drop_vision.view(-1, 1, 1, 1)
    return vision(torch.where(drop, torch.zeros_like(seen), seen))


def _previewed(
    denoiser: nn.Module,
    lora: PreviewerLora,
    context: tuple[Tensor, Tensor, Tensor],
    features: Tensor,
) -> Tensor:
    noisy, emb, text = context
    fused = lora.fused(denoiser)
    prefix = "resampler."
    own = {k.removeprefix(prefix): v for k, v in fused.items() if k.startswith(prefix)}
    resampler = denoiser.get_submodule("resampler")
    tokens = torch.func.functional_call(resampler, own, (features,))
    return torch.func.functional_call(denoiser, fused, (noisy, emb, text, tokens))
