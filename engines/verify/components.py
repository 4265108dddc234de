"""Replay of the component recordings: every network and formula on its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engines import schedule, sizes
from engines.models.denoiser import Denoiser
from engines.parameterization import Prediction, predicted_x0
from engines.restorer import Restorer
from engines.samplers import consistency_x0, ddpm_step
from engines.verify.recorded import Case, Tolerance, component

EXACT_MATHS = Tolerance(1e-5)
BLOCKS = ("conv_in", "ref_conv_in", "mid_block", "conv_norm_out")
TRACED_STEP = 501
RESIDUAL_SCALE = 0.7


def verify_components(folder: Path, restorer: Restorer) -> Iterator[Case]:
    """Replay every component recording in `folder`; one that we do not know fails."""
    for path in sorted(folder.glob("*.safetensors")):
        case = component(folder, path.stem)
        kind = path.stem.partition("_")[0]
        replay = REPLAYS.get(kind)
        if replay is None:
            case.notes.append(f"no replay for components of kind {kind!r}")
        else:
            with torch.inference_mode():
                replay(case, restorer)
        yield case


def _text(case: Case, restorer: Restorer) -> None:
    text = restorer.networks.text
    for prompts, hidden, pooled in (
        (case.info["prompts"], "prompt_embeds", "pooled"),
        (case.info["negative"], "negative_prompt_embeds", "negative_pooled"),
    ):
        states, summary = text(prompts)
        case.compare(hidden, states, EXACT_MATHS)
        case.compare(pooled, summary, EXACT_MATHS)
    first, second = text.tokens(case.info["prompts"])
    case.compare("tokenizer.input_ids", first, EXACT_MATHS)
    case.compare("tokenizer_2.input_ids", second, EXACT_MATHS)


def _dino(case: Case, restorer: Restorer) -> None:
    vision = restorer.networks.vision
    index = 0
    while case.has(f"img{index}.uint8"):
        image = _image(case.given(f"img{index}.uint8"))
        crop = torch.from_numpy(np.array(vision.crop_of(image)))
        case.compare(f"img{index}.crop224_uint8", crop, EXACT_MATHS)
        pixels = vision.pixels_of(image)
        case.compare(f"img{index}.embeds", vision(pixels), EXACT_MATHS)
        variant = f"img{index}.embeds_posenc_size_variant"
        if case.has(variant):
            # What we do not use: the library's own resizing of the position table.
            with _library_positions(vision.dino.embeddings):
                case.compare(variant, vision(pixels), EXACT_MATHS)
        index += 1
    side = vision.crop
    case.compare("zeros.embeds", vision(torch.zeros(1, 3, side, side)), EXACT_MATHS)
    if case.has("rawtensor.in"):
        case.compare("rawtensor.embeds", vision(case.given("rawtensor.in")), EXACT_MATHS)


def _resampler(case: Case, restorer: Restorer) -> None:
    main, previewer = restorer.networks.denoiser.resampler, restorer.previewer.resampler
    features = case.given("in")
    case.compare("out_lora_off", main(features), EXACT_MATHS)
    case.compare("out_lora_on", previewer(features), EXACT_MATHS)
    if case.has("in_len100"):
        case.compare("out_len100", main(case.given("in_len100")), EXACT_MATHS)


def _vae(case: Case, restorer: Restorer) -> None:
    codec: Any = restorer.networks.codec
    pixels = case.given("uint8").permute(2, 0, 1)[None].float() / 255 * 2 - 1
    case.compare("pixels", pixels, EXACT_MATHS)
    mean, logvar = codec.moments(pixels)
    case.compare("mean", mean, EXACT_MATHS)
    case.compare("logvar", logvar, EXACT_MATHS)
    sample = codec.encode(pixels, case.given("noise"))
    case.compare("sample_scaled", sample, EXACT_MATHS)
    decoded = codec.decode(case.given("dec_in"))
    case.compare("dec_out", decoded, EXACT_MATHS)
    image = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    case.compare("dec_image_np", image, EXACT_MATHS)


def _unet(case: Case, restorer: Restorer) -> None:
    size = "x".join(str(side) for side in case.info["latent_size"])
    networks = (("off", restorer.networks.denoiser), ("on", restorer.previewer))
    sample, text = case.given("in.sample"), case.given("in.encoder_hidden_states")
    pooled, time_ids = case.given("in.text_embeds"), case.given("in.time_ids")
    features = case.given("in.image_embeds")[:, 0]
    tokens = restorer.networks.denoiser.resampler(features)
    case.compare("image_tokens_lora_off", tokens, EXACT_MATHS)
    residuals = _aggregator_residuals(restorer, size, case)
    for step in case.info["timesteps"]:
        times = torch.full((len(sample),), float(step))
        _embeddings(case, restorer.networks.denoiser, step, (times, pooled, time_ids))
        for lora, network in networks:
            emb = network.embed(times, pooled, time_ids)
            own = network.resampler(features)
            traced = step == TRACED_STEP
            with _hooks(case, network.unet, f"trace_lora_{lora}") if traced else nullcontext():
                out = network(sample, emb, text, own)
            case.compare(f"t{step}.out_lora_{lora}", out, EXACT_MATHS)
            if traced and case.has("attn2.in"):
                # Recorded with the main network's image tokens in both cases.
                _cross_attention(case, network, lora, (emb, text, tokens))
            if lora == "off" and step in residuals:
                out = network(sample, emb, text, own, residuals[step])
                case.compare(f"t{step}.out_residuals_x0.7", out, EXACT_MATHS)


def _cross_attention(
    case: Case, network: Denoiser, lora: str, context: tuple[Tensor, Tensor, Tensor]
) -> None:
    """One decoupled cross-attention on an input of its own."""
    emb, text, tokens = context
    attention: Any = network.unet.get_submodule(case.info["attn2_module"])
    hidden = case.given("attn2.in")
    out = attention(hidden, encoder_hidden_states=text, temb=emb, image_tokens=tokens)
    case.compare(f"attn2.out_lora_{lora}", out, EXACT_MATHS)
    if lora == "off":
        key = attention.processor.to_k_ip(tokens)
        case.compare("attn2.k_ip_before_adaln", key, EXACT_MATHS)
        case.compare("attn2.k_ip_after_adaln", attention.processor.ln_k_ip(key, emb), EXACT_MATHS)


def _embeddings(
    case: Case, network: Denoiser, step: int, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    times, pooled, time_ids = inputs
    unet = network.unet
    projected = unet.time_proj(times)
    own = unet.time_embedding(projected)
    full = network.embed(times, pooled, time_ids)
    case.compare(f"t{step}.time_proj", projected, EXACT_MATHS)
    case.compare(f"t{step}.time_embedding", own, EXACT_MATHS)
    case.compare(f"t{step}.aug_emb", full - own, EXACT_MATHS)
    case.compare(f"t{step}.temb", full, EXACT_MATHS)


def _aggregator_residuals(restorer: Restorer, size: str, case: Case) -> dict[int, list[Tensor]]:
    """The aggregator's own outputs on its recorded inputs of the same size, scaled."""
    folder = Path(case.info["folder"])
    recorded = component(folder, f"aggregator_{size}")
    aggregator = restorer.networks.aggregator
    degraded, reference = recorded.given("in.lq_latents"), recorded.given("in.reference")
    pooled, time_ids = recorded.given("in.text_embeds"), recorded.given("in.time_ids")
    outputs = {}
    for step in recorded.info["timesteps"]:
        emb = aggregator.embed(torch.full((len(degraded),), float(step)), pooled, time_ids)
        residuals = aggregator(degraded, reference, emb)
        outputs[step] = [residual * RESIDUAL_SCALE for residual in residuals]
    return outputs


def _aggregator(case: Case, restorer: Restorer) -> None:
    aggregator = restorer.networks.aggregator
    degraded, reference = case.given("in.lq_latents"), case.given("in.reference")
    pooled, time_ids = case.given("in.text_embeds"), case.given("in.time_ids")
    case.given("in.encoder_hidden_states")  # the aggregator has no text cross-attention
    for step in case.info["timesteps"]:
        emb = aggregator.embed(torch.full((len(degraded),), float(step)), pooled, time_ids)
        with _hooks(case, aggregator, f"trace_t{step}"):
            *down, middle = aggregator(degraded, reference, emb)
        for index, residual in enumerate(down):
            case.compare(f"t{step}.down.{index}", residual, EXACT_MATHS)
        case.compare(f"t{step}.mid", middle, EXACT_MATHS)
    if case.has("sft.c"):
        name = case.info["sft_module"].removeprefix("aggregator.")
        transform, out = aggregator.get_submodule(name)  # pyright: ignore[reportGeneralTypeIssues]
        merged = transform(case.given("sft.c"), case.given("sft.h"))
        case.compare("sft.out", merged, EXACT_MATHS)
        case.compare("sft.out_conv", out(merged), EXACT_MATHS)


def _schedulers(case: Case, restorer: Restorer) -> None:
    alphas = schedule.alphas_cumprod(case.info["scheduler_config"])
    case.compare("alphas_cumprod", alphas, EXACT_MATHS)
    for steps, expected in case.info["timesteps"].items():
        ours: Any = list(schedule.leading_timesteps(int(steps)))
        if isinstance(expected[-1], list):  # a long list is recorded as count, head and tail
            ours = [len(ours), ours[: len(expected[1])], ours[-len(expected[2]) :]]
        case.check(f"timesteps.{steps}", ours, expected)
    sample, output = case.given("sample"), case.given("model_output")
    noise = case.given("variance_noise")

    def x0(times: Tensor) -> Tensor:
        alpha = alphas[times].view(-1, 1, 1, 1)
        return predicted_x0(Prediction.EPSILON, output, sample, alpha, sample)

    if case.has("lcm.tvec"):
        times = case.given("lcm.tvec")
        case.compare("lcm.tvec_out", consistency_x0(x0(times), sample, times), EXACT_MATHS)
    if case.has("add_noise.t"):
        alpha = alphas[case.given("add_noise.t")].view(-1, 1, 1, 1)
        case.compare("add_noise.out", schedule.add_noise(sample, noise, alpha), EXACT_MATHS)
    for name in case.untouched():
        kind, *spacing, step = name.removesuffix(".prev").removesuffix(".x0").split(".")
        now = int(step.removeprefix("t"))
        times = torch.full((len(sample),), now)
        estimate = x0(times)
        if kind == "lcm":
            case.compare(name, consistency_x0(estimate, sample, times), EXACT_MATHS)
        elif name.endswith(".x0"):
            case.compare(name, estimate, EXACT_MATHS)
        else:
            after = _lands_on(case, spacing[0], now)
            share = alphas[after] if after >= 0 else torch.tensor(1.0)
            drawn = noise if now > 0 else torch.zeros_like(noise)
            ours = ddpm_step(estimate, sample, alphas[now], share, drawn)
            case.compare(name, ours, EXACT_MATHS)


def _lands_on(case: Case, spacing: str, now: int) -> int:
    custom = spacing == "custom"
    steps = (
        tuple(case.info["custom_timesteps"])
        if custom
        else schedule.leading_timesteps(int(spacing.removeprefix("n")))
    )
    return schedule.previous_timesteps(steps, custom=custom)[steps.index(now)]


def _resize(case: Case, restorer: Restorer) -> None:
    del restorer
    for size, keywords, work, out in case.info["table"]:
        name = f"resize {tuple(size)} {keywords}"
        try:
            ours: Any = [list(pair) for pair in sizes.official_work_size(tuple(size), **keywords)]
        except ValueError:
            case.check(name, "ERR", str(work)[:3])
            continue
        case.check(name, ours, [work, out])
    image = _image(case.given("in"))
    work, out = sizes.official_work_size(image.size, (128, 192))
    resized = image.resize(work, Image.Resampling.BILINEAR)
    case.compare("out_max192_min128", torch.from_numpy(np.array(resized)), EXACT_MATHS)
    case.check("out_size", list(out), case.info["out_size"])


REPLAYS: dict[str, Callable[[Case, Restorer], None]] = {
    "text": _text,
    "dino": _dino,
    "resampler": _resampler,
    "vae": _vae,
    "unet": _unet,
    "aggregator": _aggregator,
    "schedulers": _schedulers,
    "resize": _resize,
}


def _image(array: Tensor) -> Image.Image:
    return Image.fromarray(array.numpy())


@contextmanager
def _library_positions(embeddings: Any) -> Iterator[None]:
    ours = embeddings.interpolate_pos_encoding
    embeddings.interpolate_pos_encoding = partial(
        type(embeddings).interpolate_pos_encoding, embeddings
    )
    try:
        yield
    finally:
        embeddings.interpolate_pos_encoding = ours


@contextmanager
def _hooks(case: Case, network: nn.Module, prefix: str) -> Iterator[None]:
    """Compare the outputs of a network's blocks with `{prefix}.{block}`."""
    with ExitStack() as stack:
        for name, block in network.named_modules():
            if name in BLOCKS or name.rpartition(".")[0] in ("down_blocks", "up_blocks"):
                hook = partial(_observe, case, f"{prefix}.{name}")
                stack.callback(block.register_forward_hook(hook).remove)
        yield


def _observe(case: Case, name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
    case.compare(name, output[0] if isinstance(output, tuple) else output, EXACT_MATHS)
