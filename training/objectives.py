"""The losses of the stages: what each runs, and what it compares with what.

Shapes: latents (B, C, h, w); `Example` and `Draw` say the rest. Every objective returns the loss
and how much PSNR its estimates have over the input, so that stages can be compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from engines.parameterization import Prediction, predicted_x0
from engines.samplers import consistency_x0, ddim_step
from engines.schedule import TRAIN_STEPS, add_noise
from training.draws import Draw, per_row
from training.trainee import Trainee

HUBER_C = 1e-3
LOG_SCALE = 0.2  # keeps gradients within the clip
LOG_FLOOR = 1e-4  # latent units squared; with nano's codec errors below 52 dB PSNR stop counting
DDIM_STEPS = 50  # of the teacher that the previewer is distilled from
_TINY = 1e-6


class Objective(StrEnum):
    """Names of the losses below."""

    DENOISE = "denoise"
    DISTILL = "distill"
    AGGREGATE = "aggregate"
    RESTORE = "restore"
    RESTORE_WITH_PREVIEWS = "restore_with_previews"
    TONE = "tone"


@dataclass(frozen=True, slots=True)
class Example:
    """A batch in latent space with its pixels for the vision encoder."""

    clean: Tensor  # (B, C, h, w)
    degraded: Tensor  # (B, C, h, w)
    pixels: Tensor  # (B, 3, H, W) degraded, in [-1, 1]
    captions: list[str]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a stage fixes for its objective."""

    loss: Callable[[Tensor, Tensor], Tensor]
    size_px: float  # SDXL's size conditioning: original and target side
    guidance: tuple[float, float] = (0.0, 0.0)  # range of the teacher's scale (LCM's w)
    rollouts: bool = False  # some rows start from an own estimate


@dataclass(frozen=True, slots=True)
class Outcome:
    """A loss with its gradient graph, and gains over the input in dB (NaN: not estimated)."""

    loss: Tensor
    preview_db: float
    main_db: float


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all networks are told about a batch."""

    text: Tensor  # (B, T, D)
    pooled: Tensor  # (B, P)
    features: Tensor  # (B, N, D) of the vision encoder
    sizes: Tensor  # (B, 6) px

    def detached(self) -> "Conditions":
        """The same without a way back for gradients."""
        return Conditions(
            self.text.detach(), self.pooled.detach(), self.features.detach(), self.sizes
        )


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, the published loss of stages 1 and 3."""
    return F.mse_loss(prediction.float(), target.float())


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Pseudo-Huber error with c = 0.001 (arXiv 2310.14189), the published loss of stage 2."""
    square = (prediction.float() - target.float()).pow(2)
    return ((square + HUBER_C**2).sqrt() - HUBER_C).mean()


def log_error(prediction: Tensor, target: Tensor) -> Tensor:
    """What PSNR measures: the logarithm of each picture's squared error, mean over pictures.

    Weighs light and heavy damage alike, which suits a network that already restores. From fresh
    weights it teaches to change nothing, as nearly perfect inputs outweigh all others.
    """
    square = (prediction.float() - target.float()).pow(2).flatten(1).mean(dim=1)
    return LOG_SCALE * (square + LOG_FLOOR).log().mean()


def gain(estimate: Tensor, degraded: Tensor, clean: Tensor, rows: Tensor | None = None) -> float:
    """How much PSNR an estimate has over its input, in dB: mean over the rows of a mask (B,).

    NaN where there are none, and in a dry run, which has shapes alone.
    """
    if clean.is_meta:
        return float("nan")

    def error(latents: Tensor) -> Tensor:
        return (latents.detach().float() - clean).pow(2).flatten(1).mean(dim=1) + _TINY

    each = 10 * (error(degraded) / error(estimate)).log10()
    return float((each if rows is None else each[rows]).mean())


def conditions(trainee: Trainee, example: Example, chance: Draw, size_px: float) -> Conditions:
    """Encode text and picture; dropped text is the empty prompt, a dropped picture is black."""
    text, pooled = trainee.text(_told(example, chance))
    vision = trainee.vision
    seen = F.interpolate(example.pixels, size=(vision.crop, vision.crop), mode="bicubic")
    seen = vision.normalize(seen / 2 + 0.5)
    features = vision(per_row(chance.drop_vision, torch.zeros_like(seen), seen))
    sizes = torch.tensor([size_px, size_px, 0.0, 0.0, size_px, size_px], device=seen.device)
    return Conditions(text, pooled, features, sizes.expand(len(seen), -1))


def _told(example: Example, chance: Draw) -> list[str]:
    """The captions, empty where the text was dropped."""
    dropped = zip(example.captions, chance.drop_text.tolist(), strict=True)
    return ["" if drop else caption for caption, drop in dropped]


def denoise(trainee: Trainee, example: Example, chance: Draw, setting: Setting) -> Outcome:
    """Stages 0 and 1 (paper eq. 3): the conditional denoiser without the aggregator."""
    noisy = _noised(trainee, example, chance)
    given = conditions(trainee, example, chance, setting.size_px)
    raw = _predict(trainee, noisy, chance.timesteps, given)
    x0 = _x0(trainee, raw, noisy, chance.timesteps, example.degraded)
    target = _target(trainee, example.clean, chance, example.degraded)
    main = gain(x0, example.degraded, example.clean)
    return Outcome(setting.loss(raw, target), float("nan"), main)


def distill(trainee: Trainee, example: Example, chance: Draw, setting: Setting) -> Outcome:
    """Stage 2: the previewer jumps to where the teacher's next step would let it jump.

    Latent consistency distillation (arXiv 2310.04378 algorithm 1): the teacher is the DCP model
    with guidance and one DDIM step, the target is the student itself, without a gradient.
    """
    stride = TRAIN_STEPS // DDIM_STEPS
    now = (chance.timesteps // stride + 1) * stride - 1
    after = (now - stride).clamp(min=0)
    noisy = add_noise(example.clean, chance.noise, _alpha(trainee, now))
    full = conditions(trainee, example, chance, setting.size_px)
    silent = replace(chance, drop_text=torch.ones_like(chance.drop_text))
    student = conditions(trainee, example, silent, setting.size_px)
    estimate = _preview(trainee, noisy, now, student, example.degraded)
    with torch.no_grad():
        nothing = replace(silent, drop_vision=torch.ones_like(chance.drop_vision))
        empty = conditions(trainee, example, nothing, setting.size_px)
        low, high = setting.guidance
        scale = (low + (high - low) * chance.guidance).view(-1, 1, 1, 1)
        teacher, without = (
            _x0(trainee, _predict(trainee, noisy, now, c), noisy, now, example.degraded)
            for c in (full, empty)
        )
        guided = teacher + scale * (teacher - without)
        before = ddim_step(guided, noisy, _alpha(trainee, now), _alpha(trainee, after), noisy)
        target = _preview(trainee, before, after, student, example.degraded)
    preview = gain(estimate, example.degraded, example.clean)
    main = gain(teacher, example.degraded, example.clean)
    return Outcome(setting.loss(estimate, target), preview, main)


def aggregate(trainee: Trainee, example: Example, chance: Draw, setting: Setting) -> Outcome:
    """Stage 3: the aggregator on previews of the frozen previewer (paper section 3.3)."""
    noisy = _noised(trainee, example, chance)
    given = conditions(trainee, example, chance, setting.size_px)
    with torch.no_grad():
        reference = _preview(trainee, noisy, chance.timesteps, given, example.degraded)
    raw = _aggregated(trainee, example, chance, given, (noisy, reference))
    x0 = _x0(trainee, raw, noisy, chance.timesteps, reference)
    target = _target(trainee, example.clean, chance, reference)
    preview, main = (gain(x, example.degraded, example.clean) for x in (reference, x0))
    return Outcome(setting.loss(raw, target), preview, main)


def restore(trainee: Trainee, example: Example, chance: Draw, setting: Setting) -> Outcome:
    """Polish: everything at once on x0, with the degraded latent as its own reference."""
    return _restore(trainee, example, chance, setting, previews=False)


def restore_with_previews(
    trainee: Trainee, example: Example, chance: Draw, setting: Setting
) -> Outcome:
    """Polish with the previewer; rows of `rollout` start from an own estimate."""
    if setting.rollouts:
        with torch.no_grad():
            # An earlier step: another row's time step and noise, from the degraded latent.
            first = replace(
                chance,
                noise=chance.noise.roll(1, dims=0),
                timesteps=chance.timesteps.roll(1),
                degraded_start=torch.ones_like(chance.rollout),
            )
            _, earlier = _estimates(trainee, example, first, setting, previews=True)
        start = per_row(chance.rollout, earlier.float(), example.clean)
        chance = replace(chance, degraded_start=chance.degraded_start & ~chance.rollout)
        return _restore(trainee, example, chance, setting, previews=True, start=start)
    return _restore(trainee, example, chance, setting, previews=True)


def tone(trainee: Trainee, example: Example, chance: Draw, setting: Setting) -> Outcome:
    """The tone network alone: undamaged pictures edited as their caption says.

    Raises ValueError for a model that has none.
    """
    if trainee.tone is None:
        raise ValueError("the model has no tone network (instantir/tone_config.json)")
    with torch.no_grad():
        text, _ = trainee.text(_told(example, chance))
    silent = chance.drop_text.to(example.clean.device)
    target = per_row(silent, example.degraded, example.clean)
    nothing = float("nan")
    return Outcome(setting.loss(trainee.tone(example.degraded, text), target), nothing, nothing)


OBJECTIVES: Mapping[Objective, Callable[[Trainee, Example, Draw, Setting], Outcome]] = {
    Objective.DENOISE: denoise,
    Objective.DISTILL: distill,
    Objective.AGGREGATE: aggregate,
    Objective.RESTORE: restore,
    Objective.RESTORE_WITH_PREVIEWS: restore_with_previews,
    Objective.TONE: tone,
}


def _restore(
    trainee: Trainee,
    example: Example,
    chance: Draw,
    setting: Setting,
    *,
    previews: bool,
    start: Tensor | None = None,
) -> Outcome:
    preview, main = _estimates(trainee, example, chance, setting, previews=previews, start=start)
    loss = setting.loss(main, example.clean)
    if previews:
        loss = loss + setting.loss(preview, example.clean)
    # Rows that sampling would begin with; noised originals would flatter the figure.
    rows = chance.degraded_start
    told = [gain(x, example.degraded, example.clean, rows) for x in (preview, main)]
    return Outcome(loss, told[0] if previews else float("nan"), told[1])


def _estimates(
    trainee: Trainee,
    example: Example,
    chance: Draw,
    setting: Setting,
    *,
    previews: bool,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x0 of previewer and main network. Preview gradients reach the LoRA alone."""
    noisy = _noised(trainee, example, chance, start)
    given = conditions(trainee, example, chance, setting.size_px)
    reference = preview = example.degraded
    if previews:
        steps = chance.timesteps
        preview = _preview(
            trainee, noisy, steps, given.detached(), example.degraded, lora_alone=True
        )
        reference = preview.detach()
    raw = _aggregated(trainee, example, chance, given, (noisy, reference))
    return preview, _x0(trainee, raw, noisy, chance.timesteps, reference)


def _aggregated(
    trainee: Trainee,
    example: Example,
    chance: Draw,
    given: Conditions,
    latents: tuple[Tensor, Tensor],
) -> Tensor:
    """Raw prediction of the main network with the aggregator's residuals; (noisy, reference)."""
    noisy, reference = latents
    emb = trainee.aggregator.embed(chance.timesteps.float(), given.pooled, given.sizes)
    residuals = [
        per_row(chance.drop_residuals, torch.zeros_like(residual), residual)
        for residual in trainee.aggregator(example.degraded, reference, emb)
    ]
    return _predict(trainee, noisy, chance.timesteps, given, residuals)


def _predict(
    trainee: Trainee,
    noisy: Tensor,
    timesteps: Tensor,
    given: Conditions,
    residuals: list[Tensor] | None = None,
) -> Tensor:
    denoiser = trainee.denoiser
    emb = denoiser.embed(timesteps.float(), given.pooled, given.sizes)
    return denoiser(noisy, emb, given.text, denoiser.resampler(given.features), residuals)


def _preview(
    trainee: Trainee,
    noisy: Tensor,
    timesteps: Tensor,
    given: Conditions,
    degraded: Tensor,
    *,
    lora_alone: bool = False,
) -> Tensor:
    """One-step reference of the previewer; with `lora_alone` the base weights get no gradient."""
    denoiser = trainee.denoiser
    resampler = denoiser.resampler
    with trainee.lora.active():
        emb = denoiser.embed(timesteps.float(), given.pooled, given.sizes)
        if lora_alone:
            emb = emb.detach()
            tokens = functional_call(resampler, _detached(resampler), (given.features,))
            context = (noisy, emb, given.text, tokens)
            raw = functional_call(denoiser, _detached(denoiser), context)
        else:
            raw = denoiser(noisy, emb, given.text, resampler(given.features))
    x0 = _x0(trainee, raw, noisy, timesteps, degraded)
    return consistency_x0(x0.float(), noisy, timesteps)


def _detached(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def _noised(
    trainee: Trainee, example: Example, chance: Draw, start: Tensor | None = None
) -> Tensor:
    """x_t of the clean latent (or of `start`), or of the degraded one where that was drawn."""
    x0 = per_row(chance.degraded_start, example.degraded, example.clean if start is None else start)
    return add_noise(x0, chance.noise, _alpha(trainee, chance.timesteps))


def _alpha(trainee: Trainee, timesteps: Tensor) -> Tensor:
    return trainee.alphas[timesteps].view(-1, 1, 1, 1)


def _x0(
    trainee: Trainee, raw: Tensor, noisy: Tensor, timesteps: Tensor, reference: Tensor
) -> Tensor:
    alpha = _alpha(trainee, timesteps)
    return predicted_x0(trainee.prediction, raw.float(), noisy, alpha, reference)


def _target(trainee: Trainee, clean: Tensor, chance: Draw, reference: Tensor) -> Tensor:
    """What the network should have said, in its own terms (the inverse of `predicted_x0`)."""
    alpha = _alpha(trainee, chance.timesteps)
    match trainee.prediction:
        case Prediction.EPSILON:
            return chance.noise
        case Prediction.V:
            return alpha.sqrt() * chance.noise - (1 - alpha).sqrt() * clean
        case Prediction.SAMPLE:
            return clean
        case Prediction.RESIDUAL:
            return clean - reference
