"""Cross-attention to text and image tokens in one kernel, adaptive layer norm included.

    out = softmax(Q Kt^T / sqrt(d)) Vt + softmax(Q Ki'^T / sqrt(d)) Vi'
    Ki' = ki (1 + k_scale) + k_shift,  Vi' = vi (1 + v_scale) + v_shift

ki and vi are normalised already: no step changes them (see `engines.models.adapter`). What the time
step asks for never touches their tiles, because it moves out of both products:

    Q Ki'^T = (Q (1 + k_scale)) ki^T + Q k_shift^T    the last term is one number per query, which
                                                      the softmax over keys divides away
    P Vi'   = (P vi) (1 + v_scale) + v_shift          as each row of P = softmax(...) sums to one

So the query is scaled once, the output is scaled and shifted once, and `k_shift` is never read.

Triton is loaded by the first call that needs it, not by the import of this file: `plain` works
where it is not installed, and `fused` and `compiled_for` raise ModuleNotFoundError there.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from engines import attention

DTYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16"}  # and how Triton names their pointers
HEAD_DIMS = range(32, 129, 8)

# Set by `_kernel`; the kernels find them here, among the globals of this file.
tl: Any = None
attend: Any = None
# To pyright `tl` is a variable, which no annotation may name; Triton has parameters marked by it.
# pyright: reportInvalidTypeForm=false


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work is cut for one padded head dim."""

    queries: int  # per program
    keys: int  # per turn of the loop
    warps: int
    stages: int  # turns whose loads are under way at once


# By padded head dim. Chosen so that nothing spills on any capability tested; never timed.
TILINGS = {
    32: Tiling(queries=128, keys=64, warps=8, stages=2),
    64: Tiling(queries=128, keys=64, warps=8, stages=2),
    128: Tiling(queries=64, keys=64, warps=8, stages=2),
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of the kernel for one GPU; says nothing about speed."""

    registers: int  # per thread
    stack_bytes: int  # per thread, where spilled registers go; zero means no spills
    shared_bytes: int  # per program
    tensor_instruction: str  # "mma.sync", "wgmma", "tcgen05", or "" where none is used
    tensor_instructions: int  # how many of them the PTX holds


def plain(
    query: Tensor,
    text_key: Tensor,
    text_value: Tensor,
    image_key: Tensor,
    image_value: Tensor,
    modulation: Tensor,
    heads: int,
) -> Tensor:
    """Compute the same in plain PyTorch, as it is written above: the reference, and the fallback.

    Args:
        query: (B, N, W), where W = heads * d.
        text_key: (B, T, W).
        text_value: (B, T, W).
        image_key: (B, Q, W), normalised without an affine part.
        image_value: (B, Q, W), likewise.
        modulation: (B, 4, W): k_shift, k_scale, v_shift, v_scale.
        heads: How many heads share W.

    Returns:
        (B, N, W). Any device and floating dtype, the same for all; differentiable.
    """
    k_shift, k_scale, v_shift, v_scale = modulation.unsqueeze(2).unbind(1)

    def split(x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=heads)

    q = split(query)
    out = attention.attend(q, split(text_key), split(text_value))
    key, value = image_key * (1 + k_scale) + k_shift, image_value * (1 + v_scale) + v_shift
    out = out + attention.attend(q, split(key), split(value))
    return rearrange(out, "b h n d -> b n (h d)")


def best_for(query: Tensor, heads: int) -> Callable[..., Tensor]:
    """`fused` where it can take this query (B, N, W) now, else `plain`."""
    able = query.is_cuda and query.dtype in DTYPES and query.shape[-1] // heads in HEAD_DIMS
    free = not (torch.is_grad_enabled() or torch.jit.is_tracing())  # pyright: ignore[reportPrivateImportUsage]
    return fused if able and free and find_spec("triton") else plain


def fused(
    query: Tensor,
    text_key: Tensor,
    text_value: Tensor,
    image_key: Tensor,
    image_value: Tensor,
    modulation: Tensor,
    heads: int,
) -> Tensor:
    """Compute `plain` in one kernel that reads the query once and writes the output once.

    Products take the inputs' dtype and add up in float32; the softmax is float32 throughout. There
    is no backward pass. Any N, T and Q from 1 up; the caller pads nothing.

    Args:
        query: (B, N, W) in float16 or bfloat16, where W = heads * d and d is one of HEAD_DIMS.
            As for all inputs, each row of the batch is contiguous; rows may lie apart, so that a
            slice of what was hoisted out of the steps needs no copy.
        text_key: (B, T, W).
        text_value: (B, T, W).
        image_key: (B, Q, W), normalised without an affine part.
        image_value: (B, Q, W), likewise.
        modulation: (B, 4, W): k_shift, k_scale, v_shift, v_scale.
        heads: How many heads share W.

    Returns:
        (B, N, W), contiguous, in the dtype of the query.

    Raises:
        ValueError: A shape, dtype, device, stride or head dim is not as above, or a gradient is
            asked for; the message names the value and what is allowed.
        ModuleNotFoundError: Triton is not installed.
    """
    inputs = {
        "query": query,
        "text_key": text_key,
        "text_value": text_value,
        "image_key": image_key,
        "image_value": image_value,
        "modulation": modulation,
    }
    _check_shapes(inputs, heads)
    _check_storage(inputs)
    kernel = _kernel()
    if query.device.type != "cuda" and not _triton().knobs.runtime.interpret:
        raise ValueError(f"query is on {query.device}, allowed: a CUDA device")
    rows, tokens, width = query.shape
    dim = width // heads
    padded, tiling = _padded(dim), TILINGS[_padded(dim)]
    out = torch.empty((rows, tokens, width), dtype=query.dtype, device=query.device)
    grid = (-(-tokens // tiling.queries), rows * heads)
    with torch.cuda.device_of(query):  # where Triton launches; does nothing for other tensors
        kernel[grid](
            *inputs.values(),
            out,
            *(x.stride(0) for x in inputs.values()),
            tokens,
            text_key.shape[1],
            image_key.shape[1],
            heads,
            DIM=dim,
            PADDED=padded,
            QUERIES=tiling.queries,
            KEYS=tiling.keys,
            **_options(tiling),
        )
    return out


def compiled_for(
    capability: int, head_dim: int, dtype: torch.dtype = torch.float16, tiling: Tiling | None = None
) -> Compiled:
    """Compile the kernel for a GPU that need not be there, and read what came of it.

    Args:
        capability: Of the GPU, without the dot: 80, 89, 90, 100 or 120 were tried.
        head_dim: One of HEAD_DIMS.
        dtype: float16 or bfloat16.
        tiling: Another than the one `fused` takes for this head dim.

    Raises:
        ValueError: The head dim or the dtype is not allowed.
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: TRITON_INTERPRET is set, so there is nothing to compile.
    """
    _check_head_dim(head_dim)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}, allowed: {_names(DTYPES)}")
    triton, kernel = _triton(), _kernel()
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: kernels are interpreted, not compiled")
    tiling = tiling or TILINGS[_padded(head_dim)]
    fixed = (head_dim, _padded(head_dim), tiling.queries, tiling.keys)
    kinds = [DTYPES[dtype]] * 7 + ["i32"] * 10 + ["constexpr"] * len(fixed)
    # What a launch finds out by itself: pointers and batch strides are multiples of 16.
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(13)}
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature=dict(zip(kernel.arg_names, kinds, strict=True)),
        constexprs={(17 + index,): value for index, value in enumerate(fixed)},
        attrs=aligned,
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options=_options(tiling))
    usage = _resource_usage(triton.knobs.nvidia.cuobjdump.path, built.asm["cubin"])
    units = Counter(re.findall(r"mma\.sync|wgmma(?=\.mma)|tcgen05(?=\.mma)", built.asm["ptx"]))
    unit, count = units.most_common(1)[0] if units else ("", 0)
    return Compiled(usage["REG"], usage["STACK"], built.metadata.shared, unit, count)


def _check_shapes(inputs: dict[str, Tensor], heads: int) -> None:
    for name, x in inputs.items():
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, allowed: three sizes above zero")
    rows, _, width = inputs["query"].shape
    if heads < 1 or width % heads:
        raise ValueError(f"heads is {heads}, allowed: what divides the query's width, {width}")
    _check_head_dim(width // heads)
    text, image = inputs["text_key"].shape[1], inputs["image_key"].shape[1]
    sizes = {"text_key": text, "text_value": text, "image_key": image, "image_value": image}
    for name, size in {**sizes, "modulation": 4}.items():
        wanted = (rows, size, width)
        if inputs[name].shape != wanted:
            shape = tuple(inputs[name].shape)
            raise ValueError(f"{name} has shape {shape}, allowed beside the others: {wanted}")


def _check_head_dim(dim: int) -> None:
    if dim not in HEAD_DIMS:
        first, last, step = HEAD_DIMS[0], HEAD_DIMS[-1], HEAD_DIMS.step
        raise ValueError(f"head dim is {dim}, allowed: multiples of {step} from {first} to {last}")


def _check_storage(inputs: dict[str, Tensor]) -> None:
    query = inputs["query"]
    if query.dtype not in DTYPES:
        raise ValueError(f"query is {query.dtype}, allowed: {_names(DTYPES)}")
    for name, x in inputs.items():
        if x.dtype != query.dtype:
            raise ValueError(f"{name} is {x.dtype}, allowed: the query's {query.dtype}")
        if x.device != query.device:
            raise ValueError(f"{name} is on {x.device}, allowed: the query's {query.device}")
        if not x[0].is_contiguous():
            strides = x.stride()
            raise ValueError(f"{name} has strides {strides}, allowed: contiguous rows of the batch")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires a gradient, allowed: none, or torch.no_grad()")


def _names(dtypes: dict[torch.dtype, str]) -> str:
    return ", ".join(map(str, dtypes))


def _padded(dim: int) -> int:
    """Smallest power of two that is no smaller."""
    return 1 << (dim - 1).bit_length()


def _options(tiling: Tiling) -> dict[str, Any]:
    # Fusion is stated because its default differs between versions of Triton.
    return {
        "num_warps": tiling.warps,
        "num_stages": tiling.stages,
        "enable_fp_fusion": True,
    }


def _resource_usage(cuobjdump: str, cubin: bytes) -> dict[str, int]:
    """What the assembler needs per thread, by its own names: REG, STACK and others."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [cuobjdump, "-res-usage", str(path)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", report)}


def _triton() -> Any:
    return import_module("triton")


@cache
def _kernel() -> Any:
    """Give the kernels below to Triton, which reads this file to do so."""
    global tl, attend
    tl = import_module("triton.language")
    attend = _triton().jit(_attend)
    return _triton().jit(_cross_attention)


# From here on it is Triton's Python.


def _attend(query, key, value, tokens, width, DIM: tl.constexpr, KEYS: tl.constexpr):
    """softmax(query key^T / sqrt(DIM)) value, (QUERIES, PADDED) in float32, by online softmax.

    query (QUERIES, PADDED) is a tile; key and value point to the head's first token of `tokens`.
    """
    scale = 1.4426950408889634 / DIM**0.5  # log2(e), for exp2
    channel = tl.arange(0, query.shape[1])
    highest = tl.full((query.shape[0],), float("-inf"), tl.float32)
    total = tl.zeros((query.shape[0],), tl.float32)
    mixed = tl.zeros(query.shape, tl.float32)
    for start in range(0, tokens, KEYS):
        token = start + tl.arange(0, KEYS)
        there = (token < tokens)[:, None] & (channel < DIM)[None, :]
        at = token[:, None] * width + channel[None, :]
        keys = tl.load(key + at, mask=there, other=0.0)
        values = tl.load(value + at, mask=there, other=0.0)
        logits = tl.dot(query, tl.trans(keys)) * scale
        logits = tl.where((token < tokens)[None, :], logits, float("-inf"))
        # Every turn has a token that is there, so this is finite and no difference is NaN.
        higher = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(values.dtype), values, mixed * shrink[:, None])
        highest = higher
    return mixed / total[:, None]


def _cross_attention(  # noqa: PLR0913, PLR0917  (a kernel takes pointers and numbers, no objects)
    query,
    text_key,
    text_value,
    image_key,
    image_value,
    modulation,
    out,
    query_stride,
    text_key_stride,
    text_value_stride,
    image_key_stride,
    image_value_stride,
    modulation_stride,
    query_tokens,
    text_tokens,
    image_tokens,
    heads,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One head of QUERIES tokens of one row; strides are those between rows of the batch."""
    row = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads) * DIM
    width = heads * DIM
    channel = tl.arange(0, PADDED)
    inside = channel < DIM
    first = tl.program_id(0) * QUERIES
    token = tl.arange(0, QUERIES)
    there = (token < query_tokens - first)[:, None] & inside[None, :]
    start = first.to(tl.int64) * width + head  # may pass 2^31, unlike what is added to it
    at = token[:, None] * width + channel[None, :]
    scales = modulation + row * modulation_stride + head + channel
    k_scale = tl.load(scales + width, mask=inside, other=0.0).to(tl.float32)
    v_shift = tl.load(scales + 2 * width, mask=inside, other=0.0).to(tl.float32)
    v_scale = tl.load(scales + 3 * width, mask=inside, other=0.0).to(tl.float32)

    q = tl.load(query + row * query_stride + start + at, mask=there, other=0.0)
    key = text_key + row * text_key_stride + head
    value = text_value + row * text_value_stride + head
    to_text = attend(q, key, value, text_tokens, width, DIM, KEYS)

    q = (q.to(tl.float32) * (1 + k_scale)[None, :]).to(q.dtype)
    key = image_key + row * image_key_stride + head
    value = image_value + row * image_value_stride + head
    to_image = attend(q, key, value, image_tokens, width, DIM, KEYS)
    to_image = to_image * (1 + v_scale)[None, :] + v_shift[None, :]

    start += row * query_tokens * width
    tl.store(out + start + at, (to_text + to_image).to(q.dtype), mask=there)
