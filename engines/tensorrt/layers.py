"""What a build log says of the compiled layers; an engine itself cannot be opened without a GPU."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

DUMP: Final = "Layers:"  # begins the message
FUSED_ATTENTION: Final = "_gemm_mha"
_LAYER: Final = re.compile(r"^Name: (?P<name>[^,]+), LayerType: (?P<kind>[^,]+),(?P<rest>.*)$")
_TACTIC: Final = re.compile(r"TacticName: (?P<tactic>[^,]+)")
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TENSOR: Final = re.compile(r"Dimensions: \[([-\d,]*)\][^}]*?Datatype: (\w+)")
_SCALARS: Final = ("", "1")


@dataclass(frozen=True, slots=True)
class Layer:
    """One compiled layer."""

    name: str
    kind: str
    tensors: tuple[tuple[str, str], ...]  # sizes and type of its inputs, constants and outputs
    tactic: str
    nodes: tuple[str, ...]  # of the ONNX file that it stands for

    @property
    def types(self) -> tuple[str, ...]:
        """Types of all that are no scalars."""
        return tuple(kind for sizes, kind in self.tensors if sizes not in _SCALARS)

    @property
    def is_fused_attention(self) -> bool:
        """Whether it computes scores, softmax and their product with values in one kernel."""
        return FUSED_ATTENTION in self.name


def parse(messages: Iterable[str]) -> tuple[Layer, ...]:
    """The layers of the last dump among a build's messages; empty where there is none."""
    dumps = [message for message in messages if message.startswith(DUMP)]
    lines = dumps[-1].splitlines() if dumps else []
    return tuple(_layer(found) for line in lines if (found := _LAYER.match(line.strip())))


def fused_attention(layers: Sequence[Layer]) -> int:
    """How many attentions were compiled to one kernel."""
    return sum(layer.is_fused_attention for layer in layers)


def float32_layers(layers: Sequence[Layer], allowed: Sequence[str]) -> list[str]:
    """Layers that take or give float32 though none of their nodes is of an allowed kind.

    `allowed` are parts of node names: what a half-precision graph computes in float32 on purpose.
    """
    return [
        layer.name
        for layer in layers
        if "Float" in layer.types
        and not any(part in node.lower() for node in layer.nodes for part in allowed)
    ]


def digest(layers: Sequence[Layer]) -> str:
    """First 16 hex digits of a sha256 over what was compiled; plans differ from build to build."""
    text = "\n".join(
        f"{layer.kind} {layer.tensors} {layer.tactic} {layer.nodes}" for layer in layers
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _layer(found: re.Match[str]) -> Layer:
    rest = found["rest"]
    tactic = _TACTIC.search(rest)
    return Layer(
        name=found["name"],
        kind=found["kind"],
        tensors=tuple(_TENSOR.findall(rest)),
        tactic=tactic["tactic"] if tactic else "",
        nodes=tuple(_NODE.findall(rest)),
    )
