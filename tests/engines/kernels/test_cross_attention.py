from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from engines.kernels.cross_attention import HEAD_DIMS, best_for, compiled_for, fused, plain
from engines.models.adapter import DecoupledCrossAttention

ROOT = Path(__file__).resolve().parents[3]
# Relative L2 error of float16; a rounding of inputs and output alone has 5e-4.
HALF_TOLERANCE = 2e-3

# B, N, H, D, T, Q
CASES = {
    "the model's own tokens": (2, 70, 2, 64, 77, 64),
    "a whole block of queries": (1, 128, 1, 64, 77, 64),
    "two blocks, the last ragged": (2, 131, 1, 32, 77, 16),
    "a head dim that is padded, one text token": (1, 33, 3, 40, 1, 16),
    "a head dim that is padded, one token of each": (1, 1, 2, 120, 1, 1),
    "wide heads": (1, 70, 2, 128, 77, 64),
    "many tokens": (1, 64, 1, 64, 1024, 1000),
}

# Runs in a child process: Triton settles whether it interprets when it is imported. float16 only,
# as the interpreter multiplies the bit patterns of bfloat16 (Triton 3.9).
INTERPRETED = r"""
import json, sys
import torch
from engines.kernels.cross_attention import fused, plain

def error(inputs, heads):
    expected = plain(*(x.float() for x in inputs), heads)
    return ((fused(*inputs, heads).float() - expected).norm() / expected.norm()).item()

def random(*shape):
    return torch.randn(shape, generator=generator).half()

generator = torch.Generator().manual_seed(0)
errors = {}
for name, (B, N, H, D, T, Q) in json.loads(sys.argv[1]).items():
    errors[name] = error([random(B, tokens, H * D) for tokens in (N, T, T, Q, Q, 4)], H)

# As `Hoisted` keeps them: slices of all attentions, so that rows of the batch lie apart.
text, image, modulation = random(2, 3, 2, 77, 64), random(2, 3, 2, 16, 64), random(2, 3 * 4 * 64)
own = modulation[:, 256:512].unflatten(1, (4, 64))
slices = [text[:, 1, 0], text[:, 1, 1], image[:, 1, 0], image[:, 1, 1], own]
assert not any(x.is_contiguous() for x in slices)
errors["slices of what is hoisted"] = error([random(2, 40, 64), *slices], 2)
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def interpreted() -> dict[str, float]:
    """Relative L2 error of the kernel in each case, in float16 against float32."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, json.dumps(CASES)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "slices of what is hoisted"])
def test_the_kernel_computes_what_plain_torch_does(
    interpreted: dict[str, float], case: str
) -> None:
    assert interpreted[case] < HALF_TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_on_a_gpu_computes_what_plain_torch_does(case: str, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    B, N, H, D, T, Q = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, tokens, H * D) for tokens in (N, T, T, Q, Q, 4)]
    inputs = [torch.randn(shape, generator=generator).to("cuda", dtype) for shape in shapes]
    expected = plain(*(x.double() for x in inputs), heads=H)
    error = (fused(*inputs, heads=H) - expected).norm() / expected.norm()
    assert error < (HALF_TOLERANCE if dtype == torch.float16 else 8 * HALF_TOLERANCE)


def test_plain_is_the_decoupled_cross_attention_before_its_output_layer(
    random_tensor: Callable[..., Tensor],
) -> None:
    attention: Any = Attention(64, cross_attention_dim=24, heads=2, dim_head=32)
    processor: Any = DecoupledCrossAttention(64, 24, 10)
    attention.set_processor(processor)
    attention.to_out = nn.ModuleList([nn.Identity(), nn.Identity()])
    for norm in (processor.ln_k_ip, processor.ln_v_ip):  # which start at zero
        nn.init.normal_(norm.linear.weight)
        nn.init.normal_(norm.linear.bias)
    hidden, text = random_tensor(2, 9, 64), random_tensor(2, 5, 24)
    tokens, temb = random_tensor(2, 3, 24), random_tensor(2, 10)
    ours = plain(
        attention.to_q(hidden),
        attention.to_k(text),
        attention.to_v(text),
        processor.ln_k_ip.norm(processor.to_k_ip(tokens)),
        processor.ln_v_ip.norm(processor.to_v_ip(tokens)),
        processor.modulation(temb).unflatten(1, (4, 64)),
        heads=2,
    )
    expected = attention(hidden, encoder_hidden_states=text, temb=temb, image_tokens=tokens)
    assert (ours - expected).norm() / expected.norm() < 1e-5


def test_a_shift_of_all_keys_changes_nothing_so_the_kernel_may_leave_it_out(
    random_tensor: Callable[..., Tensor],
) -> None:
    inputs = [random_tensor(1, tokens, 16).double() for tokens in (7, 5, 5, 3, 3, 4)]
    before = plain(*inputs, heads=2)
    inputs[-1][:, 0] += 3
    torch.testing.assert_close(plain(*inputs, heads=2), before)
    inputs[-1][:, 2] += 3
    torch.testing.assert_close(plain(*inputs, heads=2), before + 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "head_dim", "instruction"),
    [
        (80, 64, "mma.sync"),
        (89, 64, "mma.sync"),
        (90, 64, "wgmma"),
        (100, 64, "tcgen05"),
        (120, 64, "mma.sync"),
        (90, 32, "wgmma"),
        (90, 128, "wgmma"),
        (80, 40, "mma.sync"),
    ],
)
def test_the_kernel_compiles_to_tensor_cores_without_spills(
    capability: int,
    head_dim: int,
    instruction: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for dtype in (torch.float16, torch.bfloat16):
        compiled = compiled_for(capability, head_dim, dtype)
        assert compiled.stack_bytes == 0
        assert compiled.registers <= 255
        assert compiled.shared_bytes <= 99 * 1024  # what the smallest of these GPUs lets one have
        assert compiled.tensor_instruction == instruction
        assert compiled.tensor_instructions > 0


Change = dict[str, Any]


def call(change: Change) -> Tensor:
    """`fused` on inputs that would do, but for what is changed."""
    shapes = {"query": 6, "text_key": 5, "text_value": 5, "image_key": 3, "image_value": 3}
    inputs: Change = {name: torch.zeros(2, tokens, 64).half() for name, tokens in shapes.items()}
    inputs |= {"modulation": torch.zeros(2, 4, 64).half(), "heads": 2} | change
    return fused(**inputs)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": zeros(2, 6, 64).float()}, "query is torch.float32, allowed: torch.float16, "),
        ({"text_value": zeros(2, 5, 64).bfloat16()}, "text_value is torch.bfloat16, allowed: the"),
        ({"modulation": zeros(2, 4, 64).to("meta")}, "modulation is on meta, allowed: the query's"),
        ({"query": zeros(2, 64)}, r"query has shape \(2, 64\), allowed: three sizes above zero"),
        ({"text_key": zeros(2, 0, 64)}, r"text_key has shape \(2, 0, 64\), allowed: three sizes"),
        ({"text_value": zeros(2, 4, 64)}, r"text_value has shape \(2, 4, 64\).*: \(2, 5, 64\)"),
        ({"image_key": zeros(1, 3, 64)}, r"image_key has shape \(1, 3, 64\).*: \(2, 3, 64\)"),
        ({"image_value": zeros(2, 3, 32)}, r"image_value has shape \(2, 3, 32\).*: \(2, 3, 64\)"),
        ({"modulation": zeros(2, 2, 64)}, r"modulation has shape \(2, 2, 64\).*: \(2, 4, 64\)"),
        ({"heads": 3}, "heads is 3, allowed: what divides the query's width, 64"),
        ({"heads": 0}, "heads is 0, allowed"),
        ({"heads": 4}, "head dim is 16, allowed: multiples of 8 from 32 to 128"),
        ({"query": zeros(2, 64, 6).mT}, r"query has strides \(384, 1, 6\), allowed: contiguous"),
        ({"query": zeros(2, 6, 64).requires_grad_()}, "query requires a gradient, allowed: none"),
    ],
)
def test_what_the_kernel_cannot_take_is_refused_by_name(change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(change)


@pytest.mark.parametrize("head_dim", [24, 36, 136, 0, -32])
def test_a_head_dim_without_tiles_is_not_compiled(head_dim: int) -> None:
    assert head_dim not in HEAD_DIMS
    with pytest.raises(ValueError, match=f"head dim is {head_dim}, allowed: multiples of 8"):
        compiled_for(90, head_dim)


def test_a_dtype_without_tensor_cores_for_it_is_not_compiled() -> None:
    with pytest.raises(ValueError, match=r"dtype is torch\.float32, allowed: torch\.float16, "):
        compiled_for(90, 64, torch.float32)


def test_tensors_of_the_cpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="query is on cpu, allowed: a CUDA device"):
        call({})


def test_without_triton_plain_works_and_the_kernel_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert plain(*(torch.ones(1, 4, 16) for _ in range(6)), heads=2).shape == (1, 4, 16)
    with pytest.raises(ModuleNotFoundError, match="triton"):
        call({})


def test_without_a_gpu_the_plain_form_is_taken() -> None:
    query = torch.zeros(1, 4, 64, dtype=torch.float16)
    with torch.inference_mode():
        assert best_for(query, 1) is plain
