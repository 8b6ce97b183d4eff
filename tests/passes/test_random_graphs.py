"""Property: whatever the graph, the exact passes keep its function, and a second run changes nothing."""

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, parse_pipeline
from tests import models_for_tests as build

SHAPE = (1, 4, 6, 6)
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


MAKERS: tuple[Maker, ...] = (
    *(_elementwise(op) for op in ("Relu", "Sigmoid", "Identity", "Neg")),
    *(_binary(op) for op in ("Add", "Mul", "Max")),
    _constant,
    _conv,
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
    inner = [n.output[0] for n in nodes if n.op_type in ("Conv", "Pad")]
    outputs = {values[-1]: None}
    if inner and draw(st.booleans()):
        outputs[draw(st.sampled_from(inner))] = None
    return build.proto(nodes, {"x": SHAPE}, outputs, constants)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(source=graphs(), seed=st.integers(0, 1000))
def test_the_exact_pipeline_keeps_the_function(source: onnx.ModelProto, seed: int) -> None:
    passes = parse_pipeline(Recipe().optimize, available_passes())
    result = PassManager(passes).run(ir.load(source).model)
    assert [r.reason for r in result.records if r.status is Status.UNDONE] == []
    feed = {"x": build.weights(*SHAPE, seed=seed, scale=1.0)}
    for before, after in zip(build.run(source, feed), build.run(result.model, feed), strict=True):
        scale = max(1.0, float(np.abs(before).max()))
        np.testing.assert_allclose(after / scale, before / scale, rtol=1e-4, atol=1e-5)
    digest = ir.digest(result.model)
    again = PassManager(passes).run(result.model)
    assert ir.digest(again.model) == digest
    assert all(r.status is Status.UNCHANGED for r in again.records)
