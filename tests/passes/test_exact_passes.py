"""The passes that never change a result."""

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import PassContext
from sardonyx.passes.cleanup.cleanup import Cleanup
from sardonyx.passes.folding.constants import FoldConstants
from sardonyx.passes.fusion.batch_norm import FuseBatchNorm
from sardonyx.passes.fusion.pad import FusePad
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

    def test_symbolic_shape_stays(self) -> None:
        model = build.model(
            [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])], {"x": ["N", 3]}, {"y": None}
        )
        assert not self.instance.apply(model, NOTHING).modified

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


class TestFuseBatchNorm(PassContract):
    instance = FuseBatchNorm()

    def sources(self) -> list[onnx.ModelProto]:
        norm = ["scale", "bias", "mean", "var"]

        def constants(channels: int) -> dict[str, np.ndarray]:
            return {
                "scale": 1 + build.weights(channels, seed=1),
                "bias": build.weights(channels, seed=2),
                "mean": build.weights(channels, seed=3),
                "var": np.abs(build.weights(channels, seed=4)) + 0.5,
            }

        transposed = build.proto(
            [node("ConvTranspose", ["image", "w"], ["c"]), node("BatchNormalization", ["c", *norm], ["y"])],
            {"image": [1, 3, 16, 16]},
            {"y": None},
            {"w": build.weights(3, 4, 2, 2), **constants(4)},
        )
        gemm = build.proto(
            [
                node("Flatten", ["image"], ["f"]),
                node("Gemm", ["f", "w", "b"], ["g"], alpha=0.5, beta=2.0),
                node("BatchNormalization", ["g", *norm], ["y"], epsilon=1e-3),
            ],
            {"image": [1, 3, 16, 16]},
            {"y": None},
            {"w": build.weights(768, 6, scale=0.05), "b": build.weights(6), **constants(6)},
        )
        return [*super().sources(), transposed, gemm]

    def test_the_node_is_gone_and_says_whence(self) -> None:
        model = ir.load(build.cnn()).model
        result = self.instance.apply(model, NOTHING)
        assert result.stats == {"fuse-batch-norm": 1}
        assert "BatchNormalization" not in build.operators(model)
        conv = next(n for n in model.graph if n.name == "conv1")
        assert conv.metadata_props == {"sardonyx.rule": "fuse-batch-norm", "sardonyx.source": "conv1,norm1"}

    def test_weights_shared_with_another_node_keep_their_value(self) -> None:
        norm = ["scale", "bias", "mean", "var"]
        one = np.ones(4, np.float32)
        source = build.proto(
            [
                node("Conv", ["x", "w"], ["c"]),
                node("BatchNormalization", ["c", *norm], ["y"]),
                node("Conv", ["x", "w"], ["z"]),
            ],
            {"x": [1, 3, 5, 5]},
            {"y": None, "z": None},
            {"w": build.weights(4, 3, 3, 3), "scale": 2 * one, "bias": one, "mean": one, "var": one},
        )
        model, modified = self.applied(source)
        assert modified
        feed = {"x": build.weights(1, 3, 5, 5)}
        for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("nodes", "reason"),
        [
            ([("BatchNormalization", "x", "y")], "does not come from a Conv"),
            ([("Conv", "x", "c"), ("BatchNormalization", "c", "y"), ("Exp", "c", "z")], "c is used elsewhere too"),
        ],
    )
    def test_refusals_say_why(self, nodes: list[tuple[str, str, str]], reason: str) -> None:
        extra = {"Conv": ["w"], "BatchNormalization": ["one", "one", "one", "one"], "Exp": []}
        model = build.model(
            [node(op, [source, *extra[op]], [result]) for op, source, result in nodes],
            {"x": [1, 3, 5, 5]},
            {nodes[-1][2]: None, "y": None},
            {"w": build.weights(3, 3, 1, 1), "one": np.ones(3, np.float32)},
        )
        result = self.instance.apply(model, NOTHING)
        assert not result.modified
        assert reason in result.refusals[0].reason


class TestFusePad(PassContract):
    instance = FusePad()

    def test_the_pad_is_gone(self) -> None:
        model = ir.load(build.cnn()).model
        assert self.instance.apply(model, NOTHING).stats == {"fuse-pad": 1}
        conv = next(n for n in model.graph if n.name == "conv2")
        assert ir.attribute(conv, "pads", ()) == (1, 1, 1, 1)
        assert "Pad" not in build.operators(model)

    @pytest.mark.parametrize(
        ("pads", "value", "mode", "reason"),
        [
            ([0, 1, 0, 0, 0, 0, 0, 0], 0.0, "constant", "batch or channel"),
            ([0, 0, 1, 1, 0, 0, 1, 1], 1.0, "constant", "value is not 0"),
            ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "reflect", "mode is reflect"),
            ([0, 0, -1, 0, 0, 0, 0, 0], 0.0, "constant", "crops"),
        ],
    )
    def test_refusals_say_why(self, pads: list[int], value: float, mode: str, reason: str) -> None:
        channels = 3 + pads[1]
        model = build.model(
            [
                node("Pad", ["x", "pads", "value"], ["p"], mode=mode),
                node("Conv", ["p", "w"], ["y"], name="conv"),
            ],
            {"x": [1, 3, 8, 8]},
            {"y": None},
            {"pads": np.array(pads), "value": np.float32(value), "w": build.weights(2, channels, 3, 3)},
        )
        result = self.instance.apply(model, NOTHING)
        assert not result.modified
        assert reason in result.refusals[0].reason
        assert "conv" in result.refusals[0].nodes
