"""Integer operators of ONNX Runtime, legalized: it computes the same, and the real builder takes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto

from sardonyx import ir
from sardonyx.backends.tensorrt.build import BuildJob, BuildResult, build_all
from sardonyx.backends.tensorrt.legalization import legalize
from sardonyx.backends.tensorrt.preflight import preflight
from tests.backends.tensorrt.nets import MICROSOFT, Net
from tests.models_for_tests import operators, run, weights

Array = np.ndarray[Any, np.dtype[Any]]

rng = np.random.default_rng

STEP = 0.05
"""The scale of the outputs."""


def _ends(net: Net, zero: int, dtype: type[np.integer[Any]]) -> list[str]:
    return [net.const(np.float32(STEP)), net.const(dtype(zero))]


def _quantized(
    net: Net, value: str, zero: int, dtype: type[np.integer[Any]] = np.uint8, scale: float = 0.03
) -> list[str]:
    """A value as integers with its scale and zero point."""
    parts = [net.const(np.float32(scale)), net.const(dtype(zero))]
    return [net.op("QuantizeLinear", value, *parts), *parts]


def _stored(
    net: Net, *shape: int, zero: int = 0, columns: int = 0, dtype: type[np.integer[Any]] = np.int8
) -> list[str]:
    """Constant integers with scale and zero point; with `columns` one of each a column."""
    low, high = (-100, 101) if dtype is np.int8 else (20, 236)
    values = rng(sum(shape)).integers(low, high, shape).astype(dtype)
    scale = np.linspace(0.005, 0.01, columns, dtype=np.float32) if columns else np.float32(0.01)
    return [net.const(values), net.const(scale), net.const(np.full(np.shape(scale), zero, dtype))]


def _qlinear_matmul(zero: int, columns: int, dtype: type[np.integer[Any]]) -> onnx.ModelProto:
    net = Net()
    data = _quantized(net, net.input((8, 32)), zero, dtype)
    ends = _ends(net, zero, dtype)
    made = net.op("QLinearMatMul", *data, *_stored(net, 32, 24, columns=columns), *ends)
    return net.model(net.op("DequantizeLinear", made, *ends))


def _qlinear_matmul_of_two(zero: int) -> onnx.ModelProto:
    net = Net()
    first, second = net.input((2, 8, 16), "x"), net.input((2, 16, 8), "y")
    ends = _ends(net, zero, np.uint8)
    made = net.op("QLinearMatMul", *_quantized(net, first, zero), *_quantized(net, second, zero), *ends)
    return net.model(net.op("DequantizeLinear", made, *ends))


def _qlinear_where() -> onnx.ModelProto:
    net = Net()
    flag = net.input((4, 16), "flag", TensorProto.BOOL)
    first, second = net.input((4, 16), "x"), net.input((4, 16), "y")
    ends = _ends(net, 128, np.uint8)
    parts = [*_quantized(net, first, 128), *_quantized(net, second, 128, scale=0.04)]
    return net.model(net.op("DequantizeLinear", net.op("QLinearWhere", flag, *parts, *ends, domain=MICROSOFT), *ends))


def _reduce_mean(opset: int, *, integers: bool, **attributes: Any) -> onnx.ModelProto:
    """QLinearReduceMean, or what its schema says that it is: ONNX Runtime has no kernel of it on the CPU."""
    net = Net(opset)
    ends = _ends(net, 128, np.uint8)
    data = _quantized(net, net.input((2, 4, 6, 8)), 128)
    if integers:
        made = net.op("QLinearReduceMean", *data, *ends, domain=MICROSOFT, **attributes)
    else:
        if opset >= 18:
            axes = [net.const(np.array(attributes.pop("axes")))]
        made = net.op("ReduceMean", net.op("DequantizeLinear", *data), *(axes if opset >= 18 else []), **attributes)
        made = net.op("QuantizeLinear", made, *ends)
    return net.model(net.op("DequantizeLinear", made, *ends))


def _means(opset: int, axes: Sequence[int], keepdims: int) -> "Case":
    make = partial(_reduce_mean, opset, axes=axes, keepdims=keepdims)
    return Case(partial(make, integers=True), "ReduceMean", steps=1, reference=partial(make, integers=False))


def _to_float(*, bias: bool, columns: int, dynamic: bool) -> onnx.ModelProto:
    net = Net()
    x = net.input((8, 32))
    if dynamic:
        data, scale, zero = net.op("DynamicQuantizeLinear", x, outputs=3)
    else:
        data, scale, zero = _quantized(net, x, 128)
    weight, weight_scale, weight_zero = _stored(net, 32, 24, zero=3, columns=columns)
    more = [net.const(weights(24))] if bias else []
    made = net.op("MatMulIntegerToFloat", data, weight, scale, weight_scale, zero, weight_zero, *more, domain=MICROSOFT)
    return net.model(made)


def _dynamic_matmul(*, bias: bool, columns: int, zero: bool) -> onnx.ModelProto:
    net = Net()
    weight, scale, zeros = _stored(net, 32, 24, zero=3 if zero else 0, columns=columns)
    last = [zeros if zero else "", net.const(weights(24))] if bias else [zeros] if zero else []
    made = net.op("DynamicQuantizeMatMul", net.input((8, 32)), weight, scale, *last, domain=MICROSOFT)
    return net.model(made)


def _dynamic_lstm(*, direction: str = "forward", per_column: bool = False, states: bool = False) -> onnx.ModelProto:
    """x [5, 2, 16] through an LSTM of 8 units; W [directions, 16, 32] and R [directions, 8, 32] are integers."""
    net = Net()
    count, hidden = 2 if direction == "bidirectional" else 1, 8
    x = net.input((5, 2, 16))
    stored = [net.const(rng(rows).integers(-100, 101, (count, rows, 4 * hidden)).astype(np.int8)) for rows in (16, 8)]
    shape = (count, 4 * hidden) if per_column else (count,)
    scales = [net.const(np.linspace(0.002, 0.006, int(np.prod(shape)), dtype=np.float32).reshape(shape)) for _ in "WR"]
    zeros = [net.const(np.zeros(shape, np.int8)) for _ in "WR"]
    bias = net.const(weights(count, 8 * hidden))
    first = [net.const(weights(count, 2, hidden, seed=seed)) for seed in (1, 2)] if states else ["", ""]
    inputs = [x, *stored, bias, "", *first, "", scales[0], zeros[0], scales[1], zeros[1]]
    made = net.op("DynamicQuantizeLSTM", *inputs, domain=MICROSOFT, outputs=3, hidden_size=hidden, direction=direction)
    return net.model(*made)


def _simplified_layer_norm() -> onnx.ModelProto:
    net = Net()
    made = net.op("SimplifiedLayerNormalization", net.input((2, 4, 32)), net.const(weights(32)), epsilon=1e-5)
    return net.model(made)


@dataclass(frozen=True)
class Case:
    """One integer operator.

    Attributes:
        make: Builds the model.
        becomes: The operator that it becomes.
        steps: How far a result may move, in steps of the output: integer kernels may round a tie the other way.
        reach: How far a result may move against the largest: the rounding of activations to 8 bits that is left out
            has 1/255 of the range as its step, and sums of 32 products keep below three of them; states of an LSTM
            are rounded at every step.
        int8: Number of layers of products in INT8.
        builds: Whether the builder takes it as it is, too.
        reference: Builds the model that says the numbers; None for the operator itself.
    """

    make: Callable[[], onnx.ModelProto]
    becomes: str
    steps: int = 0
    reach: float = 1e-5
    int8: int = 0
    builds: bool = False
    reference: Callable[[], onnx.ModelProto] | None = None


CASES = {
    "QLinearMatMul": Case(lambda: _qlinear_matmul(0, 0, np.int8), "MatMul", steps=1, int8=1),
    "QLinearMatMul-columns": Case(lambda: _qlinear_matmul(0, 24, np.int8), "MatMul", steps=1, int8=1),
    "QLinearMatMul-uint8": Case(lambda: _qlinear_matmul(128, 24, np.uint8), "MatMul", steps=1, int8=1),
    "QLinearMatMul-activations": Case(lambda: _qlinear_matmul_of_two(128), "MatMul", steps=1, int8=1),
    "QLinearWhere": Case(_qlinear_where, "Where", steps=1),
    "QLinearReduceMean-13": _means(13, [2, 3], 1),
    "QLinearReduceMean-18": _means(18, [-1], 0),
    "QLinearReduceMean-all": _means(18, [0, 1, 2, 3], 1),
    "MatMulIntegerToFloat": Case(lambda: _to_float(bias=True, columns=24, dynamic=True), "MatMul", reach=0.01),
    "MatMulIntegerToFloat-per-tensor": Case(
        lambda: _to_float(bias=False, columns=0, dynamic=True), "MatMul", reach=0.01
    ),
    "MatMulIntegerToFloat-static": Case(
        lambda: _to_float(bias=True, columns=24, dynamic=False), "MatMul", reach=0.01, int8=1
    ),
    "DynamicQuantizeMatMul": Case(lambda: _dynamic_matmul(bias=True, columns=24, zero=True), "MatMul", reach=0.01),
    "DynamicQuantizeMatMul-bare": Case(
        lambda: _dynamic_matmul(bias=False, columns=0, zero=False), "MatMul", reach=0.01
    ),
    "DynamicQuantizeMatMul-bias": Case(lambda: _dynamic_matmul(bias=True, columns=0, zero=False), "MatMul", reach=0.01),
    "DynamicQuantizeLSTM": Case(_dynamic_lstm, "LSTM", reach=0.03),
    "DynamicQuantizeLSTM-both-ways": Case(
        lambda: _dynamic_lstm(direction="bidirectional", states=True), "LSTM", reach=0.03
    ),
    "DynamicQuantizeLSTM-columns": Case(lambda: _dynamic_lstm(per_column=True), "LSTM", reach=0.03),
    "SimplifiedLayerNormalization": Case(_simplified_layer_norm, "ReduceMean", builds=True),
}


def feed(proto: onnx.ModelProto) -> Mapping[str, Array]:
    """Random arrays for all inputs."""
    generator = rng(3)
    arrays: dict[str, Array] = {}
    for value in proto.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        drawn = generator.standard_normal(shape) + 0.5
        arrays[value.name] = (
            drawn > 0.5 if value.type.tensor_type.elem_type == TensorProto.BOOL else drawn.astype(np.float32)
        )
    return arrays


def legal(proto: onnx.ModelProto) -> ir.Model:
    model = onnx_ir.from_proto(proto)
    result = legalize(model)
    assert result.changes
    assert result.refusals == ()
    return model


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_numbers_stay(case: Case) -> None:
    proto = case.make()
    model = legal(proto)
    assert case.becomes in operators(model)
    assert {node.domain for node in model.graph} == {""}
    before = preflight(onnx_ir.from_proto(proto))
    assert not any(finding.severity.is_fatal for finding in before), before
    reference = proto if case.reference is None else case.reference()
    for expected, given in zip(run(reference, feed(proto)), run(model, feed(proto)), strict=True):
        assert expected.shape == given.shape
        assert np.abs(expected).max() > 5 * STEP * case.steps  # there is something to compare
        moved = np.abs(given - expected)
        assert moved.max() <= 1.001 * STEP * case.steps + case.reach * np.abs(expected).max()
        assert np.mean(moved > case.reach * np.abs(expected).max()) < 0.05


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[BuildResult, BuildResult]]:
    """Each case given to the real builder as it is, and legalized."""
    folder = tmp_path_factory.mktemp("forms")
    jobs = []
    for name, case in CASES.items():
        proto = case.make()
        paths = folder / f"{name}.onnx", folder / f"{name}.legal.onnx"
        onnx.save(proto, paths[0])
        ir.save(legal(proto), paths[1])
        jobs += [BuildJob(path) for path in paths]
    results = build_all(jobs)
    return dict(zip(CASES, zip(results[::2], results[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_they_build_only_when_legalized(name: str, built: dict[str, tuple[BuildResult, BuildResult]]) -> None:
    before, after = built[name]
    assert before.done == CASES[name].builds
    assert after.done, after.why()
    products = [layer for layer in after.layers if layer.kind in ("correlation", "gemm")]
    assert sum(layer.precision == "Int8" for layer in products) == CASES[name].int8, after.layers


@pytest.mark.parametrize(
    ("name", "at"), [("DynamicQuantizeMatMul", 1), ("MatMulIntegerToFloat", 1), ("DynamicQuantizeLSTM", 2)]
)
def test_weights_that_are_computed_are_refused_with_the_reason(name: str, at: int) -> None:
    proto = CASES[name].make()
    node = next(each for each in proto.graph.node if each.op_type == name)
    constant = next(each for each in proto.graph.initializer if each.name == node.input[at])
    proto.graph.initializer.remove(constant)
    proto.graph.input.append(onnx.helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
    refusals = legalize(onnx_ir.from_proto(proto)).refusals
    assert any("computed while the model runs" in each and node.name in each for each in refusals), refusals
