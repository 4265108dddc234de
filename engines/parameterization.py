"""What the network predicts, settled in one place: every kind becomes an estimate of x0."""

from enum import StrEnum

from torch import Tensor


class Prediction(StrEnum):
    """Kinds of network output."""

    EPSILON = "epsilon"
    V = "v_prediction"
    SAMPLE = "sample"
    RESIDUAL = "residual"


def predicted_x0(
    kind: Prediction, prediction: Tensor, noisy: Tensor, alpha_bar: Tensor, reference: Tensor
) -> Tensor:
    """Estimate of x0 (B, C, h, w) at signal share alpha_bar (broadcastable).

    `reference` is what a RESIDUAL adds to: the latents that the network was conditioned on.
    """
    match kind:
        case Prediction.EPSILON:
            return (noisy - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
        case Prediction.V:
            return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * prediction
        case Prediction.SAMPLE:
            return prediction
        case Prediction.RESIDUAL:
            return reference + prediction
