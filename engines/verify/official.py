"""The official pipeline's calling conventions, translated: arguments, sizes, batches, oddities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engines.params import Adaptive, MicroConditioning, RestoreParams
from engines.restoration import Inputs, TextCondition
from engines.restorer import Restorer
from engines.verify.recorded import Case

SIZE_STEP_PX = 8
_ARGUMENTS = {
    "guidance_scale": "guidance_scale",
    "guidance_rescale": "guidance_rescale",
    "preview_start": "preview_start",
    "preview_end": "preview_end",
    "control_guidance_start": "aggregator_start",
    "control_guidance_end": "creative_start",
    "controlnet_conditioning_scale": "conditioning_scale",
    "adastep_restore": "adaptive",
    "multistep_restore": "multistep",
    "denoising_end": "denoising_end",
    "clip_skip": "clip_skip",
    "num_inference_steps": "steps",
}
# Arguments that the functions below read themselves, or that change only what is handed out.
_HANDLED = {
    "prompt",
    "negative_prompt",
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "reference_latents",
    "timesteps",
    "init_latents_with_lq",
    "height",
    "width",
    "num_images_per_prompt",
    "original_size",
    "target_size",
    "crops_coords_top_left",
    "negative_original_size",
    "negative_target_size",
    "negative_crops_coords_top_left",
    "output_type",
    "save_preview_row",
    "return_dict",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of an official batch."""

    inputs: Inputs
    params: RestoreParams


def rows_of(case: Case, restorer: Restorer) -> list[Row]:
    """The rows of a recorded call. Raises ValueError on an argument that is not known here."""
    call = case.info["call"]
    if unknown := sorted(set(call) - set(_ARGUMENTS) - _HANDLED):
        raise ValueError(f"the call has arguments that are not known: {', '.join(unknown)}")
    images = _images(case)
    copies = int(call.get("num_images_per_prompt") or 1)
    prompts, negatives = _texts(call.get("prompt")), _texts(call.get("negative_prompt"))
    count = max(len(images), len(prompts)) * copies
    sources = [_pixels(case, images, i // copies % len(images)) for i in range(count)]
    # Copies of several pictures: the vision features are laid out 0, 1, 0, 1, the rest 0, 0, 1, 1.
    seen = [_vision(case, images, restorer, i % len(images)) for i in range(count)]
    values = _values(call)
    rows = []
    for i in range(count):
        own = dict(values)
        if prompts:
            own["prompt"] = prompts[i // copies % len(prompts)]
        own["negative_prompt"] = negatives[i // copies % len(negatives)] if negatives else None
        height, width = _work_size(sources[i], restorer)
        own.update(_micro(call, (height, width), i, count))
        rows.append(Row(_inputs(case, sources[i], seen[i]), RestoreParams(**own)))
    return rows


def resized(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Pixels (1, 3, H, W) in [-1, 1] at (w, h), Lanczos, as diffusers' processor makes them."""
    image = image.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255 * 2 - 1


def floored(size: tuple[int, int]) -> tuple[int, int]:
    """A size rounded down to multiples of 8 px."""
    return size[0] // SIZE_STEP_PX * SIZE_STEP_PX, size[1] // SIZE_STEP_PX * SIZE_STEP_PX


def _values(call: Mapping[str, Any]) -> dict[str, Any]:
    values = {ours: call[name] for name, ours in _ARGUMENTS.items() if call.get(name) is not None}
    scale = values.get("conditioning_scale")
    if isinstance(scale, list):
        values["conditioning_scale"] = tuple(scale)
    steps = call.get("timesteps")
    if isinstance(steps, str):  # a tensor, recorded as "tensor [...]"
        steps = [int(step) for step in steps.removeprefix("tensor ").strip("[]").split(",")]
    if steps is not None:
        values["timesteps"] = tuple(steps)
        values.pop("steps", None)
    values["adaptive"] = Adaptive.OFFICIAL if values.get("adaptive") else Adaptive.OFF
    values["start_from_noise"] = call.get("init_latents_with_lq") is False
    return values


def _texts(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _images(case: Case) -> list[Image.Image]:
    images = []
    while case.has(f"in.image{len(images)}_uint8"):
        images.append(Image.fromarray(case.given(f"in.image{len(images)}_uint8").numpy()))
    return images


def _pixels(case: Case, images: list[Image.Image], index: int) -> Tensor:
    """Degraded pixels, or latents where the call was given latents."""
    if case.info["case"].get("image_kind") == "latent":
        return case.given("in.image_latents")[index : index + 1]
    call = case.info["call"]
    # Every picture of a batch is brought to the size of the first.
    width, height = call.get("width") or images[0].width, call.get("height") or images[0].height
    return resized(images[index], floored((width, height)))


def _vision(case: Case, images: list[Image.Image], restorer: Restorer, index: int) -> Tensor:
    vision = restorer.networks.vision
    if case.info["case"].get("image_kind") == "tensor":
        # A tensor reaches the vision encoder as it is: in [0, 1], not cropped, not normalised.
        return torch.from_numpy(np.array(images[index])).permute(2, 0, 1)[None].float() / 255
    if case.has("in.ip_image_uint8"):
        return vision.pixels_of(Image.fromarray(case.given("in.ip_image_uint8").numpy()))
    return vision.pixels_of(images[index])


def _inputs(case: Case, source: Tensor, vision: Tensor) -> Inputs:
    latent = case.info["case"].get("image_kind") == "latent"
    given = case.has("in.prompt_embeds")
    return Inputs(
        vision=vision,
        pixels=None if latent else source,
        latents=source if latent else None,
        prompt=_embeds(case, "") if given else None,
        negative=_embeds(case, "negative_") if given else None,
        reference=case.given("in.reference_latents") if case.has("in.reference_latents") else None,
    )


def _embeds(case: Case, prefix: str) -> TextCondition:
    return TextCondition(
        case.given(f"in.{prefix}prompt_embeds"), case.given(f"in.{prefix}pooled_prompt_embeds")
    )


def _work_size(source: Tensor, restorer: Restorer) -> tuple[int, int]:
    factor = 1 if source.shape[1] == 3 else restorer.networks.codec.factor
    return source.shape[2] * factor, source.shape[3] * factor


def _micro(
    call: Mapping[str, Any], size: tuple[int, int], index: int, count: int
) -> dict[str, MicroConditioning]:
    """Size conditioning of one row's two halves.

    Officially [negative, positive] is repeated over the whole batch while everything else is laid
    out negatives first: with more than one picture some rows get the other half's numbers.
    """
    positive = MicroConditioning(
        original_size=_pair(call.get("original_size") or size),
        target_size=_pair(call.get("target_size") or size),
        crop=_pair(call.get("crops_coords_top_left") or (0, 0)),
    )
    negative = positive
    if call.get("negative_original_size") and call.get("negative_target_size"):
        negative = MicroConditioning(
            original_size=_pair(call["negative_original_size"]),
            target_size=_pair(call["negative_target_size"]),
            crop=_pair(call.get("negative_crops_coords_top_left") or (0, 0)),
        )
    if call.get("guidance_scale", 7.0) <= 1:
        return {"micro": positive}
    halves = (negative, positive)
    return {"negative_micro": halves[index % 2], "micro": halves[(count + index) % 2]}


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second
