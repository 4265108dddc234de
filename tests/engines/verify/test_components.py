from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, DDPMSchedulerOutput
from safetensors.torch import save_file
from torch import Tensor

from engines.restorer import Restorer
from engines.sizes import official_work_size
from engines.verify.components import REPLAYS, verify_components
from engines.verify.recorded import Case

Make = Callable[..., Tensor]
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "clip_sample": False,
}


def record(folder: Path, name: str, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    copies = {key: value.clone().contiguous() for key, value in tensors.items()}
    save_file(copies, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(info), encoding="utf-8")


def replay(folder: Path, restorer: Restorer) -> Case:
    (case,) = verify_components(folder, restorer)
    return case


def failed(case: Case) -> list[str]:
    return [compared.field for compared in case.compared if not compared.ok]


def test_a_component_of_an_unknown_kind_fails(tmp_path: Path, sdxl_like: Restorer) -> None:
    record(tmp_path, "watermark_8x8", {"out": torch.zeros(1)}, {})
    case = replay(tmp_path, sdxl_like)
    assert not case.ok
    assert case.notes == ["no replay for components of kind 'watermark'"]


def test_an_empty_folder_has_no_cases(tmp_path: Path, sdxl_like: Restorer) -> None:
    assert list(verify_components(tmp_path, sdxl_like)) == []


@pytest.fixture
def resampler(sdxl_like: Restorer, random_tensor: Make) -> dict[str, Tensor]:
    features = random_tensor(2, 17, 16)
    with torch.inference_mode():
        return {
            "in": features,
            "out_lora_off": sdxl_like.networks.denoiser.resampler(features),
            "out_lora_on": sdxl_like.previewer.resampler(features),
        }


def test_a_right_recording_passes(
    tmp_path: Path, sdxl_like: Restorer, resampler: dict[str, Tensor]
) -> None:
    record(tmp_path, "resampler", resampler, {})
    case = replay(tmp_path, sdxl_like)
    assert case.ok
    assert [compared.field for compared in case.compared] == ["out_lora_off", "out_lora_on"]


def test_a_wrong_number_fails_its_field_alone(
    tmp_path: Path, sdxl_like: Restorer, resampler: dict[str, Tensor]
) -> None:
    wrong = resampler["out_lora_on"].clone()
    wrong[0, 0, 0] += 0.01
    record(tmp_path, "resampler", {**resampler, "out_lora_on": wrong}, {})
    case = replay(tmp_path, sdxl_like)
    assert not case.ok
    assert failed(case) == ["out_lora_on"]


def test_the_previewers_outputs_are_not_those_of_the_main_network(
    tmp_path: Path, sdxl_like: Restorer, resampler: dict[str, Tensor]
) -> None:
    same = {**resampler, "out_lora_on": resampler["out_lora_off"]}
    record(tmp_path, "resampler", same, {})
    assert failed(replay(tmp_path, sdxl_like)) == ["out_lora_on"]


def test_a_recorded_tensor_that_nobody_replays_fails(
    tmp_path: Path, sdxl_like: Restorer, resampler: dict[str, Tensor]
) -> None:
    record(tmp_path, "resampler", {**resampler, "out_other": torch.zeros(1)}, {})
    case = replay(tmp_path, sdxl_like)
    assert not case.ok
    assert case.untouched() == ["out_other"]


def test_the_autoencoder_is_compared_with_that_of_the_library(
    tmp_path: Path, sdxl_like: Restorer, random_tensor: Make
) -> None:
    vae: Any = sdxl_like.networks.codec.get_submodule("vae")
    image = torch.randint(0, 256, (16, 24, 3), dtype=torch.uint8)
    pixels = image.permute(2, 0, 1)[None].float() / 255 * 2 - 1
    noise, latents = random_tensor(1, 4, 4, 6), random_tensor(1, 4, 4, 6)
    with torch.inference_mode():
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(latents / 0.13025).sample
    tensors = {
        "uint8": image,
        "pixels": pixels,
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "noise": noise,
        "sample_scaled": (posterior.mean + posterior.std * noise) * 0.13025,
        "dec_in": latents,
        "dec_out": decoded,
        "dec_image_np": (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1),
    }
    record(tmp_path, "vae", tensors, {})
    case = replay(tmp_path, sdxl_like)
    assert case.ok, failed(case)
    assert len(case.compared) == 6


@pytest.fixture
def schedulers(random_tensor: Make) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the library's scheduler does with given numbers."""
    scheduler: Any = DDPMScheduler(**SCHEDULER)
    sample, output, noise = (random_tensor(2, 4, 4, 4) for _ in range(3))
    tensors: dict[str, Tensor] = {
        "alphas_cumprod": scheduler.alphas_cumprod,
        "sample": sample,
        "model_output": output,
        "variance_noise": noise,
        "add_noise.t": torch.tensor([900, 20]),
    }
    tensors["add_noise.out"] = scheduler.add_noise(sample, noise, tensors["add_noise.t"])
    custom, listed = [880, 433, 12], {}
    spacings: dict[str, dict[str, Any]] = {
        "custom": {"timesteps": custom},
        "n4": {"num_inference_steps": 4},
        "n7": {"num_inference_steps": 7},
    }
    for name, how in spacings.items():
        scheduler.set_timesteps(**how)
        steps = scheduler.timesteps.tolist()
        if name != "custom":
            listed[name[1:]] = steps
        for step in (steps[0], steps[-1]):
            with pytest.MonkeyPatch.context() as patch:
                module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
                patch.setattr(module, lambda *_, **__: noise)
                done = scheduler.step(output, step, sample)
            assert isinstance(done, DDPMSchedulerOutput)
            assert done.pred_original_sample is not None
            tensors[f"ddpm.{name}.t{step}.prev"] = done.prev_sample
            tensors[f"ddpm.{name}.t{step}.x0"] = done.pred_original_sample
    info = {"scheduler_config": SCHEDULER, "timesteps": listed, "custom_timesteps": custom}
    return tensors, info


def test_the_schedule_and_the_sampler_are_compared_with_those_of_the_library(
    tmp_path: Path, sdxl_like: Restorer, schedulers: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    record(tmp_path, "schedulers", *schedulers)
    case = replay(tmp_path, sdxl_like)
    assert case.ok, failed(case)
    fields = {compared.field for compared in case.compared}
    assert {"timesteps.4", "timesteps.7", "ddpm.custom.t12.prev", "ddpm.n7.t1.x0"} <= fields


def test_a_schedule_of_other_time_steps_fails(
    tmp_path: Path, sdxl_like: Restorer, schedulers: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    tensors, info = schedulers
    info["timesteps"]["4"][0] += 1
    record(tmp_path, "schedulers", tensors, info)
    assert failed(replay(tmp_path, sdxl_like)) == ["timesteps.4"]


def test_work_sizes_and_refusals_are_compared(tmp_path: Path, sdxl_like: Restorer) -> None:
    work, out = official_work_size((200, 100), (128, 192))
    image = torch.randint(0, 256, (100, 200, 3), dtype=torch.uint8)
    table = [
        [[1000, 800], {}, [1024, 768], [1000, 800]],
        [[5000, 20], {}, "ERR ValueError", None],
        [[64, 64], {}, "ERR ValueError", None],
    ]
    info = {"table": table, "out_size": list(out)}
    record(
        tmp_path, "resize", {"in": image, "out_max192_min128": torch.zeros(*work[::-1], 3)}, info
    )
    case = replay(tmp_path, sdxl_like)
    assert not case.ok
    wrong = failed(case)
    assert [field for field in wrong if "64" in field] == ["resize (64, 64) {}"]
    assert not [field for field in wrong if "5000" in field]


def test_every_kind_of_the_official_recordings_has_a_replay(golden_dir: Path) -> None:
    names = {path.stem.partition("_")[0] for path in (golden_dir / "components").glob("*.json")}
    assert names == set(REPLAYS)
