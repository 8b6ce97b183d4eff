"""The layer table as builders log it."""

import pytest

from sardonyx.backends.tensorrt.layers import Layer, LayerTensor, parse_layers, weight_bytes

LOGGED = """Layers:
Name: conv_myl0_1, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,8,16,16], Strides: [2048,1,128,8], \
StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: \
[16,8,3,3], Strides: [72,1,24,8], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }, \
{ Name: s, Dimensions: [1,16,1,1], Strides: [16,1,16,16], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) \
Channel major format }], Outputs: [ { Name: o, Dimensions: [1,16,16,16], Strides: [4096,1,256,16], StrideOrder: \
[3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, \
Metadata: [ONNX Layer: block[0]/conv][ONNX Layer: dequantize]
Name: cast_myl0_2, LayerType: kgen, Inputs: [], Constants: [ { Name: w, Dimensions: [16,8,3,3], Strides: [72,1,24,8], \
StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Outputs: [], TacticName: t, \
StreamId: 0, Metadata:

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [1,8,16,16], Location: Device
"""

FULL = (
    "Name: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [1,3,8,8], "
    "Format/Datatype: Thirty-two wide channel vectorized row major INT8 format }], Outputs: [ { Name: y, Location: "
    "Device, Dimensions: [1,4,8,8], Format/Datatype: Row major linear FP16 format }], ParameterType: Convolution, "
    "Kernel: [3,3], TacticName: sm80, StreamId: 0, Metadata: [ONNX Layer: conv1]\x1e[ONNX Layer: relu1]"
)


def test_a_table_is_read() -> None:
    conv, cast = parse_layers(LOGGED)
    assert (conv.name, conv.kind, conv.nodes) == ("conv_myl0_1", "correlation", ("block[0]/conv", "dequantize"))
    assert conv.inputs == (LayerTensor("a", (1, 8, 16, 16), "Int8", "(NHWC) Channel major format"),)
    assert (conv.tactic, cast.tactic) == ("__myelin_CASK_STUB", "t")
    assert [each.name for each in conv.constants] == ["w", "s"]
    assert conv.outputs[0].dtype == "Float"
    assert (conv.computes_products, conv.precision) == (True, "Int8")
    assert (cast.computes_products, cast.inputs, cast.nodes) == (False, (), ())


def test_constants_count_once() -> None:
    assert weight_bytes(parse_layers(LOGGED)) == {"Int8": 16 * 8 * 9, "Float": 64}


def test_the_full_builders_spelling_is_read() -> None:
    (conv,) = parse_layers(FULL)
    assert (conv.nodes, conv.computes_products, conv.precision) == (("conv1", "relu1"), True, "Int8")
    assert conv.outputs[0].dtype == "Half"
    assert conv.tactic == "sm80"


def test_a_type_that_is_not_known_proves_nothing() -> None:
    mixed = FULL.replace("row major INT8 format", "row major format")
    assert parse_layers(mixed)[0].precision == ""
    assert parse_layers(LOGGED.replace("Datatype: Int8, Format", "Datatype: E8M0, Format"))[0].precision == "E8M0"


def test_constants_among_the_inputs_are_told_by_their_names() -> None:
    line = (
        "Name: fc, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,8], Format/Datatype: Int8 }, { Name: "
        "__mye12_dconst, Dimensions: [8,8], Format/Datatype: Int8 }, { Name: __mye13_dconst, Dimensions: [8], "
        "Format/Datatype: Float }], Outputs: [ { Name: y, Dimensions: [1,8], Format/Datatype: Float }], "
        "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: fc]"
    )
    (layer,) = parse_layers(line)
    assert ([each.name for each in layer.inputs], layer.precision) == (["x"], "Int8")
    assert [each.dtype for each in layer.constants] == ["Int8", "Float"]


def test_other_text_holds_no_layers() -> None:
    assert parse_layers("") == parse_layers("Layers:\nconv0\nconv1\n") == ()


@pytest.mark.parametrize(
    ("inputs", "constants", "precision"),
    [
        (["Int8"], [((4, 4), "Int8"), ((4,), "Float")], "Int8"),
        (["Int8", "Int8"], [((1,), "Float")], "Int8"),
        (["Float", "Int8"], [], "Float"),
        (["Half"], [((4, 4), "Half")], "Half"),
        (["Float"], [((4, 4), "Int4")], "Float"),
        ([], [], ""),
    ],
)
def test_a_layer_computes_in_its_widest_operand(
    inputs: list[str], constants: list[tuple[tuple[int, ...], str]], precision: str
) -> None:
    layer = Layer(
        "name",
        "gemm",
        tuple(LayerTensor("i", (4, 4), dtype) for dtype in inputs),
        tuple(LayerTensor("c", dims, dtype) for dims, dtype in constants),
        (),
        (),
    )
    assert layer.precision == precision


def test_a_layer_that_dequantizes_first_computes_in_float() -> None:
    data, weight, scales, made = (LayerTensor("t", (8, 8), dtype) for dtype in ("Int8", "Int8", "Float", "Float"))
    assert Layer("name", "runtime_fusion", (data,), (scales, weight), (made,), ()).precision == "Float"
    assert Layer("name", "gemm", (data,), (weight,), (made,), ()).precision == "Int8"
