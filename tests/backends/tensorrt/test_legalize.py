"""What becomes of single forms, and that ONNX Runtime computes the same before and after."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.legalization import legalize, rewrite
from sardonyx.backends.tensorrt.preflight import preflight
from tests.backends.tensorrt.nets import MICROSOFT, Net, conv, packed_projection
from tests.models_for_tests import operators, run, weights

Array = np.ndarray[Any, np.dtype[Any]]
Feed = Mapping[str, Array]

rng = np.random.default_rng


def legal(proto: onnx.ModelProto) -> tuple[ir.Model, tuple[str, ...]]:
    """The legalized model and the changes; nothing may be left to refuse."""
    model = onnx_ir.from_proto(proto)
    result = legalize(model)
    assert result.refusals == ()
    return model, result.changes


def check_same(proto: onnx.ModelProto, feed: Feed, tolerance: float) -> tuple[ir.Model, tuple[str, ...]]:
    model, changes = legal(proto)
    assert changes
    for expected, given in zip(run(proto, feed), run(model, feed), strict=True):
        assert expected.dtype == given.dtype
        reach = max(1.0, float(np.abs(expected.astype(np.float64)).max()))
        np.testing.assert_allclose(given, expected, rtol=0, atol=tolerance * reach)
    return model, changes


def image(seed: int = 0) -> Feed:
    return {"x": rng(seed).standard_normal((1, 16, 16, 16)).astype(np.float32)}


def constants(model: ir.Model) -> set[str]:
    return {value.dtype.name for value in model.graph.initializers.values() if value.dtype is not None}


def test_uint8_in_the_middle_is_shifted_exactly() -> None:
    proto = conv(activation={"zero": 128, "dtype": np.uint8}, weight={"zero": 128, "dtype": np.uint8})
    model, changes = check_same(proto, image(), 1e-6)
    assert "UINT8" not in constants(model)
    assert all("exact" in change for change in changes)


def test_integers_that_fit_are_shifted_exactly_whatever_their_zero_point() -> None:
    net = Net()
    stored = net.const(rng(0).integers(60, 180, (16, 16, 3, 3)).astype(np.uint8))
    weight = net.dq(stored, 0.01, 100, np.uint8)
    model, changes = check_same(net.model(net.op("Conv", net.pair(net.input((1, 16, 16, 16))), weight)), image(), 1e-6)
    assert changes == (
        "'DequantizeLinear_1': its UINT8 constant was shifted to INT8 with zero point 0, which is exact.",
    )
    assert constants(model) == {"INT8", "FLOAT"}


@pytest.mark.parametrize(("zero", "dtype"), [(0, np.uint8), (-128, np.int8), (40, np.uint8), (-30, np.int8)])
def test_a_widened_range_saturates_where_it_did(zero: int, dtype: Any) -> None:
    net = Net()
    scale = 0.02
    proto = net.model(net.pair(net.input((4, 64)), scale, zero, dtype))
    model, (change,) = legal(proto)
    assert "range" in change
    assert "steps are" in change
    feed = {"x": np.linspace(-12, 12, 256, dtype=np.float32).reshape(4, 64)}
    expected, given = run(proto, feed)[0], run(model, feed)[0]
    # Half a step of the old and half a step of the new, at most 255/127 times as wide, and the two steps of slack.
    assert np.abs(given - expected).max() <= scale * (0.5 + 1.01 + 2.0)
    assert operators(model)[0] in ("Relu", "Clip")


def test_no_relu_is_added_behind_a_relu() -> None:
    net = Net()
    proto = net.model(net.pair(net.op("Relu", net.input((4, 64))), 0.02, 0, np.uint8))
    model, _ = legal(proto)
    assert operators(model) == ["Relu", "QuantizeLinear", "DequantizeLinear"]


def test_pairs_of_16_bits_become_float_with_their_saturation() -> None:
    net = Net(21)
    proto = net.model(net.pair(net.input((4, 64)), 1e-4, 0, np.uint16))
    feed = {"x": np.linspace(-12, 12, 256, dtype=np.float32).reshape(4, 64)}
    model, _ = check_same(proto, feed, 1e-4)
    assert operators(model) == ["Clip"]


def test_a_bias_becomes_float_exactly() -> None:
    net = Net()
    data, weight = net.pair(net.input((1, 16, 16, 16))), net.weight(16, 16, 3, 3, axis=0)
    bias = net.dq(net.const(np.arange(16, dtype=np.int32)), np.full(16, 0.001), 0, np.int32, axis=0)
    model, changes = check_same(net.model(net.op("Conv", data, weight, bias)), image(), 1e-6)
    assert "INT32" not in constants(model)
    assert "exact" in changes[0]


def test_scales_of_zero_and_below_become_positive_exactly() -> None:
    net = Net()
    scales = np.array([0.01, 0.0, -0.02, 0.03], np.float32)
    stored = rng(0).integers(-127, 128, (4, 16, 3, 3)).astype(np.int8)
    weight = net.dq(net.const(stored), scales, axis=0)
    model, _ = check_same(net.model(net.op("Conv", net.pair(net.input((1, 16, 16, 16))), weight)), image(), 1e-6)
    found = next(node for node in model.graph if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer())
    np.testing.assert_array_equal(
        ir.read_array(found.inputs[1].const_value), np.array([0.01, 1, 0.02, 0.03], np.float32)
    )


def test_weights_along_another_axis_are_quantized_again_and_say_how_close() -> None:
    # 40 dB is an error of 1 % of the weights; the tolerance covers a sum of them.
    _, changes = check_same(conv(weight={"axis": 1}), image(), 0.05)
    assert "its scales were along axis 1; signal to error: 4" in changes[0]


def test_weights_that_would_lose_too_much_are_left() -> None:
    net = Net()
    # Each output channel has one weight of 1 and many of 0.003, below half a step of 1/127.
    stored = np.ones((16, 256, 3, 3), np.int8)
    scales = np.array([1.0] + [0.003] * 255, np.float32)
    weight = net.dq(net.const(stored), scales, axis=1)
    proto = net.model(net.op("Conv", net.pair(net.input((1, 256, 8, 8))), weight))
    model, changes = legal(proto)
    assert changes == ()
    (finding,) = preflight(model)
    assert finding.rule == "conv-weight-axis"
    assert finding.severity == "silent-float"


def test_conv_transpose_becomes_float() -> None:
    net = Net()
    made = net.op("ConvTranspose", net.pair(net.input((1, 16, 8, 8))), net.weight(16, 12, 2, 2, axis=1), strides=[2, 2])
    feed = {"x": rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)}
    # Its activation is no longer rounded to steps of 0.05.
    model, _ = check_same(net.model(made), feed, 0.05)
    assert operators(model) == ["Clip", "ConvTranspose"]


def test_integers_move_in_float() -> None:
    net = Net()
    moved = net.op(
        "Transpose", net.op("MaxPool", net.q(net.input((1, 16, 16, 16))), kernel_shape=[2, 2]), perm=[0, 2, 3, 1]
    )
    proto = net.model(net.dq(moved))
    model, _ = check_same(proto, image(), 0.0)
    expected = ["QuantizeLinear", "DequantizeLinear", "MaxPool", "QuantizeLinear", "DequantizeLinear", "Transpose"]
    assert operators(model) == [*expected, "QuantizeLinear", "DequantizeLinear"]


@pytest.mark.parametrize("zero", [0, 128, 200])
def test_integers_from_outside_become_arithmetic(zero: int) -> None:
    net = Net()
    proto = net.model(net.dq(net.input((4, 64), dtype=TensorProto.UINT8), 0.05, zero, np.uint8))
    feed = {"x": np.arange(256, dtype=np.uint8).reshape(4, 64)}
    model, _ = check_same(proto, feed, 0.0)
    assert operators(model) == ["Cast", *(["Sub"] if zero else []), "Mul"]


@pytest.mark.parametrize("zero", [0, 128, 200])
def test_integers_that_leave_become_arithmetic(zero: int) -> None:
    net = Net()
    proto = net.model(net.q(net.input((4, 64)), 0.05, zero, np.uint8), dtype=TensorProto.UINT8)
    feed = {"x": np.linspace(-20, 20, 256, dtype=np.float32).reshape(4, 64)}
    model, _ = check_same(proto, feed, 0.0)
    assert operators(model)[-1] == "Cast"
    assert model.graph.outputs[0].name == proto.graph.output[0].name


def _linear(op_type: str, inputs: int, **attributes: Any) -> Callable[[], onnx.ModelProto]:
    """A QLinear operator of the domain com.microsoft on one or two inputs [1, 4, 8, 8]."""

    def make() -> onnx.ModelProto:
        net = Net()
        x = net.input((1, 4, 8, 8))
        parts = []
        for index in range(inputs):
            scale, zero = net.const(np.float32(0.03 + 0.01 * index)), net.const(np.uint8(128))
            parts += [net.op("QuantizeLinear", x, scale, zero), scale, zero]
        ends = [net.const(np.float32(0.05)), net.const(np.uint8(128))]
        order = [*ends, *parts] if op_type == "QLinearConcat" else [*parts, *ends]
        made = net.op(op_type, *order, domain=MICROSOFT, **attributes)
        return net.model(net.op("DequantizeLinear", made, *ends))

    return make


INTEGER_FORMS = {
    "Add": _linear("QLinearAdd", 2),
    "Mul": _linear("QLinearMul", 2),
    "Sigmoid": _linear("QLinearSigmoid", 1),
    "LeakyRelu": _linear("QLinearLeakyRelu", 1, alpha=0.2),
    "AveragePool": _linear("QLinearAveragePool", 1, kernel_shape=[2, 2], strides=[2, 2]),
    "GlobalAveragePool": _linear("QLinearGlobalAveragePool", 1),
    "Softmax": _linear("QLinearSoftmax", 1, axis=-1, opset=13),
    "Concat": _linear("QLinearConcat", 2, axis=1),
}


@pytest.mark.parametrize("op_type", INTEGER_FORMS)
def test_integer_operators_become_pairs(op_type: str) -> None:
    feed = {"x": rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32) * 2}
    proto = INTEGER_FORMS[op_type]()
    model, changes = legal(proto)
    assert op_type in operators(model)
    assert f"became {op_type} between Q/DQ pairs" in changes[0]
    expected, given = run(proto, feed)[0], run(model, feed)[0]
    # Integer kernels may round a tie the other way: one step of the output.
    assert np.abs(expected - given).max() <= 0.05 * 1.001
    assert np.mean(expected != given) < 0.05


def test_a_form_that_cannot_be_written_is_refused_with_the_reason() -> None:
    proto = _linear("QLinearGlobalAveragePool", 1, channels_last=1)()
    result = legalize(onnx_ir.from_proto(proto))
    refusal = next(refusal for refusal in result.refusals if refusal.startswith("com.microsoft::QLinear"))
    assert "channels are the last dimension" in refusal


def _fused(
    op_type: str, *shapes: tuple[int, ...], constants: tuple[Any, ...] = (), opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    net = Net(opset)
    inputs = [net.input(shape, "x" if not index else f"x{index}") for index, shape in enumerate(shapes)]
    more = [net.const(each) for each in constants]
    return net.model(net.op(op_type, *inputs, *more, domain=MICROSOFT, **attributes))


FUSED = {
    "FastGelu": lambda opset: _fused("FastGelu", (4, 32), opset=opset),
    "FastGelu-bias": lambda opset: _fused("FastGelu", (4, 32), constants=(weights(32),), opset=opset),
    "BiasGelu": lambda opset: _fused("BiasGelu", (4, 32), constants=(weights(32),), opset=opset),
    "Gelu": lambda opset: _fused("Gelu", (4, 32), opset=opset),
    "QuickGelu": lambda opset: _fused("QuickGelu", (4, 32), alpha=1.5, opset=opset),
    "FusedMatMul": lambda opset: _fused(
        "FusedMatMul", (2, 8, 4), (2, 16, 8), transA=1, transB=1, alpha=0.25, opset=opset
    ),
    "FusedConv": lambda opset: _fused(
        "FusedConv", (1, 3, 8, 8), constants=(weights(4, 3, 3, 3), weights(4)), activation="LeakyRelu",
        activation_params=[0.1], opset=opset,
    ),
    "FusedGemm": lambda opset: _fused(
        "FusedGemm", (4, 32), constants=(weights(16, 32), weights(16)), transB=1, activation="Relu", opset=opset
    ),
    "SkipLayerNormalization": lambda opset: _fused(
        "SkipLayerNormalization", (2, 4, 32), (2, 4, 32), epsilon=1e-5, opset=opset,
        constants=(weights(32), weights(32, seed=1), weights(32, seed=2)),
    ),
    "SkipSimplifiedLayerNormalization": lambda opset: _fused(
        "SkipSimplifiedLayerNormalization", (2, 4, 32), (2, 4, 32), constants=(weights(32),), epsilon=1e-5, opset=opset
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("form", FUSED)
def test_fused_operators_become_standard_ones(form: str, opset: int) -> None:
    proto = FUSED[form](opset)
    feed = {
        value.name: rng(index)
        .standard_normal([dim.dim_value for dim in value.type.tensor_type.shape.dim])
        .astype(np.float32)
        for index, value in enumerate(proto.graph.input)
    }
    model, _ = check_same(proto, feed, 1e-5)
    assert {node.domain for node in model.graph} == {""}


@pytest.mark.parametrize("positions", [False, True])
def test_embeddings_become_gathers(positions: bool) -> None:
    net = Net()
    ids, segments = net.input((2, 6), "ids", TensorProto.INT32), net.input((2, 6), "segments", TensorProto.INT32)
    tables = [net.const(weights(rows, 16, seed=rows)) for rows in (30, 10, 2)]
    ends = [net.const(weights(16)), net.const(weights(16, seed=1))]
    more = ["", net.const(np.array([[5, 4, 3, 2, 1, 0]] * 2, np.int32))] if positions else []
    made = net.op("EmbedLayerNormalization", ids, segments, *tables, *ends, *more, domain=MICROSOFT, outputs=2)
    feed = {
        "ids": rng(0).integers(0, 30, (2, 6)).astype(np.int32),
        "segments": rng(1).integers(0, 2, (2, 6)).astype(np.int32),
    }
    check_same(net.model(made[0]), feed, 1e-5)


@pytest.mark.parametrize("zero", [None, 7, 0])
@pytest.mark.parametrize("opset", [17, 21])
def test_weights_of_4_bits_become_blocks_from_opset_21(opset: int, zero: int | None) -> None:
    net = Net(opset)
    packed = net.const(rng(0).integers(0, 256, (24, 2, 16)).astype(np.uint8))
    scales = net.const(np.abs(weights(48)) + 0.01)
    more = [] if zero is None else [net.const(np.full((24, 1), zero * 17, np.uint8))]
    made = net.op(
        "MatMulNBits", net.input((3, 64)), packed, scales, *more, K=64, N=24, bits=4, block_size=32, domain=MICROSOFT
    )
    proto = net.model(made)
    feed = {"x": rng(1).standard_normal((3, 64)).astype(np.float32)}
    model, (change,) = check_same(proto, feed, 1e-5)
    if opset == 17:
        assert "float weights, because DequantizeLinear takes blocks from opset 21" in change
        assert operators(model) == ["MatMul"]
    else:
        assert ("INT4" if zero is None else "INT8") in change
        assert operators(model) == ["DequantizeLinear", "MatMul"]


def test_nibbles_of_another_zero_point_are_shifted_exactly() -> None:
    net = Net(21)
    proto = net.model(net.op("MatMul", net.input((3, 64)), net.blocks(64, 24, 32, 8, ml_dtypes.uint4)))
    feed = {"x": rng(1).standard_normal((3, 64)).astype(np.float32)}
    model, _ = check_same(proto, feed, 1e-6)
    assert constants(model) == {"INT4", "FLOAT"}


def test_a_dynamic_product_of_something_else_is_refused_with_the_reason() -> None:
    net = Net()
    quantized, _, zero = net.op("DynamicQuantizeLinear", net.input((8, 32)), outputs=3)
    product = net.op("MatMulInteger", quantized, net.const(np.ones((32, 24), np.int8)), zero)
    result = legalize(onnx_ir.from_proto(net.model(product, dtype=TensorProto.INT32)))
    assert any("not cast to FLOAT for the product with the scales" in refusal for refusal in result.refusals)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", ["split", "slice", "gather", "rows", "gemm"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_packed_projection_becomes_three_products(how: str, bias: bool, steps: int) -> None:
    shape = (steps, 64) if how in ("rows", "gemm") else (1, steps, 64)
    feed = {"x": rng(0).standard_normal(shape).astype(np.float32)}
    model, changes = check_same(packed_projection(how, bias=bias, steps="steps"), feed, 1e-6)
    assert len(changes) == 1
    assert "queries, keys and values" in changes[0]
    left = operators(model)
    assert left.count("Gemm" if how == "gemm" else "MatMul") == 3
    assert not {"Split", "Gather"} & set(left)
    assert not [each for each in preflight(model) if each.severity is not Severity.NOTE]


def test_a_reshape_to_a_computed_shape_gets_a_computed_shape() -> None:
    net = Net()
    data = net.op("Reshape", net.input(("batch", "steps", 64)), net.const([-1, 64]))
    made = net.op("MatMul", net.pair(data), net.weight(64, 192, axis=1))
    lead = net.op("Slice", net.op("Shape", "x"), net.const([0]), net.const([2]))
    wide = net.op("Reshape", made, net.op("Concat", lead, net.const([192]), axis=0))
    heads = net.op("Reshape", wide, net.op("Concat", lead, net.const([3, 4, 16]), axis=0))
    proto = net.model(
        *(
            net.op("Squeeze", each, net.const([2]))
            for each in net.op("Split", heads, net.const([1, 1, 1]), outputs=3, axis=2)
        )
    )
    for batch, steps in ((1, 5), (3, 2)):
        feed = {"x": rng(0).standard_normal((batch, steps, 64)).astype(np.float32)}
        model, _ = check_same(proto, feed, 1e-6)
    assert operators(model).count("MatMul") == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [("moved", "its weights are moved between"), ("opset", "opset 11 is older than 13"), ("bias", "is computed while")],
)
def test_a_packed_projection_that_stays_is_told(change: str, why: str) -> None:
    net = Net(11 if change == "opset" else 17)
    data, bias = net.pair(net.input((32, 64))), net.const(weights(192))
    transposed = change == "moved"
    weight = net.weight(*((192, 64) if transposed else (64, 192)))
    weight = net.op("Transpose", weight, perm=[1, 0]) if transposed else weight
    bias = net.op("Abs", bias) if change == "bias" else bias
    made = net.op("Gemm", data, weight, bias)
    shape = net.const([1, 32, 3, 4, 16])
    moved = net.op("Transpose", net.op("Reshape", made, shape), perm=[2, 0, 3, 1, 4])
    proto = net.model(*(net.op("Gather", moved, net.const(np.int64(index)), axis=0) for index in range(3)))
    editor = rewrite(onnx_ir.from_proto(proto))
    assert [names for reason, names in editor.kept.items() if why in reason] == [[made_by(proto, made)]]
    found = preflight(onnx_ir.from_proto(proto))
    assert [each.rule for each in found if each.severity is Severity.SILENT_FLOAT] == ["packed-projection"]


def made_by(proto: onnx.ModelProto, value: str) -> str:
    return next(node.name for node in proto.graph.node if value in node.output)


def test_parts_that_something_else_reads_whole_stay_packed() -> None:
    proto = packed_projection("split")
    packed = next(node for node in proto.graph.node if node.op_type == "Add").output[0]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(packed, TensorProto.FLOAT, None))
    assert legal(proto)[1] == ()
