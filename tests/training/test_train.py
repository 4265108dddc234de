import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import engines
from training import train
from training.data import Batch, PatchSource
from training.train import (
    HEAD_RATE,
    LORA_RATE,
    PHASES,
    VALIDATION_EVERY,
    WARMUP,
    Phase,
    Run,
    learning_rate,
    phase_of,
    split,
)

TOTAL = 4
LONG = 100
PEAK = 1e-2
HEAD = "parts.0.unet.conv_out.bias"


@pytest.fixture(autouse=True)
def _same_random_numbers_afterwards() -> Iterator[None]:
    """A run seeds torch's global generator."""
    with torch.random.fork_rng():
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pictures, just enough for one to validate on."""
    photos = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(VALIDATION_EVERY):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((128, 128), Image.Resampling.BICUBIC).save(photos / f"{index}.png")
    return photos


@pytest.fixture(scope="module")
def batches(photos: Path) -> list[Batch]:
    """A batch of 32 px crops for each iteration."""
    found = PatchSource(photos, seed=1, crop_px=32).batches(0, 2)
    taken = list(itertools.islice(found, TOTAL))
    found.close()
    return taken


def run_at(folder: Path) -> Run:
    return Run(folder / "model", folder / "state", PEAK)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, 1 / WARMUP),
        (WARMUP // 2 - 1, 0.5),
        (WARMUP - 1, 1.0),
        (WARMUP, 1.0),
        (WARMUP + 450, 0.02 + 0.98 * 0.5),
        (WARMUP + 300, 0.02 + 0.98 * 0.75),
        (WARMUP + 900, 0.02),
    ],
)
def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine(
    iteration: int, expected: float
) -> None:
    rate = learning_rate(iteration, total=WARMUP + 900, peak=1e-3)
    assert rate == pytest.approx(1e-3 * expected, rel=1e-5)


def test_the_learning_rate_never_rises_after_the_warm_up() -> None:
    rates = [learning_rate(i, 500, 1e-3) for i in range(WARMUP, 500)]
    assert all(a >= b for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize("total", [1, WARMUP])
def test_a_run_shorter_than_its_warm_up_only_warms_up(total: int) -> None:
    rates = [learning_rate(i, total, 1.0) for i in range(total)]
    assert rates == [(i + 1) / WARMUP for i in range(total)]


@pytest.mark.parametrize(
    ("iteration", "phase"),
    [(0, 0), (799, 0), (800, 1), (969, 1), (970, 2), (999, 2)],
)
def test_a_phase_ends_where_its_share_of_the_run_ends(iteration: int, phase: int) -> None:
    assert phase_of(iteration, 1000) is PHASES[phase]


@pytest.mark.parametrize("total", [1, 3, 7])
def test_every_iteration_of_a_short_run_has_a_phase(total: int) -> None:
    found = [PHASES.index(phase_of(iteration, total)) for iteration in range(total)]
    assert found == sorted(found)


def test_the_phases_cover_the_whole_run_in_order() -> None:
    shares = [phase.until for phase in PHASES]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("phase", PHASES)
def test_crops_of_a_phase_fit_the_aggregator(phase: Phase) -> None:
    # Latents of 4 px patches, halved twice on the way down.
    assert phase.crop_px % 16 == 0


def test_the_first_estimate_is_the_input_itself(batches: list[Batch], tmp_path: Path) -> None:
    assert run_at(tmp_path).step(batches[0], TOTAL) == [0.0, 0.0]


def test_a_step_moves_the_weights_and_the_average_follows_part_of_the_way(
    batches: list[Batch], tmp_path: Path
) -> None:
    run = run_at(tmp_path)
    before = run.parameters[HEAD].detach().clone()
    run.step(batches[0], TOTAL)
    moved = (run.parameters[HEAD] - before).detach()
    assert moved.abs().max() > 0
    torch.testing.assert_close(run.average[HEAD] - before, moved * (1 - 1 / 11))


def test_a_step_is_taken_at_the_learning_rate_of_its_iteration(
    batches: list[Batch], tmp_path: Path
) -> None:
    run = run_at(tmp_path)
    run.iteration = 2
    run.step(batches[0], TOTAL)
    rates = [group["lr"] for group in run.optimizer.param_groups]
    rate = PEAK * 3 / WARMUP
    assert rates == [rate, HEAD_RATE * rate, LORA_RATE]


def test_the_last_layer_learns_at_its_own_rate_and_every_parameter_once(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    groups = [group["params"] for group in run.optimizer.param_groups]
    assert any(parameter is run.parameters[HEAD] for parameter in groups[1])
    assert sum(len(group) for group in groups) == len(run.parameters)


def test_photographs_to_validate_on_are_never_trained_on(tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"{index:02}.png").touch()
    trained_on, validated_on = split(tmp_path)
    assert sorted(validated_on) == ["06.png", "18.png"]
    assert not trained_on & validated_on
    assert len(trained_on) == 28


def test_validation_measures_the_average_and_leaves_the_weights(
    batches: list[Batch], tmp_path: Path
) -> None:
    run = run_at(tmp_path)
    assert run.validate(batches, previews=True) == (0.0, 0.0)
    run.average[HEAD].add_(0.25)
    before = {name: value.clone() for name, value in run.trainee.state_dict().items()}
    preview, main = run.validate(batches, previews=False)
    assert preview == 0.0
    assert main < 0.0
    assert differing(run.trainee.state_dict(), before) == []


def test_the_previewer_joins_in_its_phase_alone(batches: list[Batch], tmp_path: Path) -> None:
    run = run_at(tmp_path)
    gradients: list[bool] = []
    for run.iteration in (0, LONG - 1):
        run.step(batches[0], LONG)
        gradients.append(any(up.grad is not None for up in run.trainee.lora.up))
    assert gradients == [False, True]


def test_every_iteration_draws_its_own_noise(batches: list[Batch], tmp_path: Path) -> None:
    gradients: list[Tensor | None] = []
    for iteration in (0, 1):
        run = run_at(tmp_path)
        run.iteration = iteration
        run.step(batches[0], TOTAL)
        # The bias's own gradient does not depend on what the network saw.
        gradients.append(run.parameters[HEAD.replace("bias", "weight")].grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert not torch.equal(gradients[0], gradients[1])


def test_equal_runs_start_with_equal_weights(tmp_path: Path) -> None:
    one, other = run_at(tmp_path / "one"), run_at(tmp_path / "other")
    assert differing(one.trainee.state_dict(), other.trainee.state_dict()) == []


def test_saving_leaves_the_weights_in_training_as_they_were(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    run.average[HEAD].add_(0.25)
    before = {name: value.clone() for name, value in run.trainee.state_dict().items()}
    run.save()
    assert differing(run.trainee.state_dict(), before) == []


def test_the_model_folder_gets_the_averaged_weights_in_half_precision(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    run.average[HEAD].add_(0.1)
    run.save()
    unet = load_file(run.out / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(unet["conv_out.bias"], run.average[HEAD].half())


def test_a_saved_run_is_a_model_that_loads(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    run.save()
    assert set(engines.load(run.out).presets) == {"faithful", "balanced", "fast"}


@pytest.fixture(scope="module")
def whole(batches: list[Batch], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All iterations in one go."""
    run = run_at(tmp_path_factory.mktemp("whole"))
    for batch in batches:
        run.step(batch, TOTAL)
    return run


@pytest.fixture(scope="module")
def resumed(batches: list[Batch], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Half of the iterations, saved, and the other half by a new run."""
    folder = tmp_path_factory.mktemp("resumed")
    first = run_at(folder)
    for batch in batches[: TOTAL // 2]:
        first.step(batch, TOTAL)
    first.save()
    second = run_at(folder)
    for batch in batches[second.iteration :]:
        second.step(batch, TOTAL)
    return second


@pytest.mark.slow
def test_a_resumed_run_reaches_the_weights_of_one_in_one_go(whole: Run, resumed: Run) -> None:
    assert (whole.iteration, resumed.iteration) == (TOTAL, TOTAL)
    assert differing(whole.trainee.state_dict(), resumed.trainee.state_dict()) == []


@pytest.mark.slow
def test_a_resumed_run_reaches_the_average_of_one_in_one_go(whole: Run, resumed: Run) -> None:
    assert differing(whole.average, resumed.average) == []


@pytest.mark.slow
def test_a_resumed_run_reaches_the_optimizer_state_of_one_in_one_go(
    whole: Run, resumed: Run
) -> None:
    one, other = (run.optimizer.state_dict()["state"] for run in (whole, resumed))
    assert one.keys() == other.keys()
    assert [index for index in one if differing(one[index], other[index])] == []


@pytest.mark.slow
def test_the_loop_takes_every_iteration_and_saves_the_last(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (Phase(32, 1, previews=False, until=0.5), Phase(48, 1, previews=True, until=1.0))
    monkeypatch.setattr(train, "PHASES", small)
    run = run_at(tmp_path)
    train.train(run, photos, TOTAL, save_every_s=1e9)
    assert run.iteration == TOTAL
    assert json.loads((run.state / "progress.json").read_text()) == {"iteration": TOTAL}
    assert run_at(tmp_path).iteration == TOTAL


def test_a_finished_run_that_is_started_again_trains_no_further(
    photos: Path, tmp_path: Path
) -> None:
    run = run_at(tmp_path)
    run.iteration = TOTAL
    before = {name: value.clone() for name, value in run.trainee.state_dict().items()}
    train.train(run, photos, TOTAL, save_every_s=1e9)
    assert differing(run.trainee.state_dict(), before) == []


def test_a_run_can_begin_with_the_weights_of_a_model(batches: list[Batch], tmp_path: Path) -> None:
    first = run_at(tmp_path / "first")
    with torch.no_grad():
        for parameter in first.parameters.values():
            parameter.add_(torch.full_like(parameter, 0.125))
        first.average = {k: p.detach().clone() for k, p in first.parameters.items()}
    first.save()
    second = Run(tmp_path / "m", tmp_path / "s", PEAK, start_from=tmp_path / "first" / "model")
    for name, parameter in second.parameters.items():
        torch.testing.assert_close(parameter, first.parameters[name], rtol=1e-3, atol=1e-3)
    assert second.iteration == 0
