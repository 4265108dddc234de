import pytest
import torch
from torch import Tensor

from engines.parameterization import Prediction, predicted_x0
from engines.schedule import add_noise

SHARES = [0.004, 0.5, 0.999]


def normal(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, 3, 4, 4), generator=generator, dtype=torch.float64)


X0, NOISE, REFERENCE = normal(0), normal(1), normal(2)


def target(kind: Prediction, alpha_bar: Tensor) -> Tensor:
    """What a perfect network of this kind returns."""
    return {
        Prediction.EPSILON: NOISE,
        Prediction.V: alpha_bar.sqrt() * NOISE - (1 - alpha_bar).sqrt() * X0,
        Prediction.SAMPLE: X0,
        Prediction.RESIDUAL: X0 - REFERENCE,
    }[kind]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", list(Prediction))
def test_a_perfect_prediction_of_every_kind_gives_x0_back(kind: Prediction, share: float) -> None:
    alpha_bar = torch.tensor(share, dtype=torch.float64)
    noisy = add_noise(X0, NOISE, alpha_bar)
    found = predicted_x0(kind, target(kind, alpha_bar), noisy, alpha_bar, REFERENCE)
    torch.testing.assert_close(found, X0)


@pytest.mark.parametrize("kind", list(Prediction))
def test_every_row_is_converted_at_its_own_signal_share(kind: Prediction) -> None:
    alpha_bar = torch.tensor([0.1, 0.9], dtype=torch.float64).view(-1, 1, 1, 1)
    noisy = add_noise(X0, NOISE, alpha_bar)
    found = predicted_x0(kind, target(kind, alpha_bar), noisy, alpha_bar, REFERENCE)
    torch.testing.assert_close(found, X0)


@pytest.mark.parametrize("kind", [Prediction.EPSILON, Prediction.V, Prediction.SAMPLE])
def test_only_a_residual_looks_at_the_reference(kind: Prediction) -> None:
    given = (NOISE, X0, torch.tensor(0.3))
    one, other = (predicted_x0(kind, *given, reference) for reference in (REFERENCE, -REFERENCE))
    assert torch.equal(one, other)


def test_a_residual_of_nothing_is_the_reference() -> None:
    zeros = torch.zeros_like(X0)
    found = predicted_x0(Prediction.RESIDUAL, zeros, NOISE, torch.tensor(0.3), REFERENCE)
    assert torch.equal(found, REFERENCE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("epsilon", Prediction.EPSILON),
        ("v_prediction", Prediction.V),
        ("sample", Prediction.SAMPLE),
        ("residual", Prediction.RESIDUAL),
    ],
)
def test_kinds_go_by_the_names_that_scheduler_files_use(name: str, kind: Prediction) -> None:
    assert Prediction(name) is kind


def test_an_unknown_kind_is_refused_by_its_value() -> None:
    with pytest.raises(ValueError, match="'flow'"):
        Prediction("flow")
