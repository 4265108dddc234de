from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines import guidance
from engines.params import RestoreParams
from engines.restoration import Inputs, Restoration, SeededNoise
from engines.restorer import Restorer
from engines.verify.official import resized
from engines.verify.pipeline import verify_main, verify_pipeline
from engines.verify.recorded import Case

Photo = Callable[..., Image.Image]
CALL: dict[str, Any] = {
    "prompt": ["bright photo"],
    "negative_prompt": ["blurry"],
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
}


class Recording(SeededNoise):
    """Seeded noise that remembers what it drew."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.drawn: list[Tensor] = []

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        self.drawn.append(super().draw(shape))
        return self.drawn[-1]


def write(folder: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    copies = {name: value.clone().contiguous() for name, value in tensors.items()}
    save_file(copies, folder / "tensors.safetensors")
    (folder / "case.json").write_text(json.dumps(info), encoding="utf-8")


def begin(restorer: Restorer, picture: Image.Image, noise: Recording) -> Restoration:
    params = RestoreParams(
        prompt="bright photo", negative_prompt="blurry", steps=2, guidance_scale=2.0
    )
    seen = restorer.networks.vision.pixels_of(picture)
    inputs = Inputs(vision=seen, pixels=resized(picture, picture.size))
    return restorer.start(inputs, params, noise)


@pytest.fixture
def recorded(tmp_path: Path, sdxl_like: Restorer, photo: Photo) -> Path:
    """A folder of one run of ours, in the layout of the official recordings."""
    picture, noise = photo((64, 64)), Recording(3)
    restoration = begin(sdxl_like, picture, noise)
    tensors = {"in.image0_uint8": torch.from_numpy(np.array(picture))}
    tensors["lq_latents"] = restoration.degraded
    tensors["init_latents"] = restoration.latents
    tensors["cond.prompt_embeds"] = restoration.condition.text[1:]
    steps, references, raw = [], [], []
    while not restoration.done:
        sdxl_like.step([restoration])
        assert restoration.trace is not None
        assert restoration.reference is not None
        steps.append(restoration.latents)
        references.append(restoration.reference)
        raw.append(restoration.trace.prediction)
    tensors["step.latents"] = torch.stack(steps)
    tensors["step.preview_latent"] = torch.stack(references)
    tensors["step.unet_raw"] = torch.stack(raw)
    tensors["out.latents"] = restoration.latents
    tensors["out.image"] = sdxl_like.decode(restoration).permute(0, 2, 3, 1)
    draws = {f"noise.{i:02}": drawn for i, drawn in enumerate(noise.drawn)}
    info = {
        "call": CALL,
        "case": {"images": [[64, 64]]},
        "noise": [{"name": name} for name in draws],
    }
    write(tmp_path / "pipeline" / "own", {**tensors, **draws}, info)
    return tmp_path / "pipeline"


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "own" / "tensors.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def edit_info(folder: Path, **changes: Any) -> None:
    path = folder / "own" / "case.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**info, **changes}), encoding="utf-8")


def replay(folder: Path, restorer: Restorer) -> Case:
    (case,) = verify_pipeline(folder, restorer)
    return case


def failed(case: Case) -> set[str]:
    return {compared.field for compared in case.compared if not compared.ok}


def test_a_run_that_was_recorded_is_replayed(recorded: Path, sdxl_like: Restorer) -> None:
    case = replay(recorded, sdxl_like)
    assert case.ok, (failed(case), case.untouched())
    assert {compared.field for compared in case.compared} == {
        "cond.prompt_embeds",
        "lq_latents",
        "init_latents",
        "step.latents",
        "step.preview_latent",
        "step.unet_raw",
        "out.latents",
        "out.image",
    }


@pytest.mark.parametrize(
    "name", ["cond.prompt_embeds", "step.latents", "step.unet_raw", "out.latents", "out.image"]
)
def test_a_wrong_number_fails_the_case_at_its_field(
    recorded: Path, sdxl_like: Restorer, name: str
) -> None:
    edit(recorded, lambda state: state[name].view(-1)[3:4].add_(0.5))
    case = replay(recorded, sdxl_like)
    assert not case.ok
    assert failed(case) == {name}


def test_other_noise_gives_other_latents(recorded: Path, sdxl_like: Restorer) -> None:
    edit(recorded, lambda state: state["noise.02"].neg_())
    assert "out.latents" in failed(replay(recorded, sdxl_like))


def test_a_step_quantity_that_is_not_known_fails(recorded: Path, sdxl_like: Restorer) -> None:
    edit(recorded, lambda state: state.update({"step.watermark": torch.zeros(2, 1)}))
    assert failed(replay(recorded, sdxl_like)) == {"step.watermark"}


def test_a_tensor_without_a_replay_fails(recorded: Path, sdxl_like: Restorer) -> None:
    edit(recorded, lambda state: state.update({"out.watermark": torch.zeros(2, 1)}))
    case = replay(recorded, sdxl_like)
    assert not case.ok
    assert case.untouched() == ["out.watermark"]


def test_an_empty_recording_is_left_out_with_a_note(recorded: Path, sdxl_like: Restorer) -> None:
    edit(recorded, lambda state: state.update({"step.previews": torch.zeros(0, 1)}))
    case = replay(recorded, sdxl_like)
    assert case.ok
    assert case.notes == ["step.previews: recorded empty"]


def test_a_run_that_broke_off_is_compared_as_far_as_it_got(
    recorded: Path, sdxl_like: Restorer
) -> None:
    def first_step(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith("step.")]:
            state[name] = state[name][:1].clone()
        state["out.latents"] = state["step.latents"][0].clone()
        del state["out.image"]

    edit(recorded, first_step)
    edit_info(recorded, error={"type": "RuntimeError", "steps_completed": 1})
    case = replay(recorded, sdxl_like)
    assert case.ok, (failed(case), case.untouched())
    assert case.differs == "officially RuntimeError; ours restores"
    assert "our result is finite" in {compared.field for compared in case.compared}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"control_guidance_end": 0.0}, "creative start of 0"),
        ({"control_guidance_start": 0.5}, "skipped first step"),
        ({"multistep_restore": True}, "second-order step"),
        ({"prompt": None}, "a prompt is required"),
        ({"guidance_scale": 1.0, "adastep_restore": True}, "adaptive restoration needs guidance"),
    ],
)
def test_where_the_official_code_raises_the_reason_ours_does_not_is_given(
    recorded: Path, sdxl_like: Restorer, change: dict[str, Any], reason: str
) -> None:
    def keep_inputs(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if not name.startswith(("in.", "noise."))]:
            del state[name]

    edit(recorded, keep_inputs)
    edit_info(recorded, call={**CALL, **change}, error={"type": "TypeError", "steps_completed": 0})
    case = replay(recorded, sdxl_like)
    assert case.ok, (failed(case), case.untouched())
    assert reason in (case.differs or "")


def test_a_size_that_only_fails_officially_is_restored_by_padding(
    tmp_path: Path, sdxl_like: Restorer, photo: Photo
) -> None:
    picture = torch.from_numpy(np.array(photo((64, 88))))
    info = {
        "call": CALL,
        "case": {"images": [[64, 88]]},
        "noise": [],
        "error": {"type": "RuntimeError", "steps_completed": 0},
    }
    write(tmp_path / "pipeline" / "odd", {"in.image0_uint8": picture}, info)
    case = replay(tmp_path / "pipeline", sdxl_like)
    assert case.ok
    assert "pads by mirroring" in (case.differs or "")
    assert case.notes[0].startswith("refused at this very size: work height is 88 px")


def test_a_run_that_ours_alone_refuses_fails_and_stops_no_other(
    recorded: Path, sdxl_like: Restorer
) -> None:
    shutil.copytree(recorded / "own", recorded / "second")
    edit_info(recorded, call={**CALL, "height": 40})
    refused, right = verify_pipeline(recorded, sdxl_like)
    assert failed(refused) == {"replay"}
    assert "ValueError: recorded noise is" in refused.compared[-1].message
    assert right.ok


def test_the_switch_for_a_whole_batch_is_ours_again_afterwards(
    recorded: Path, sdxl_like: Restorer
) -> None:
    cases = verify_pipeline(recorded, sdxl_like)
    assert next(cases).ok
    assert list(cases) == []
    assert sdxl_like.loop.gate is guidance.runs_aggregator


def test_no_recorded_command_line_run_is_no_case(tmp_path: Path, sdxl_like: Restorer) -> None:
    assert list(verify_main(tmp_path, sdxl_like)) == []


@pytest.fixture
def one_golden_case(golden_dir: Path, tmp_path: Path) -> Path:
    """One official run with the model that made it, the run in a copy that may be spoiled."""
    folder = tmp_path / "golden"
    (folder / "pipeline").mkdir(parents=True)
    (folder / "models").symlink_to(golden_dir / "models")
    rows = "shared_rows.safetensors"
    (folder / "pipeline" / rows).symlink_to(golden_dir / "pipeline" / rows)
    copy = folder / "pipeline" / "own"
    shutil.copytree(golden_dir / "pipeline" / "steps4_cfg7", copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("spoiled", [False, True])
def test_one_wrong_number_in_an_official_run_fails_the_command(
    one_golden_case: Path, spoiled: bool
) -> None:
    if spoiled:
        edit(
            one_golden_case / "pipeline", lambda state: state["out.latents"].view(-1)[7:8].add_(0.1)
        )
    command = [sys.executable, "-m", "engines.verify", str(one_golden_case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == int(spoiled), done.stderr
    assert f"1 cases, {int(spoiled)} failed" in done.stdout
    assert ("FAIL out.latents: rel" in done.stdout) is spoiled
