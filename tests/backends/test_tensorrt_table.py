"""What TensorRT's table makes of models: which values get a pair, what stays in float and why, and the numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends.tensorrt.table import capabilities
from sardonyx.capabilities import Role
from sardonyx.errors import PassError, SpecError, UsageError
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.precision.convert import ConvertFloat
from sardonyx.passes.quantization.check_plan import checked_plan
from sardonyx.passes.quantization.methods.presets import ModelKind
from sardonyx.passes.quantization.placement import Placement, place
from sardonyx.passes.quantization.plan import PointKind, QuantPlan
from sardonyx.passes.quantization.static import QuantizeStatic
from sardonyx.passes.quantization.weight_only.quantize import QuantizeWeights
from sardonyx.pipeline.schemes import default_names, default_schemes
from tests import models_for_tests as build

node = helper.make_node
TABLE = capabilities(describe_machine())
Nodes = Sequence[onnx.NodeProto]


def conv(name: str, source: str, *extra: str, group: int = 1) -> onnx.NodeProto:
    return node("Conv", [source, f"w_{name}", *extra], [name], name=name, pads=[1, 1, 1, 1], group=group)


def kernels(*names: str, channels: int = 4) -> dict[str, build.Array]:
    return {f"w_{name}": build.weights(channels, channels, 3, 3, seed=i) for i, name in enumerate(names)}


IMAGE: Mapping[str, Sequence[int | str]] = {"x": ["N", 4, 8, 8]}


def model(nodes: Nodes, constants: Mapping[str, build.Array], inputs: Mapping[str, Sequence[int | str]]) -> ir.Model:
    return build.model(nodes, inputs, {"y": None}, constants)


def placed(
    nodes: Nodes, constants: Mapping[str, build.Array], inputs: Mapping[str, Sequence[int | str]] = IMAGE
) -> Placement:
    made = model(nodes, constants, inputs)
    ir.ensure_shapes(made)
    return place(made, TABLE)


def pairs(placement: Placement) -> dict[str, tuple[str, ...] | None]:
    """Who reads each quantized value as integers; None for all."""
    return {value.value: value.consumers for value in placement.values}


def feeds(count: int = 4, **shapes: tuple[int, ...]) -> list[dict[str, build.Array]]:
    generator = np.random.default_rng(7)
    return [
        {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]


class TestPlacement:
    def test_a_residual_block_has_a_pair_on_the_skip_input_alone(self) -> None:
        nodes = [
            conv("a", "x"),
            node("Relu", ["a"], ["ra"], name="relu_a"),
            conv("b", "ra"),
            node("Relu", ["b"], ["rb"], name="relu_b"),
            conv("c", "rb"),
            node("Add", ["c", "ra"], ["s"], name="add"),
            node("Relu", ["s"], ["rs"], name="relu_s"),
            conv("y", "rs"),
        ]
        found = placed(nodes, kernels("a", "b", "c", "y"))
        assert pairs(found) == {"x": ("a",), "ra": ("b", "add"), "rb": ("c",), "rs": ("y",)}
        assert found.compute_nodes == ("a", "b", "c", "y")
        assert found.float_nodes == {}

    def test_a_projected_skip_is_quantized_for_the_add(self) -> None:
        nodes = [
            conv("a", "x"),
            conv("p", "x"),
            node("Add", ["a", "p"], ["s"], name="add"),
            conv("y", "s"),
        ]
        assert pairs(placed(nodes, kernels("a", "p", "y"))) == {"x": ("a", "p"), "p": None, "s": ("y",)}

    def test_a_skip_that_is_nowhere_integer_stays_in_float(self) -> None:
        nodes = [
            node("Relu", ["x"], ["r"], name="relu"),
            node("Sigmoid", ["r"], ["g"], name="gate"),
            conv("a", "g"),
            node("Add", ["a", "r"], ["y"], name="add"),
        ]
        assert pairs(placed(nodes, kernels("a"))) == {"g": ("a",)}

    def test_a_product_that_others_read_too_is_not_fused_into_an_add(self) -> None:
        nodes = [
            conv("a", "x"),
            node("Sigmoid", ["a"], ["g"], name="gate"),
            node("Add", ["a", "x"], ["s"], name="add"),
            node("Mul", ["s", "g"], ["y"], name="mul"),
        ]
        assert pairs(placed(nodes, kernels("a"))) == {"x": ("a",)}

    def test_squeeze_and_excite_stays_in_float_between_products(self) -> None:
        nodes = [
            conv("a", "x"),
            node("Relu", ["a"], ["r"], name="relu"),
            node("GlobalAveragePool", ["r"], ["m"], name="mean"),
            node("Conv", ["m", "w_e"], ["e"], name="excite"),
            node("Sigmoid", ["e"], ["g"], name="gate"),
            node("Mul", ["r", "g"], ["s"], name="scale"),
            conv("y", "s"),
        ]
        constants = {**kernels("a", "y"), "w_e": build.weights(4, 4, 1, 1)}
        assert pairs(placed(nodes, constants)) == {"x": ("a",), "m": ("excite",), "s": ("y",)}

    @pytest.mark.parametrize(("inputs", "taken"), [(1, False), (2, False), (4, True)])
    def test_convolutions_in_narrow_groups_stay_in_float(self, inputs: int, taken: bool) -> None:
        shape = {"x": ["N", 8, 8, 8]}
        found = placed([conv("y", "x", group=8 // inputs)], {"w_y": build.weights(8, inputs, 3, 3)}, shape)
        assert found.compute_nodes == (("y",) if taken else ())
        why = f"its {8 // inputs} groups have {inputs} input channels each, and integers pay on the target from 4"
        assert taken or why in str(found)

    @pytest.mark.parametrize("bias", ["constant", "computed"])
    def test_biases_stay_in_float(self, bias: str) -> None:
        nodes = [conv("y", "x", "b")]
        inputs, constants = dict(IMAGE), kernels("y")
        if bias == "constant":
            constants["b"] = build.weights(4)
        else:
            inputs["b"] = [4]
        found = placed(nodes, constants, inputs)
        assert found.compute_nodes == ("y",)
        assert [weight.bias for weight in found.weights] == [None]

    @pytest.mark.parametrize(("trans_b", "axis"), [(0, 1), (1, 0)])
    def test_scales_of_gemm_run_along_its_outputs(self, trans_b: int, axis: int) -> None:
        weight = build.weights(6, 5) if trans_b else build.weights(5, 6)
        found = placed([node("Gemm", ["x", "w"], ["y"], name="g", transB=trans_b)], {"w": weight}, {"x": ["N", 5]})
        assert [weight.axis for weight in found.weights] == [axis]

    def test_scales_of_matmul_run_along_its_outputs(self) -> None:
        found = placed([node("MatMul", ["x", "w"], ["y"], name="m")], {"w": build.weights(5, 6)}, {"x": ["N", "T", 5]})
        assert [weight.axis for weight in found.weights] == [1]

    def test_attention_stays_in_float_between_its_projections(self) -> None:
        constants = {f"w_{name}": build.weights(8, 8, seed=i) for i, name in enumerate("qkvo")}
        nodes = [
            *(node("MatMul", ["x", f"w_{name}"], [name], name=f"proj_{name}") for name in "qkv"),
            node("Transpose", ["k"], ["kt"], name="transpose", perm=[0, 2, 1]),
            node("MatMul", ["q", "kt"], ["scores"], name="scores"),
            node("Softmax", ["scores"], ["p"], name="softmax"),
            node("MatMul", ["p", "v"], ["context"], name="context"),
            node("MatMul", ["context", "w_o"], ["y"], name="out"),
        ]
        found = placed(nodes, constants, {"x": ["N", "T", 8]})
        assert pairs(found) == {"x": ("proj_q", "proj_k", "proj_v"), "context": ("out",)}
        assert found.float_nodes["scores"] == "its weight kt is not a constant"
        assert found.float_nodes["context"] == "its weight v is not a constant"

    def test_transposed_convolutions_pools_and_recurrences_are_left_alone(self) -> None:
        nodes = [
            node("ConvTranspose", ["x", "w_t"], ["t"], name="t"),
            node("AveragePool", ["t"], ["p"], name="p", kernel_shape=[2, 2]),
            node("Squeeze", ["x1", "axes"], ["s"], name="squeeze"),
            node("LSTM", ["s", "w_l", "r_l"], ["l"], name="lstm", hidden_size=3),
            node("ReduceMean", ["l"], ["m"], name="m", keepdims=0),
            node("Add", ["p", "m"], ["y"], name="add"),
        ]
        constants = {
            "w_t": build.weights(4, 4, 2, 2),
            "axes": np.array([0]),
            "w_l": build.weights(1, 12, 5),
            "r_l": build.weights(1, 12, 3),
        }
        found = placed(nodes, constants, {**IMAGE, "x1": [1, "T", 1, 5]})
        assert (found.values, found.weights, found.float_nodes) == ((), (), {})

    def test_what_moves_data_carries_the_scale_on(self) -> None:
        nodes = [
            conv("a", "x"),
            conv("b", "a"),
            node("MaxPool", ["a"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            conv("c", "p"),
            node("ReduceMean", ["b"], ["m"], name="m", axes=[2, 3]),
            node("Add", ["c", "m"], ["y"], name="add"),
        ]
        found = placed(nodes, kernels("a", "b", "c"))
        assert pairs(found) == {"x": ("a",), "a": None, "p": None}
        assert {v.value: v.shared_with for v in found.values}["p"] == "a"


class TestConcat:
    NODES = (
        conv("a", "x"),
        node("Relu", ["a"], ["ra"], name="relu_a"),
        conv("b", "ra"),
        node("Relu", ["b"], ["rb"], name="relu_b"),
        conv("c", "rb"),
        node("Concat", ["ra", "rb"], ["j"], name="join", axis=1),
        node("Conv", ["j", "w_d"], ["d"], name="d"),
        node("Add", ["d", "c"], ["y"], name="add"),
    )
    CONSTANTS: ClassVar[dict[str, build.Array]] = {**kernels("a", "b", "c"), "w_d": build.weights(4, 8, 1, 1)}

    def test_what_is_joined_has_the_scale_of_the_result(self) -> None:
        found = placed(self.NODES, self.CONSTANTS)
        shared = {value.value: value.shared_with for value in found.values}
        assert {name: shared[name] for name in ("ra", "rb", "j")} == {"ra": "j", "rb": "j", "j": None}
        assert found.observed() == ("x", "c", "j")

    def test_the_pairs_share_their_constants(self) -> None:
        made = model(self.NODES, self.CONSTANTS, IMAGE)
        QuantizeStatic(methods=()).apply(made, PassContext(TABLE, load_samples(feeds(x=(1, 4, 8, 8)))))
        join = next(n for n in made.graph if n.op_type == "Concat")
        after = next(use.node for use in join.outputs[0].uses())
        sources = [value.producer() for value in join.inputs if value is not None]
        assert after.op_type == "QuantizeLinear"
        assert {s.inputs[1] for s in sources if s is not None} == {after.inputs[1]}

    def test_a_second_concat_of_one_value_requantizes(self) -> None:
        nodes = [
            *self.NODES[:-1],
            conv("e", "ra"),
            node("Relu", ["e"], ["re"], name="relu_e"),
            conv("f", "re"),
            node("Concat", ["ra", "re"], ["j2"], name="join2", axis=1),
            node("Conv", ["j2", "w_g"], ["g"], name="g"),
            node("Sum", ["d", "c", "f", "g"], ["y"], name="sum"),
        ]
        constants = {**self.CONSTANTS, **kernels("e", "f"), "w_g": build.weights(4, 8, 1, 1)}
        found = placed(nodes, constants)
        assert found.float_nodes == {"join2": "its input ra already has the scale of j"}
        assert {v.value: v.shared_with for v in found.values}["re"] is None

    def test_a_value_that_nothing_else_takes_keeps_the_concat_in_float(self) -> None:
        found = placed(
            [n for n in self.NODES if n.name not in ("c", "add")] + [node("Relu", ["d"], ["y"])], self.CONSTANTS
        )
        assert pairs(found)["j"] == ("d",)
        assert "join" not in found.integer_nodes


class TestPlan:
    def quantized(self) -> tuple[ir.Model, PassResult]:
        made = model(
            [conv("a", "x", "b"), node("Relu", ["a"], ["r"], name="relu"), conv("y", "r")],
            {**kernels("a", "y"), "b": build.weights(4)},
            IMAGE,
        )
        result = QuantizeStatic().apply(made, PassContext(TABLE, load_samples(feeds(x=(1, 4, 8, 8)))))
        return made, result

    def test_integers_are_symmetric_and_biases_float(self) -> None:
        made, result = self.quantized()
        plan = QuantPlan.from_dict(result.details["plan"])
        assert {point.dtype for point in plan.points} == {"INT8"}
        assert {zero for point in plan.points for zero in point.zero_point} == {0}
        assert {point.kind for point in plan.points} == {PointKind.ACTIVATION, PointKind.WEIGHT}
        assert [n.inputs[2].dtype for n in made.graph if n.name == "a"] == [ir.DataType.FLOAT]
        assert ir.verify(made) == ()

    def test_the_graph_computes_nearly_the_same(self) -> None:
        made, _ = self.quantized()
        source = build.proto(
            [conv("a", "x", "b"), node("Relu", ["a"], ["r"]), conv("y", "r")],
            IMAGE,
            {"y": None},
            {**kernels("a", "y"), "b": build.weights(4)},
        )
        for feed in (*feeds(2, x=(1, 4, 8, 8)), *feeds(1, x=(3, 4, 8, 8))):
            wanted, found = build.run(source, feed)[0], build.run(made, feed)[0]
            # two layers of 8-bit integers with random weights: a few percent of the range
            assert np.abs(wanted - found).max() < 0.05 * np.ptp(wanted)

    def test_a_type_that_the_target_does_not_take(self) -> None:
        made = model([conv("y", "x")], kernels("y"), IMAGE)
        with pytest.raises(PassError, match="tensorrt does not take UINT8 activations"):
            QuantizeStatic(activations="uint8").apply(made, PassContext(TABLE, load_samples(feeds(x=(1, 4, 8, 8)))))

    @pytest.mark.parametrize(
        ("kind", "change", "message"),
        [
            (PointKind.ACTIVATION, {"zero_point": (3,)}, "its zero point is 3, and tensorrt takes 0 only"),
            (PointKind.ACTIVATION, {"dtype": "UINT8"}, "tensorrt takes INT8, not UINT8"),
            (PointKind.WEIGHT, {"axis": 1}, "takes scales along axis 0 for 'a', not along 1"),
        ],
    )
    def test_an_edit_that_the_target_does_not_take(
        self, kind: PointKind, change: dict[str, object], message: str
    ) -> None:
        made, plan = self.plan()
        index = next(i for i, point in enumerate(plan.points) if point.kind is kind)
        edited = dataclasses.replace(plan.points[index], **change)  # type: ignore[arg-type]
        points = (*plan.points[:index], edited, *plan.points[index + 1 :])
        with pytest.raises(SpecError, match=message):
            checked_plan(dataclasses.replace(plan, points=points), made, TABLE)

    @pytest.mark.parametrize(("left_out", "other"), [("r", "w_y"), ("w_y", "r")])
    def test_one_operand_alone_is_refused(self, left_out: str, other: str) -> None:
        made, plan = self.plan()
        points = tuple(point for point in plan.points if point.value != left_out)
        with pytest.raises(SpecError, match=f"{other}.*both operands are quantized, and '{left_out}'"):
            checked_plan(dataclasses.replace(plan, points=points), made, TABLE)

    def test_a_product_left_out_as_a_whole_is_accepted(self) -> None:
        made, plan = self.plan()
        points = tuple(point for point in plan.points if point.value not in ("w_y", "r"))
        assert checked_plan(dataclasses.replace(plan, points=points), made, TABLE).compute_nodes == ("a",)

    def plan(self) -> tuple[ir.Model, QuantPlan]:
        nodes = [conv("a", "x"), node("Relu", ["a"], ["r"], name="relu"), conv("y", "r")]
        made = model(nodes, kernels("a", "y"), IMAGE)
        return made, QuantizeStatic(methods=()).plan(made, PassContext(TABLE, load_samples(feeds(x=(1, 4, 8, 8)))))


class TestBlocks:
    def test_weights_are_symmetric_blocks_behind_the_standard_operator(self) -> None:
        weight = build.weights(64, 48)
        made = model([node("MatMul", ["x", "w"], ["y"], name="m")], {"w": weight}, {"x": ["N", 64]})
        result = QuantizeWeights(method="hqq").apply(made, PassContext(TABLE))
        assert result.stats == {"matmul-4-bit": 1}
        assert made.opset_imports[""] == 21
        restore = next(n for n in made.graph if n.op_type == "DequantizeLinear")
        assert [value.dtype for value in restore.inputs if value is not None] == [ir.DataType.INT4, ir.DataType.FLOAT]
        assert ir.attribute(restore, "block_size", 0) == 32
        scale = ir.constant_tensor(restore.inputs[1])
        assert scale is not None
        assert (scale.numpy() > 0).all()
        feed = feeds(1, x=(3, 64))[0]
        # 4 bits: an error of about a fifteenth of a block's range for each weight, averaged over 64 of them
        assert np.abs(build.run(made, feed)[0] - feed["x"] @ weight).max() < 0.2 * np.abs(feed["x"] @ weight).max()

    def test_blocks_of_eight_bits_are_refused(self) -> None:
        made = model([node("MatMul", ["x", "w"], ["y"], name="m")], {"w": build.weights(64, 48)}, {"x": ["N", 64]})
        result = QuantizeWeights(bits=8, method="rtn").apply(made, PassContext(TABLE))
        assert [r.reason for r in result.refusals] == [
            "the target takes (4,) bits in blocks of (32, 64, 128) for MatMul, not 8 in blocks of 32"
        ]
        assert made.opset_imports[""] == 17


class TestHalf:
    NODES = (
        conv("a", "x"),
        node("Relu", ["a"], ["r"], name="relu"),
        conv("b", "r"),
        node("HardSwish", ["b"], ["y"], name="act"),
    )

    def mixed(self, constants: Mapping[str, build.Array]) -> tuple[ir.Model, ir.Model, PassResult]:
        made = model(self.NODES, constants, {"x": [1, 4, 32, 32]})
        context = PassContext(TABLE, load_samples(feeds(x=(1, 4, 32, 32))))
        QuantizeStatic(methods=()).apply(made, context)
        before = ir.clone(made)
        return before, made, ConvertFloat().apply(made, context)

    def test_products_and_what_feeds_them_are_of_one_type(self) -> None:
        before, made, _ = self.mixed(kernels("a", "b"))
        assert made.opset_imports[""] == 19
        for each in made.graph:
            if each.op_type == "Conv":
                assert {value.dtype for value in each.inputs if value is not None} == {ir.DataType.FLOAT16}
                assert {v.producer().op_type for v in each.inputs} == {"DequantizeLinear"}  # type: ignore[union-attr]
        feed = feeds(1, x=(1, 4, 32, 32))[0]
        wanted, found = build.run(before, feed)[0], build.run(made, feed)[0]
        # a sum that FP16 rounds may fall on the other side of an INT8 step, which is 1/127 of the range
        assert np.abs(wanted - found).max() < 0.03 * np.ptp(wanted)

    def test_a_scale_that_underflows_keeps_its_product_in_float(self) -> None:
        small = kernels("a", "b")
        small["w_b"][0] *= 1e-5
        _, made, result = self.mixed(small)
        second = next(n for n in made.graph if n.name == "b")
        assert {value.dtype for value in second.inputs if value is not None} == {ir.DataType.FLOAT}
        assert {v.producer().op_type for v in second.inputs} == {"DequantizeLinear"}  # type: ignore[union-attr]
        reason = next(r.reason for r in result.refusals if "b" in r.nodes)
        assert "multiplies integers with" in reason
        assert "w_b_scale loses" in reason

    def test_values_that_overflow_stay_in_float(self) -> None:
        large = kernels("a", "b") | {"w_a": build.weights(4, 4, 3, 3, scale=1e5)}
        _, made, result = self.mixed(large)
        assert next(n for n in made.graph if n.name == "a").outputs[0].dtype is ir.DataType.FLOAT
        assert any("FLOAT16 is trusted up to" in r.reason for r in result.refusals)


def test_schemes_follow_from_the_table() -> None:
    assert default_names(ModelKind.CONVOLUTIONAL, TABLE) == ("static", "static-gptq")
    assert default_names(ModelKind.TRANSFORMER, TABLE) == ("static", "weight-int4")
    assert default_names(ModelKind.RECURRENT, TABLE) == ("static",)
    assert default_names(ModelKind.TRANSFORMER, TABLE, samples=False) == ("weight-int4-hqq",)


def test_no_scheme_is_an_error_with_a_remedy() -> None:
    empty = dataclasses.replace(TABLE, operators={}, blocks={})
    with pytest.raises(UsageError, match="No scheme suits tensorrt with samples"):
        default_schemes(build.model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]}), empty, samples=True)


def test_no_operator_needs_a_domain_of_its_own() -> None:
    keys = (*TABLE.operators, *TABLE.fused, *(row.kernel for row in TABLE.blocks.values()))
    assert {domain for domain, _ in keys} == {""}
    assert not TABLE.dynamic
    assert all(row.bias_dtype is ir.DataType.FLOAT for row in TABLE.operators.values() if row.bias is not None)
    assert {row.role for row in TABLE.operators.values()} == {Role.COMPUTE, Role.RESIDUAL, Role.TRANSPARENT}
