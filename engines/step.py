"""The step loop: one denoising step for any mix of restorations (paper algorithm 1).

Rows of all restorations of one latent size run through each network together: previewer, then
aggregator, then main network. Everything that is decided, scaled, guided and drawn belongs to one
restoration alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines import guidance
from engines.backends.eager import Backend, EagerBackend
from engines.models.adapter import Hoisted, Memory
from engines.models.denoiser import Denoiser
from engines.networks import Networks
from engines.parameterization import Prediction, predicted_x0
from engines.params import Adaptive
from engines.restoration import Conditioning, Restoration, StepInfo, StepTrace
from engines.samplers import SAMPLERS, consistency_x0, ddpm_step

Gate = Callable[[Tensor], Tensor]
BATCH_LIMIT = 16  # restorations or tiles that run through a network at once, at most
REUSE_LIMIT = 2  # steps in a row that an earlier reference may serve


@dataclass(slots=True)
class _Now:
    """One restoration within the current step."""

    restoration: Restoration
    scale: Tensor  # (1, 1, 1, 1) of the aggregator
    runs: bool  # previewer and aggregator
    sample: Tensor  # (1, C, h, w) that the main network gets
    timestep: int  # of the main network and the aggregator
    reference: Tensor | None  # (rows, C, h, w), the latest
    residuals: Sequence[Tensor] | None  # (rows, ...) each, before their scale
    scaled: Sequence[Tensor] | None = None  # the same as the main network gets them
    preview: Tensor | None = None  # previewer's raw prediction (rows, C, h, w)

    @property
    def rows(self) -> int:
        return self.restoration.condition.rows

    @property
    def planned(self) -> int:
        """Time step of the restoration's own noise level."""
        return self.restoration.plan.timesteps[self.restoration.step]

    @property
    def previews(self) -> bool:
        return self.runs and self.restoration.plan.previews[self.restoration.step]

    @property
    def reuses(self) -> bool:
        return self.restoration.params.adaptive is Adaptive.REUSE


class StepLoop:
    """Runs steps on loaded networks. `gate` decides which rows run the aggregator.

    `batch_limit` bounds memory: no more restorations run through a network at once.
    """

    def __init__(
        self, networks: Networks, previewer: Denoiser, alphas: Tensor, prediction: Prediction
    ) -> None:
        self.networks = networks
        self.previewer = previewer
        self.backend: Backend = EagerBackend(networks.denoiser, previewer, networks.aggregator)
        self.alphas = alphas
        self.prediction = prediction
        self.gate: Gate = guidance.runs_aggregator
        self.batch_limit = BATCH_LIMIT

    @torch.inference_mode()
    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        """One step for each; see `Restorer.step`.

        Networks run first and restorations change last: when a network raises, none has changed.
        """
        if len({id(restoration) for restoration in restorations}) < len(restorations):
            raise ValueError("a restoration can take one step at a time, one was given twice")
        sizes: dict[torch.Size, list[Restoration]] = {}
        for restoration in restorations:
            if restoration.done:
                raise ValueError(f"all {restoration.steps} steps of the restoration are done")
            sizes.setdefault(restoration.latents.shape, []).append(restoration)
        ready: list[tuple[_Now, Tensor]] = []
        for group in sizes.values():
            for start in range(0, len(group), self.batch_limit):
                ready += self._predict(group[start : start + self.batch_limit])
        infos = {id(now.restoration): self._advance(now, own) for now, own in ready}
        return [infos[id(restoration)] for restoration in restorations]

    def _predict(self, restorations: list[Restoration]) -> list[tuple[_Now, Tensor]]:
        """Run all networks on restorations of one size; the raw prediction of each."""
        batch = self._gated(restorations)
        if previewing := [now for now in batch if now.previews]:
            self._preview(previewing)
        if running := [now for now in batch if now.runs]:
            self._aggregate(running)
        for now in batch:
            if now.residuals is not None:
                now.scaled = [residual * now.scale for residual in now.residuals]
        return list(zip(batch, self._denoise(batch), strict=True))

    def _gated(self, restorations: list[Restoration]) -> list[_Now]:
        scales: list[Tensor] = []
        for r in restorations:
            on, ceiling = r.plan.aggregates[r.step], r.plan.ceilings[r.step]
            scales.append(guidance.aggregator_scale(r.factor.to(r.latents), ceiling, on))
        runs = self.gate(torch.cat(scales))
        batch: list[_Now] = []
        for r, scale, run in zip(restorations, scales, runs, strict=True):
            stands = r.settled and r.reused < REUSE_LIMIT
            timestep = r.plan.timesteps[r.step]
            own = (r.latents, timestep, r.reference, r.residuals)
            batch.append(_Now(r, scale, bool(run) and not stands, *own))
        return batch

    def _preview(self, batch: list[_Now]) -> None:
        """One-step reference of the LoRA network; each guidance half keeps its own."""
        planned = [now.planned for now in batch]
        steps = _per_row(batch, planned)
        emb, modulation = self._embedded(batch, "previewer", planned)
        latents = _latents(batch, [now.restoration.latents for now in batch])
        memory = _memory([now.restoration.condition.preview_memory for now in batch])
        raw = self.backend.preview(latents, emb, Hoisted(memory, modulation))
        base = torch.cat([now.restoration.base for now in batch])
        x0 = predicted_x0(self.prediction, raw, latents, self._alpha(steps), base)
        references = consistency_x0(x0, latents, steps).to(latents.dtype)
        counts = [now.rows for now in batch]
        for now, reference, own in zip(
            batch, torch.split(references, counts), torch.split(raw, counts), strict=True
        ):
            now.reference, now.preview = reference, own
            if now.restoration.params.multistep:
                self._look_ahead(now, own[-1:])

    def _look_ahead(self, now: _Now, prediction: Tensor) -> None:
        """Second-order step: the main network looks from where the previewer's step would land.

        Official `multistep_restore`, which its own DDPM scheduler refuses; the step uses the
        positive half's prediction, and its noise is drawn before that of the real step.
        """
        r = now.restoration
        if r.step + 1 >= r.steps:
            return
        t, after = r.plan.timesteps[r.step], r.plan.after[r.step]
        alpha = self.alphas[t]
        x0 = predicted_x0(self.prediction, prediction, r.latents, alpha, r.base[-1:])
        noise = r.noise.draw(tuple(r.latents.shape)).to(r.latents)
        now.sample = ddpm_step(x0, r.latents, alpha, self._alpha_at(after), noise)
        now.timestep = r.plan.timesteps[r.step + 1]

    def _aggregate(self, batch: list[_Now]) -> None:
        for now in batch:
            r = now.restoration
            if not now.previews:
                given = r.base if r.given_reference is None else r.given_reference
                now.reference = given.to(r.latents).expand(now.rows, -1, -1, -1)
        emb, _ = self._embedded(batch, "aggregator", [now.timestep for now in batch])
        degraded = _latents(batch, [now.restoration.degraded for now in batch])
        references = [now.reference for now in batch]
        joined = torch.cat([reference for reference in references if reference is not None])
        residuals = self.backend.aggregate(degraded, joined, emb)
        counts = [now.rows for now in batch]
        split = [torch.split(residual, counts) for residual in residuals]
        for index, now in enumerate(batch):
            now.residuals = [parts[index] for parts in split]

    def _denoise(self, batch: list[_Now]) -> list[Tensor]:
        """Raw predictions of the main network, (rows, C, h, w) for each restoration."""
        emb, _ = self._embedded(batch, "denoiser", [now.timestep for now in batch])
        _, modulation = self._embedded(batch, "denoiser", [now.planned for now in batch])
        latents = _latents(batch, [now.sample for now in batch])
        memory = _memory([now.restoration.condition.memory for now in batch])
        hoisted = Hoisted(memory, modulation)
        predictions = self.backend.predict(latents, emb, hoisted, _residuals(batch))
        return list(torch.split(predictions, [now.rows for now in batch]))

    def _embedded(
        self, batch: list[_Now], network: str, timesteps: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Time embedding (R, E) and modulation (R, M) of all rows, made once for a time step."""
        made: list[tuple[Tensor, Tensor]] = []
        for now, timestep in zip(batch, timesteps, strict=True):
            condition = now.restoration.condition
            own = condition.embedded.get((network, timestep))
            if own is None:
                own = condition.embedded[network, timestep] = self._embed(
                    condition, network, timestep
                )
            made.append(own)
        return torch.cat([emb for emb, _ in made]), torch.cat([mod for _, mod in made])

    def _embed(self, condition: Conditioning, network: str, timestep: int) -> tuple[Tensor, Tensor]:
        steps = condition.time_ids.new_full((condition.rows,), timestep, dtype=torch.float32)
        given = (steps, condition.pooled, condition.time_ids)
        if network == "aggregator":  # which has no adaptive norms
            emb = self.networks.aggregator.embed(*given)
            return emb, emb[:, :0]
        denoiser = self.previewer if network == "previewer" else self.networks.denoiser
        emb = denoiser.embed(*given)
        return emb, denoiser.modulate(emb)

    def _advance(self, now: _Now, prediction: Tensor) -> StepInfo:
        """Guidance, x0, sampler step and adaptive factor of one restoration."""
        r = now.restoration
        # As published, a skipped step scales once more what is left of the last one's residuals.
        r.reference, r.residuals = now.reference, now.residuals if now.reuses else now.scaled
        t, after = r.plan.timesteps[r.step], r.plan.after[r.step]
        reference = r.base if r.reference is None else r.reference
        guided = prediction[-1:]
        if now.rows == 2:
            scale = r.params.guidance_scale
            guided = guidance.guide(prediction[:1], prediction[1:], scale)
            reference = guidance.guide(reference[:1], reference[-1:], scale)
            if r.params.guidance_rescale > 0:
                guided = guidance.rescale(guided, prediction[1:], r.params.guidance_rescale)
        alpha = self.alphas[t]
        x0 = predicted_x0(self.prediction, guided, r.latents, alpha, reference)
        noise = r.noise.draw(tuple(r.latents.shape)) if t > 0 else torch.zeros(r.latents.shape)
        step = SAMPLERS[r.params.sampler]
        r.latents = step(x0, r.latents, alpha, self._alpha_at(after), noise.to(r.latents))
        variance = self._adapt(now, x0)
        r.trace = StepTrace(
            prediction=prediction,
            guided=guided,
            x0=x0,
            scale=now.scale,
            factor=r.factor,
            previewed=now.previews,
            aggregated=now.runs,
            preview_prediction=now.preview,
        )
        r.step += 1
        return StepInfo(r.step, r.steps, t, variance, float(now.scale))

    def _adapt(self, now: _Now, x0: Tensor) -> float | None:
        """Update the adaptive state; returns how much the reference moved."""
        r = now.restoration
        if r.reference is None:
            return None
        if now.reuses and not now.runs:
            r.reused += 1
            return None
        current = r.reference[-1:]
        last = r.last_reference
        r.last_reference = current
        if r.params.adaptive is Adaptive.OFFICIAL:
            start = torch.zeros_like(current) if last is None else last
            r.factor = guidance.adaptive_factor(current, start, x0)
        if last is None:
            return None
        moved = float(guidance.squared_distance(current, last)) / current.numel()
        if now.reuses:
            apart = float(guidance.squared_distance(current, x0)) / current.numel()
            r.settled, r.reused = guidance.settled(moved, apart), 0
        return moved

    def _alpha(self, timesteps: Tensor) -> Tensor:
        return self.alphas[timesteps.long()].view(-1, 1, 1, 1)

    def _alpha_at(self, timestep: int) -> Tensor:
        return self.alphas[timestep] if timestep >= 0 else torch.ones_like(self.alphas[0])


def _per_row(batch: list[_Now], timesteps: list[int]) -> Tensor:
    """A time step of each restoration for each of its rows (R,), float32."""
    rows = [t for now, t in zip(batch, timesteps, strict=True) for _ in range(now.rows)]
    return torch.tensor(rows, dtype=torch.float32, device=batch[0].restoration.latents.device)


def _latents(batch: list[_Now], tensors: list[Tensor]) -> Tensor:
    """Each restoration's (1, C, h, w) repeated for its rows, (R, C, h, w)."""
    rows = [tensor.expand(now.rows, -1, -1, -1) for now, tensor in zip(batch, tensors, strict=True)]
    return torch.cat(rows)


def _memory(memories: list[tuple[Memory, ...]]) -> tuple[Memory, ...]:
    """Memories of all rows, by width."""
    return tuple(
        Memory(torch.cat([own.text for own in group]), torch.cat([own.image for own in group]))
        for group in zip(*memories, strict=True)
    )


def _residuals(batch: list[_Now]) -> list[Tensor] | None:
    """Residuals of all rows; restorations that never had any get zeros. None if nobody has."""
    having = [now.scaled for now in batch if now.scaled is not None]
    if not having:
        return None
    joined: list[Tensor] = []
    for level, like in enumerate(having[0]):
        parts = [
            like.new_zeros(now.rows, *like.shape[1:]) if now.scaled is None else now.scaled[level]
            for now in batch
        ]
        joined.append(torch.cat(parts))
    return joined
