"""Property: whatever the graph, weights in blocks leave it valid, with its interface, and near the original."""

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.weight_only.quantize import QuantizeWeights
from sardonyx.pipeline import PassManager, Status
from tests import models_for_tests as build

WIDTH = 24
Made = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]
node = helper.make_node


def matmul(a: str, b: str, out: str, seed: int) -> Made:
    """A product with a weight of its own, or one that all share."""
    weight = "shared" if seed % 3 == 0 else f"{out}_w"
    return [node("MatMul", [a, weight], [out], name=out)], {weight: build.weights(WIDTH, WIDTH, seed=len(weight))}


def transposed(a: str, b: str, out: str, seed: int) -> Made:
    """A product with a transposed constant, which may be the one that others use as it is."""
    weight = "shared" if seed % 2 else f"{out}_w"
    nodes = [
        node("Transpose", [weight], [f"{out}_t"], name=f"{out}_t"),
        node("MatMul", [a, f"{out}_t"], [out], name=out),
    ]
    return nodes, {weight: build.weights(WIDTH, WIDTH, seed=len(weight))}


def gemm(a: str, b: str, out: str, seed: int) -> Made:
    bias = [f"{out}_c"] if seed % 2 else []
    constants = {f"{out}_w": build.weights(WIDTH, WIDTH, seed=seed), f"{out}_c": build.weights(WIDTH, seed=seed)}
    return [node("Gemm", [a, f"{out}_w", *bias], [out], name=out, transB=seed // 2 % 2)], constants


def lookup(a: str, b: str, out: str, seed: int) -> Made:
    """Rows of a table, which may be the weight of products."""
    table = "shared" if seed % 2 else f"{out}_w"
    nodes = [
        node("Gather", [table, "indices"], [f"{out}_g"], name=f"{out}_g"),
        node("Add", [a, f"{out}_g"], [out], name=out),
    ]
    return nodes, {table: build.weights(WIDTH, WIDTH, seed=len(table)), "indices": np.array([3, 0, 23, 5])}


def binary(op: str) -> object:
    return lambda a, b, out, seed: ([node(op, [a, b], [out], name=out)], {})


MAKERS = (matmul, matmul, transposed, gemm, lookup, binary("Add"), binary("Max"))


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    values: list[str] = ["x"]
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for index in range(draw(st.integers(1, 7))):
        maker = draw(st.sampled_from(MAKERS))
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        made, needed = maker(a, b, f"v{index}", draw(st.integers(0, 9)))  # type: ignore[operator]
        nodes += made
        constants |= needed
        values.append(f"v{index}")
    outputs = {values[-1]: None, draw(st.sampled_from(values[1:])): None}
    used = {name for n in nodes for name in n.input}
    return build.proto(nodes, {"x": [4, WIDTH]}, outputs, {k: v for k, v in constants.items() if k in used})


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    source=graphs(),
    method=st.sampled_from(["rtn", "hqq", "gptq"]),
    bits=st.sampled_from([4, 8]),
    shape=st.sampled_from([(True, False), (False, False), (False, True)]),
    block=st.sampled_from([16, 32]),
)
def test_weights_in_blocks(
    source: onnx.ModelProto, method: str, bits: int, shape: tuple[bool, bool], block: int
) -> None:
    feeds = [{"x": build.weights(4, WIDTH, seed=seed, scale=1.0)} for seed in range(3)]
    context = PassContext(capabilities(describe_machine()), load_samples(feeds))
    options = QuantizeWeights(
        bits=bits, block=block, symmetric=shape[0], offsets=shape[1], method=method, activations="float"
    )
    result = PassManager([options], context=context).run(ir.load(source).model)
    assert [r.reason for r in result.records if r.status is Status.UNDONE] == []
    assert [v.name for v in result.model.graph.outputs] == [v.name for v in source.graph.output]
    assert all(v.uses() for v in result.model.graph.initializers.values())
    for before, after in zip(build.run(source, feeds[0]), build.run(result.model, feeds[0]), strict=True):
        # up to seven layers, of an error of about 9 % each with 4 bits and 0.6 % with 8
        limit = 0.5 if bits == 4 else 0.05
        assert np.linalg.norm(after - before) <= limit * (np.linalg.norm(before) + 1e-3)
    again = PassManager([options], context=context).run(result.model)
    assert [r.status for r in again.records] == [Status.UNCHANGED]
