"""The restorer: begin, step, finish. Everything else is built on these three verbs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engines import guidance, schedule, sizes
from engines.color import match_color
from engines.models.adapter import Memory
from engines.models.denoiser import Denoiser
from engines.networks import Networks
from engines.parameterization import Prediction
from engines.params import MicroConditioning, RestoreParams
from engines.presets import DEFAULT_PRESET
from engines.restoration import (
    Conditioning,
    Frame,
    Inputs,
    NoiseField,
    NoiseSource,
    Plan,
    Restoration,
    SeededNoise,
    StepInfo,
    TextCondition,
    TiledRestoration,
)
from engines.step import StepLoop
from engines.tiling import Layout, Tiling, blend, plan_tiles

MIN_SIDE_PX = 16

AnyRestoration = Restoration | TiledRestoration


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a model folder says beside weights."""

    name: str
    fingerprint: str
    prediction: Prediction
    presets: Mapping[str, Mapping[str, Any]]
    limits: sizes.WorkLimits
    tiling: Tiling
    bf16: bool = False  # as good in bfloat16 as in float32


class Restorer:
    """A loaded model that restores photographs, one denoising step at a time."""

    def __init__(
        self,
        networks: Networks,
        previewer: Denoiser,
        alphas: Tensor,
        settings: ModelSettings,
    ) -> None:
        self.networks = networks
        self.previewer = previewer
        self.settings = settings
        self.name = settings.name
        self.fingerprint = settings.fingerprint
        self.presets = settings.presets
        self.alphas = alphas
        self.loop = StepLoop(networks, previewer, alphas, settings.prediction)
        parameter = next(networks.denoiser.unet.time_embedding.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        # Of pixels and the codec: SDXL's overflows in half precision.
        self._precise = torch.promote_types(self.dtype, torch.float32)

    @property
    def backend(self) -> str:
        """What runs the networks; results are the same where it is."""
        tiles = "" if self.networks.codec.tiling is None else ", codec in tiles"
        return self.loop.backend.name + tiles

    def params(
        self, preset: str | None = None, overrides: Mapping[str, Any] | None = None
    ) -> RestoreParams:
        """Parameters of a preset with some of them overridden. Raises ValueError.

        More steps than the preset has time steps below its `denoising_start` begin higher up.
        """
        name = preset or DEFAULT_PRESET
        if name not in self.presets:
            raise ValueError(f"preset is {name!r}, known: {', '.join(self.presets)}")
        asked = dict(overrides or {})
        values = {**self.presets[name], **asked}
        start, steps = values.get("denoising_start"), values.get("steps")
        if "denoising_start" not in asked and isinstance(start, int) and isinstance(steps, int):
            values["denoising_start"] = max(start, steps)
        return RestoreParams.of(values)

    @torch.inference_mode()
    def begin(self, image: Image.Image, params: RestoreParams) -> AnyRestoration:
        """Encode a photograph (RGB, sides of 16 px or more); all step-invariant work, once.

        Pictures are scaled to the sizes the model works at, then padded by mirroring to multiples
        of 64 px; `finish` undoes both. Large ones become overlapping tiles. Raises ValueError.
        """
        if min(image.size) < MIN_SIDE_PX:
            raise ValueError(
                f"image is {image.width}x{image.height} px, sides of {MIN_SIDE_PX} px are the least"
            )
        image = image.convert("RGB")
        content = sizes.scaled_size(image.size, self.settings.limits)
        scaled = image if content == image.size else image.resize(content, Image.Resampling.LANCZOS)
        work = sizes.padded_size(content)
        pixels = self._tensor(_mirrored(np.array(scaled), work))
        inputs = Inputs(pixels=pixels, vision=self.networks.vision.pixels_of(image))
        frame = Frame(image.size, content, pixels)
        layout = plan_tiles(work, self.settings.tiling)
        if len(layout.corners) == 1 and not params.mirror:
            return self.start(inputs, params, SeededNoise(params.seed), frame)
        return self._start_tiles(inputs, params, frame, layout)

    @torch.inference_mode()
    def start(
        self,
        inputs: Inputs,
        params: RestoreParams,
        noise: NoiseSource,
        frame: Frame | None = None,
        condition: Conditioning | None = None,
    ) -> Restoration:
        """Begin from tensors, at exactly their size. Raises ValueError where it does not fit.

        `condition` is what was computed for another picture with equal inputs and size.
        """
        degraded = self._degraded_latents(inputs, noise)
        height, width = degraded.shape[-2:]
        factor, levels = self.networks.codec.factor, len(self.networks.aggregator.down_blocks)
        multiple = 2 ** (levels - 1)
        if height % multiple:
            raise ValueError(
                f"work height is {height * factor} px, the aggregator needs a multiple of "
                f"{multiple * factor} px"
            )
        plan = make_plan(params)
        draw = noise.draw(tuple(degraded.shape)).to(degraded)
        if params.start_from_noise:
            latents = draw
        else:
            latents = schedule.add_noise(degraded, draw, self.alphas[plan.timesteps[0]])
        condition = condition or self._condition(inputs, params, (height * factor, width * factor))
        picture = (width * factor, height * factor)
        return Restoration(
            params=params,
            plan=plan,
            condition=condition,
            noise=noise,
            frame=frame or Frame(picture, picture, inputs.pixels),
            degraded=degraded,
            base=self._toned(degraded, condition),
            latents=latents,
            given_reference=inputs.reference,
        )

    def step(self, restorations: Sequence[AnyRestoration]) -> list[StepInfo]:
        """One denoising step for each, every one at its own time step; sizes may be mixed.

        Restorations of one latent size run as one batch. What a restoration returns does not depend
        on its neighbours. Raises ValueError for one that is done already.
        """
        parts = [_parts(restoration) for restoration in restorations]
        flat = [part for own in parts for part in own]
        taken = iter(self.loop.step(flat))
        return [merged([next(taken) for _ in own]) for own in parts]

    @torch.inference_mode()
    def preview(self, restoration: AnyRestoration) -> Image.Image | None:
        """Picture of the latest reference, cropped to the content; None before the first step."""
        references = [part.reference for part in _parts(restoration)]
        latents = [reference[-1:] for reference in references if reference is not None]
        if len(latents) < len(references):
            return None
        return _picture(self._pixels(restoration, latents), restoration.frame.content)

    @torch.inference_mode()
    def decode(self, restoration: Restoration) -> Tensor:
        """The work picture (1, 3, H, W) in [0, 1], without colour match."""
        return (self._decoded(restoration.latents) / 2 + 0.5).clamp(0, 1)

    @torch.inference_mode()
    def finish(self, restoration: AnyRestoration) -> Image.Image:
        """Decode, match colours, crop, and scale back to the size of the input."""
        frame = restoration.frame
        pixels = self._pixels(restoration, [part.latents for part in _parts(restoration)])
        if frame.source is not None:
            pixels = match_color(pixels, frame.source, restoration.params.color_match)
        image = _picture(pixels, frame.content)
        if image.size == frame.output:
            return image
        return image.resize(frame.output, Image.Resampling.LANCZOS)

    def text(self, prompt: str, clip_skip: int = 0) -> TextCondition:
        """Embeddings of one prompt."""
        return TextCondition(*self.networks.text([prompt], clip_skip, self.device))

    def _start_tiles(
        self, inputs: Inputs, params: RestoreParams, frame: Frame, layout: Layout
    ) -> TiledRestoration:
        """One restoration for each tile, and its mirror image where that is asked for.

        What does not depend on the place is shared.
        """
        pixels = inputs.pixels
        assert pixels is not None, "tiles are cut from pixels"
        factor = self.networks.codec.factor
        height, width = pixels.shape[-2:]
        field = NoiseField(params.seed, height // factor, width // factor)
        tiles: list[Restoration] = []
        for mirrored in (False, True) if params.mirror else (False,):
            vision = inputs.vision.flip(-1) if mirrored else inputs.vision
            seen = replace(inputs, vision=vision)
            condition = self._condition(seen, params, (layout.height, layout.width))
            for top, left in layout.corners:
                window = pixels[:, :, top : top + layout.height, left : left + layout.width]
                tile = Inputs(pixels=window.flip(-1) if mirrored else window, vision=vision)
                noise = field.window(top // factor, left // factor)
                tiles.append(self.start(tile, params, noise, condition=condition))
        return TiledRestoration(tuple(tiles), layout, frame, (width, height))

    def _pixels(self, restoration: AnyRestoration, latents: Sequence[Tensor]) -> Tensor:
        """The decoded work picture (1, 3, H, W) in [-1, 1], put together from its tiles."""
        decoded = [self._decoded(part) for part in latents]
        if isinstance(restoration, Restoration):
            return decoded[0]
        layout = restoration.layout
        count = len(layout.corners)
        turned = [part.flip(-1) for part in decoded[count:]]
        corners = layout.corners * (len(decoded) // count)
        return blend(decoded[:count] + turned, replace(layout, corners=corners), restoration.work)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.networks.codec.decode(latents.to(self._precise))

    def _degraded_latents(self, inputs: Inputs, noise: NoiseSource) -> Tensor:
        if inputs.latents is not None:
            return inputs.latents.to(self.device, self.dtype)
        if inputs.pixels is None:
            raise ValueError("a restoration needs pixels or latents, got neither")
        codec = self.networks.codec
        height, width = inputs.pixels.shape[-2:]
        if height % codec.factor or width % codec.factor:
            raise ValueError(
                f"work size is {width}x{height} px, sides must be multiples of {codec.factor} px"
            )
        shape = codec.noise_shape(height, width)
        pixels = inputs.pixels.to(self.device, self._precise)
        sample = None if shape is None else noise.draw((1, *shape)).to(pixels)
        return codec.encode(pixels, sample).to(self.dtype)

    def _toned(self, degraded: Tensor, condition: Conditioning) -> Tensor:
        """What the references are drawn on, (rows, C, h, w)."""
        rows = degraded.expand(condition.rows, -1, -1, -1)
        tone = self.networks.tone
        return rows if tone is None else tone(rows, condition.text)

    def _condition(
        self, inputs: Inputs, params: RestoreParams, size: tuple[int, int]
    ) -> Conditioning:
        """One row, or with guidance two; the negative row sees an all-zero vision input."""
        default = MicroConditioning(original_size=size, target_size=size)
        micro = params.micro or default
        text = [inputs.prompt or self.text(params.prompt, params.clip_skip)]
        ids = [micro.time_ids()]
        vision = [inputs.vision.to(self.device, self.dtype)]
        if params.guidance_scale > 1:
            text.insert(0, inputs.negative or self._negative(params))
            ids.insert(0, (params.negative_micro or micro).time_ids())
            vision.insert(0, torch.zeros_like(vision[0]))
        features = self.networks.vision(torch.cat(vision))
        hidden = torch.cat([row.hidden for row in text])
        tokens, memory = _remembered(self.networks.denoiser, hidden, features)
        preview_tokens, preview_memory = _remembered(self.previewer, hidden, features)
        return Conditioning(
            text=hidden,
            pooled=torch.cat([row.pooled for row in text]),
            time_ids=torch.tensor(ids, device=self.device, dtype=self.dtype),
            tokens=tokens,
            preview_tokens=preview_tokens,
            memory=memory,
            preview_memory=preview_memory,
        )

    def _negative(self, params: RestoreParams) -> TextCondition:
        """The negative prompt's embeddings; clip_skip is for the prompt alone, as published."""
        if params.negative_prompt is not None:
            return self.text(params.negative_prompt)
        tokens, width, pooled = self.networks.text.widths
        zeros = partial(torch.zeros, device=self.device, dtype=self.dtype)
        return TextCondition(zeros(1, tokens, width), zeros(1, pooled))

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.as_tensor(array).permute(2, 0, 1)[None]
        return tensor.to(self.device, self._precise) / 255 * 2 - 1


def make_plan(params: RestoreParams) -> Plan:
    """Time steps and switches of every step.

    Shares of the run refer to the whole schedule, before `denoising_end` cuts it short.
    """
    custom = params.timesteps is not None
    start = params.denoising_start
    steps = params.timesteps or schedule.leading_timesteps(params.steps, start=start)
    after = schedule.previous_timesteps(steps, custom=custom, start=start)
    count = len(steps)
    scale = params.conditioning_scale
    ceilings = scale if isinstance(scale, tuple) else (scale,) * count
    kept = count
    if params.denoising_end is not None and 0 < params.denoising_end < 1:
        cutoff = round(schedule.TRAIN_STEPS * (1 - params.denoising_end))
        kept = sum(t >= cutoff for t in steps)
    if kept == 0:
        raise ValueError(f"denoising_end is {params.denoising_end}, which leaves no step")
    return Plan(
        timesteps=steps[:kept],
        after=after[:kept],
        previews=tuple(
            guidance.inside(i, count, params.preview_start, params.preview_end) for i in range(kept)
        ),
        aggregates=tuple(
            guidance.inside(i, count, params.aggregator_start, params.creative_start)
            for i in range(kept)
        ),
        ceilings=ceilings[:kept],
    )


def _remembered(
    denoiser: Denoiser, text: Tensor, features: Tensor
) -> tuple[Tensor, tuple[Memory, ...]]:
    """Image tokens (rows, Q, D), and keys and values of all cross-attentions."""
    tokens = denoiser.resampler(features)
    return tokens, denoiser.remember(text, tokens)


def merged(infos: Sequence[StepInfo]) -> StepInfo:
    """What the tiles of one picture tell, averaged."""
    first = infos[0]
    if len(infos) == 1:
        return first
    moved = [info.reference_variance for info in infos if info.reference_variance is not None]
    return replace(
        first,
        reference_variance=fmean(moved) if moved else None,
        adaptive_factor=fmean(info.adaptive_factor for info in infos),
    )


def _parts(restoration: AnyRestoration) -> tuple[Restoration, ...]:
    return restoration.tiles if isinstance(restoration, TiledRestoration) else (restoration,)


def _mirrored(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Padded at the right and the bottom by mirroring, (H, W, 3)."""
    height, width = array.shape[:2]
    right, bottom = size[0] - width, size[1] - height
    return np.pad(array, ((0, bottom), (0, right), (0, 0)), mode="symmetric")


def _picture(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """First (w, h) pixels of (1, 3, H, W) in [-1, 1] as an 8-bit RGB picture."""
    pixels = (pixels[0, :, : size[1], : size[0]].float() / 2 + 0.5).clamp(0, 1)
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))
