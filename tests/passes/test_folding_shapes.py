"""Shape arithmetic: what becomes of it where sizes are symbols, and that it holds at several sizes."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from sardonyx import ir
from sardonyx.errors import BackendError
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.folding.branches import ChooseBranches
from sardonyx.passes.folding.constants import FoldConstants
from tests import models_for_tests as build
from tests.passes.contract import PassContract

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
CONSTANTS = ", ".join(
    (
        *(f"int64 c{value} = {{{value}}}" for value in (0, 1, 2, 3)),
        *(f"int64[1] v{value} = {{{value}}}" for value in (0, 1, 2, 3, 4, 12)),
        "int64[1] minus1 = {-1}",
        "int64[1] minus2 = {-2}",
        "int64[1] minus3 = {-3}",
        "int64[2] pair = {0, 1}",
    )
)


def source(body: str, inputs: str = "float[N, S, 12] x", outputs: str = "y") -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEAD} g ({inputs}) => ({outputs}) <{CONSTANTS}> {{ {body} }}")


def fold(proto: onnx.ModelProto) -> tuple[ir.Model, PassResult]:
    model = ir.load(proto).model
    result = FoldConstants().apply(model, PassContext())
    assert ir.verify(model) == ()
    assert not ir.infer_shapes(model).changed, "shapes were not known as far as they can be"
    return model, result


def constant(model: ir.Model, node: int, index: int) -> list[int]:
    value = model.graph[node].inputs[index]
    assert value is not None
    tensor = ir.constant_tensor(value)
    assert tensor is not None
    return [int(item) for item in tensor.numpy()]


def agree(proto: onnx.ModelProto, model: ir.Model, shapes: Sequence[Mapping[str, Sequence[int]]]) -> int:
    """Compares at each of the shapes, and returns at how many."""
    for sizes in shapes:
        feed = {name: build.weights(*shape, scale=1.0) for name, shape in sizes.items()}
        for before, after in zip(build.run(proto, feed), build.run(model, feed), strict=True):
            np.testing.assert_array_equal(after, before)
    return len(shapes)


BATCHES = ({"x": (2, 5, 12)}, {"x": (1, 1, 12)}, {"x": (7, 4, 12)})
SPLIT_HEADS = """
    s = Shape(x) n = Gather<axis = 0>(s, c0) l = Gather<axis = 0>(s, c1)
    n1 = Unsqueeze(n, v0) l1 = Unsqueeze(l, v0) t = Concat<axis = 0>(n1, l1, v3, v4)
    heads = Reshape(x, t) y = Transpose<perm = [0, 2, 1, 3]>(heads)"""

GOLDEN = {
    "copied sizes": (SPLIT_HEADS, ["Reshape", "Transpose"], (0, 1, [0, 0, 3, 4])),
    "one size that is not copied": (
        "s = Shape(x) n = Gather(s, c0) l = Gather(s, c1) nl = Mul(n, l) nl1 = Unsqueeze(nl, v0)"
        "t = Concat<axis = 0>(nl1, v12) y = Reshape(x, t)",
        ["Reshape"],
        (0, 1, [-1, 12]),
    ),
    "sizes behind a transposition": (
        "f = Transpose<perm = [1, 0, 2]>(x) s = Shape(f) l = Slice(s, v0, v1) n = Slice(s, v1, v2)"
        "t = Concat<axis = 0>(n, l, v3, v4) z = Reshape(x, t) y = Neg(z)",
        ["Reshape", "Neg"],
        (0, 1, [0, 0, 3, 4]),
    ),
    "Shape with start and end": (
        "n = Shape<start = 0, end = 2>(x) t = Concat<axis = 0>(n, v4, minus1) y = Reshape(x, t)",
        ["Reshape"],
        (0, 1, [0, 0, 4, -1]),
    ),
    "a reshape to the shape that it has": ("s = Shape(x) z = Reshape(x, s) y = Neg(z)", ["Neg"], None),
    "an expansion that nothing needs": (
        "s = Shape(x) none = Equal(s, minus1) ones = ConstantOfShape<value = int64[1] {1}>(v3)"
        "t = Where(none, ones, s) z = Expand(x, t) y = Neg(z)",
        ["Neg"],
        None,
    ),
    "an expansion that keeps a size": (
        "s = Shape(x) l = Gather(s, v1) t = Concat<axis = 0>(v3, v1, l, v12)  y = Expand(x, t)",
        ["Expand"],
        (0, 1, [3, 1, 1, 12]),
    ),
    "a slice up to the end": (
        "s = Shape(x) l = Gather(s, v1) z = Slice(x, v1, l, v1) y = Neg(z)",
        ["Slice", "Neg"],
        (0, 2, [2**63 - 1]),
    ),
    "a slice without the last": (
        "s = Shape(x) l = Gather(s, v1) e = Sub(l, v1) y = Slice(x, v0, e, v1)",
        ["Slice"],
        (0, 2, [-1]),
    ),
    "a number of sizes": ("s = Shape(x) r = Size(s) f = Cast<to = 1>(r) y = Mul(x, f)", ["Mul"], None),
    "a comparison that sizes settle": (
        "s = Shape(x) n = Gather(s, c0) p = Add(n, c1) more = Greater(p, n) f = Cast<to = 1>(more) y = Mul(x, f)",
        ["Mul"],
        None,
    ),
    "an exact quotient": (
        "s = Shape(x) n = Gather(s, v0) d = Mul(n, v4) q = Div(d, n) l = Gather(s, v1)"
        "t = Concat<axis = 0>(minus1, l, v3, q) y = Reshape(x, t)",
        ["Reshape"],
        (0, 1, [-1, 0, 3, 4]),
    ),
    "the shape of what only its shape is needed of": (
        "e = Exp(x) f = Sqrt(e) s = Shape(f) c = Cast<to = 1>(s) y = ReduceSum(c)",
        ["Shape", "Cast", "ReduceSum"],
        None,
    ),
    "equal sizes are computed once": (
        "e = Exp(x) s = Shape(x) s2 = Shape(e) c = Cast<to = 1>(s) d = Cast<to = 1>(s2) z = Add(c, d)"
        "t = ReduceSum<keepdims = 0>(z) y = Add(e, t)",
        ["Exp", "Shape", "Cast", "Cast", "Add", "ReduceSum", "Add"],
        None,
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: str) -> None:
    body, operators, target = GOLDEN[case]
    proto = source(body)
    model, result = fold(proto)
    assert build.operators(model) == operators
    assert result.modified
    if target is not None:
        node, index, expected = target
        assert constant(model, node, index) == expected
    assert agree(proto, model, BATCHES) == len(BATCHES)


def test_a_copied_size_may_be_0() -> None:
    proto = source(SPLIT_HEADS)
    model, _ = fold(proto)
    assert agree(proto, model, [{"x": (0, 5, 12)}, {"x": (2, 0, 12)}])


def test_slices_without_the_last_two_hold_on_short_inputs() -> None:
    for bound in ("v1", "v2"):
        proto = source(f"s = Shape(x) l = Gather(s, v1) e = Sub(l, {bound}) y = Slice(x, v0, e, v1)")
        model, _ = fold(proto)
        assert build.operators(model) == ["Slice"]
        assert agree(proto, model, [{"x": (1, size, 12)} for size in range(5)])


REFUSED = {
    "two sizes that are not copied": (
        "s = Shape(x) n = Gather(s, v0) l = Gather(s, v1) t = Concat<axis = 0>(l, n, v12) y = Reshape(x, t)",
        "several of its sizes are not those of the input: S, N",
    ),
    "-1 beside a size that may be 0": (
        "s = Shape(x) n = Gather(s, v0) l = Gather(s, v1) m = Mul(l, v3) t = Concat<axis = 0>(n, m, v4)"
        "y = Reshape(x, t)",
        "-1 cannot stand for 3*S, as another size of it may be 0",
    ),
    "an expansion by a size": (
        "s = Shape(x) l = Gather(s, v1) t = Concat<axis = 0>(l, v1, v1, v1) y = Expand(x, t)",
        "its size S is not that of the input",
    ),
    "a slice three before the end": (
        "s = Shape(x) l = Gather(s, v1) e = Sub(l, v3) y = Slice(x, v0, e, v1)",
        "is not an end of the input",
    ),
    "a slice backwards": (
        "s = Shape(x) l = Gather(s, v1) y = Slice(x, l, v0, v1, minus1)",
        "its steps are negative",
    ),
    "a size of 0 that is asked for": (
        "s = Shape(x) n = Gather(s, v0) t = Concat<axis = 0>(n, v0) y = Reshape<allowzero = 1>(x, t)",
        "it asks for a size of 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    body, reason = REFUSED[case]
    proto = source(body)
    model, result = fold(proto)
    assert [refusal.reason for refusal in result.refusals if reason in refusal.reason] != []
    assert result.refusals[0].rule == "constant-target"
    assert agree(proto, model, [{"x": (0, 4, 12)}] if "allowzero" in body else BATCHES)


def test_names_of_computed_values_are_not_believed() -> None:
    """An exporter wrote N beside a size that is not N."""
    proto = source(
        "h = Transpose<perm = [1, 0, 2]>(x) s = Shape(h) t = Slice(s, v0, v1) c = Concat<axis = 0>(t, v12, minus1)"
        "y = Reshape(x, c)"
    )
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", "S", 12]))
    model, _ = fold(proto)
    assert build.operators(model) != ["Reshape"]
    assert agree(proto, model, [{"x": (2, 6, 12)}])


@pytest.mark.parametrize("filler", ["?", "None", "dynamic", "max(N,1)"])
def test_fillers_are_no_names(filler: str) -> None:
    proto = source("s = Shape(x) l = Slice(s, v1, v2) t = Concat<axis = 0>(l, v12, minus1) y = Reshape(x, t)")
    for axis in (0, 1):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = filler
    model, _ = fold(proto)
    assert build.operators(model)[-1] == "Reshape"
    assert len(model.graph) > 1
    assert agree(proto, model, [{"x": (2, 6, 12)}])


def test_graph_outputs_keep_their_names_and_values() -> None:
    proto = source("s = Shape(x) z = Reshape(x, s) y = Identity(z)", outputs="float[a, b, c] z, int64[3] s, y")
    model, _ = fold(proto)
    assert [value.name for value in model.graph.outputs] == ["z", "s", "y"]
    assert agree(proto, model, BATCHES) == len(BATCHES)


def test_sizes_of_outer_values_reach_branches() -> None:
    proto = source(
        """s = Shape(x) r = Size(s) three = Equal(r, c3)
           y = If(three) <
             then_branch = t () => (a) {
               q = Shape(x) k = Slice(q, v0, v2) u = Concat<axis = 0>(k, v3, v4) a = Reshape(x, u) },
             else_branch = e () => (b) { b = Neg(x) }>"""
    )
    model = ir.load(proto).model
    FoldConstants().apply(model, PassContext())
    assert ChooseBranches().apply(model, PassContext()).stats["choose-branches"] == 1
    assert build.operators(model) == ["Reshape"]
    assert agree(proto, model, BATCHES) == len(BATCHES)


def test_a_branch_settles_the_condition_of_another() -> None:
    """The rank of the first If's result is known once its branch is chosen; the second If asks for it."""
    proto = source(
        """s = Shape(x) r = Size(s) three = Equal(r, c3)
           h = If(three) <then_branch = t () => (a) { a = Unsqueeze(x, v0) },
                          else_branch = e () => (b) { b = Neg(x) }>
           q = Shape(h) k = Size(q) again = Equal(k, c3)
           y = If(again) <then_branch = t2 () => (a2) { a2 = Exp(h) }, else_branch = e2 () => (b2) { b2 = Sqrt(h) }>"""
    )
    model = ir.load(proto).model
    FoldConstants().apply(model, PassContext())
    stats = ChooseBranches().apply(model, PassContext()).stats
    assert stats["choose-branches"] == 2
    assert build.operators(model) == ["Unsqueeze", "Sqrt"]
    proto_feed = {"x": np.abs(build.weights(2, 3, 12))}
    np.testing.assert_array_equal(build.run(model, proto_feed)[0], build.run(proto, proto_feed)[0])


class TestFoldShapes(PassContract):
    instance = FoldConstants()

    def sources(self) -> list[onnx.ModelProto]:
        bodies = [*(body for body, *_ in GOLDEN.values()), *(body for body, _ in REFUSED.values())]
        return [source(body) for body in bodies if "allowzero" not in body]

    def feed(self) -> dict[str, np.ndarray]:
        return {"x": build.weights(2, 5, 12)}


STEPS = (
    "{o} = Transpose<perm = [1, 0, 2]>({a})",
    "{o}s = Shape({a}) {o}n = Slice({o}s, v0, v2) {o}t = Concat<axis = 0>({o}n, v12) {o} = Reshape({a}, {o}t)",
    "{o}s = Shape({b}) {o}n = Gather({o}s, v0) {o}l = Gather({o}s, v1) {o}t = Concat<axis = 0>({o}l, {o}n, v12)"
    "{o} = Reshape({b}, {o}t)",
    "{o}s = Shape({a}) {o}n = Slice({o}s, v0, v1) {o}t = Concat<axis = 0>({o}n, minus1, v12) {o} = Reshape({a}, {o}t)",
    "{o}s = Shape({b}) {o}l = Gather({o}s, v1) {o}h = Sub({o}l, v1) {o}c = Slice({b}, v0, {o}h, v1) "
    "{o} = Concat<axis = 1>({o}c, {b})",
    "{o}s = Shape({a}) {o}m = ReduceMin<keepdims = 0>({o}s) {o}f = Cast<to = 1>({o}m) {o} = Add({a}, {o}f)",
    "{o}s = Shape({a}) {o}z = ConstantOfShape({o}s) {o} = Add({a}, {o}z)",
    "{o}s = Shape({a}) {o}e = Exp({a}) {o} = Expand({o}e, {o}s)",
    "{o}q = Shape({b}) {o}s = Shape({a}) {o}p = ReduceProd<keepdims = 1>({o}s) {o}w = Div({o}p, v12)"
    "{o}t = Concat<axis = 0>({o}w, v1, v12) {o} = Reshape({a}, {o}t)",
    "{o}u = Unsqueeze({a}, v1) {o}v = Squeeze({o}u, v1) {o}s = Shape({o}v) {o}x = Gather({o}s, v0)"
    "{o}g = Min({o}x, v2) {o} = Slice({a}, v0, {o}g, v0)",
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=5),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 4), st.just(12)),
)
def test_random_chains_keep_their_function(steps: list[tuple[str, int, int]], shape: tuple[int, int, int]) -> None:
    names, lines = ["x"], []
    for number, (step, a, b) in enumerate(steps):
        lines.append(step.format(o=f"r{number}", a=names[a % len(names)], b=names[b % len(names)]))
        names.append(f"r{number}")
    proto = source(" ".join(lines) + f" y = Neg({names[-1]})")
    feed = {"x": build.weights(*shape, scale=0.1)}
    try:
        before = build.run(proto, feed)[0]
    except BackendError:
        return  # a chain that the runtime refuses at these sizes promises nothing
    model, _ = fold(proto)
    np.testing.assert_allclose(build.run(model, feed)[0], before, rtol=1e-6)
    once = ir.digest(model)
    assert not FoldConstants().apply(model, PassContext()).modified
    assert ir.digest(model) == once
