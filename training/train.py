"""Train the nano model: `python -m training.train --photos FOLDER --out FOLDER`.

One joint stage: vision and text encoders, resampler, UNet, previewer LoRA and aggregator together.
Resumable: state is written every few minutes and read back from `--state` when present.
"""

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engines.folder import read_folder
from engines.networks import Networks, build_networks
from engines.schedule import alphas_cumprod
from engines.weights import load_lora, load_networks, save_networks
from training import nano
from training.data import Batch, PatchSource
from training.degrade import DegradationConfig
from training.objective import Example, PreviewerLora, absolute_error, draw, estimates, gain

EMA_DECAY = 0.99
WARMUP = 100


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the run: its crops, and whether the previewer takes part."""

    crop_px: int
    batch: int
    previews: bool
    until: float  # share of all iterations


PHASES = (
    Phase(64, 24, previews=False, until=0.8),
    Phase(64, 24, previews=True, until=0.97),
    Phase(128, 6, previews=True, until=1.0),
)
DEGRADATION = DegradationConfig(
    strength_shape=(1.4, 1.3), shuffle_share=0.25, second_round_share=0.25
)
LORA_RATE = 3e-4  # the previewer joins late, when the other rates have fallen
HEAD_RATE = 0.3  # of the others: at the full rate the last layer's own noise drowns what it learns
VALIDATION_EVERY = 12  # photographs, of which one is never trained on
VALIDATION_PX = 96
VALIDATION_BATCHES = 4
VALIDATION_TIMESTEP = 10


class Trainee(nn.Module):
    """Everything with a gradient, as one module, so that state, EMA and clipping see it whole."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks
        self.parts = nn.ModuleList(networks.modules())
        # Start as the identity: the first estimate of every network is its reference.
        head = networks.denoiser.unet.conv_out
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        aggregator = networks.aggregator
        for name, module in aggregator.named_modules():
            if name.startswith("controlnet_") and isinstance(module, nn.Conv2d):
                module.reset_parameters()
        self.lora = PreviewerLora(networks.denoiser)


def learning_rate(iteration: int, total: int, peak: float) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    if iteration < WARMUP:
        return peak * (iteration + 1) / WARMUP
    share = (iteration - WARMUP) / max(1, total - WARMUP)
    return peak * (0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(share * torch.pi)).item()))


def phase_of(iteration: int, total: int) -> Phase:
    """The phase an iteration belongs to."""
    return next(phase for phase in PHASES if iteration < phase.until * total)


class Run:
    """A training run: the trainee, its average, its optimizer, and where they are kept."""

    def __init__(self, out: Path, state: Path, peak: float, start_from: Path | None = None) -> None:
        torch.manual_seed(0)
        nano.write_configs(out)
        folder = read_folder(out)
        self.out, self.state, self.peak = out, state, peak
        self.trainee = Trainee(build_networks(folder))
        if start_from is not None:
            load_networks(self.trainee.networks, start_from)
            self.trainee.lora.fill(load_lora(start_from))
        self.alphas = alphas_cumprod(folder.scheduler)
        self.parameters = dict(self.trainee.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        head, lora, others = [], [], []
        for name, parameter in self.parameters.items():
            group = head if ".conv_out." in name else lora if name.startswith("lora.") else others
            group.append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": others}, {"params": head}, {"params": lora}],
            lr=peak,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=True,
        )
        self.iteration = 0
        if (state / "progress.json").exists():
            self.resume()

    def resume(self) -> None:
        """Continue from the newest state."""
        self.trainee.load_state_dict(load_file(self.state / "weights.safetensors"))
        self.average = load_file(self.state / "average.safetensors")
        optimizer = torch.load(self.state / "optimizer.pt", weights_only=True)
        self.optimizer.load_state_dict(optimizer)
        self.iteration = json.loads((self.state / "progress.json").read_text())["iteration"]

    def save(self) -> None:
        """Write the state, and the averaged weights as a model folder."""
        self.state.mkdir(parents=True, exist_ok=True)
        save_file(_plain(self.trainee.state_dict()), self.state / "weights.safetensors")
        save_file(self.average, self.state / "average.safetensors")
        torch.save(self.optimizer.state_dict(), self.state / "optimizer.pt")
        current = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._assign(self.average)
        save_networks(self.trainee.networks, self.trainee.lora.pairs(), self.out, torch.float16)
        self._assign(current)
        progress = json.dumps({"iteration": self.iteration})
        (self.state / "progress.json").write_text(progress, encoding="utf-8")

    def step(self, batch: Batch, total: int) -> list[float]:
        """One optimizer step; returns the gains of preview and main network over the input, dB."""
        rate = learning_rate(self.iteration, total, self.peak)
        others, head, lora = self.optimizer.param_groups
        others["lr"], head["lr"], lora["lr"] = rate, HEAD_RATE * rate, max(rate, LORA_RATE)
        codec = self.trainee.networks.codec
        clean, degraded = codec.encode(batch.clean, None), codec.encode(batch.degraded, None)
        example = Example(clean, degraded, batch.degraded, batch.captions)
        chance = draw(torch.Generator().manual_seed(self.iteration), clean.shape)
        previewer = self.trainee.lora if phase_of(self.iteration, total).previews else None
        # On CPUs the plain attention beats the flash kernel's backward pass at these sizes.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            if previewer is not None:
                example = self._with_earlier(example, previewer)
            found = estimates(self.trainee.networks, previewer, example, chance, self.alphas)
            reference = degraded if found.preview is None else found.preview
            loss = absolute_error(found.main, clean) + absolute_error(reference, clean)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        self._follow()
        # Where sampling starts: from the input. The few clean starts would flatter the figure.
        rows = (chance.clean_start + chance.rollout).flatten() == 0
        told = [gain(x[rows], degraded[rows], clean[rows]) for x in (reference, found.main)]
        return [value.item() for value in told]

    @torch.no_grad()
    def _with_earlier(self, example: Example, previewer: PreviewerLora) -> Example:
        """The example with an estimate made from it at other time steps, as sampling does."""
        generator = torch.Generator().manual_seed(-1 - self.iteration)
        chance = replace(draw(generator, example.clean.shape), clean_start=torch.zeros(1))
        networks = self.trainee.networks
        found = estimates(networks, previewer, example, chance, self.alphas)
        return replace(example, earlier=found.main.float())

    @torch.no_grad()
    def validate(self, batches: list[Batch], *, previews: bool) -> tuple[float, float]:
        """Gains in dB of preview and main network of the averaged weights, in one step."""
        current = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._assign(self.average)
        codec, previewer = self.trainee.networks.codec, self.trainee.lora if previews else None
        gains: list[list[float]] = []
        for index, batch in enumerate(batches):
            clean, degraded = codec.encode(batch.clean, None), codec.encode(batch.degraded, None)
            example = Example(clean, degraded, batch.degraded, [""] * len(batch.captions))
            chance = draw(torch.Generator().manual_seed(index), clean.shape)
            chance = replace(
                chance,
                timesteps=torch.full_like(chance.timesteps, VALIDATION_TIMESTEP),
                clean_start=torch.zeros_like(chance.clean_start),
                drop_vision=torch.zeros_like(chance.drop_vision),
                keep_aggregator=torch.ones_like(chance.keep_aggregator),
            )
            with torch.autocast("cpu", torch.bfloat16):
                found = estimates(self.trainee.networks, previewer, example, chance, self.alphas)
            preview = degraded if found.preview is None else found.preview
            gains.append([gain(x, degraded, clean).item() for x in (preview, found.main)])
        self._assign(current)
        preview, main = torch.tensor(gains).mean(0).tolist()
        return preview, main

    def _follow(self) -> None:
        """Move the average towards the weights."""
        decay = min(EMA_DECAY, self.iteration / (self.iteration + 10))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.parameters[name], 1 - decay)

    def _assign(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(values[name])


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}


def split(photos: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Photographs to train on and, one in every twelve, to validate on: their file names."""
    names = sorted(path.name for path in photos.iterdir())
    validation = frozenset(names[VALIDATION_EVERY // 2 :: VALIDATION_EVERY])
    return frozenset(names) - validation, validation


def train(run: Run, photos: Path, total: int, save_every_s: float) -> None:
    """Run until `total` iterations, printing the mean gains once a minute."""
    started = saved = printed = time.monotonic()
    trained_on, validated_on = split(photos)
    unseen = PatchSource(
        photos, seed=2, crop_px=VALIDATION_PX, config=DEGRADATION, held_out=trained_on
    )
    validation = [unseen.batch(i, 16) for i in range(VALIDATION_BATCHES)]
    gains: list[list[float]] = []
    while run.iteration < total:
        phase = phase_of(run.iteration, total)
        source = PatchSource(
            photos, seed=1, crop_px=phase.crop_px, config=DEGRADATION, held_out=validated_on
        )
        last = math.ceil(phase.until * total)
        batches = source.batches(run.iteration, phase.batch)
        for batch in itertools.islice(batches, last - run.iteration):
            gains.append(run.step(batch, total))
            now = time.monotonic()
            if now - printed > 60:
                means = torch.tensor(gains).nanmean(0).tolist()  # a small batch may have none
                print(
                    f"{now - started:7.0f} s  iteration {run.iteration:6d}/{total}"
                    f"  crop {phase.crop_px}  gain: preview {means[0]:+.3f}"
                    f"  main {means[1]:+.3f} dB",
                    flush=True,
                )
                gains, printed = [], now
            if now - saved > save_every_s:
                run.save()
                preview, main = run.validate(validation, previews=phase.previews)
                print(f"  validation: preview {preview:+.3f}  main {main:+.3f} dB", flush=True)
                saved = now
        batches.close()
    run.save()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--state", type=Path, required=True, help="where the run is kept")
    parser.add_argument(
        "--start-from", type=Path, help="model folder whose weights a new run begins with"
    )
    parser.add_argument("--iterations", type=int, default=6000)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--save-every-s", type=float, default=240.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = Run(args.out, args.state, args.learning_rate, args.start_from)
    train(run, args.photos, args.iterations, args.save_every_s)


if __name__ == "__main__":
    main()
