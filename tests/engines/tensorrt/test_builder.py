"""Real engines, built ahead of time by TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from engines.attention import attend
from engines.cache import BuildCanceledError
from engines.errors import EngineError
from engines.export import export
from engines.graphs import HEIGHT, ROWS, WIDTH, Axis, Graph, Port
from engines.tensorrt.builder import Built, Flavour, Profile, build, capabilities, profile_of

CHANNELS, HEADS = 64, 2
LEAST, BEST, MOST = (
    {ROWS: rows, HEIGHT: side, WIDTH: side} for rows, side in ((1, 8), (2, 16), (4, 32))
)

pytestmark = [
    pytest.mark.skipif(not Flavour.RTX.installed, reason="needs tensorrt-rtx"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Block(nn.Module):
    """Convolution, norm and one attention over all places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.GroupNorm(4, CHANNELS)
        self.projections = nn.ModuleList(nn.Linear(CHANNELS, CHANNELS) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        features = self.norm(self.conv(x))
        tokens = rearrange(features, "b c h w -> b (h w) c")
        query, key, value = (
            rearrange(project(tokens), "b n (h d) -> b h n d", h=HEADS)
            for project in self.projections
        )
        mixed = rearrange(attend(query, key, value), "b h n d -> b (h d) n")
        return (mixed.reshape(x.shape),)


def block() -> Graph:
    sides = (Axis(ROWS), CHANNELS, Axis(HEIGHT), Axis(WIDTH))
    torch.manual_seed(0)
    return Graph("block", Block(), (Port("x", sides),), (Port("y", sides),))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "block.onnx"
    export(block(), path, torch.float16)
    return path


def built(path: Path, capability: int | None = 89) -> Built:
    return build(path, profile_of(block(), BEST, BEST, BEST), capability=capability)


@pytest.mark.parametrize("capability", [80, 89, 120])
def test_an_engine_is_built_for_a_gpu_that_is_not_there(half: Path, capability: int) -> None:
    made = built(half, capability)
    assert made.plan
    assert made.fused_attention == 1
    assert made.weight_bytes > 0
    assert made.activation_bytes > 0


def test_an_attention_that_is_not_fused_is_seen(tmp_path: Path) -> None:
    export(block(), tmp_path / "full.onnx", torch.float32)  # which is never fused
    assert built(tmp_path / "full.onnx").fused_attention == 0


def test_shapes_may_be_left_open(half: Path) -> None:
    said: list[tuple[float, str]] = []
    made = build(
        half,
        profile_of(block(), LEAST, BEST, MOST),
        capability=89,
        on_progress=lambda share, phase: said.append((share, phase)),
    )
    assert made.fused_attention == 1
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_a_canceled_build_gives_nothing(half: Path) -> None:
    seen: list[float] = []
    profile = profile_of(block(), BEST, BEST, BEST)
    with pytest.raises(BuildCanceledError, match=r"block\.onnx was not built: canceled"):
        build(
            half,
            profile,
            capability=89,
            on_progress=lambda share, _: seen.append(share),
            canceled=lambda: bool(seen),
        )
    assert 1.0 not in seen


def test_a_capability_that_is_not_supported_is_refused_with_those_that_are(half: Path) -> None:
    known = ", ".join(map(str, capabilities(Flavour.RTX)))
    with pytest.raises(EngineError, match=f"capability is 90, tensorrt-rtx builds for: {known}"):
        built(half, 90)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, CHANNELS + 1, 16, 16), "Dimension mismatch for tensor x"),
        ((2, 0, 16, 16), "allowed: 1 or more, rising"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(
    half: Path, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        build(half, Profile({"x": (shape, shape, shape)}), capability=89)


def test_shapes_that_do_not_rise_are_refused(half: Path) -> None:
    with pytest.raises(EngineError, match="allowed: 1 or more, rising"):
        build(half, profile_of(block(), MOST, BEST, LEAST), capability=89)


def test_an_input_that_is_left_out_is_named(half: Path) -> None:
    with pytest.raises(EngineError, match="input tensor x is missing dimensions in profile"):
        build(half, Profile({}), capability=89)


def test_an_input_that_is_not_there_is_refused(half: Path) -> None:
    with pytest.raises(EngineError, match=r"profile of block\.onnx: no input z, there is x"):
        build(half, Profile({"z": ((1,), (1,), (1,))}), capability=89)


def test_a_damaged_file_is_refused(half: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(half.read_bytes()[:500])
    with pytest.raises(EngineError, match=r"cut\.onnx cannot be parsed"):
        built(tmp_path / "cut.onnx")


def test_a_flavour_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("engines.tensorrt.builder.find_spec", lambda _: None)
    with pytest.raises(EngineError, match="tensorrt is not installed: pip install tensorrt"):
        build(tmp_path / "any.onnx", Profile({}), flavour=Flavour.TENSORRT)


def test_a_profile_names_its_shapes() -> None:
    assert str(profile_of(block(), BEST, BEST, BEST)) == "x=2x64x16x16"
    assert str(profile_of(block(), LEAST, BEST, MOST)) == "x=1x64x8x8..2x64x16x16..4x64x32x32"
