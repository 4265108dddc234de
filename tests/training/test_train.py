import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import engines
from tests.training.conftest import SIDE_PX, MakeRun
from training.stages import TINY
from training.train import VALIDATION_EVERY, Places, native_precision, split, train

POLISH = replace(
    next(stage for stage in TINY.stages if stage.name == "polish"), iterations=2, crop_px=SIDE_PX
)


def test_photographs_to_validate_on_are_never_trained_on(tmp_path: Path) -> None:
    for index in range(2 * VALIDATION_EVERY + 6):
        (tmp_path / f"{index:02}.png").touch()
    trained_on, validated_on = split(tmp_path)
    assert sorted(validated_on) == ["06.png", "18.png"]
    assert not trained_on & validated_on
    assert len(trained_on) == 28


@pytest.mark.slow
def test_every_stage_is_trained_told_of_and_saved(
    make_run: MakeRun, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(POLISH, replace(POLISH, name="again", prepare=None))
    train(run, Places(photos, run.folder.path, save_every_s=1e9))
    assert run.done
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in told] == [
        ["polish", "2/2", "validation"],
        ["again", "2/2", "validation"],
    ]
    again = make_run(POLISH, replace(POLISH, name="again", prepare=None))
    again.begin()
    assert again.done


@pytest.mark.slow
def test_a_run_that_saves_all_the_time_can_be_loaded_at_any_time(
    make_run: MakeRun, photos: Path, tmp_path: Path
) -> None:
    run = make_run(POLISH)
    train(run, Places(photos, run.folder.path, save_every_s=0.0))
    assert engines.load(run.folder.path).name


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [({"avx2": True}, "no"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_a_cpu_trains_in_bfloat16_only_where_it_can_compute_in_it(
    instructions: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert native_precision(cpu=True) == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_trains_the_whole_tiny_recipe_in_two_processes(
    photos: Path, tmp_path: Path
) -> None:
    """As on two GPUs: gradients are averaged between processes, and one of them writes."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "training.train", "--preset", "tiny", "--cpu", "--mixed-precision", "no"),
        *("--photos", str(photos), "--out", str(tmp_path / "model")),
        *("--state", str(tmp_path / "state"), "--log-dir", str(tmp_path / "logs")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told = [line.split()[0] for line in done.stdout.splitlines() if "validation" in line]
    assert told == [stage.name for stage in TINY.stages]
    assert engines.load(tmp_path / "model").name
    assert any((tmp_path / "logs").rglob("events.out.tfevents*"))
