"""The rules for linear operators: what becomes what, that the function stays at every size, why a match is refused."""

import numpy as np
import onnx
import pytest

from sardonyx import ir
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.fusion.fuse import RULES, Fuse
from sardonyx.passes.rewriting.driver import near_misses
from tests import models_for_tests as build
from tests.passes.contract import PassContract
from tests.passes.linear_cases import GOLDEN, REFUSED, node

SIZES = ({"N": 1, "H": 5, "L": 4}, {"N": 3, "H": 8, "L": 7}, {"N": 2, "H": 9, "L": 4})


def feeds(source: onnx.ModelProto, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """One feed for each of `SIZES`."""

    def shape(info: onnx.ValueInfoProto, sizes: dict[str, int]) -> list[int]:
        return [sizes[d.dim_param] if d.dim_param else d.dim_value for d in info.type.tensor_type.shape.dim]

    return [
        {v.name: build.weights(*shape(v, sizes), seed=seed + i, scale=1.0) for i, v in enumerate(source.graph.input)}
        for sizes in SIZES
    ]


def fuse(source: onnx.ModelProto) -> tuple[ir.Model, PassResult]:
    model = ir.load(source).model
    return model, Fuse().apply(model, PassContext())


def assert_same_function(source: onnx.ModelProto, model: ir.Model) -> None:
    """Outputs differ by the rounding of reassociated sums at most: 1e-5 of the largest value."""
    for feed in feeds(source):
        for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
            assert before.shape == after.shape
            largest = float(np.abs(before).max(initial=1.0))
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("case", GOLDEN)
def test_what_becomes_what(case: str) -> None:
    source = GOLDEN[case].proto()
    model, result = fuse(source)
    assert (build.operators(model), dict(result.stats)) == (list(GOLDEN[case].expected), dict(GOLDEN[case].rules))
    assert ir.verify(model) == ()
    assert_same_function(source, model)


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    source, reason = REFUSED[case]
    model, result = fuse(source.proto())
    assert not result.modified
    assert any(reason in refusal.reason for refusal in result.refusals), [r.reason for r in result.refusals]
    assert build.operators(model) == [n.op_type for n in source.nodes]


def test_higher_ranks_were_never_meant() -> None:
    nodes = [node("MatMul", ["x", "w"], ["c"]), node("Add", ["c", "b"], ["y"], name="add")]
    source = build.proto(nodes, {"x": ["N", "L", 6]}, {"y": None}, {"w": build.weights(6, 5), "b": build.weights(5)})
    model, result = fuse(source)
    assert (result.modified, result.refusals) == (False, ())
    reasons = {rule.name: reason for rule, reason in near_misses(model, RULES, "add")}
    assert reasons["matmul-add-to-gemm"] == "x has rank 3, not 2"


class TestFuseLinear(PassContract):
    instance = Fuse()

    def sources(self) -> list[onnx.ModelProto]:
        return [case.proto() for case in GOLDEN.values() if case.inputs == {"x": ["N", 4, "H", 9]}]

    def feed(self) -> dict[str, np.ndarray]:
        return {"x": build.weights(2, 4, 7, 9, scale=1.0)}
