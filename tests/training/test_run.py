"""Each stage learns, and one that was interrupted ends where an uninterrupted one does."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import engines
from engines.folder import ModelFolder
from tests.training.conftest import MakeRun, shake
from training.data import Batch
from training.objectives import LOG_SCALE, log_error
from training.run import Run, learning_rate
from training.stages import TINY, Stage
from training.trainee import Part

STAGES = {stage.name: stage for stage in TINY.stages}
ITERATIONS = 20
RATE = 2e-3
# What is left of the loss on a batch that is trained on again and again, with room for other
# machines.
FALLS_TO = {
    "base": 0.8,
    "dcp": 0.985,
    "previewer": 0.92,
    "aggregator": 0.9,
    "polish": 0.8,
    "refine": 0.85,
    "rollouts": 0.85,
    "tone": 0.8,
}
# On a frozen, random UNet the few layers of these two say little: they learn longer, and faster.
LONGER = {"dcp": (120, 25 * RATE), "previewer": (120, RATE)}
POLISH = STAGES["polish"]
MERGE = "controlnet_mid_block.1.weight"


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def state(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.trainee.state_dict().items()}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", FALLS_TO)
def test_a_stage_learns(name: str, make_run: MakeRun, batch: Batch, edits: Batch) -> None:
    iterations, rate = LONGER.get(name, (ITERATIONS, RATE))
    stage = replace(STAGES[name], iterations=iterations, warmup=2, learning_rate=rate)
    run = make_run(stage)
    shake(run.trainee)
    run.begin()
    shown = edits if name == "tone" else batch
    before, _, _ = run.validate([shown])
    for _ in range(iterations):
        run.step(shown)
    after, _, _ = run.validate([shown])
    if stage.loss is log_error:
        before, after = (math.exp(value / LOG_SCALE) for value in (before, after))
    assert after < FALLS_TO[name] * before


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", FALLS_TO)
def test_a_resumed_stage_equals_one_in_one_go(
    name: str, make_run: MakeRun, batch: Batch, tmp_path: Path
) -> None:
    stage = replace(STAGES[name], iterations=4)
    whole, first, second = (make_run(stage, state=tmp_path / s) for s in ("whole", "cut", "cut"))
    for run in (whole, first):
        shake(run.trainee)
        run.begin()
    for _ in range(4):
        whole.step(batch)
    for _ in range(2):
        first.step(batch)
    first.save()
    second.begin()
    assert second.iteration == 2
    for _ in range(2):
        second.step(batch)
    assert differing(state(whole), state(second)) == []
    assert differing(whole.average, second.average) == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", TINY.stages, ids=list(STAGES))
def test_a_stage_moves_its_parts_and_no_other(
    stage: Stage, make_run: MakeRun, batch: Batch
) -> None:
    run = make_run(stage)
    shake(run.trainee)
    run.begin()
    before = {part: {n: p.clone() for n, p in _of(run, part)} for part in Part}
    run.step(batch)
    moved = {part for part in Part if differing(before[part], dict(_of(run, part)))}
    assert moved == set(stage.trains)


def _of(run: Run, part: Part) -> list[tuple[str, Tensor]]:
    return [(name, p.detach()) for name, p in run.trainee.parameters_of(part).items()]


def test_parts_learn_at_their_share_of_the_rate(make_run: MakeRun, batch: Batch) -> None:
    run = make_run(POLISH)
    run.begin()
    run.step(batch)
    rate = POLISH.learning_rate / POLISH.warmup
    shares = [part for part in Part if part in POLISH.trains]
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx(
        [rate * POLISH.trains[part] for part in shares]
    )


@pytest.mark.slow
def test_a_batch_in_two_halves_is_one_optimizer_step(make_run: MakeRun, batch: Batch) -> None:
    run = make_run(replace(POLISH, accumulation=2))
    run.begin()
    before = state(run)
    run.step(batch)
    assert differing(before, state(run)) == []
    run.step(batch)
    assert differing(before, state(run)) != []


@pytest.mark.slow
def test_the_next_stage_begins_with_the_average(make_run: MakeRun, batch: Batch) -> None:
    run = make_run(POLISH, replace(STAGES["refine"], prepare=None))
    run.begin()
    run.step(batch)
    average = {name: value.clone() for name, value in run.average.items()}
    run.next_stage()
    assert (run.stage.name, run.iteration, run.done) == ("refine", 0, False)
    weights = state(run)
    assert all(torch.equal(weights[name], value) for name, value in average.items())
    run.next_stage()
    assert run.done


def test_a_finished_run_stays_finished(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(POLISH)
    run.begin()
    run.next_stage()
    run.save()
    again = make_run(POLISH)
    again.begin()
    assert again.done
    assert differing(state(run), state(again)) == []


def test_a_stage_is_prepared_once(make_run: MakeRun) -> None:
    run = make_run(POLISH)
    run.begin()
    opened = run.trainee.aggregator.get_parameter(MERGE)
    assert opened.any()
    with torch.no_grad():
        opened.zero_()
    run.save()
    again = make_run(POLISH)
    again.begin()
    assert not again.trainee.aggregator.get_parameter(MERGE).any()


def test_validation_measures_the_average_and_leaves_the_weights(
    make_run: MakeRun, batch: Batch
) -> None:
    run = make_run(POLISH)
    run.begin()
    loss, _, main = run.validate([batch])
    assert main == 0.0
    head = "denoiser.unet.conv_out.bias"
    run.average[head].add_(0.25)
    before = state(run)
    worse, _, lost = run.validate([batch])
    assert worse > loss
    assert lost < 0
    assert differing(state(run), before) == []


def test_what_is_exported_is_a_model_with_the_averaged_weights(
    make_run: MakeRun, tiny_folder: ModelFolder
) -> None:
    run = make_run(POLISH)
    run.begin()
    run.average["denoiser.unet.conv_out.bias"].add_(0.1)
    before = state(run)
    run.export(tiny_folder.path)
    assert differing(state(run), before) == []
    unet = load_file(tiny_folder.path / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(unet["conv_out.bias"], run.average["denoiser.unet.conv_out.bias"].half())
    assert set(engines.load(tiny_folder.path).presets) == {"faithful", "balanced", "fast"}


def test_a_run_can_begin_with_the_weights_of_a_model(
    make_run: MakeRun, tiny_folder: ModelFolder
) -> None:
    first = make_run(POLISH)
    shake(first.trainee)
    first.begin()
    first.export(tiny_folder.path, torch.float32)
    second = make_run(POLISH)
    second.start_from(tiny_folder.path)
    assert differing(state(first), state(second)) == []


def test_a_run_can_begin_with_a_pretrained_base_alone(
    make_run: MakeRun, tiny_folder: ModelFolder, tmp_path: Path
) -> None:
    first = make_run(POLISH)
    shake(first.trainee)
    first.begin()
    first.export(tiny_folder.path, torch.float32)
    base = tmp_path / "base"
    for name in ("sdxl", "dinov2"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).symlink_to(tiny_folder.path / name)
    second = make_run(POLISH)
    fresh = state(second)
    second.start_from(base)
    found = state(second)
    assert {name for name in differing(fresh, found) if not name.startswith(_BASE)} == set()
    taken = "denoiser.unet.conv_out.weight"
    assert torch.equal(found[taken], state(first)[taken])


_BASE = ("denoiser.unet.", "vision.", "text.")


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(0, 0.01), (49, 0.5), (99, 1.0), (100, 1.0), (550, 0.1 + 0.9 * 0.5), (1000, 0.1)],
)
def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine(
    iteration: int, expected: float
) -> None:
    stage = replace(POLISH, iterations=1000, warmup=100, learning_rate=1e-3, final_rate=0.1)
    assert learning_rate(stage, iteration) == pytest.approx(1e-3 * expected, rel=1e-5)


@pytest.mark.slow
def test_every_iteration_draws_its_own_noise(make_run: MakeRun, batch: Batch) -> None:
    losses: list[float] = []
    for iteration in (0, 1):
        run = make_run(POLISH)
        shake(run.trainee)
        run.begin()
        run.iteration = iteration
        losses.append(float(run.step(batch).loss.detach()))
    assert losses[0] != losses[1]
