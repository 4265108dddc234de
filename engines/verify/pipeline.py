"""Replay of the recorded end-to-end runs, with the recorded random tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engines import guidance, sizes
from engines.params import RestoreParams
from engines.restoration import Inputs, Restoration
from engines.restorer import Restorer
from engines.verify.official import Row, floored, resized, rows_of
from engines.verify.recorded import Case, RecordedNoise, Tolerance, run

CONDITIONS = Tolerance(1e-5)
STEPS = Tolerance(5e-5)
LATENTS = Tolerance(5e-5, 1e-3)
IMAGES = Tolerance(None, 1e-3)
GREY_LEVELS = Tolerance(None, 1.0)

# Where the official code raises: (does this call do it?, why ours does not, and what it does).
DIFFERENCES: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (
        lambda case: case["call"].get("guidance_scale", 7.0) <= 1,
        "officially adaptive restoration needs guidance; ours uses the only half there is",
    ),
    (
        lambda case: case["call"].get("control_guidance_end") == 0.0,
        "officially a creative start of 0 is refused; ours renders without the aggregator",
    ),
    (
        lambda case: bool(case["call"].get("control_guidance_start")),
        "officially a skipped first step has no residuals to add; ours adds none",
    ),
    (
        lambda case: bool(case["call"].get("multistep_restore")),
        "officially the DDPM scheduler refuses the second-order step; ours takes it",
    ),
    (
        lambda case: bool(case["case"].get("ip_embeds")),
        "officially vision embeddings clash with the picture that is always set; ours has no such "
        "argument and computes them",
    ),
    (
        lambda case: case["call"].get("prompt") is None,
        "officially a prompt is required; ours has a default",
    ),
    (
        lambda case: bool(case["call"].get("save_preview_row")),
        "officially previews cannot be decoded for latent output; ours decodes them on request",
    ),
    (
        lambda case: isinstance(case["call"].get("prompt"), str),
        "officially one prompt does not fit several pictures; ours is one prompt a restoration",
    ),
    (
        lambda case: any(height % 32 for _, height in case["case"].get("images", [])),
        "officially latent heights must be multiples of 4; ours pads by mirroring and crops back",
    ),
)


def verify_pipeline(folder: Path, restorer: Restorer) -> Iterator[Case]:
    """Replay every recorded run in `folder`."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            case = run(path)
            with _batch_wide_gate(restorer), torch.inference_mode(), _failing(case):
                replay(case, restorer)
            yield case


def replay(case: Case, restorer: Restorer) -> None:
    """Replay one run; one that ended in an error is compared as far as it got, then finished."""
    error = case.info.get("error")
    if error is not None:
        reason = next((why for does, why in DIFFERENCES if does(case.info)), None)
        case.differs = reason or f"officially {error['type']}; ours restores"
    rows = rows_of(case, restorer)
    draws = [case.given(entry["name"]) for entry in case.info["noise"]]
    try:
        restorations = [
            restorer.start(row.inputs, row.params, RecordedNoise(draws, i))
            for i, row in enumerate(rows)
        ]
    except ValueError as refused:
        if error is None:
            raise
        case.notes.append(f"refused at this very size: {refused}")
        restorations = _padded(case, rows, restorer)
    else:
        _compare_start(case, rows, restorations, restorer)
    record = _run(restorations, restorer)
    _compare_steps(case, record, error is not None)
    _compare_result(case, restorations, record, restorer)
    if error is not None:
        finite = all(bool(torch.isfinite(r.latents).all()) for r in restorations)
        case.check("our result is finite", finite, True)


def verify_main(folder: Path, restorer: Restorer) -> Iterator[Case]:
    """Replay the recorded command-line run: files in, files out."""
    if not (folder / "case.json").exists():
        return
    case = run(folder)
    case.name = folder.name
    entries = case.info["noise"]
    for entry in entries:
        case.given(entry["name"])
    with _batch_wide_gate(restorer), torch.inference_mode(), _failing(case):
        names = sorted(case.info["files"])
        size = case.info["flags"].get("batch_size", 6)
        for number, first in enumerate(range(0, len(names), size)):
            used = _draws_of_batch(entries, number)
            batch = names[first : first + size]
            call = case.info["calls"][number]["kw"]
            _main_batch(case, restorer, (number, batch, call), [case.given(n) for n in used])
    yield case


def _draws_of_batch(entries: list[dict[str, Any]], number: int) -> list[str]:
    """Names of a batch's random tensors; every batch begins with the autoencoder's sample."""
    batches: list[list[str]] = []
    for entry in entries:
        if "vae" in entry["where"]:
            batches.append([])
        if batches:  # the vision encoder's constructor drew weights before, which were overwritten
            batches[-1].append(entry["name"])
    return batches[number]


def _main_batch(
    case: Case, restorer: Restorer, work: tuple[int, list[str], dict[str, Any]], draws: list[Tensor]
) -> None:
    number, names, call = work
    recorded_with = case.info["resize_patch"]
    sides = (recorded_with["min_side"], recorded_with["max_side"])
    images = [Image.fromarray(case.given(f"in.{name}").numpy()) for name in names]
    outs = []
    brought = []
    for image in images:
        size, out = sizes.official_work_size(image.size, sides)
        brought.append(image.resize(size, Image.Resampling.BILINEAR))
        outs.append(out)
    first = floored(brought[0].size)
    restorations = []
    for i, image in enumerate(brought):
        params = RestoreParams(
            prompt=call["prompt"][i],
            negative_prompt=call["negative_prompt"][i],
            steps=call["num_inference_steps"],
            guidance_scale=call["guidance_scale"],
            preview_start=call["preview_start"],
            creative_start=call["control_guidance_end"],
        )
        vision = restorer.networks.vision.pixels_of(image)
        inputs = Inputs(vision=vision, pixels=resized(image, first))
        restorations.append(restorer.start(inputs, params, RecordedNoise(draws, i)))
    record = _run(restorations, restorer)
    case.compare(f"batch{number}.step_latents", torch.stack(record["latents"]), STEPS)
    for name, restoration, out in zip(names, restorations, outs, strict=True):
        image = restorer.finish(restoration).resize(out, Image.Resampling.BILINEAR)
        recorded = case.given(f"out.{name}")
        case.tensors[f"out.{name}"] = recorded.float()
        case.compare(f"out.{name}", torch.from_numpy(np.array(image)).float(), GREY_LEVELS)


def _padded(case: Case, rows: list[Row], restorer: Restorer) -> list[Restoration]:
    """What a caller gets for a size the aggregator cannot take: padding."""
    start = ("cond.", "vae.", "lq_latents", "init_latents")
    for name in sorted(case.tensors):
        if name.startswith(start):
            case.given(name)
    case.notes.append("recorded conditioning and encoding belong to the size that fails later")
    images = [
        Image.fromarray(case.given(f"in.image{i}_uint8").numpy())
        for i in range(len(case.info["case"]["images"]))
    ]
    begun = [restorer.begin(images[i % len(images)], row.params) for i, row in enumerate(rows)]
    return [r for r in begun if isinstance(r, Restoration)]


def _compare_start(
    case: Case, rows: list[Row], restorations: list[Restoration], restorer: Restorer
) -> None:
    """Conditioning, encoder moments and latents at the start."""
    conditions = [r.condition for r in restorations]
    for name, value in (("prompt_embeds", "text"), ("pooled_prompt_embeds", "pooled")):
        halves = [getattr(condition, value) for condition in conditions]
        case.compare(f"cond.{name}", torch.cat([half[-1:] for half in halves]), CONDITIONS)
        case.compare(f"cond.negative_{name}", torch.cat([half[:1] for half in halves]), CONDITIONS)
    if case.has("cond.image_embeds"):
        theirs = case.tensors["cond.image_embeds"]
        seen = [row.inputs.vision for row in rows]
        vision = restorer.networks.vision
        features = [vision(pixels) for pixels in seen]
        if conditions[0].rows == 2:
            features = [vision(torch.zeros_like(pixels)) for pixels in seen] + features
        ours = torch.cat(features).reshape(theirs.shape)
        case.compare("cond.image_embeds", ours, CONDITIONS)
    if case.has("vae.mean"):
        codec: Any = restorer.networks.codec
        pixels = torch.cat([row.inputs.pixels for row in rows if row.inputs.pixels is not None])
        mean, logvar = codec.moments(pixels)
        case.compare("vae.mean", mean, CONDITIONS)
        case.compare("vae.logvar", logvar, CONDITIONS)
    case.compare("lq_latents", torch.cat([r.degraded for r in restorations]), CONDITIONS)
    case.compare("init_latents", torch.cat([r.latents for r in restorations]), CONDITIONS)


def _run(restorations: list[Restoration], restorer: Restorer) -> dict[str, list[Tensor]]:
    """Take all steps together; every recorded quantity of every step, in the official layout."""
    record: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Tensor) -> None:
        record.setdefault(name, []).append(value)

    while not restorations[0].done:
        restorer.step(restorations)
        keep("latents", torch.cat([r.latents for r in restorations]))
        traces = [r.trace for r in restorations if r.trace is not None]
        keep("noise_pred", torch.cat([trace.guided for trace in traces]))
        keep("pred_x0", torch.cat([trace.x0 for trace in traces]))
        keep("preview_factor", torch.cat([trace.factor for trace in traces]))
        halves = restorations[0].condition.rows
        keep("cond_scale", torch.cat([trace.scale for trace in traces] * halves))
        keep("unet_raw", _halves([trace.prediction for trace in traces]))
        previews = [t.preview_prediction for t in traces if t.preview_prediction is not None]
        if len(previews) == len(traces):
            keep("preview_noise", _halves(previews))
        if all(r.reference is not None for r in restorations):
            references = [r.reference for r in restorations if r.reference is not None]
            keep("preview_latent", _halves(references))
            if traces[0].previewed:
                keep("previews", torch.cat([reference[-1:] for reference in references]))
        residuals = [r.residuals for r in restorations if r.residuals is not None]
        for level in range(len(residuals[0]) if residuals else 0):
            keep(f"down_residual.{level}", _halves([own[level] for own in residuals]))
    return record


def _halves(rows: list[Tensor]) -> Tensor:
    """Rows of each restoration -> all negatives, then all positives."""
    return torch.cat([row[i : i + 1] for i in range(len(rows[0])) for row in rows])


def _compare_steps(case: Case, record: dict[str, list[Tensor]], partial: bool) -> None:
    """Every recorded per-step tensor; of runs that broke off, the steps they completed."""
    last = max((int(key.split(".")[1]) for key in record if key.startswith("down_")), default=-1)
    if last >= 0:
        record["mid_residual"] = record[f"down_residual.{last}"]
    for name in sorted(case.tensors):
        if not name.startswith("step."):
            continue
        theirs = case.tensors[name]
        if theirs.numel() == 0:
            case.skip(name, "recorded empty")
            continue
        values = record.get(name.removeprefix("step."), [])
        if partial:
            values = values[: len(theirs)]
        ours = torch.stack(values) if values else theirs[:0]
        case.compare(name, ours, STEPS)


def _compare_result(
    case: Case, restorations: list[Restoration], record: dict[str, list[Tensor]], restorer: Restorer
) -> None:
    if case.has("out.latents"):
        completed = (case.info.get("error") or {}).get("steps_completed")
        latents = record["latents"][completed - 1 if completed else -1]
        case.compare("out.latents", latents, LATENTS)
    if case.has("out.image"):
        images = torch.cat([restorer.decode(r) for r in restorations])
        case.compare("out.image", images.permute(0, 2, 3, 1), IMAGES)
    if case.has("out.preview_images"):
        decoded = [
            (restorer.networks.codec.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
            for latents in record["previews"]
        ]
        case.compare("out.preview_images", torch.stack(decoded), IMAGES)


@contextmanager
def _failing(case: Case) -> Iterator[None]:
    """A replay that raises fails its own case and no other."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as error:
        case.check("replay", f"{type(error).__name__}: {error}", "completes")


@contextmanager
def _batch_wide_gate(restorer: Restorer) -> Iterator[None]:
    """The official switch: the aggregator runs for a whole batch when any row asks for it."""
    restorer.loop.gate = lambda scales: guidance.runs_aggregator(scales).any().expand(len(scales))
    try:
        yield
    finally:
        restorer.loop.gate = guidance.runs_aggregator
