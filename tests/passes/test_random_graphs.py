"""Property: whatever the graph, the exact passes keep its function, and a second run changes nothing."""

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.pipeline import PassManager, PassRecord, Recipe, Status, available_passes, parse_pipeline
from tests import models_for_tests as build

SHAPE = (1, 4, 6, 6)
RUNS = 4
Maker = Callable[[str, str, str, int], tuple[list[onnx.NodeProto], dict[str, np.ndarray]]]


def _elementwise(op: str) -> Maker:
    return lambda a, b, out, seed: ([helper.make_node(op, [a], [out])], {})


def _binary(op: str) -> Maker:
    return lambda a, b, out, seed: ([helper.make_node(op, [a, b], [out])], {})


def _constant(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    square = helper.make_node("Mul", [f"{out}_k", f"{out}_k"], [f"{out}_kk"])
    return [square, helper.make_node("Add", [a, f"{out}_kk"], [out])], {f"{out}_k": build.weights(4, 1, 1, seed=seed)}


def _conv(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Pad, Conv with shared or own weights, BatchNormalization."""
    weight = "shared" if seed % 3 == 0 else f"{out}_w"
    norm = [f"{out}_{p}" for p in ("scale", "bias", "mean", "var")]
    nodes = [
        helper.make_node("Pad", [a, "pads"], [f"{out}_p"]),
        helper.make_node("Conv", [f"{out}_p", weight], [f"{out}_c"]),
        helper.make_node("BatchNormalization", [f"{out}_c", *norm], [out]),
    ]
    constants = {weight: build.weights(4, 4, 3, 3, seed=0 if weight == "shared" else seed)}
    constants |= {name: np.abs(build.weights(4, seed=seed + i)) + 0.5 for i, name in enumerate(norm)}
    return nodes, constants | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}


def _channelwise(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Conv, then a constant per channel or for all."""
    op = ("Add", "Sub", "Mul", "Div")[seed % 4]
    shape = ((4, 1, 1), (1,), (1, 4, 1, 1))[seed % 3]
    constants = {f"{out}_w": build.weights(4, 4, 1, 1, seed=seed), f"{out}_k": build.weights(*shape, seed=seed) + 2}
    nodes = [
        helper.make_node("Conv", [a, f"{out}_w"], [f"{out}_c"]),
        helper.make_node(op, [f"{out}_c", f"{out}_k"], [out]),
    ]
    return nodes, constants


def _there_and_back(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Reshapes, transposes and a cast that end where they began."""
    nodes = [
        helper.make_node("Slice", [a, "none", "far", "axis2"], [f"{out}_s"]),
        helper.make_node("Slice", [f"{out}_s", "none", "far", "axis3"], [f"{out}_z"]),
        helper.make_node("Reshape", [f"{out}_z", "flat"], [f"{out}_r"]),
        helper.make_node("Transpose", [f"{out}_r"], [f"{out}_t"], perm=[1, 0]),
        helper.make_node("Cast", [f"{out}_t"], [f"{out}_f"], to=1),
        helper.make_node("Transpose", [f"{out}_f"], [f"{out}_u"], perm=[1, 0]),
        helper.make_node("Reshape", [f"{out}_u", "full"], [out]),
    ]
    shapes = {"flat": [4, 36], "full": SHAPE, "none": [0], "far": [99], "axis2": [2], "axis3": [-1]}
    return nodes, {name: np.array(value, np.int64) for name, value in shapes.items()}


def _hard_swish(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    nodes = [
        helper.make_node("Add", ["three", a], [f"{out}_a"]),
        helper.make_node("Clip", [f"{out}_a", "zero", "six"], [f"{out}_c"]),
        helper.make_node("Mul", [f"{out}_c", a if seed % 2 else b], [f"{out}_m"]),
        helper.make_node("Div", [f"{out}_m", "six"], [out]),
    ]
    return nodes, {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)}


def _layer_norm(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    inner = [
        f"{out}_{part}" for part in ("mean", "centred", "squares", "variance", "shifted", "root", "unit", "scaled")
    ]
    mean, centred, squares, variance, shifted, root, unit, scaled = inner
    nodes = [
        helper.make_node("ReduceMean", [a], [mean], axes=[-1]),
        helper.make_node("Sub", [a, mean], [centred]),
        helper.make_node("Pow", [centred, "two"], [squares]),
        helper.make_node("ReduceMean", [squares], [variance], axes=[-1]),
        helper.make_node("Add", [variance, "epsilon"], [shifted]),
        helper.make_node("Sqrt", [shifted], [root]),
        helper.make_node("Div", [centred, root], [unit]),
        helper.make_node("Mul", [unit, f"{out}_g"], [scaled]),
        helper.make_node("Add", [scaled, f"{out}_b"], [out]),
    ]
    constants = {f"{out}_g": build.weights(6, seed=seed), f"{out}_b": build.weights(6, seed=seed + 1)}
    return nodes, constants | {"two": np.float32(2), "epsilon": np.float32(1e-3)}


def _around_conv(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A constant on either side of a grouped, perhaps padded or transposed, convolution, and moves behind it."""
    first, second = ("Mul", "Sub", "Div")[seed % 3], ("Sub", "Add", "Mul")[seed % 3]
    group = 1 + seed % 2
    padded = {"pads": [1, 1, 1, 1]} if seed % 4 else {}
    size = 3 if padded else 1
    conv = helper.make_node(
        ("Conv", "ConvTranspose")[seed % 5 == 0], [f"{out}_m", f"{out}_w"], [f"{out}_c"], group=group, **padded
    )
    ends = [f"{out}_c", f"{out}_k"]
    nodes = [
        helper.make_node(first, [a, f"{out}_k"], [f"{out}_m"]),
        conv,
        helper.make_node(second, ends if seed % 2 else ends[::-1], [f"{out}_s"]),
        helper.make_node("Transpose", [f"{out}_s"], [f"{out}_t"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", [f"{out}_t", f"{out}_l"], [f"{out}_u"]),
        helper.make_node("Transpose", [f"{out}_u"], [out], perm=[0, 3, 1, 2]),
    ]
    shape = ((4, 1, 1), (1,))[seed % 2]
    constants = {f"{out}_w": build.weights(4, 4 // group, size, size, seed=seed), f"{out}_l": build.weights(4) + 1}
    return nodes, constants | {f"{out}_k": build.weights(*shape, seed=seed) + 2}


def _rows(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Products of matrices with constants around them, between reshapes or not."""
    w, bias, k = f"{out}_w", f"{out}_b", f"{out}_k"
    flat, full = ([4, 36], [36]) if seed % 2 else ([24, 6], [6])
    op = ("Add", "Mul", "Div", "Sub")[seed % 4]
    product = (
        [helper.make_node("Gemm", [f"{out}_r", w, bias], [f"{out}_g"], alpha=0.5, transB=seed % 2)]
        if seed % 3
        else [
            helper.make_node("MatMul", [f"{out}_r", w], [f"{out}_p"]),
            helper.make_node("Add", [bias, f"{out}_p"], [f"{out}_g"]),
        ]
    )
    nodes = [
        helper.make_node(op, [a, "two"], [f"{out}_a"]),
        helper.make_node("Reshape", [f"{out}_a", f"{out}_flat"], [f"{out}_r"]),
        *product,
        helper.make_node(op, [f"{out}_g", k], [f"{out}_q"]),
        helper.make_node("Reshape", [f"{out}_q", "full"], [f"{out}_y"]),
        helper.make_node("MatMul", [f"{out}_y", f"{out}_v"], [f"{out}_z"]),
        helper.make_node("Mul", [f"{out}_z", "two"], [out]),
    ]
    size = full[0]
    constants = {w: build.weights(size, size, seed=seed), bias: build.weights(size), k: build.weights(size) + 2}
    constants |= {f"{out}_v": build.weights(6, 6, seed=seed), "two": np.float32(2)}
    return nodes, constants | {f"{out}_flat": np.array(flat, np.int64), "full": np.array(SHAPE, np.int64)}


def _pool(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A Pad before a pool, and a constant minus the result."""
    op = ("AveragePool", "MaxPool")[seed % 2]
    nodes = [
        helper.make_node(("Relu", "Tanh")[seed % 3 == 0], [a], [f"{out}_r"]),
        helper.make_node("Pad", [f"{out}_r", "pads"], [f"{out}_p"]),
        helper.make_node(op, [f"{out}_p"], [f"{out}_m"], kernel_shape=[3, 3]),
        helper.make_node("Sub", ["two", f"{out}_m"], [f"{out}_d"]),
        helper.make_node("Add", [f"{out}_d", "two"], [out]),
    ]
    return nodes, {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "two": np.float32(2)}


def _renamed(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Axes put in, taken out and merged, an Expand that a sum does itself, and a product with ones."""
    nodes = [
        helper.make_node("Unsqueeze", [a, "axis0"], [f"{out}_u"]),
        helper.make_node("Flatten", [f"{out}_u"], [f"{out}_f"], axis=3),
        helper.make_node("Reshape", [f"{out}_f", "full"], [f"{out}_r"]),
        helper.make_node("Expand", [f"{out}_k", "full"], [f"{out}_e"]),
        helper.make_node("Max", [f"{out}_r", f"{out}_e"], [f"{out}_m"]),
        helper.make_node("Mul", [f"{out}_m", "ones"], [out]),
    ]
    constants = {"axis0": np.array([seed % 2], np.int64), "full": np.array(SHAPE, np.int64)}
    return nodes, constants | {f"{out}_k": build.weights(4, 1, 6, seed=seed), "ones": np.ones((1, 1), np.float32)}


def _parts(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Slices that tile an axis, put together in one order or another."""
    parts = [f"{out}_p", f"{out}_q"][:: 1 if seed % 2 else -1]
    nodes = [
        helper.make_node("Slice", [a, "none", "half", f"{out}_axis"], [f"{out}_p"]),
        helper.make_node("Slice", [a, "half", "far", f"{out}_axis"], [f"{out}_q"]),
        helper.make_node("Concat", parts, [out], axis=1 + seed % 3),
    ]
    numbers = {"none": 0, "half": 2, "far": 99, f"{out}_axis": 1 + seed % 3}
    return nodes, {name: np.array([number], np.int64) for name, number in numbers.items()}


def _indexed(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """One row, taken by Gather and put back, or sliced and squeezed, in a sum that repeats it."""
    rows = [
        helper.make_node("Gather", [a, "row"], [f"{out}_g"], axis=2),
        helper.make_node("Unsqueeze", [f"{out}_g", "axis2"], [f"{out}_r"]),
        helper.make_node("Slice", [a, "none", "first", "axis3"], [f"{out}_s"]),
        helper.make_node("Squeeze", [f"{out}_s", "axis3"], [f"{out}_c"]),
        helper.make_node("Unsqueeze", [f"{out}_c", "axis3"], [f"{out}_d"]),
        helper.make_node("Add", [f"{out}_r", f"{out}_d"], [f"{out}_a"]),
    ]
    shapes = {"axis2": [2], "axis3": [3], "none": [0], "first": [1]}
    constants = {name: np.array(value, np.int64) for name, value in shapes.items()}
    return [*rows, helper.make_node("Max", [b, f"{out}_a"], [out])], constants | {"row": np.array(3, np.int64)}


def _pixels(a: str, b: str, out: str, seed: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Space to depth and back, as reshapes and transposes; back by ONNX's order of channels or by the other."""
    middle, perm = (([1, 2, 2, 4, 3, 3], [0, 3, 4, 1, 5, 2]), ([1, 4, 2, 2, 3, 3], [0, 1, 4, 2, 5, 3]))[seed % 2]
    steps = [([1, 4, 3, 2, 3, 2], [0, 3, 5, 1, 2, 4], [1, 16, 3, 3]), (middle, perm, list(SHAPE))]
    nodes, constants, value = [], {}, a
    for index, (apart, order, together) in enumerate(steps):
        last = out if index else f"{out}_half"
        names = [f"{out}_{part}{index}" for part in ("apart", "together", "r", "t")]
        nodes += [
            helper.make_node("Reshape", [value, names[0]], [names[2]]),
            helper.make_node("Transpose", [names[2]], [names[3]], perm=order),
            helper.make_node("Reshape", [names[3], names[1]], [last]),
        ]
        constants |= {names[0]: np.array(apart, np.int64), names[1]: np.array(together, np.int64)}
        value = last
    return nodes, constants


MAKERS: tuple[Maker, ...] = (
    *(_elementwise(op) for op in ("Relu", "Sigmoid", "Identity", "Neg")),
    *(_binary(op) for op in ("Add", "Mul", "Max")),
    _constant,
    _conv,
    _channelwise,
    _there_and_back,
    _renamed,
    _parts,
    _indexed,
    _pixels,
    _hard_swish,
    _layer_norm,
    _around_conv,
    _rows,
    _pool,
)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """A valid graph with branches, shared values, shared weights and several outputs, some in mid-pattern."""
    values = ["x"]
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for index in range(draw(st.integers(1, 8))):
        maker = draw(st.sampled_from(MAKERS))
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        made, needed = maker(a, b, f"v{index}", draw(st.integers(0, 9)))
        nodes += made
        constants |= needed
        values += [f"v{index}"]
    inner = [n.output[0] for n in nodes if n.op_type in ("Conv", "Pad", "Transpose", "Clip", "Sqrt", "MatMul", "Gemm")]
    outputs = {values[-1]: None}
    if inner and draw(st.booleans()):
        outputs[draw(st.sampled_from(inner))] = None
    return build.proto(nodes, {"x": SHAPE}, outputs, constants)


def _shapes_hold(before: ir.Model, after: ir.Model, record: PassRecord) -> None:
    """Refuses a pass that leaves a value with a type or shape that its node contradicts: later ones rely on them."""
    corrected = ir.infer_shapes(ir.clone(after)).corrected
    if corrected:
        raise PassError(f"{record.name} left stale shapes: {', '.join(corrected)}")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(source=graphs(), seed=st.integers(0, 1000))
def test_the_exact_pipeline_keeps_the_function(source: onnx.ModelProto, seed: int) -> None:
    passes = parse_pipeline(Recipe().optimize, available_passes())
    result = PassManager(passes, hook=_shapes_hold).run(ir.load(source).model)
    assert [r.reason for r in result.records if r.status is Status.UNDONE] == []
    feed = {"x": build.weights(*SHAPE, seed=seed, scale=1.0)}
    for before, after in zip(build.run(source, feed), build.run(result.model, feed), strict=True):
        scale = max(1.0, float(np.abs(before).max()))
        np.testing.assert_allclose(after / scale, before / scale, rtol=1e-4, atol=1e-5)
    model = result.model
    for _ in range(RUNS):  # what the last pass leaves may give an earlier one a little more to do, but not for ever
        again = PassManager(passes).run(model)
        if all(record.status is Status.UNCHANGED for record in again.records):
            return
        model = again.model
    raise AssertionError(f"The pipeline still changes its own result after {RUNS} runs.")
