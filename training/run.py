"""A training run: the trainee, its running average, the stage it is in, and where that is kept."""

import json
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engines.folder import ModelFolder
from engines.weights import load_lora, load_networks, load_pretrained, save_networks
from training.data import Batch
from training.draws import draw, on_device
from training.objectives import OBJECTIVES, Example, Outcome, Setting
from training.stages import Recipe, Stage
from training.trainee import Part, Trainee

CLIP_NORM = 1.0


class Step(nn.Module):
    """One forward pass of a stage's objective, as the module that processes synchronize on."""

    def __init__(self, trainee: Trainee) -> None:
        super().__init__()
        self.trainee = trainee

    def forward(
        self, stage: Stage, setting: Setting, batch: Batch, seed: tuple[int, ...]
    ) -> Outcome:
        """Loss of a batch; everything random is drawn from `seed`."""
        trainee = self.trainee
        generator = torch.Generator().manual_seed(_mixed(seed))
        clean, degraded = (
            self._encode(pixels.to(trainee.device), generator)
            for pixels in (batch.clean, batch.degraded)
        )
        example = Example(
            clean,
            degraded,
            batch.degraded.to(trainee.device),
            batch.captions,
        )
        chance = on_device(draw(generator, clean.shape, stage.chances), trainee.device)
        return OBJECTIVES[stage.objective](trainee, example, chance, setting)

    @torch.no_grad()
    def _encode(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        codec = self.trainee.codec
        shape = codec.noise_shape(*pixels.shape[-2:])
        noise = None
        if shape is not None:
            noise = torch.randn((len(pixels), *shape), generator=generator).to(pixels)
        return codec.encode(pixels, noise).float()


class Run:
    """Runs the stages of a recipe one after the other, each resumable at any saved iteration."""

    def __init__(
        self, recipe: Recipe, folder: ModelFolder, state: Path, accelerator: Accelerator
    ) -> None:
        torch.manual_seed(0)
        self.recipe, self.folder, self.state = recipe, folder, state
        self.accelerator = accelerator
        self.trainee = Trainee(folder, recipe.rank, recipe.alpha)
        self.trainee.to(accelerator.device)
        self.stage_index = self.iteration = 0

    def start_from(self, model: Path) -> None:
        """Take the weights of a model folder: all networks, or SDXL and DINOv2 alone."""
        if (model / "instantir").exists():
            load_networks(self.trainee.networks, model)
            self.trainee.lora.fill(load_lora(model))
        else:
            load_pretrained(self.trainee.networks, model)

    def begin(self) -> None:
        """Go on from the saved state where there is one, else begin with the first stage."""
        saved = (self.state / "progress.json").exists()
        if saved:
            progress = json.loads((self.state / "progress.json").read_text(encoding="utf-8"))
            self.stage_index, self.iteration = progress["stage"], progress["iteration"]
            self.trainee.load_state_dict(load_file(self.state / "weights.safetensors"))
        if self.done:
            return
        self._open_stage(prepare=not saved)
        if saved and self.iteration > 0:
            self.average = load_file(self.state / "average.safetensors")
            optimizer = torch.load(self.state / "optimizer.pt", weights_only=True)
            self.optimizer.load_state_dict(optimizer)

    @property
    def done(self) -> bool:
        """Whether every stage is finished."""
        return self.stage_index == len(self.recipe.stages)

    @property
    def stage(self) -> Stage:
        """The stage that is being trained."""
        return self.recipe.stages[self.stage_index]

    def next_stage(self) -> None:
        """Adopt the stage's average and open the stage after it."""
        self._assign(self.average)
        self.stage_index += 1
        self.iteration = 0
        if not self.done:
            self._open_stage(prepare=True)

    def step(self, batch: Batch) -> Outcome:
        """One batch; every `accumulation` of them one optimizer step."""
        stage = self.stage
        rate = learning_rate(stage, self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        seed = (self.stage_index, self.iteration, self.accelerator.process_index)
        # On CPUs the plain attention beats the flash kernel's backward pass at nano's sizes.
        plain = self.accelerator.device.type == "cpu"
        with (
            self.accelerator.accumulate(self.module),
            self.accelerator.autocast(),
            sdpa_kernel(SDPBackend.MATH) if plain else nullcontext(),
        ):
            outcome = self.module(stage, self._setting, batch, seed)
            self.accelerator.backward(outcome.loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.trained.values(), CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.iteration += 1
        self._follow()
        return outcome

    @torch.no_grad()
    def validate(self, batches: list[Batch]) -> tuple[float, float, float]:
        """Loss and gains (dB; preview, main) of the averaged weights."""
        current = _clones(self.trained)
        self._assign(self.average)
        with self.accelerator.autocast():
            outcomes = [
                self.module(self.stage, self._setting, batch, (index,))
                for index, batch in enumerate(batches)
            ]
        self._assign(current)
        rows = [(float(o.loss), o.preview_db, o.main_db) for o in outcomes]
        loss, preview, main = torch.tensor(rows).mean(0).tolist()
        return loss, preview, main

    def save(self) -> None:
        """Write the state, and the model folder with the averaged weights."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        self.state.mkdir(parents=True, exist_ok=True)
        save_file(_plain(self.trainee.state_dict()), self.state / "weights.safetensors")
        if not self.done:
            save_file(_plain(self.average), self.state / "average.safetensors")
            torch.save(self.optimizer.state_dict(), self.state / "optimizer.pt")
        progress = json.dumps({"stage": self.stage_index, "iteration": self.iteration})
        (self.state / "progress.json").write_text(progress, encoding="utf-8")

    def export(self, out: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a model folder in the official layout, with the averaged weights."""
        if not self.accelerator.is_main_process:
            return
        current = None if self.done else _clones(self.trained)
        if not self.done:
            self._assign(self.average)
        save_networks(self.trainee.networks, self.trainee.lora.pairs(), out, dtype)
        if current is not None:
            self._assign(current)

    @property
    def _setting(self) -> Setting:
        return self.stage.setting(self.recipe.size_px)

    def _open_stage(self, *, prepare: bool) -> None:
        """Freeze what the stage leaves alone; fresh optimizer and average for the rest."""
        stage = self.stage
        if prepare and stage.prepare is not None:
            with torch.random.fork_rng():
                torch.manual_seed(self.stage_index)
                stage.prepare(self.trainee)
        self.accelerator.free_memory()
        self.trained: dict[str, nn.Parameter] = {}
        groups: list[dict[str, object]] = []
        for part in Part:
            parameters = self.trainee.parameters_of(part)
            share = stage.trains.get(part, 0.0)
            for parameter in parameters.values():
                parameter.requires_grad_(share > 0)
            if share > 0:
                self.trained.update(parameters)
                groups.append({"params": list(parameters.values()), "share": share, "lr": 0.0})
        optimizer = torch.optim.AdamW(
            groups, betas=stage.betas, weight_decay=stage.weight_decay, fused=True
        )
        self.accelerator.gradient_accumulation_steps = stage.accumulation
        self.module, self.optimizer = self.accelerator.prepare(Step(self.trainee), optimizer)
        self.average = _clones(self.trained)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; quickly at first."""
        decay = min(self.stage.average, self.iteration / (self.iteration + 10))
        for name, average in self.average.items():
            average.lerp_(self.trained[name], 1 - decay)

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.trained[name].copy_(value)


def learning_rate(stage: Stage, iteration: int) -> float:
    """Linear warm-up, then half a cosine down to the stage's final share."""
    if iteration < stage.warmup:
        return stage.learning_rate * (iteration + 1) / stage.warmup
    share = (iteration - stage.warmup) / max(1, stage.iterations - stage.warmup)
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(share * torch.pi))))
    return stage.learning_rate * (stage.final_rate + (1 - stage.final_rate) * cosine)


def _mixed(seed: tuple[int, ...]) -> int:
    """One 63-bit number from several small ones."""
    mixed = 0
    for number in seed:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return mixed


def _clones(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}
