from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from engines import guidance
from engines.models.adapter import Hoisted
from engines.parameterization import predicted_x0
from engines.params import RestoreParams
from engines.restoration import Inputs, Restoration, SeededNoise, StepTrace
from engines.restorer import Restorer
from engines.samplers import consistency_x0, ddpm_step

Photo = Callable[..., Image.Image]
near = partial(torch.testing.assert_close, rtol=0.0, atol=1e-4)
TEXT = {"prompt": "bright photo", "negative_prompt": "blurry"}


@dataclass(frozen=True)
class Order:
    """One restoration of a mix: what it is asked for, and when it joins."""

    size: tuple[int, int]
    joins: int
    params: dict[str, Any]


# Everything that makes one restoration unlike its neighbor; sizes that share a batch and do not.
MIX = (
    Order((64, 64), 0, {"steps": 3, "guidance_scale": 3.0, "seed": 1}),
    Order((64, 64), 0, {"steps": 4, "guidance_scale": 1.0, "seed": 2, "adaptive": True}),
    Order((100, 70), 0, {"steps": 2, "guidance_scale": 2.0, "seed": 3}),
    Order((40, 50), 1, {"steps": 3, "guidance_scale": 2.0, "seed": 4, "adaptive": "reuse"}),
    Order((64, 64), 1, {"steps": 4, "guidance_scale": 1.0, "seed": 5, "creative_start": 0.5}),
    Order((17, 33), 2, {"steps": 3, "guidance_scale": 1.5, "seed": 6, "aggregator_start": 0.3}),
    Order((64, 64), 2, {"steps": 2, "guidance_scale": 3.0, "seed": 7, "preview_start": 0.5}),
)


def begin(restorer: Restorer, photo: Photo, order: Order) -> Restoration:
    params = RestoreParams.of({**TEXT, **order.params})
    restoration = restorer.begin(photo(order.size, order.params["seed"]), params)
    assert isinstance(restoration, Restoration)
    return restoration


def run(restorer: Restorer, restoration: Restoration) -> Restoration:
    while not restoration.done:
        restorer.step([restoration])
    return restoration


def run_mixed(restorer: Restorer, photo: Photo, orders: list[Order]) -> list[Restoration]:
    """Each joins when its time has come, and leaves when it is done."""
    waiting = {id(order): begin(restorer, photo, order) for order in orders}
    active: list[Restoration] = []
    for now in range(10):
        active += [waiting[id(order)] for order in orders if order.joins == now]
        active = [restoration for restoration in active if not restoration.done]
        if active:
            restorer.step(active)
    assert all(restoration.done for restoration in waiting.values())
    return [waiting[id(order)] for order in orders]


@pytest.fixture(scope="module")
def alone(photo: Photo) -> Callable[[Restorer], list[Tensor]]:
    """Latents of every order of the mix, each restored with nobody beside it."""
    known: dict[int, list[Tensor]] = {}

    def latents(restorer: Restorer) -> list[Tensor]:
        if id(restorer) not in known:
            ends = [run(restorer, begin(restorer, photo, order)) for order in MIX]
            known[id(restorer)] = [end.latents for end in ends]
        return known[id(restorer)]

    return latents


def start(restorer: Restorer, seed: int = 0, **params: Any) -> Restoration:
    """A restoration of random 8 x 8 latents."""
    noise = SeededNoise(100 + seed)
    latents = noise.draw((1, restorer.networks.codec.channels, 8, 8))
    inputs = Inputs(vision=noise.draw((1, 3, 32, 32)), latents=latents)
    values = {**TEXT, "steps": 3, "guidance_scale": 1.0, **params}
    return restorer.start(inputs, RestoreParams.of(values), SeededNoise(seed))


def step_of(restorer: Restorer, restoration: Restoration) -> StepTrace:
    """Take one step; what happened in it."""
    restorer.step([restoration])
    assert restoration.trace is not None
    return restoration.trace


@pytest.fixture
def rows_seen(either: Restorer) -> Iterator[dict[str, list[int]]]:
    """How many rows each call of each network had."""
    seen: dict[str, list[int]] = {"previewer": [], "aggregator": [], "denoiser": []}
    networks = {
        "previewer": either.previewer.unet.conv_in,
        "aggregator": either.networks.aggregator.conv_in,
        "denoiser": either.networks.denoiser.unet.conv_in,
    }
    handles = [
        network.register_forward_pre_hook(
            lambda _, given, name=name: seen[name].append(len(given[0]))
        )
        for name, network in networks.items()
    ]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.slow
def test_a_restoration_in_a_changing_mix_is_what_it_is_alone(
    either: Restorer, photo: Photo, alone: Callable[[Restorer], list[Tensor]]
) -> None:
    for mixed, own in zip(run_mixed(either, photo, list(MIX)), alone(either), strict=True):
        near(mixed.latents, own)


@pytest.mark.slow
def test_the_order_of_the_mix_does_not_matter(
    either: Restorer, photo: Photo, alone: Callable[[Restorer], list[Tensor]]
) -> None:
    backward = run_mixed(either, photo, list(reversed(MIX)))
    for mixed, own in zip(reversed(backward), alone(either), strict=True):
        near(mixed.latents, own)


def test_infos_come_in_the_order_that_was_asked_for(either: Restorer, photo: Photo) -> None:
    batch = [begin(either, photo, order) for order in MIX[:4]]
    either.step([batch[1]])
    infos = either.step(batch)
    assert [(info.step, info.steps) for info in infos] == [(1, 3), (2, 4), (1, 2), (1, 3)]
    assert [info.timestep for info in infos] == [667, 501, 501, 667]


def test_restorations_at_different_steps_share_one_call_of_each_network(
    either: Restorer, rows_seen: dict[str, list[int]]
) -> None:
    early, late = start(either, 1), start(either, 2, steps=4, guidance_scale=2.0)
    either.step([late])
    for calls in rows_seen.values():
        calls.clear()
    either.step([early, late])
    assert rows_seen == {"previewer": [3], "aggregator": [3], "denoiser": [3]}
    expected = [start(either, 1), start(either, 2, steps=4, guidance_scale=2.0)]
    either.step([expected[0]])
    either.step([expected[1]])
    either.step([expected[1]])
    for ours, own in zip((early, late), expected, strict=True):
        near(ours.latents, own.latents)


def test_only_the_rows_that_need_it_run_the_previewer_and_the_aggregator(
    either: Restorer, rows_seen: dict[str, list[int]]
) -> None:
    previewing = start(either, 1, guidance_scale=2.0)
    aggregating = start(either, 2, preview_start=1.0)
    neither = start(either, 3, creative_start=0.0)
    either.step([previewing, aggregating, neither])
    assert rows_seen == {"previewer": [2], "aggregator": [3], "denoiser": [4]}


def test_another_size_is_another_call(
    either: Restorer, photo: Photo, rows_seen: dict[str, list[int]]
) -> None:
    batch = [begin(either, photo, MIX[i]) for i in (1, 2, 4)]
    either.step(batch)
    assert sorted(rows_seen["denoiser"]) == [2, 2]  # (100, 70) with guidance; two of (64, 64)


def test_a_step_is_preview_then_aggregator_then_guided_prediction_then_sampler(
    either: Restorer,
) -> None:
    restoration = start(either, guidance_scale=3.0)
    noisy, degraded, base = restoration.latents.clone(), restoration.degraded, restoration.base
    trace, kind = step_of(either, restoration), either.settings.prediction
    condition, networks = restoration.condition, either.networks
    with torch.inference_mode():
        times, two = torch.full((2,), 667.0), noisy.expand(2, -1, -1, -1)
        given = (times, condition.pooled, condition.time_ids)
        emb = either.previewer.embed(*given)
        preview = either.previewer(two, emb, condition.text, condition.preview_tokens)
        estimate = predicted_x0(kind, preview, two, either.alphas[667], base)
        reference = consistency_x0(estimate, two, times)
        residuals = networks.aggregator(
            degraded.expand(2, -1, -1, -1), reference, networks.aggregator.embed(*given)
        )
        emb = networks.denoiser.embed(*given)
        raw = networks.denoiser(two, emb, condition.text, condition.tokens, residuals)
        guided = raw[:1] + 3.0 * (raw[1:] - raw[:1])
        base = reference[:1] + 3.0 * (reference[1:] - reference[:1])
        x0 = predicted_x0(kind, guided, noisy, either.alphas[667], base)
        draws = SeededNoise(0)
        draws.draw(tuple(noisy.shape))  # the start's
        noise = draws.draw(tuple(noisy.shape))
        after = ddpm_step(x0, noisy, either.alphas[667], either.alphas[334], noise)
    assert restoration.reference is not None
    near(restoration.reference, reference)
    assert trace.preview_prediction is not None
    near(trace.preview_prediction, preview)
    near(trace.prediction, raw)
    torch.testing.assert_close(trace.x0, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(restoration.latents, after, rtol=1e-4, atol=1e-4)


def test_a_skipped_step_adds_what_is_left_of_the_last_residuals_scaled_again(
    either: Restorer,
) -> None:
    scales = (1.0, 0.05, 0.1, 0.5)
    restoration = start(either, steps=4, conditioning_scale=list(scales))
    assert step_of(either, restoration).aggregated
    assert restoration.residuals is not None
    fresh = [residual.clone() for residual in restoration.residuals]
    left = 1.0
    for scale in scales[1:3]:  # 0.1 itself does not run the aggregator either
        left *= scale
        noisy, timestep = restoration.latents.clone(), restoration.plan.timesteps[restoration.step]
        trace = step_of(either, restoration)
        assert (trace.aggregated, trace.previewed) == (False, False)
        for ours, first in zip(restoration.residuals, fresh, strict=True):
            torch.testing.assert_close(ours, first * left)
        stale = [residual * left for residual in fresh]
        prediction = predict(either, restoration, noisy, timestep, stale)
        near(trace.prediction, prediction)
    assert step_of(either, restoration).aggregated


def predict(
    restorer: Restorer,
    restoration: Restoration,
    noisy: Tensor,
    timestep: int,
    residuals: list[Tensor] | None,
) -> Tensor:
    """What the main network says to given residuals."""
    denoiser, condition = restorer.networks.denoiser, restoration.condition
    with torch.inference_mode():
        times = torch.full((condition.rows,), float(timestep))
        emb = denoiser.embed(times, condition.pooled, condition.time_ids)
        return denoiser(noisy, emb, condition.text, condition.tokens, residuals)


def test_a_first_step_may_skip_the_aggregator_and_then_has_no_residuals(either: Restorer) -> None:
    restoration = start(either, aggregator_start=0.3)
    noisy = restoration.latents.clone()
    trace = step_of(either, restoration)
    assert not trace.aggregated
    assert restoration.residuals is None
    assert restoration.reference is None
    near(trace.prediction, predict(either, restoration, noisy, 667, None))
    assert step_of(either, restoration).aggregated
    assert torch.isfinite(run(either, restoration).latents).all()


def test_a_creative_start_of_zero_restores_without_the_aggregator(
    either: Restorer, rows_seen: dict[str, list[int]]
) -> None:
    restoration = run(either, start(either, creative_start=0.0))
    assert rows_seen["aggregator"] == rows_seen["previewer"] == []
    assert either.preview(restoration) is None
    assert torch.isfinite(restoration.latents).all()


def test_from_the_creative_start_on_residuals_are_zero(either: Restorer) -> None:
    restoration = start(either, steps=4, creative_start=0.5)
    seen = []
    while not restoration.done:
        trace = step_of(either, restoration)
        assert restoration.residuals is not None
        left = any(bool(residual.any()) for residual in restoration.residuals)
        seen.append((trace.aggregated, float(trace.scale), left))
    assert seen == [(True, 1.0, True)] * 2 + [(False, 0.0, False)] * 2


def test_outside_of_the_previewing_steps_the_reference_is_the_degraded_input(
    either: Restorer,
) -> None:
    restoration = start(either, steps=4, preview_start=0.25, preview_end=0.75, guidance_scale=2.0)
    previewed = []
    while not restoration.done:
        trace = step_of(either, restoration)
        previewed.append(trace.previewed)
        assert trace.aggregated
        assert restoration.reference is not None
        is_input = torch.equal(restoration.reference, restoration.base)
        assert is_input is not trace.previewed
    assert previewed == [False, True, True, False]


def test_a_given_reference_stands_in_for_the_degraded_input(either: Restorer) -> None:
    restoration = start(either, preview_start=1.0)
    given = torch.full_like(restoration.degraded, 0.25)
    restoration.given_reference = given
    step_of(either, restoration)
    assert restoration.reference is not None
    assert torch.equal(restoration.reference, given)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_the_adaptive_factor_is_how_far_the_result_is_from_the_reference_over_its_step(
    either: Restorer, guidance_scale: float
) -> None:
    restoration = start(either, steps=4, adaptive=True, guidance_scale=guidance_scale)
    last = torch.zeros_like(restoration.degraded)
    ceiling = 1.0
    while not restoration.done:
        (info,) = either.step([restoration])
        trace, reference = restoration.trace, restoration.reference
        assert trace is not None
        assert reference is not None
        assert info.adaptive_factor == pytest.approx(ceiling, rel=1e-5)
        moved = (reference[-1:] - last).square().sum()
        factor = float((reference[-1:] - trace.x0).square().sum() / moved)
        assert float(trace.factor) == pytest.approx(factor, rel=1e-4)
        if restoration.step == 1:
            assert info.reference_variance is None
        elif float(moved):
            mean = float(moved) / last.numel()
            assert info.reference_variance == pytest.approx(mean, rel=1e-4)
        last, ceiling = reference[-1:], min(max(factor, 0.0), 1.0)


def test_a_reference_that_stands_still_asks_for_the_full_scale(either: Restorer) -> None:
    restoration = start(either, adaptive=True, preview_start=1.0)
    step_of(either, restoration)
    trace = step_of(either, restoration)
    assert float(trace.factor) == float("inf")
    (info,) = either.step([restoration])
    assert (info.adaptive_factor, info.reference_variance) == (1.0, 0.0)
    assert torch.isfinite(restoration.latents).all()


@pytest.fixture
def always_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a reference does, it counts as standing still."""
    monkeypatch.setattr(guidance, "settled", lambda moved, apart: True)


@pytest.mark.usefixtures("always_settled")
def test_a_settled_reference_serves_two_steps_more(
    either: Restorer, rows_seen: dict[str, list[int]]
) -> None:
    restoration = start(either, steps=7, adaptive="reuse")
    ran = [step_of(either, restoration).aggregated for _ in range(restoration.steps)]
    # Whether it has settled is known from the second reference on.
    assert ran == [True, True, False, False, True, False, False]
    assert [len(rows_seen[name]) for name in ("previewer", "aggregator", "denoiser")] == [3, 3, 7]


@pytest.mark.usefixtures("always_settled")
def test_a_reused_reference_tells_no_variance(either: Restorer) -> None:
    restoration = start(either, steps=4, adaptive="reuse")
    told = [either.step([restoration])[0].reference_variance is None for _ in range(4)]
    assert told == [True, False, True, True]


@pytest.mark.usefixtures("always_settled")
def test_reused_residuals_have_the_scale_of_their_step(either: Restorer) -> None:
    """The published rule would multiply what is left of the last step's."""
    plain = start(either, steps=4, adaptive="reuse")
    scaled = start(either, steps=4, adaptive="reuse", conditioning_scale=[1.0, 1.0, 0.5, 0.5])
    for restoration in (plain, scaled):
        run(either, restoration)
    for ours, expected in zip(scaled.residuals or [], plain.residuals or [], strict=True):
        near(ours, expected)


def test_a_reference_that_keeps_moving_is_renewed_at_every_step(
    either: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guidance, "settled", lambda moved, apart: False)
    renewed, plain = start(either, steps=4, adaptive="reuse"), start(either, steps=4)
    for restoration in (renewed, plain):
        run(either, restoration)
    assert torch.equal(renewed.latents, plain.latents)


@pytest.mark.usefixtures("always_settled")
def test_where_the_aggregator_is_off_nothing_is_reused(either: Restorer) -> None:
    restoration = start(either, steps=4, adaptive="reuse", creative_start=0.5)
    without = start(either, steps=4, creative_start=0.5)
    for other in (restoration, without):
        run(either, other)
    assert torch.equal(restoration.latents, without.latents)


def test_guidance_rescaling_keeps_the_spread_of_the_positive_half(either: Restorer) -> None:
    trace = step_of(either, start(either, guidance_scale=5.0, guidance_rescale=1.0))
    plain = step_of(either, start(either, guidance_scale=5.0))
    near(trace.guided.std(), trace.prediction[1:].std())
    assert float(plain.guided.std()) != pytest.approx(float(trace.guided.std()), rel=1e-2)


def test_a_second_order_step_looks_from_where_the_preview_would_land(
    either: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser, backend = either.networks.denoiser, either.loop.backend
    predict = backend.predict
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(sample: Tensor, emb: Tensor, hoisted: Hoisted, residuals: list[Tensor]) -> Tensor:
        seen.append((emb, hoisted.modulation))
        return predict(sample, emb, hoisted, residuals)

    def at(restoration: Restoration, timestep: float) -> Tensor:
        condition = restoration.condition
        times = torch.full((condition.rows,), timestep)
        with torch.inference_mode():
            return denoiser.embed(times, condition.pooled, condition.time_ids)

    monkeypatch.setattr(backend, "predict", spy)
    plain, second = (start(either, multistep=multistep) for multistep in (False, True))
    run(either, plain)
    run(either, second)
    # The network stands at the next step, its adaptive norms at this one; the last step is plain.
    stands, norms = [667, 334, 1, 334, 1, 1], [667, 334, 1, 667, 334, 1]
    for (emb, modulation), stand, norm in zip(seen, stands, norms, strict=True):
        near(emb, at(plain, stand))
        near(modulation, denoiser.modulate(at(plain, norm)))
    assert not torch.allclose(plain.latents, second.latents, atol=1e-3)


def test_a_second_order_neighbor_changes_nothing(either: Restorer) -> None:
    plain, second = start(either, 1), start(either, 2, multistep=True, guidance_scale=2.0)
    while not plain.done:
        either.step([plain, second])
    own = [start(either, 1), start(either, 2, multistep=True, guidance_scale=2.0)]
    for ours, expected in zip((plain, second), own, strict=True):
        run(either, expected)
        near(ours.latents, expected.latents)


def test_the_gate_can_be_the_official_one_of_a_whole_batch(
    either: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch() -> list[Restoration]:
        return [start(either, 1), start(either, 2, conditioning_scale=0.05)]

    alone = batch()
    either.step(alone)
    assert [r.trace.aggregated for r in alone if r.trace] == [True, False]
    monkeypatch.setattr(either.loop, "gate", lambda s: (s.flatten() > 0.1).any().expand(len(s)))
    together = batch()
    either.step(together)
    assert [r.trace.aggregated for r in together if r.trace] == [True, True]


def test_no_restorations_are_no_steps(either: Restorer) -> None:
    assert either.step([]) == []
