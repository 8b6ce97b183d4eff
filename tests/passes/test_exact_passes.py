"""The passes that never change a result."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import PassContext
from sardonyx.passes.cleanup.cleanup import Cleanup
from sardonyx.passes.cleanup.constants import LiftConstants
from sardonyx.passes.folding.branches import ChooseBranches
from sardonyx.passes.folding.constants import FoldConstants
from tests import models_for_tests as build
from tests.passes.contract import PassContract

node = helper.make_node
NOTHING = PassContext()


class TestCleanup(PassContract):
    instance = Cleanup(disable=("merge-subexpressions",))

    def test_removes_dead_duplicate_and_identity(self) -> None:
        w = build.weights(4, 4)
        model = build.model(
            [
                node("Identity", ["x"], ["i"]),
                node("MatMul", ["i", "w"], ["a"]),
                node("MatMul", ["i", "w_again"], ["b"]),
                node("Add", ["a", "b"], ["y"]),
                node("Exp", ["x"], ["dead"]),
            ],
            {"x": [2, 4]},
            {"y": [2, 4]},
            {"w": w, "w_again": w.copy()},
        )
        result = Cleanup().apply(model, NOTHING)
        assert build.operators(model) == ["MatMul", "Add"]
        assert set(result.stats) == {
            "remove-identities",
            "merge-initializers",
            "merge-subexpressions",
            "remove-unused-nodes",
        }
        assert ir.verify(model) == ()

    def test_keeps_the_name_of_an_output_behind_an_identity(self) -> None:
        model = build.model(
            [node("Exp", ["x"], ["inner"]), node("Identity", ["inner"], ["y"]), node("Neg", ["inner"], ["z"])],
            {"x": [2]},
            {"y": [2], "z": [2]},
        )
        Cleanup().apply(model, NOTHING)
        assert build.operators(model) == ["Exp", "Neg"]
        assert [v.name for v in model.graph.outputs] == ["y", "z"]
        assert ir.verify(model) == ()

    def test_an_identity_that_returns_an_outer_value_from_a_branch_stays(self) -> None:
        def branch(op: str, name: str) -> onnx.GraphProto:
            out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])
            return helper.make_graph([node(op, ["outer"], [name], name=name)], name, [], [out])

        source = build.proto(
            [
                node("Exp", ["x"], ["outer"]),
                node("ReduceSum", ["x"], ["total"], keepdims=0),
                node("Greater", ["total", "zero"], ["flag"]),
                node("If", ["flag"], ["y"], then_branch=branch("Identity", "t"), else_branch=branch("Neg", "e")),
            ],
            {"x": [2]},
            {"y": [2]},
            {"zero": np.float32(0)},
        )
        model = ir.load(source).model
        Cleanup().apply(model, NOTHING)
        assert ir.operator_counts(model)["Identity"] == 1
        feed = {"x": np.array([1.0, 2.0], np.float32)}
        np.testing.assert_array_equal(build.run(model, feed)[0], build.run(source, feed)[0])

    def test_unknown_step_is_named(self) -> None:
        with pytest.raises(SpecError, match="no step 'remove-everything'"):
            Cleanup(disable=("remove-everything",))


class TestFoldConstants(PassContract):
    instance = FoldConstants(max_growth_bytes=1 << 20)

    def sources(self) -> list[onnx.ModelProto]:
        chain = [
            node("Shape", ["image"], ["s"]),
            node("Gather", ["s", "one"], ["channels"]),
            node("Concat", ["minus", "channels"], ["target"], axis=0),
            node("Mul", ["a", "a"], ["aa"]),
            node("Add", ["image", "aa"], ["shifted"]),
            node("Reshape", ["shifted", "target"], ["y"]),
        ]
        constants = {
            "one": np.array([1], np.int64),
            "minus": np.array([-1], np.int64),
            "a": build.weights(1, 3, 1, 1),
        }
        folds_to_static = build.proto(chain, {"image": [1, 3, 16, 16]}, {"y": [256, 3]}, constants)
        return [*super().sources(), folds_to_static]

    def test_shape_arithmetic_of_a_static_shape_goes(self) -> None:
        model, modified = self.applied(self.sources()[-1])
        assert modified
        assert build.operators(model) == ["Add", "Reshape"]

    def test_sizes_that_change_an_output_stay(self) -> None:
        model = build.model(
            [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["y"], to=1)], {"x": ["N", 3]}, {"y": None}
        )
        assert not self.instance.apply(model, NOTHING).modified
        assert build.operators(model) == ["Shape", "Cast"]

    def test_quantized_weights_are_never_folded(self) -> None:
        model = build.model(
            [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("MatMul", ["x", "w"], ["y"])],
            {"x": [1, 4]},
            {"y": [1, 4]},
            {"q": np.ones((4, 4), np.int8), "s": np.float32(0.5), "z": np.int8(0)},
        )
        assert not self.instance.apply(model, NOTHING).modified

    def test_budget_refuses_with_the_bytes(self) -> None:
        model = build.model(
            [node("Expand", ["a", "shape"], ["big"]), node("Add", ["x", "big"], ["y"])],
            {"x": [64, 1024]},
            {"y": [64, 1024]},
            {"a": build.weights(1, 1), "shape": np.array([64, 1024], np.int64)},
        )
        result = FoldConstants(max_growth_bytes=1000).apply(model, NOTHING)
        assert not result.modified
        assert [r.rule for r in result.refusals] == ["growth"]
        assert "Expand was not folded: its value would make the model 262" in result.refusals[0].reason

    def test_random_operators_stay(self) -> None:
        model = build.model(
            [node("RandomNormalLike", ["a"], ["r"]), node("Add", ["x", "r"], ["y"])],
            {"x": [2]},
            {"y": [2]},
            {"a": build.weights(2)},
        )
        assert not self.instance.apply(model, NOTHING).modified

    def test_folds_in_branches(self) -> None:
        def branch(name: str, factor: float) -> onnx.GraphProto:
            value = helper.make_tensor(f"{name}_c", onnx.TensorProto.FLOAT, [1], [factor])
            nodes = [
                node("Constant", [], [f"{name}_k"], value=value),
                node("Exp", [f"{name}_k"], [f"{name}_e"]),
                node("Mul", ["x", f"{name}_e"], [name]),
            ]
            out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])
            return helper.make_graph(nodes, name, [], [out])

        source = build.proto(
            [
                node("ReduceSum", ["x"], ["total"], keepdims=0),
                node("Greater", ["total", "zero"], ["flag"]),
                node("If", ["flag"], ["y"], then_branch=branch("t", 1.0), else_branch=branch("e", 2.0)),
            ],
            {"x": [2]},
            {"y": [2]},
            {"zero": np.float32(0)},
        )
        model, modified = self.applied(source)
        assert modified
        assert "Exp" not in ir.operator_counts(model)
        for sign in (1, -1):
            feed = {"x": np.array([1.0, 2.0], np.float32) * sign}
            np.testing.assert_allclose(build.run(model, feed)[0], build.run(source, feed)[0], rtol=1e-6)


class TestFoldWholeWeights:
    """A weight that is cut and put together again: each part would grow the model, the whole does not."""

    def cut(self, *, used: bool) -> ir.Model:
        w = build.weights(4, 1024)
        ends = {"zero": [0], "half": [512], "far": [1024], "axis": [1]}
        nodes = [
            node("Slice", ["w", "zero", "half", "axis"], ["left"]),
            node("Slice", ["w", "half", "far", "axis"], ["right"]),
            node("Concat", ["right", "left"], ["swapped"], axis=1),
            node("Add", ["x", "swapped"], ["y"]),
        ]
        outputs: dict[str, list[int]] = {"y": [4, 1024]}
        if used:
            nodes.append(node("Add", ["x", "w"], ["z"]))
            outputs["z"] = [4, 1024]
        constants = {"w": w} | {name: np.array(value, np.int64) for name, value in ends.items()}
        return build.model(nodes, {"x": [4, 1024]}, outputs, constants)

    def test_the_whole_is_folded(self) -> None:
        model = self.cut(used=False)
        before = build.run(model, {"x": build.weights(4, 1024, seed=1)})
        result = FoldConstants().apply(model, NOTHING)
        assert build.operators(model) == ["Add"]
        assert (result.stats, result.refusals) == ({"Concat": 1}, ())
        np.testing.assert_array_equal(build.run(model, {"x": build.weights(4, 1024, seed=1)}), before)

    def test_it_stays_where_the_weight_is_needed_too(self) -> None:
        model = self.cut(used=True)
        result = FoldConstants().apply(model, NOTHING)
        assert build.operators(model) == ["Slice", "Slice", "Concat", "Add", "Add"]
        assert {refusal.rule for refusal in result.refusals} == {"growth"}
        assert not result.modified


class TestChooseBranches(PassContract):
    instance = ChooseBranches()

    def sources(self) -> list[onnx.ModelProto]:
        def branch(name: str, op: str) -> onnx.GraphProto:
            factor = helper.make_tensor("factor", onnx.TensorProto.FLOAT, [1], [2.0])
            nodes = [node(op, ["image"], ["inner"]), node("Mul", ["inner", "factor"], [name])]
            out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            return helper.make_graph(nodes, name, [], [out], [factor])

        def passing(name: str) -> onnx.GraphProto:
            out = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            return helper.make_graph([node("Identity", ["image"], [name])], name, [], [out])

        branches = {"then_branch": branch("t", "Exp"), "else_branch": branch("e", "Neg")}
        found = []
        for flag in (True, False):
            nodes = [
                node("If", ["flag"], ["first"], **branches),
                node("If", ["flag"], ["second"], **branches),
                node("Add", ["first", "second"], ["y"]),
            ]
            found.append(build.proto(nodes, {"image": [1, 3, 16, 16]}, {"y": None}, {"flag": np.array(flag)}))
        ends = [node("If", ["flag"], ["y"], then_branch=passing("t"), else_branch=branches["else_branch"])]
        found.append(build.proto(ends, {"image": [1, 3, 16, 16]}, {"y": None}, {"flag": np.array(True)}))
        return [*super().sources(), *found]

    def test_the_branch_takes_the_place_of_the_if(self) -> None:
        taken, other, passed = (self.applied(source)[0] for source in self.sources()[-3:])
        assert build.operators(taken) == ["Exp", "Mul", "Exp", "Mul", "Add"]
        assert build.operators(other) == ["Neg", "Mul", "Neg", "Mul", "Add"]
        assert build.operators(passed) == ["Identity"]

    def test_a_condition_that_is_computed_stays(self) -> None:
        out = helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [2])
        branch = helper.make_graph([node("Neg", ["x"], ["b"])], "b", [], [out])
        nodes = [
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Cast", ["total"], ["flag"], to=onnx.TensorProto.BOOL),
            node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
        ]
        assert not self.instance.apply(build.model(nodes, {"x": [2]}, {"y": [2]}), NOTHING).modified


def test_constants_become_initializers_of_their_graph() -> None:
    value = numpy_helper.from_array(np.array([2.0], np.float32))
    branches = {
        name: helper.make_graph(
            [node("Constant", [], [f"{name}_k"], value=value), node("Mul", ["x", f"{name}_k"], [f"{name}_m"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_m", TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    nodes = [
        node("Constant", [], ["returned"], value=value),
        node("Constant", [], ["two"], value=value),
        node("Constant", [], ["none"], value_float=0.0),
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "none"], ["c"]),
        node("If", ["c"], ["chosen"], **branches),
        node("Add", ["chosen", "two"], ["y"]),
    ]
    source = build.proto(nodes, {"x": (3,)}, {"y": None, "returned": None}, {}, 17)
    model = ir.load(source).model
    assert LiftConstants()(model).modified
    assert [n.outputs[0].name for n in model.graph if n.op_type == "Constant"] == ["returned", "none"]
    lifted = [[*graph.initializers] for graph in ir.all_graphs(model)]
    assert sorted(lifted) == [["else_branch_k"], ["then_branch_k"], ["two"]]
    assert ir.verify(model) == ()
    assert not LiftConstants()(model).modified
    feed = {"x": np.array([-1.0, 0.0, 3.0], np.float32)}
    for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
        np.testing.assert_array_equal(after, before)
