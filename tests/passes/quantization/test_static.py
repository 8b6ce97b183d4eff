"""Placement, choosing and inserting, on models whose answer is known."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.capabilities import Capabilities
from sardonyx.errors import PassError, SpecError
from sardonyx.measure import Machine, Session, describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibration import CALIBRATORS
from sardonyx.passes.quantization.insert import InsertQdq
from sardonyx.passes.quantization.placement import place
from sardonyx.passes.quantization.plan import PointKind, QuantPlan
from sardonyx.passes.quantization.static import QuantizeStatic
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline
from tests import models_for_tests as build

node = helper.make_node
VNNI = dataclasses.replace(describe_machine(), architecture="x86_64", features=("avx2", "avx512_vnni"))


def table(machine: Machine = VNNI) -> Capabilities:
    return capabilities(machine)


def context(feeds: list[dict[str, np.ndarray]]) -> PassContext:
    return PassContext(table(), load_samples(feeds))


def optimized(source: onnx.ModelProto) -> ir.Model:
    passes = parse_pipeline(Recipe().optimize, available_passes())
    return PassManager(passes).run(ir.load(source).model).model


def quantized(source: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> tuple[ir.Model, QuantPlan]:
    model = optimized(source)
    result = QuantizeStatic().apply(model, context(feeds))
    return model, QuantPlan.from_dict(result.details["plan"])


def runtime_operators(model: ir.Model, tmp_path: object) -> list[str]:
    """What ONNX Runtime makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.log_severity_level = 4
    onnxruntime.InferenceSession(ir.serialize(model), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]


class TestCnn:
    def test_everything_runs_as_integers(self, tmp_path: object) -> None:
        model, _ = quantized(build.cnn(), build.images(8))
        assert ir.verify(model) == ()
        operators = runtime_operators(model, tmp_path)
        assert operators.count("QLinearConv") == 2
        assert {"QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= set(operators)
        assert not {"Conv", "Add", "Relu", "Gemm", "FusedConv", "GlobalAveragePool"} & set(operators)
        assert operators.count("QuantizeLinear") == 1

    def test_outputs_stay_close(self) -> None:
        source = build.cnn()
        model, _ = quantized(source, build.images(8))
        with Session(ir.serialize(model)) as session:
            for feed in build.images(8, seed=1):
                expected, actual = build.run(source, feed)[0], session.run(feed)[0]
                # INT8 noise of a four-layer network with random weights: a few percent of the scores' range.
                assert np.abs(expected - actual).max() < 0.08 * np.ptp(expected)

    def test_interface_is_kept(self) -> None:
        model, _ = quantized(build.cnn(), build.images(4))
        assert [(v.name, v.dtype) for v in model.graph.inputs] == [("image", ir.DataType.FLOAT)]
        assert [(v.name, v.dtype) for v in model.graph.outputs] == [("scores", ir.DataType.FLOAT)]

    def test_relus_are_absorbed(self) -> None:
        model, plan = quantized(build.cnn(), build.images(4))
        assert "Relu" not in build.operators(model)
        assert {p.absorbs for p in plan.points if p.absorbs} == {"relu1", "relu2"}

    def test_no_float_weight_is_left(self) -> None:
        model, _ = quantized(build.cnn(), build.images(4))
        leftovers = [v.name for v in model.graph.initializers.values() if not v.uses()]
        assert leftovers == []
        float_bytes = sum(
            v.const_value.nbytes for v in model.graph.initializers.values() if v.dtype is ir.DataType.FLOAT
        )
        assert float_bytes < 400, "scales only"

    def test_bias_scale_is_the_product(self) -> None:
        _, plan = quantized(build.cnn(), build.images(4))
        points = {p.value: p for p in plan.points}
        bias = next(p for p in plan.points if p.kind is PointKind.BIAS and p.consumers == ("gemm",))
        weight = next(p for p in plan.points if p.kind is PointKind.WEIGHT and p.consumers == ("gemm",))
        activation = points["f1"]
        expected = (np.array(weight.scale) * activation.scale[0]).astype(np.float32)
        np.testing.assert_array_equal(np.array(bias.scale, np.float32), expected)
        assert bias.dtype == "INT32"

    def test_pooling_and_reshaping_share_their_inputs_scale(self) -> None:
        _, plan = quantized(build.cnn(), build.images(4))
        points = {p.value: p for p in plan.points}
        assert points["m1"].shared_with == "r2"
        assert (points["m1"].scale, points["m1"].zero_point) == (points["r2"].scale, points["r2"].zero_point)

    def test_twice_the_same(self) -> None:
        first, _ = quantized(build.cnn(), build.images(4))
        second, _ = quantized(build.cnn(), build.images(4))
        assert ir.digest(first) == ir.digest(second)


class TestPlan:
    def test_survives_json(self) -> None:
        _, plan = quantized(build.cnn(), build.images(4))
        assert QuantPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan

    def test_can_be_edited_by_hand(self) -> None:
        model = optimized(build.cnn())
        plan = QuantizeStatic(methods=()).plan(model, context(build.images(4)))
        kept = tuple(p for p in plan.points if not (p.consumers == ("gemm",) or p.value == "f1"))
        InsertQdq(dataclasses.replace(plan, points=kept)).apply(model, context([]))
        gemm = next(n for n in model.graph if n.op_type == "Gemm")
        assert ir.constant_tensor(gemm.inputs[1]) is not None
        assert ir.verify(model) == ()

    def test_a_plan_of_another_model_is_refused(self) -> None:
        _, plan = quantized(build.cnn(), build.images(4))
        other = build.model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
        with pytest.raises(PassError, match="the model does not have"):
            InsertQdq(plan).apply(other, context([]))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"version": 99}, "version 99"),
            ({"version": 1, "points": [{"value": "x"}]}, "unknown or missing fields"),
            ({"version": 1, "points": [{"value": "x", "kind": "tensor", "dtype": "INT8"}]}, "kind 'tensor'"),
        ],
    )
    def test_unreadable_plans(self, data: dict[str, object], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            QuantPlan.from_dict(data)


class TestPlacement:
    def test_a_lone_relu_is_not_quantized(self) -> None:
        model = build.model([node("Relu", ["x"], ["y"])], {"x": [1, 4]}, {"y": [1, 4]})
        assert place(model, table()).values == ()

    def test_an_opset_older_than_the_target_takes_stays_in_float(self) -> None:
        model = optimized(build.cnn())
        model.opset_imports[""] = 12
        placement = place(model, table())
        assert placement.values == ()
        assert set(placement.float_nodes.values()) == {"the target takes Q/DQ from opset 13; the model has 12"}

    def test_a_follower_after_floats_stays_in_float(self) -> None:
        model = build.model([node("Exp", ["x"], ["e"]), node("Add", ["e", "x"], ["y"])], {"x": [1, 4]}, {"y": [1, 4]})
        assert place(model, table()).values == ()

    def test_an_add_that_nobody_takes_as_integers_goes_back(self) -> None:
        model = build.model(
            [
                node("Conv", ["x", "w"], ["a"], name="conv"),
                node("Add", ["a", "a"], ["b"], name="add"),
                node("Exp", ["b"], ["y"]),
            ],
            {"x": [1, 3, 4, 4]},
            {"y": None},
            {"w": build.weights(3, 3, 1, 1)},
        )
        ir.infer_shapes(model)
        placement = place(model, table())
        assert [v.value for v in placement.values] == ["x", "a"]
        assert "would buy nothing" in placement.float_nodes["add"]

    @pytest.mark.parametrize(("attributes", "reason"), [({"alpha": 0.5}, "alpha=1.0"), ({"transA": 1}, "transA=0")])
    def test_conditions_of_the_table_are_met_or_named(self, attributes: dict[str, float], reason: str) -> None:
        model = build.model(
            [node("Gemm", ["x", "w"], ["y"], name="gemm", **attributes)],
            {"x": [4, 4]},
            {"y": None},
            {"w": np.eye(4, dtype=np.float32)},
        )
        ir.infer_shapes(model)
        placement = place(model, table())
        assert placement.values == ()
        assert reason in placement.float_nodes["gemm"]

    def test_float_consumers_keep_the_float_value(self) -> None:
        source = build.proto(
            [
                node("Exp", ["x"], ["e"]),
                node("MatMul", ["e", "w"], ["m"], name="mm"),
                node("Add", ["m", "e"], ["y"], name="add"),
            ],
            {"x": [2, 4]},
            {"y": [2, 4]},
            {"w": build.weights(4, 4)},
        )
        model, _ = quantized(source, [{"x": build.weights(2, 4, seed=i)} for i in range(4)])
        add = next(n for n in model.graph if n.name == "add")
        assert "e" in [v.name for v in add.inputs]

    def test_infinite_values_stay_in_float(self) -> None:
        source = build.proto(
            [
                node("Where", ["mask", "x", "minus_infinity"], ["masked"], name="where"),
                node("MatMul", ["masked", "w"], ["y"], name="mm"),
                node("MatMul", ["x", "w"], ["z"], name="finite"),
            ],
            {"x": [2, 2]},
            {"y": None, "z": None},
            {
                "mask": np.array([[True, False], [True, True]]),
                "minus_infinity": np.float32(-np.inf),
                "w": np.eye(2, dtype=np.float32),
            },
        )
        _, plan = quantized(source, [{"x": build.weights(2, 2, seed=i)} for i in range(3)])
        assert "NaN or infinite" in plan.float_nodes["mm"]
        assert [p.consumers for p in plan.points if p.kind is PointKind.WEIGHT] == [("finite",)]


class TestWeights:
    def test_a_bias_that_would_overflow_raises_the_weights_scale(self) -> None:
        source = build.proto(
            [node("Conv", ["x", "w", "b"], ["y"])],
            {"x": [1, 1, 4, 4]},
            {"y": None},
            {"w": np.array([1e-7, 1.0], np.float32).reshape(2, 1, 1, 1), "b": np.array([50.0, 0.5], np.float32)},
        )
        feeds = [{"x": build.weights(1, 1, 4, 4, seed=i)} for i in range(4)]
        model, plan = quantized(source, feeds)
        assert plan.calibration["weight_scales_raised_for_bias"] == 1
        with Session(ir.serialize(model)) as session:
            for feed in feeds:
                expected, actual = build.run(source, feed)[0], session.run(feed)[0]
                np.testing.assert_allclose(actual, expected, atol=0.5)  # one step of an output range of 50 / 255

    def test_all_zero_channels_keep_their_bias(self) -> None:
        source = build.proto(
            [node("Conv", ["x", "w", "b"], ["y"])],
            {"x": [1, 1, 4, 4]},
            {"y": None},
            {"w": np.array([0.0, 1.0], np.float32).reshape(2, 1, 1, 1), "b": np.array([0.3, 0.0], np.float32)},
        )
        feeds = [{"x": build.weights(1, 1, 4, 4, seed=i)} for i in range(4)]
        model, plan = quantized(source, feeds)
        with Session(ir.serialize(model)) as session:
            step = next(p.scale[0] for p in plan.points if p.value == "y")
            assert np.abs(session.run(feeds[0])[0][0, 0] - 0.3).max() <= step

    def test_shared_weights_stay_shared(self) -> None:
        source = build.proto(
            [
                node("MatMul", ["x", "w"], ["h"], name="one"),
                node("Relu", ["h"], ["r"]),
                node("MatMul", ["r", "w"], ["y"], name="two"),
            ],
            {"x": [2, 4]},
            {"y": None},
            {"w": build.weights(4, 4)},
        )
        model, plan = quantized(source, [{"x": build.weights(2, 4, seed=i)} for i in range(4)])
        assert [p.consumers for p in plan.points if p.kind is PointKind.WEIGHT] == [("one", "two")]
        assert (
            sum(v.dtype is ir.DataType.INT8 and v.const_value.size == 16 for v in model.graph.initializers.values())
            == 1
        )

    def test_without_vnni_weights_keep_to_seven_bits(self) -> None:
        machine = dataclasses.replace(VNNI, features=("avx2",))
        assert "no VNNI" in table(machine).warnings[0]
        model = optimized(build.cnn())
        QuantizeStatic().apply(model, PassContext(table(machine), load_samples(build.images(4))))
        stored = [v.const_value.numpy() for v in model.graph.initializers.values() if v.name.endswith("_quantized")]
        int8 = [array for array in stored if array.dtype == np.int8]
        assert int8
        assert all(np.abs(array.astype(int)).max() <= 63 for array in int8)

    def test_arm_gets_signed_activations(self) -> None:
        machine = dataclasses.replace(VNNI, architecture="aarch64", features=("asimddp",))
        assert table(machine).activation.dtype is ir.DataType.INT8
        assert table(machine).warnings == ()


class TestOptions:
    def test_samples_of_varying_shape(self) -> None:
        source = build.proto(
            [node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 4]}, {"y": None}, {"w": build.weights(4, 4)}
        )
        feeds = [{"x": build.weights(rows, 4, seed=rows)} for rows in (1, 3, 7)]
        _, plan = quantized(source, feeds)
        assert plan.calibration["samples"] == 3

    @pytest.mark.parametrize("calibrator", sorted(CALIBRATORS))
    def test_every_calibrator_keeps_the_outputs_close(self, calibrator: str) -> None:
        source, feeds = build.cnn(), build.images(8)
        model = optimized(source)
        result = QuantizeStatic(calibrator).apply(model, context(feeds))
        assert result.details["plan"]["calibration"]["method"] == calibrator
        with Session(ir.serialize(model)) as session:
            for feed in build.images(4, seed=1):
                expected, actual = build.run(source, feed)[0], session.run(feed)[0]
                # INT8 noise of a four-layer network with random weights, and clipped tails: some percent.
                assert np.abs(expected - actual).max() < 0.12 * np.ptp(expected)

    def test_workers_and_a_stored_state_change_nothing(self, tmp_path: Path) -> None:
        import joblib

        model, feeds = optimized(build.cnn()), build.images(8)
        alone = QuantizeStatic("entropy").plan(model, context(feeds))
        with joblib.parallel_config(backend="threading"):
            split = QuantizeStatic("entropy", workers=3, state=str(tmp_path / "state"))
            assert split.plan(model, context(feeds)) == alone
        assert dataclasses.replace(split, workers=1).plan(model, context(feeds)) == alone

    @pytest.mark.parametrize(
        ("calibrator", "percentile", "message"),
        [("best", 99.0, "no calibrator 'best'"), ("percentile", 20.0, "outside")],
    )
    def test_bad_options(self, calibrator: str, percentile: float, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            QuantizeStatic(calibrator, percentile)

    def test_options_that_cannot_work(self) -> None:
        with pytest.raises(SpecError, match="workers=0"):
            QuantizeStatic(workers=0)

    def test_needs_samples(self) -> None:
        with pytest.raises(PassError, match="needs samples"):
            QuantizeStatic().apply(optimized(build.cnn()), PassContext(table()))

    def test_minmax_covers_more_than_percentile(self) -> None:
        spikes = [{"x": np.array([[1.0, 1.0, 1.0, 100.0 if i == 0 else 1.0]], np.float32)} for i in range(100)]
        source = build.proto(
            [node("MatMul", ["x", "w"], ["y"])], {"x": [1, 4]}, {"y": None}, {"w": build.weights(4, 4)}
        )
        highs = {}
        for name in ("minmax", "percentile"):
            plan = QuantizeStatic(name, 99.0).plan(optimized(source), context(spikes))
            highs[name] = next(p.high for p in plan.points if p.value == "x")
        assert highs["minmax"] == 100.0
        assert highs["percentile"] < 2.0
