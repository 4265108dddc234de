from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import engines
from engines import loader
from engines.errors import EngineError, WeightsError
from engines.loader import load
from engines.memory import EXACT, GIB, OPTIONS, ModelSizes, Work, measure, need
from engines.models.lora import lora_delta, lora_targets
from engines.parameterization import Prediction
from engines.presets import PRESETS
from engines.restoration import Restoration
from engines.restorer import Restorer
from engines.sizes import PUBLISHED_MAX_SIDE_PX, PUBLISHED_MIN_SIDE_PX
from engines.step import BATCH_LIMIT
from engines.weights import fingerprint, load_lora
from tests.engines.backends.test_tensorrt import latents
from training.nano import RESTORER


@pytest.fixture
def own_copy(sdxl_like_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sdxl_like_folder, tmp_path / "model"))


def test_a_name_that_is_no_model_and_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="model is 'no-such-model', neither a folder nor one of"):
        load("no-such-model")
    with pytest.raises(WeightsError, match="neither a folder"):
        load(tmp_path / "missing")


def test_an_empty_folder_is_refused_by_the_first_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        load(tmp_path)


def test_a_loaded_model_says_what_it_is(nano_like: Restorer, nano_like_folder: Path) -> None:
    assert nano_like.name == str(nano_like_folder)
    assert nano_like.fingerprint == fingerprint(nano_like_folder)
    assert nano_like.settings.prediction is Prediction.RESIDUAL
    assert isinstance(nano_like, engines.Restorer)


def test_the_folder_brings_its_own_presets_and_sides(
    nano_like: Restorer, sdxl_like: Restorer
) -> None:
    assert nano_like.presets == RESTORER["presets"]
    assert nano_like.presets != PRESETS
    limits = nano_like.settings.limits
    assert (limits.min_side_px, limits.max_side_px) == (None, None)
    assert sdxl_like.presets == PRESETS
    limits = sdxl_like.settings.limits
    assert (limits.min_side_px, limits.max_side_px) == (32, 128)


def test_a_folder_of_the_official_layout_alone_has_the_published_settings(own_copy: Path) -> None:
    (own_copy / "instantir/restorer.json").unlink()
    path = own_copy / "sdxl/scheduler/scheduler_config.json"
    scheduler = json.loads(path.read_text(encoding="utf-8"))
    del scheduler["prediction_type"]
    path.write_text(json.dumps(scheduler), encoding="utf-8")
    restorer = load(own_copy)
    assert restorer.settings.prediction is Prediction.EPSILON
    assert restorer.presets == PRESETS
    assert restorer.settings.limits.min_side_px == PUBLISHED_MIN_SIDE_PX
    assert restorer.settings.limits.max_side_px == PUBLISHED_MAX_SIDE_PX


def test_the_previewer_is_the_main_network_with_the_lora_added(
    either: Restorer, nano_like: Restorer, nano_like_folder: Path, sdxl_like_folder: Path
) -> None:
    lora = load_lora(nano_like_folder if either is nano_like else sdxl_like_folder)
    main, previewer = either.networks.denoiser.state_dict(), either.previewer.state_dict()
    adapted = {f"{name}.weight" for name in lora_targets(either.previewer.named_modules())}
    changed = {key for key in main if not torch.equal(main[key], previewer[key])}
    assert changed == adapted
    for name, pair in lora.items():
        key = f"{name}.weight"
        torch.testing.assert_close(previewer[key], main[key] + lora_delta(pair))


def test_loaded_networks_neither_train_nor_keep_gradients(either: Restorer) -> None:
    for network in (*either.networks.modules(), either.previewer):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_lora_that_does_not_fit_is_refused(own_copy: Path, nano_like_folder: Path) -> None:
    name = "instantir/previewer_lora_weights.safetensors"
    shutil.copyfile(nano_like_folder / name, own_copy / name)
    with pytest.raises(WeightsError, match="LoRA"):
        load(own_copy)


def test_a_beta_schedule_that_is_not_known_is_refused(own_copy: Path) -> None:
    path = own_copy / "sdxl/scheduler/scheduler_config.json"
    scheduler = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**scheduler, "beta_schedule": "linear"}), encoding="utf-8")
    with pytest.raises(ValueError, match="beta_schedule is 'linear'"):
        load(own_copy)


def test_a_model_in_another_precision_restores_too(
    nano_like_folder: Path, nano_like: Restorer, photo: Callable[..., Image.Image]
) -> None:
    half = load(nano_like_folder, dtype=torch.bfloat16)
    params = half.params("fast", {"steps": 2, "guidance_scale": 2.0, "adaptive": True})
    latents = []
    for restorer in (half, nano_like):
        restoration = restorer.begin(photo((64, 64)), params)
        assert isinstance(restoration, Restoration)
        while not restoration.done:
            restorer.step([restoration])
        assert restoration.latents.dtype == restorer.dtype
        assert restoration.frame.source is not None
        assert restoration.frame.source.dtype is torch.float32  # of pixels, whatever the networks
        assert restorer.finish(restoration).size == (64, 64)
        latents.append(restoration.latents.float())
    distance = (latents[0] - latents[1]).norm() / latents[1].norm()
    assert 0 < float(distance) < 0.1


def test_a_codec_that_overflows_in_half_precision_is_kept_in_float32(
    sdxl_like_folder: Path, photo: Callable[..., Image.Image]
) -> None:
    half = load(sdxl_like_folder, dtype=torch.float16)
    assert {p.dtype for p in half.networks.codec.parameters()} == {torch.float32}
    assert {p.dtype for p in half.networks.denoiser.parameters()} == {torch.float16}
    restoration = half.begin(photo((64, 64)), half.params("fast", {"steps": 1}))
    half.step([restoration])
    assert half.finish(restoration).size == (64, 64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_processor_is_taken_in_float32(nano_like_folder: Path) -> None:
    restorer = load(nano_like_folder, device="auto")
    assert (restorer.device.type, restorer.dtype) == ("cpu", torch.float32)


def test_a_gpu_named_by_its_number_becomes_the_current_one(
    nano_like_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(place: torch.device) -> None:
        raise RuntimeError(f"current is {place}")

    monkeypatch.setattr(torch.cuda, "set_device", chosen)
    with pytest.raises(RuntimeError, match="current is cuda:1"):
        load(nano_like_folder, device="cuda:1")


def test_a_backend_that_is_not_known_is_refused(nano_like_folder: Path) -> None:
    with pytest.raises(
        EngineError, match="backend is 'tpu', known: auto, torch, openvino, tensorrt"
    ):
        load(nano_like_folder, backend="tpu")


def test_a_compiled_backend_is_refused_for_what_it_cannot_run(nano_like_folder: Path) -> None:
    with pytest.raises(EngineError, match=r"it runs on cpu torch\.float32, not cpu torch\.float64"):
        load(nano_like_folder, backend="openvino", dtype=torch.float64)
    assert load(nano_like_folder, backend="auto", dtype=torch.float64).backend.startswith("torch")


def test_where_the_libraries_are_missing_torch_runs_the_networks(
    nano_like_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.backends.openvino.find_spec", lambda _: None)
    assert load(nano_like_folder, backend="auto").backend.startswith("torch")
    with pytest.raises(EngineError, match="install the packages openvino and onnx"):
        load(nano_like_folder, backend="openvino")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_engines_are_kept_in_the_folder_that_is_named(
    nano_like_folder: Path, tmp_path: Path
) -> None:
    restorer = load(nano_like_folder, backend="auto", cache=tmp_path / "new" / "engines")
    assert restorer.backend.startswith("openvino")
    assert list((tmp_path / "new" / "engines").glob("unet-*/model.blob"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_that_cannot_be_written_keeps_nothing_and_is_no_fault(
    nano_like_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    restorer = load(nano_like_folder, backend="auto", cache=tmp_path / "file" / "engines")
    assert restorer.backend.startswith("openvino")
    assert "engines are not kept" in caplog.text


@pytest.mark.parametrize("memory", EXACT)
def test_a_plan_of_memory_that_is_exact_restores_the_same_bit_for_bit(
    either: Restorer, photo: Callable[..., Image.Image], memory: str
) -> None:
    own = load(either.name, memory=memory)
    (expected,), (got,) = (latents(restorer, photo, 1) for restorer in (either, own))
    assert torch.equal(got, expected)


def test_matrices_in_one_byte_restore_nearly_the_same(
    either: Restorer, photo: Callable[..., Image.Image]
) -> None:
    own = load(either.name, memory="fp8")
    (expected,), (got,) = (latents(restorer, photo, 1) for restorer in (either, own))
    assert 0 < (got - expected).norm() < 0.1 * expected.norm()


def test_a_codec_in_tiles_is_for_the_plans_from_tiles_on(sdxl_like_folder: Path) -> None:
    tilings = {
        option: load(sdxl_like_folder, memory=option).networks.codec.tiling for option in OPTIONS
    }
    assert {option for option, tiling in tilings.items() if tiling is not None} == {"tiles", "fp8"}


def test_an_unknown_plan_of_memory_is_refused() -> None:
    with pytest.raises(EngineError, match=r"memory is 'int4', known: auto, resident, begin, diff"):
        load("nano", memory="int4")


@pytest.mark.parametrize("memory", ["difference", "tiles", "fp8"])
def test_a_compiled_backend_cannot_share_the_weights_of_the_previewer(memory: str) -> None:
    with pytest.raises(EngineError, match=f"'{memory}': it runs with the backend torch, not open"):
        load("nano", memory=memory, backend="openvino")


def test_where_the_previewer_shares_its_weights_auto_is_torch(sdxl_like_folder: Path) -> None:
    own = load(sdxl_like_folder, memory="difference", backend="auto")
    assert own.backend.startswith("torch ")
    assert own.backend.endswith(", LoRA beside")


def test_the_backend_is_named_with_all_that_changes_its_results(sdxl_like_folder: Path) -> None:
    names = {load(sdxl_like_folder, memory=option).backend for option in ("difference", "tiles")}
    own = load(sdxl_like_folder, memory="fp8").backend
    assert len(names | {own}) == 3
    assert own.endswith(", weights in one byte, LoRA beside, codec in tiles")


@pytest.fixture(scope="module")
def sizes(sdxl_like_folder: Path) -> ModelSizes:
    return measure(sdxl_like_folder)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_first_plan_that_fits_a_gpu_is_taken(
    sizes: ModelSizes, sdxl_like_folder: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(loader, "measure", lambda *_: sizes)
    one, two = (need(sizes, option, batch, Work()).total for batch in (1, 2))
    assert loader._fitting(sdxl_like_folder, one, list(OPTIONS)) == (option, 1)
    assert loader._fitting(sdxl_like_folder, two, (option,)) == (option, 2)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("option", OPTIONS)
def test_results_are_not_changed_in_silence_unless_that_was_asked_for(
    sizes: ModelSizes,
    sdxl_like_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    option: str,
    asked: bool,
) -> None:
    monkeypatch.setattr(loader, "measure", lambda *_: sizes)
    free = need(sizes, option, 1, Work()).total
    monkeypatch.setattr("engines.loader.Cuda.free_bytes", lambda _: free)
    memory, place = option if asked else "auto", torch.device("cuda")
    assert loader._planned(memory, "auto", sdxl_like_folder, place) == (option, 1)
    said = f"memory is '{option}' for want of room: results differ a little"
    assert (said in caplog.text) == (option not in EXACT and not asked)


@pytest.mark.parametrize(("backend", "plan"), [("auto", "fp8"), ("tensorrt", "begin")])
def test_on_a_small_gpu_auto_is_the_last_plan_that_the_backend_has(
    sdxl_like_folder: Path, monkeypatch: pytest.MonkeyPatch, backend: str, plan: str
) -> None:
    monkeypatch.setattr("engines.loader.Cuda.free_bytes", lambda _: GIB // 2)
    planned = loader._planned("auto", backend, sdxl_like_folder, torch.device("cuda"))
    assert planned == (plan, 1)


def test_where_no_plan_fits_the_last_is_tried_and_what_it_needs_is_said(
    sdxl_like_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert loader._fitting(sdxl_like_folder, GIB // 2, list(OPTIONS)) == ("fp8", 1)
    assert "1024x1024 px needs 1." in caplog.text
    assert "0.50 GB are free" in caplog.text


def test_outside_of_a_gpu_everything_is_resident(sdxl_like: Restorer) -> None:
    assert "beside" not in sdxl_like.backend
    assert sdxl_like.loop.batch_limit == BATCH_LIMIT
