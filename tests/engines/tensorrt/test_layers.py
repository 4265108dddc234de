"""A dump as a build of TensorRT-RTX 1.7 logged it, shortened."""

from __future__ import annotations

from engines.tensorrt.layers import digest, float32_layers, fused_attention, parse

ATTENTION = (
    "Name: _gemm_mha_v2_myl0_131, LayerType: kgen, Inputs: [ { Name: q, Dimensions: [4,512,32], "
    "Strides: [32,128,1], StrideOrder: [1,2,0], Datatype: Half, Format: (Linear) Row major linear "
    "format }], Constants: [], Outputs: [ { Name: o, Dimensions: [4,512,32], Strides: [32,128,1], "
    "StrideOrder: [1,2,0], Datatype: Half, Format: (Arbitrary) Format with stride order = [1,2,0] "
    "}], TacticName: _gemm_mha_v2_0x67df, StreamId: 0, Metadata: "
    "[ONNX Layer: /attn1/MatMul_1][ONNX Layer: /attn1/Softmax][ONNX Layer: /attn1/MatMul]"
)
CONVOLUTION = (
    "Name: /conv_in/Conv_myl0_8, LayerType: correlation, Inputs: [ { Name: x, Dimensions: "
    "[2,12,64,64], Strides: [49152,1,768,12], StrideOrder: [3,0,2,1], Datatype: Half, Format: "
    "(NHWC) Channel major format }], Constants: [ { Name: one, Dimensions: [1], Strides: [1], "
    "StrideOrder: [0], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [], "
    "TacticName: , StreamId: 0, Metadata: [ONNX Layer: /conv_in/Conv]"
)
NORM = CONVOLUTION.replace("/conv_in/Conv", "/norm1/Reduce").replace("Half", "Float")
DUMP = "\n".join(["Layers:", ATTENTION, CONVOLUTION, NORM, "", "Bindings:", "sample"])


def test_layers_are_read_from_the_last_dump() -> None:
    old = f"Layers:\n{CONVOLUTION}"
    layers = parse(["Total Weights Memory: 5 bytes", old, DUMP, "done"])
    assert [layer.kind for layer in layers] == ["kgen", "correlation", "correlation"]
    attention = layers[0]
    assert attention.tactic == "_gemm_mha_v2_0x67df"
    assert attention.nodes == ("/attn1/MatMul_1", "/attn1/Softmax", "/attn1/MatMul")
    assert attention.types == ("Half", "Half")


def test_attention_in_one_kernel_is_counted() -> None:
    assert fused_attention(parse([DUMP])) == 1
    assert fused_attention(parse([f"Layers:\n{CONVOLUTION}"])) == 0


def test_a_log_without_a_dump_has_no_layers() -> None:
    assert parse(["Layers of the parser: 3", ""]) == ()


def test_float32_is_found_where_it_is_not_allowed_and_scalars_do_not_count() -> None:
    layers = parse([DUMP])
    assert float32_layers(layers, ("norm",)) == []
    assert float32_layers(layers, ()) == ["/norm1/Reduce_myl0_8"]


def test_the_digest_is_that_of_what_was_compiled() -> None:
    layers = parse([DUMP])
    assert digest(layers) == digest(parse([DUMP]))
    assert digest(layers) != digest(layers[:2])
    assert digest(layers) != digest(parse([DUMP.replace("0x67df", "0x67e0")]))
    assert digest(layers) != digest(parse([DUMP.replace("[4,512,32]", "[2,512,32]")]))


def test_sizes_that_are_open_are_read() -> None:
    (layer,) = parse([f"Layers:\n{NORM}".replace("[2,12,64,64]", "[-1,12,-1,-1]")])
    assert layer.types == ("Float",)
