from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engines.verify.recorded import Case, RecordedNoise, Tolerance, compare, component, run

INF = float("inf")
ONE_PERCENT = Tolerance(1e-2)


def case_of(**tensors: Tensor) -> Case:
    return Case("case", {}, tensors)


@pytest.mark.parametrize(
    ("tolerance", "ok"),
    [
        (Tolerance(0.11), True),
        (Tolerance(0.09), False),
        (Tolerance(None, 0.51), True),
        (Tolerance(None, 0.49), False),
        (Tolerance(0.11, 0.49), False),
        (Tolerance(0.09, 0.51), False),
        (Tolerance(0.11, 0.51), True),
    ],
)
def test_both_measures_must_hold_where_both_are_given(tolerance: Tolerance, ok: bool) -> None:
    compared = compare("x", torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]), tolerance)
    assert compared.relative == pytest.approx(0.1)
    assert compared.absolute == pytest.approx(0.5)
    assert compared.ok is ok


def test_errors_are_measured_in_double_precision_whatever_was_stored() -> None:
    ours = torch.tensor([1000.0, 0.0001])
    compared = compare("x", ours, ours.half(), Tolerance(1e-6))
    assert 0 < compared.absolute < 1e-6


@pytest.mark.parametrize(
    ("ours", "ok"),
    [
        ([INF, 1.0], True),
        ([-INF, 1.0], False),
        ([5.0, 1.0], False),
        ([INF, INF], False),
        ([math.nan, 1.0], False),
        ([INF, math.nan], False),
    ],
)
def test_an_infinity_is_equal_to_the_same_infinity_alone(ours: list[float], ok: bool) -> None:
    compared = compare("x", torch.tensor(ours), torch.tensor([INF, 1.0]), Tolerance(1e-2, 1e-2))
    assert compared.ok is ok


def test_a_recorded_nan_is_never_met() -> None:
    nan = torch.tensor([math.nan])
    assert not compare("x", nan, nan, Tolerance(1e-2)).ok


@pytest.mark.parametrize(("off", "ok"), [(0, True), (1, False)])
def test_integers_must_be_equal_whatever_the_tolerance(off: int, ok: bool) -> None:
    theirs = torch.tensor([7, 250], dtype=torch.uint8)
    compared = compare("x", theirs.to(torch.int64) - off, theirs, Tolerance(10.0, 10.0))
    assert (compared.ok, compared.absolute) == (ok, float(off))
    assert compared.badness == (0.0 if ok else INF)


def test_another_shape_fails_and_says_so() -> None:
    compared = compare("x", torch.zeros(2, 1), torch.zeros(2), Tolerance(None))
    assert not compared.ok
    assert compared.message == "shape (2, 1), recorded (2,)"
    assert compared.absolute == INF


def test_zeros_equal_zeros() -> None:
    compared = compare("x", torch.zeros(3), torch.zeros(3), Tolerance(1e-9, 1e-9))
    assert (compared.ok, compared.relative, compared.absolute) == (True, 0.0, 0.0)


def test_badness_is_the_larger_share_of_a_tolerance() -> None:
    compared = compare("x", torch.tensor([4.5]), torch.tensor([4.0]), Tolerance(0.5, 2.0))
    assert compared.badness == pytest.approx(0.25)
    assert str(compared.tolerance) == "rel 5e-01 abs 2e+00"


def test_a_tensor_that_is_neither_used_nor_compared_fails_the_case() -> None:
    case = case_of(seen=torch.ones(2), used=torch.ones(2), left=torch.ones(2))
    case.compare("seen", torch.ones(2), ONE_PERCENT)
    case.given("used")
    assert case.untouched() == ["left"]
    assert not case.ok
    case.compare("left", torch.ones(2), ONE_PERCENT)
    assert case.ok


def test_a_case_that_compared_nothing_fails_unless_it_differs_on_purpose() -> None:
    case = case_of(used=torch.ones(2))
    case.given("used")
    assert not case.ok
    case.differs = "officially it raises"
    assert case.ok


def test_one_failed_comparison_fails_a_case_even_where_it_differs() -> None:
    case = case_of(a=torch.ones(2), b=torch.ones(2))
    case.differs = "officially it raises"
    case.compare("a", torch.ones(2), ONE_PERCENT)
    case.compare("b", torch.zeros(2), ONE_PERCENT)
    assert [compared.ok for compared in case.compared] == [True, False]
    assert not case.ok


def test_comparing_what_was_not_recorded_is_no_comparison() -> None:
    case = case_of()
    case.compare("nothing", torch.ones(2), ONE_PERCENT)
    assert case.compared == []
    assert not case.ok


def test_a_tensor_left_out_leaves_a_note() -> None:
    case = case_of(empty=torch.zeros(0))
    case.skip("empty", "recorded empty")
    assert case.untouched() == []
    assert case.notes == ["empty: recorded empty"]


def test_inputs_stored_in_half_precision_come_as_float32() -> None:
    case = case_of(half=torch.ones(1).half(), bytes=torch.ones(1, dtype=torch.uint8))
    assert case.given("half").dtype == torch.float32
    assert case.given("bytes").dtype == torch.uint8


def test_values_that_must_be_equal_say_both_when_they_are_not() -> None:
    case = case_of()
    case.check("size", [64, 64], [64, 64])
    assert case.ok
    case.check("size", [64, 64], [64, 96])
    assert not case.ok
    assert case.compared[-1].message == "ours [64, 64], recorded [64, 96]"


def test_noise_comes_in_the_recorded_order_one_row_of_the_batch() -> None:
    draws = [torch.full((2, 3), 1.0).half(), torch.full((2, 4), 2.0)]
    draws[0][1] = 5.0
    noise = RecordedNoise(draws, 1)
    first, second = noise.draw((1, 3)), noise.draw((1, 4))
    assert first.tolist() == [[5.0] * 3]
    assert first.dtype == torch.float32
    assert second.tolist() == [[2.0] * 4]


def test_noise_of_another_shape_than_recorded_is_refused() -> None:
    noise = RecordedNoise([torch.zeros(1, 3)], 0)
    with pytest.raises(ValueError, match=r"recorded noise is \(1, 3\), asked for \(1, 4\)"):
        noise.draw((1, 4))


def test_after_the_recording_noise_is_the_same_every_time() -> None:
    first, again, other = (RecordedNoise([], row).draw((1, 8)) for row in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_that_many_runs_share_are_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline" / "one"
    folder.mkdir(parents=True)
    info = {"shared_rows": {"cond.text": {"rows": ["b", "a"], "shape": [2, 1, 2]}}}
    (folder / "case.json").write_text(json.dumps(info), encoding="utf-8")
    save_file({"own": torch.zeros(1)}, folder / "tensors.safetensors")
    rows = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    save_file(rows, folder.parent / "shared_rows.safetensors")
    case = run(folder)
    assert case.name == "pipeline/one"
    assert set(case.tensors) == {"own", "cond.text"}
    assert case.tensors["cond.text"].tolist() == [[[3.0, 4.0]], [[1.0, 2.0]]]


def test_a_run_without_tensors_is_a_description_alone(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text('{"error": {"type": "ValueError"}}', encoding="utf-8")
    case = run(tmp_path)
    assert case.tensors == {}
    assert case.info["error"]["type"] == "ValueError"


def test_a_component_knows_its_folder(tmp_path: Path) -> None:
    save_file({"in": torch.zeros(1)}, tmp_path / "vae.safetensors")
    (tmp_path / "vae.json").write_text('{"kind": "x"}', encoding="utf-8")
    case = component(tmp_path, "vae")
    assert (case.name, case.info) == ("components/vae", {"kind": "x", "folder": str(tmp_path)})
    assert list(case.tensors) == ["in"]
