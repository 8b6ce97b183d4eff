"""Property: whatever the graph, the quantized model is valid, loads, runs, and stays near the original."""

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.measure import Session, describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, parse_pipeline
from tests import models_for_tests as build

SHAPE = (1, 4, 6, 6)
Made = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]
Maker = Callable[[str, str, str, int], Made]
node = helper.make_node


def simple(op: str, **attributes: object) -> Maker:
    return lambda a, b, out, seed: ([node(op, [a], [out], **attributes)], {})


def binary(op: str) -> Maker:
    return lambda a, b, out, seed: ([node(op, [a, b], [out])], {})


def conv(a: str, b: str, out: str, seed: int) -> Made:
    weight = build.weights(4, 4, 3, 3, seed=seed)
    return [node("Conv", [a, f"{out}_w", f"{out}_b"], [out], pads=[1, 1, 1, 1])], {
        f"{out}_w": weight,
        f"{out}_b": build.weights(4, seed=seed + 1),
    }


def depthwise(a: str, b: str, out: str, seed: int) -> Made:
    return [node("Conv", [a, f"{out}_w"], [out], pads=[1, 1, 1, 1], group=4)], {
        f"{out}_w": build.weights(4, 1, 3, 3, seed=seed)
    }


def matmul(a: str, b: str, out: str, seed: int) -> Made:
    return [node("MatMul", [a, f"{out}_w"], [out])], {f"{out}_w": build.weights(6, 6, seed=seed)}


def clip(a: str, b: str, out: str, seed: int) -> Made:
    return [node("Clip", [a, "zero", "six"], [out])], {"zero": np.float32(0), "six": np.float32(6)}


def split_and_concat(a: str, b: str, out: str, seed: int) -> Made:
    slices = {"zero1": [0], "two": [2], "four": [4], "axis": [1]}
    nodes = [
        node("Slice", [a, "zero1", "two", "axis"], [f"{out}_a"]),
        node("Slice", [b, "two", "four", "axis"], [f"{out}_b"]),
        node("Concat", [f"{out}_b", f"{out}_a"], [out], axis=1),
    ]
    return nodes, {name: np.array(value, np.int64) for name, value in slices.items()}


def pad_and_crop(a: str, b: str, out: str, seed: int) -> Made:
    # Not Pad before MaxPool: ONNX Runtime fuses these although MaxPool pads with minus infinity, in float too.
    constants = {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "from": [0, 0], "to": [6, 6], "axes": [2, 3]}
    nodes = [node("Pad", [a, "pads"], [f"{out}_p"]), node("Slice", [f"{out}_p", "from", "to", "axes"], [out])]
    return nodes, {name: np.array(value, np.int64) for name, value in constants.items()}


def there_and_back(a: str, b: str, out: str, seed: int) -> Made:
    return [
        node("Reshape", [a, "flat"], [f"{out}_r"]),
        node("Transpose", [f"{out}_r"], [f"{out}_t"], perm=[1, 0]),
        node("Transpose", [f"{out}_t"], [f"{out}_u"], perm=[1, 0]),
        node("Reshape", [f"{out}_u", "full"], [out]),
    ], {"flat": np.array([4, 36], np.int64), "full": np.array(SHAPE, np.int64)}


def positive(out: str) -> list[onnx.NodeProto]:
    """Whether the input's mean is positive: known only when the model runs, and the same however it is quantized."""
    return [
        node("ReduceMean", ["x"], [f"{out}_mean"], keepdims=0),
        node("Greater", [f"{out}_mean", "nought"], [f"{out}_c"]),
    ]


def conditional(a: str, b: str, out: str, seed: int) -> Made:
    """A product in either branch of an If; the branches share names and take values from outside."""

    def branch(value: str, weight: str) -> onnx.GraphProto:
        body = [node("MatMul", [value, weight], [f"{out}_p"]), node("Relu", [f"{out}_p"], [f"{out}_r"])]
        return helper.make_graph(body, "branch", [], [helper.make_tensor_value_info(f"{out}_r", 1, SHAPE)])

    branches = {"then_branch": branch(a, f"{out}_w"), "else_branch": branch(b, f"{out}_v")}
    constants = {f"{out}_{k}": build.weights(6, 6, seed=seed + i) for i, k in enumerate("wv")}
    return [*positive(out), node("If", [f"{out}_c"], [out], **branches)], {"nought": np.float32(0), **constants}


def repeated(a: str, b: str, out: str, seed: int) -> Made:
    """A product in a Loop that runs once or twice; tanh keeps its state small."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("MatMul", [f"{out}_h", f"{out}_w"], [f"{out}_p"]),
            node("Sub", [f"{out}_p", b], [f"{out}_s"]),
            node("Tanh", [f"{out}_s"], [f"{out}_n"]),
            node("Identity", [f"{out}_go"], [f"{out}_on"]),
        ],
        "body",
        [info(f"{out}_i", 7, []), info(f"{out}_go", 9, []), info(f"{out}_h", 1, SHAPE)],
        [info(f"{out}_on", 9, []), info(f"{out}_n", 1, SHAPE)],
    )
    nodes = [
        *positive(out),
        node("Cast", [f"{out}_c"], [f"{out}_more"], to=7),
        node("Add", [f"{out}_more", "once"], [f"{out}_times"]),
        node("Loop", [f"{out}_times", "", a], [out], body=body),
    ]
    constants = {"nought": np.float32(0), "once": np.int64(1), f"{out}_w": build.weights(6, 6, seed=seed)}
    return nodes, constants


MAKERS: tuple[Maker, ...] = (
    *(simple(op) for op in ("Relu", "Sigmoid", "LeakyRelu", "Tanh", "Identity")),
    simple("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    simple("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    *(binary(op) for op in ("Add", "Mul", "MatMul")),
    *(conv, conv, depthwise, matmul, clip, split_and_concat, pad_and_crop, there_and_back),
    *(conditional, repeated),
)


PIPELINES = (
    "quantize-static{calibrator=minmax}",
    "quantize-static{calibrator=percentile}",
    "quantize-dynamic",
    "quantize-static, quantize-dynamic",
    "quantize-dynamic, quantize-static",
)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    values, nodes = ["x"], []
    constants: dict[str, np.ndarray] = {}
    for index in range(draw(st.integers(1, 9))):
        maker = draw(st.sampled_from(MAKERS))
        made, needed = maker(draw(st.sampled_from(values)), draw(st.sampled_from(values)), f"v{index}", index)
        nodes += made
        constants |= needed
        values.append(f"v{index}")
    outputs = {values[-1]: None, draw(st.sampled_from(values[1:])): None}
    return build.proto(nodes, {"x": SHAPE}, outputs, constants)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(source=graphs(), quantize=st.sampled_from(PIPELINES))
def test_quantized_models_are_valid_and_near(source: onnx.ModelProto, quantize: str) -> None:
    feeds = [{"x": build.weights(*SHAPE, seed=seed, scale=1.0)} for seed in range(4)]
    context = PassContext(capabilities(describe_machine()), load_samples(feeds))
    pipeline = f"{Recipe().optimize}, {quantize}"
    model = ir.load(source).model
    result = PassManager(parse_pipeline(pipeline, available_passes()), context=context).run(model)
    assert [r.reason for r in result.records if r.status is Status.UNDONE] == []
    assert [v.name for v in result.model.graph.outputs] == [v.name for v in source.graph.output]
    reference = build.run(source, feeds[0])
    with Session(ir.serialize(result.model)) as session:
        outputs = session.run(feeds[0])
    for before, after in zip(reference, outputs, strict=True):
        assert np.isfinite(after).all()
        # Up to nine INT8 layers, products of values among them: errors add up, but never to half of the signal.
        scale = float(np.abs(before).max()) + 1e-3
        assert np.abs(after - before).max() <= 0.5 * scale
