"""Sinking Transposes: regions between them are permuted where fewer remain, and nowhere else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse
from sardonyx.passes.fusion.sink_transposes import SinkTransposes
from tests import models_for_tests as build
from tests.passes.contract import PassContract
from tests.passes.rule_cases import check_function, ints, node

NHWC = (0, 3, 1, 2)
NCHW = (0, 2, 3, 1)
SHAPE = (1, 4, 6, 5)
Shape = tuple[int, ...]


def in_nhwc(*inner: onnx.NodeProto, batch: str | int = "N", **constants: np.ndarray) -> onnx.ModelProto:
    """A convolution in NCHW, nodes in NHWC from `t` to `u`, and another convolution, as tf2onnx writes them."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Transpose", ["c"], ["t"], perm=NCHW),
        *inner,
        node("Transpose", ["u"], ["v"], perm=NHWC),
        node("Conv", ["v", "k"], ["y"]),
    ]
    weights = {"w": build.weights(4, 4, 3, 3), "k": build.weights(3, 4, 1, 1)}
    return build.proto(nodes, {"x": (batch, 4, 6, 5)}, {"y": None}, weights | constants)


def classifier() -> onnx.ModelProto:
    """A residual block between convolutions, and a mean that ends the layout."""
    nodes = [
        node("Transpose", ["x"], ["a"], perm=NHWC),
        node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1]),
        node("Transpose", ["b"], ["c"], perm=NCHW),
        node("Add", ["c", "bias"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("Transpose", ["e"], ["f"], perm=NHWC),
        node("Conv", ["f", "w"], ["g"], pads=[1, 1, 1, 1]),
        node("Transpose", ["g"], ["h"], perm=NCHW),
        node("Add", ["h", "e"], ["i"]),
        node("ReduceMean", ["i"], ["y"], axes=[1, 2], keepdims=0),
    ]
    constants = {"w": build.weights(4, 4, 3, 3), "bias": build.weights(4, seed=2)}
    return build.proto(nodes, {"x": ("N", 6, 5, 4)}, {"y": None}, constants)


INNER: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "activation": ([node("Relu", ["t"], ["u"])], {}),
    "bias": ([node("Add", ["b", "t"], ["u"])], {"b": build.weights(4, seed=1)}),
    "row": ([node("Mul", ["t", "b"], ["u"])], {"b": build.weights(6, 1, 4, seed=1)}),
    "clip": ([node("Clip", ["t", "", "six"], ["u"])], {"six": np.float32(6)}),
    "softmax": ([node("Softmax", ["t"], ["u"])], {}),
    "split and concat": (
        [node("Split", ["t"], ["p", "q"], axis=-1), node("Concat", ["q", "p"], ["u"], axis=3)],
        {},
    ),
    "gate": ([node("ReduceMean", ["t"], ["m"], axes=[1, 2]), node("Mul", ["t", "m"], ["u"])], {}),
    "pad": ([node("Pad", ["t", "p"], ["u"])], {"p": ints(0, 1, 2, 0, 0, 3, 0, 0)}),
    "slice": ([node("Slice", ["t", "s", "e"], ["u"])], {"s": ints(0, 1), "e": ints(9, 5)}),
    "slice of named axes": ([node("Slice", ["t", "s", "e", "a"], ["u"])], {"s": ints(1), "e": ints(5), "a": ints(-2)}),
    "quantization": (
        [
            node("QuantizeLinear", ["t", "s", "z"], ["q"], axis=3),
            node("DequantizeLinear", ["q", "s", "z"], ["u"], axis=3),
        ],
        {"s": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "z": np.zeros(4, np.int8)},
    ),
    "norm": ([node("LpNormalization", ["t"], ["u"])], {}),
    "choice": (
        [node("Greater", ["t", "zero"], ["g"]), node("Sqrt", ["t"], ["r"]), node("Where", ["g", "t", "b"], ["u"])],
        {"zero": np.zeros(1, np.float32), "b": build.weights(1, 1, 1, 4, seed=1)},
    ),
}


def transposes(model: ir.Model) -> int:
    return sum(n.op_type == "Transpose" for graph in ir.all_graphs(model) for n in graph)


class TestSinkTransposes(PassContract):
    instance = SinkTransposes()

    def sources(self) -> list[onnx.ModelProto]:
        return [in_nhwc(*nodes, batch=1, **constants) for nodes, constants in INNER.values()]

    def feed(self) -> dict[str, np.ndarray]:
        return {"x": build.weights(*SHAPE, scale=1.0)}


@pytest.mark.parametrize("case", INNER)
def test_regions_between_convolutions_need_no_transposes(case: str) -> None:
    nodes, constants = INNER[case]
    source = in_nhwc(*nodes, **constants)
    model = ir.load(source).model
    result = SinkTransposes().apply(model, PassContext())
    assert result.stats == {"sink-transposes": 2}
    assert transposes(model) == 0
    check_function(source, model, [{"x": build.weights(n, 4, 6, 5, seed=n, scale=1.0)} for n in (1, 3)])


def test_a_reduction_ends_the_layout() -> None:
    source = classifier()
    model = ir.load(source).model
    assert SinkTransposes().apply(model, PassContext()).stats == {"sink-transposes": 3}
    assert transposes(model) == 1  # that of the input
    assert any(n.metadata_props.get("sardonyx.rule") == "sink-transposes" for n in model.graph)
    check_function(source, model, [{"x": build.weights(n, 6, 5, 4, seed=n, scale=1.0)} for n in (1, 2)])


def alone(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    return build.proto(list(nodes), {"x": SHAPE}, {nodes[-1].output[0]: None}, constants)


LEFT_ALONE = {
    "nothing to cancel with": alone(node("Transpose", ["x"], ["t"], perm=NCHW), node("Relu", ["t"], ["y"])),
    "an operator of fixed layout": alone(
        node("Transpose", ["x"], ["t"], perm=NCHW),
        node("MatMul", ["t", "w"], ["m"]),
        node("Transpose", ["m"], ["y"], perm=NHWC),
        w=build.weights(4, 4),
    ),
    "a reduction that would change the order": alone(
        node("Transpose", ["x"], ["t"], perm=NCHW), node("ReduceMax", ["t"], ["y"], axes=[1], keepdims=0)
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_would_not_leave_fewer_stays(case: str) -> None:
    model = ir.load(LEFT_ALONE[case]).model
    before = transposes(model)
    result = SinkTransposes().apply(model, PassContext())
    assert transposes(model) == before
    assert not result.modified


def test_outputs_keep_their_names() -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=NCHW),
        node("Relu", ["t"], ["r"]),
        node("Transpose", ["r"], ["y"], perm=NHWC),
        node("Sigmoid", ["r"], ["s"]),
        node("Transpose", ["s"], ["z"], perm=NHWC),
    ]
    source = build.proto(nodes, {"x": SHAPE}, {"y": None, "r": None, "z": None})
    model = ir.load(source).model
    assert SinkTransposes().apply(model, PassContext()).stats == {"sink-transposes": 2}
    assert transposes(model) == 1  # that of r
    check_function(source, model, [{"x": build.weights(*SHAPE)}])


def test_an_old_opset_is_refused() -> None:
    model = build.model([node("Transpose", ["x"], ["y"], perm=NCHW)], {"x": SHAPE}, {"y": None})
    model.opset_imports[""] = 11
    result = SinkTransposes().apply(model, PassContext())
    assert not result.modified
    assert "from opset 13 on, the model has 11" in result.refusals[0].reason


Step = Callable[[str, Shape, str, int], tuple[list[onnx.NodeProto], dict[str, Any], Shape]]


def _transpose(perm: Shape) -> Step:
    return lambda v, s, out, n: ([node("Transpose", [v], [out], perm=perm)], {}, tuple(s[axis] for axis in perm))


def _same(op: str, **attributes: Any) -> Step:
    return lambda v, s, out, n: ([node(op, [v], [out], **attributes)], {}, s)


def _bias(v: str, s: Shape, out: str, n: int) -> tuple[list[onnx.NodeProto], dict[str, Any], Shape]:
    constant = build.weights(*s[4 - n % 5 :], seed=n)
    return [node("Add", [f"{out}_k", v], [out])], {f"{out}_k": constant}, s


def _project(v: str, s: Shape, out: str, n: int) -> tuple[list[onnx.NodeProto], dict[str, Any], Shape]:
    return [node("MatMul", [v, f"{out}_w"], [out])], {f"{out}_w": build.weights(s[-1], 3, seed=n)}, (*s[:3], 3)


def _mean(v: str, s: Shape, out: str, n: int) -> tuple[list[onnx.NodeProto], dict[str, Any], Shape]:
    return [node("ReduceMean", [v], [out], axes=[n % 4])], {}, tuple(1 if a == n % 4 else d for a, d in enumerate(s))


def _pad(v: str, s: Shape, out: str, n: int) -> tuple[list[onnx.NodeProto], dict[str, Any], Shape]:
    amounts = [(n >> bit) & 1 for bit in range(8)]
    padded = tuple(d + amounts[a] + amounts[a + 4] for a, d in enumerate(s))
    return [node("Pad", [v, f"{out}_p"], [out])], {f"{out}_p": ints(*amounts)}, padded


def _doubled(v: str, s: Shape, out: str, n: int) -> tuple[list[onnx.NodeProto], dict[str, Any], Shape]:
    axis = n % 4
    halves = [
        node("Concat", [v, v], [f"{out}_c"], axis=axis),
        node("Split", [f"{out}_c"], [out, f"{out}_b"], axis=axis),
    ]
    return halves, {}, s


STEPS: tuple[Step, ...] = (
    *(_transpose(perm) for perm in (NHWC, NCHW, NHWC, NCHW, (0, 2, 1, 3), (0, 1, 3, 2))),
    *(_same(op) for op in ("Relu", "Sigmoid", "Softmax")),
    *(_bias, _project, _mean, _pad, _doubled),
)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Transposes between operators of all kinds, with sums of equal shapes and outputs anywhere."""
    values: list[tuple[str, Shape]] = [("x", SHAPE)]
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {}
    for index in range(draw(st.integers(2, 14))):
        value, shape = draw(st.sampled_from(values[-3:]))
        name = f"v{index}"
        equal = [other for other, dims in values if dims == shape]
        if draw(st.integers(0, 4)) == 0:
            made, needed, new = [node("Add", [value, draw(st.sampled_from(equal))], [name])], {}, shape
        else:
            made, needed, new = draw(st.sampled_from(STEPS))(value, shape, name, draw(st.integers(0, 255)))
        nodes += made
        constants |= needed
        values.append((name, new))
    outputs = {values[-1][0], draw(st.sampled_from([name for name, _ in values[1:]]))}
    return build.proto(nodes, {"x": SHAPE}, dict.fromkeys(sorted(outputs)), constants)


@given(source=graphs())
def test_the_function_stays_and_there_are_fewer_transposes(source: onnx.ModelProto) -> None:
    model = ir.load(source).model
    before = transposes(model)
    result = SinkTransposes().apply(model, PassContext())
    assert result.modified is (transposes(model) < before)
    assert result.stats.get("sink-transposes", 0) == before - transposes(model)
    check_function(source, model, [{"x": build.weights(*SHAPE, scale=1.0)}])
    again = ir.load(onnx.ModelProto.FromString(ir.serialize(model))).model
    report = ir.infer_shapes(again)
    assert (report.failures, report.corrected) == ((), ())
    assert not SinkTransposes().apply(model, PassContext()).modified


@given(source=graphs())
def test_the_rules_behind_it_keep_the_function_and_settle(source: onnx.ModelProto) -> None:
    model = ir.load(source).model
    SinkTransposes().apply(model, PassContext())
    Fuse().apply(model, PassContext())
    check_function(source, model, [{"x": build.weights(*SHAPE, scale=1.0)}])
    assert not Fuse().apply(model, PassContext()).modified
