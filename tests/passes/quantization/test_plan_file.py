"""Plans as files: what is made is what is applied, edits take effect, and slips are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.errors import SpecError
from sardonyx.measure import Session, describe_machine, load_samples
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.quantization.apply_plan import ApplyPlan
from sardonyx.passes.quantization.dynamic.quantize import QuantizeDynamic
from sardonyx.passes.quantization.methods.equalize import Equalize
from sardonyx.passes.quantization.methods.smooth import SmoothQuant
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.static import QuantizeStatic
from sardonyx.pipeline import format_pass, parse_pipeline
from sardonyx.pipeline.registry import available_passes
from tests import models_for_tests as build
from tests.passes.quantization import body_models as bodies
from tests.passes.quantization.methods.test_move_scales import feeds as junction_feeds
from tests.passes.quantization.methods.test_move_scales import relu6_chain, two_convs, wide_feeds
from tests.passes.quantization.test_dynamic import lstm

Plan = dict[str, Any]
node = onnx.helper.make_node
CNN = build.proto(
    [
        node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2"], ["c2"], name="conv2"),
        node("Relu", ["c2"], ["r2"], name="relu2"),
        node("MaxPool", ["r2"], ["m1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["m1"], ["g1"], name="gap"),
        node("Flatten", ["g1"], ["f1"], name="flatten"),
        node("Gemm", ["f1", "w3", "b3"], ["scores"], name="gemm", transB=1),
    ],
    {"image": ["N", 3, 16, 16]},
    {"scores": ["N", 5]},
    {
        "w1": build.weights(8, 3, 3, 3, seed=1),
        "b1": build.weights(8, seed=2),
        "w2": build.weights(8, 8, 3, 3, seed=3),
        "w3": build.weights(5, 8, seed=4, scale=1.0),
        "b3": build.weights(5, seed=5),
    },
)


def context(feeds: list[dict[str, np.ndarray]]) -> PassContext:
    return PassContext(capabilities(describe_machine()), load_samples(feeds))


def made(source: onnx.ModelProto, *passes: Pass, feeds: bodies.Feeds) -> tuple[Plan, str]:
    """The joined plan of passes, with the model's digest in it, and the digest of what they made."""
    model = ir.load(source).model
    digest = ir.digest(model)
    details = [each.apply(model, context(feeds)).details for each in passes]
    plans = [QuantPlan.from_dict(each["plan"]) for each in details if "plan" in each]
    return {**QuantPlan.joined(plans).to_dict(), "model": digest}, ir.digest(model)


def apply(source: onnx.ModelProto, plan: Plan, folder: Path) -> tuple[ir.Model, PassResult]:
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    model = ir.load(source).model
    return model, ApplyPlan(str(path)).apply(model, PassContext(capabilities(describe_machine())))


CORRECTED = QuantizeStatic(methods=("bias-correction",))
NORMALIZED = build.proto(
    [
        node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm"),
        node("MatMul", ["n", "w"], ["m"], name="product"),
        node("Add", ["m", "b"], ["y"], name="add"),
    ],
    {"x": ["N", 8]},
    {"y": None},
    {
        "gamma": np.geomspace(0.01, 10, 8).astype(np.float32),
        "beta": build.weights(8),
        "w": build.weights(8, 4, seed=1),
        "b": build.weights(4, seed=2),
    },
)
SHARED_BIAS = build.proto(
    [
        node("Conv", ["x", "w1", "b"], ["c"], name="conv1"),
        node("Conv", ["c", "w2", "b"], ["y"], name="conv2"),
    ],
    {"x": ["N", 4, 3, 3]},
    {"y": None},
    {"w1": build.weights(4, 4, 1, 1), "w2": build.weights(4, 4, 3, 3, seed=1), "b": build.weights(4, seed=2)},
)


def rows(*shape: int) -> list[dict[str, np.ndarray]]:
    return [{"x": 1 + build.weights(*shape, seed=seed)} for seed in range(4)]


@pytest.mark.parametrize(
    ("source", "passes", "feeds"),
    [
        (CNN, (QuantizeStatic(),), build.images(4)),
        (bodies.branches(), (QuantizeStatic(),), [*bodies.feeds(c=True), *bodies.feeds(c=False)]),
        (bodies.loop(), (QuantizeDynamic(),), bodies.feeds(n=np.int64(3))),
        (lstm()[0], (QuantizeDynamic(),), []),
        (
            CNN,
            (QuantizeStatic(exclude=("gemm",)), QuantizeDynamic()),
            build.images(4),
        ),
        (CNN, (CORRECTED,), build.images(4)),
        (CNN, (QuantizeStatic(methods=("mse-weights", "sequential-bias-correction")),), build.images(4)),
        (two_convs("relu"), (Equalize(), CORRECTED), junction_feeds()),
        (two_convs("silu"), (Equalize(least_gain_gated=1.1), SmoothQuant(), CORRECTED), junction_feeds()),
        (NORMALIZED, (SmoothQuant(least_gain=1.01), CORRECTED), rows(16, 8)),
        (SHARED_BIAS, (CORRECTED,), rows(2, 4, 3, 3)),
        (CNN, (QuantizeStatic(methods=("adaround",)),), build.images(4)),
        (two_convs("relu"), (Equalize(), QuantizeStatic(methods=("gptq", "bias-correction"))), junction_feeds()),
        (NORMALIZED, (SmoothQuant(least_gain=1.01), QuantizeStatic(methods=("gptq",))), rows(16, 8)),
    ],
)
def test_a_plan_makes_the_very_model_it_was_taken_from(
    source: onnx.ModelProto, passes: tuple[Any, ...], feeds: bodies.Feeds, tmp_path: Path
) -> None:
    plan, expected = made(source, *passes, feeds=feeds)
    model, result = apply(source, plan, tmp_path)
    assert ir.digest(model) == expected
    assert result.modified
    again = json.loads(json.dumps(result.details["plan"]))
    assert again == json.loads(json.dumps(plan))


def test_plans_of_passes_in_turn_are_joined() -> None:
    source = CNN
    plan, _ = made(source, QuantizeStatic(exclude=("gemm",)), QuantizeDynamic(), feeds=build.images(4))
    assert plan["compute_nodes"] == ["conv1", "conv2", "gemm"]
    assert "gemm" not in plan["float_nodes"], "the second pass took it"
    assert plan["calibration"]["method"] == "percentile"


@pytest.mark.parametrize("bias", ["bias-correction", "sequential-bias-correction"])
def test_integers_that_were_chosen_are_not_the_nearest(bias: str, tmp_path: Path) -> None:
    plan, expected = made(CNN, QuantizeStatic(methods=("gptq", bias)), feeds=build.images(4))
    assert set(plan["chosen_integers"]) == {"w1", "w2", "w3"}
    model, _ = apply(CNN, plan, tmp_path)
    assert ir.digest(model) == expected
    nearest, _ = apply(CNN, {**plan, "chosen_integers": {}}, tmp_path)
    assert ir.digest(nearest) != expected


def test_nearest_integers_need_no_words() -> None:
    plan, _ = made(CNN, QuantizeStatic(methods=("mse-weights", "bias-correction")), feeds=build.images(4))
    assert plan["chosen_integers"] == {}


def test_it_prints_as_the_text_that_builds_it() -> None:
    instance = ApplyPlan("a folder/plan.json")
    assert parse_pipeline(format_pass(instance), available_passes()) == (instance,)


class TestEdits:
    def edited(self, folder: Path, edit: Callable[[Plan], None]) -> tuple[ir.Model, PassResult]:
        plan, _ = made(CNN, QuantizeStatic(), feeds=build.images(4))
        edit({point["value"]: point for point in plan["points"]} | {"": plan})
        model, result = apply(CNN, plan, folder)
        assert ir.verify(model) == ()
        return model, result

    def test_a_scale_and_what_follows_from_it(self, tmp_path: Path) -> None:
        def double(points: Plan) -> None:
            points["r2"]["scale"] = [2 * points["r2"]["scale"][0]]

        plan, _ = made(CNN, QuantizeStatic(), feeds=build.images(4))
        model, result = self.edited(tmp_path, double)
        before = {point["value"]: point for point in plan["points"]}
        after = {point["value"]: point for point in result.details["plan"]["points"]}
        assert after["m1"]["shared_with"] == "r2"
        for name in ("r2", "m1"):
            assert after[name]["scale"][0] == 2 * before[name]["scale"][0], name
        with Session(ir.serialize(model)) as session:
            assert np.isfinite(session.run(build.images(1)[0])[0]).all()

    def test_a_bias_follows_its_activation(self, tmp_path: Path) -> None:
        def double(points: Plan) -> None:
            points["image"]["scale"] = [2 * points["image"]["scale"][0]]

        plan, _ = made(CNN, QuantizeStatic(), feeds=build.images(4))
        _, result = self.edited(tmp_path, double)
        before = next(point for point in plan["points"] if point["value"] == "b1")
        after = next(point for point in result.details["plan"]["points"] if point["value"] == "b1")
        np.testing.assert_allclose(after["scale"], 2 * np.array(before["scale"]), rtol=1e-6)

    def test_a_node_that_is_given_back(self, tmp_path: Path) -> None:
        def give_back(points: Plan) -> None:
            kept = [p for p in points[""]["points"] if p["value"] not in ("w3", "b3", "f1")]
            points[""]["points"][:] = kept

        model, result = self.edited(tmp_path, give_back)
        assert result.details["plan"]["compute_nodes"] == ["conv1", "conv2"]
        gemm = next(n for n in model.graph if n.op_type == "Gemm")
        assert ir.constant_tensor(gemm.inputs[1]) is not None

    @pytest.mark.parametrize(
        ("value", "field", "content", "message"),
        [
            ("r1", "dtype", "INT4", r"'r1' \(activation\).*dtype 'INT4'.*UINT8, INT8"),
            ("r1", "scale", [0.0], "'r1'.*scale 0.0 is not a positive number"),
            ("r1", "scale", [0.1, 0.2], "'r1'.*has 2 scales and 1 zero points, but needs 1 of each"),
            ("r1", "zero_point", [300], r"'r1'.*zero point 300 is outside UINT8 \(0 to 255\)"),
            ("r1", "axis", 1, "'r1'.*axis 1, which does not go with its kind, activation"),
            ("r1", "consumers", ["nobody"], "'r1'.*consumer 'nobody', but the model has no node"),
            ("r1", "consumers", ["gemm"], "'r1'.*consumer 'gemm', but that node does not take it"),
            ("m1", "shared_with", "r9", "'m1'.*shares the scale of 'r9', which the plan does not quantize"),
            ("m1", "shared_with", "m1", "'m1'.*shares its scale with itself"),
            ("r2", "shared_with", "m1", "shares its own in a circle"),
            ("r1", "absorbs", "conv1", "'r1'.*absorbs 'conv1', which is not the node that makes it"),
            ("w1", "axis", 7, "'w1'.*axis 7 is outside 0 to 3"),
            ("w1", "value", "w9", "'w9'.*the model has no value of that name"),
            ("r1", "kind", "weight", "'r1'.*is not a constant"),
            ("w1", "scale", "0.1", "'w1' has scale='0.1', which is not a list of numbers"),
            ("w1", "consumers", "conv1", "'w1' has consumers='conv1', which is not a list of node names"),
            ("w1", "zero_point", [0.5], "'w1' has zero_point=.*not a list of whole numbers"),
            ("image", "scale", [1e-12], "'b1'.*overflows INT32"),
        ],
    )
    def test_slips_are_named(self, value: str, field: str, content: object, message: str, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=message):
            self.edited(tmp_path, lambda points: points[value].update({field: content}))

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda moved: moved.pop("a"), "scaled.*the model has no value of that name"),
            (lambda moved: moved.update(x9=[1]), "unusable at 'x9': the model has no value of that name"),
            (lambda moved: moved.update(a=[1]), "unusable at 'a': 1 are given for 8 channels"),
            (lambda moved: moved.update(a=[0] * 7 + [99]), "unusable at 'a': 99 is outside -12 to 12"),
            (lambda moved: moved.update(a=0.5), "have a=0.5, which is not a list of whole numbers"),
        ],
    )
    def test_moved_scales(self, edit: Callable[[Plan], None], message: str, tmp_path: Path) -> None:
        source = two_convs("relu")
        plan, _ = made(source, Equalize(), QuantizeStatic(methods=()), feeds=junction_feeds())
        edit(plan["moved_scales"]["equalize"])
        with pytest.raises(SpecError, match=message):
            apply(source, plan, tmp_path)

    def test_scales_that_a_clip_does_not_let_pass(self, tmp_path: Path) -> None:
        """Channels that no input brings to the bounds of the Clip may be scaled, until they could be."""
        source = relu6_chain()
        plan, _ = made(source, Equalize(least_gain=1.01), QuantizeStatic(), feeds=wide_feeds())
        ((value, doublings),) = plan["moved_scales"]["equalize"].items()
        plan["moved_scales"]["equalize"][value] = [-12] * len(doublings)
        with pytest.raises(SpecError, match=f"at '{value}': a Clip does not let channel 0 be scaled so"):
            apply(source, plan, tmp_path)

    @pytest.mark.parametrize(
        ("shifts", "message"),
        [
            ({"conv9": [1.0]}, "of 'conv9' are unusable: the model has no such product"),
            ({"conv1": [1.0]}, "of 'conv1' are unusable: it takes 8 finite numbers"),
            ({"conv1": [float("inf")] * 8}, "of 'conv1' are unusable: it takes 8 finite numbers"),
            ({"conv1": ["1"] * 8}, "conv1=.*which is not a list of numbers"),
            ([1.0], "bias_shifts are not an object of names"),
        ],
    )
    def test_bias_shifts(self, shifts: object, message: str, tmp_path: Path) -> None:
        plan, _ = made(CNN, QuantizeStatic(), feeds=build.images(4))
        with pytest.raises(SpecError, match=message):
            apply(CNN, {**plan, "bias_shifts": shifts}, tmp_path)

    @pytest.mark.parametrize(
        ("chosen", "message"),
        [
            ({"w9": ""}, "chosen_integers for 'w9', no weight of the model"),
            ({"w1": "eJwDAAAAAAE="}, "chosen_integers of 'w1' are not 8 x 3 x 3 x 3 of them"),
            ({"w1": "AAAA"}, "chosen_integers of 'w1' are not 8 x 3 x 3 x 3 of them"),
            ({"w1": "?"}, "chosen_integers of 'w1' are not 8 x 3 x 3 x 3 of them"),
            ({"w1": [1]}, "chosen_integers have w1=.*which is not text"),
            ("w1", "chosen_integers are not an object of names"),
        ],
    )
    def test_chosen_integers(self, chosen: object, message: str, tmp_path: Path) -> None:
        plan, _ = made(CNN, QuantizeStatic(), feeds=build.images(4))
        with pytest.raises(SpecError, match=message):
            apply(CNN, {**plan, "chosen_integers": chosen}, tmp_path)

    def test_an_edited_shift_takes_effect(self, tmp_path: Path) -> None:
        plan, _ = made(CNN, CORRECTED, feeds=build.images(4))
        outputs = []
        for shift in (0.0, 1.0):
            plan["bias_shifts"]["gemm"] = [shift] * 5
            model, _ = apply(CNN, plan, tmp_path)
            with Session(ir.serialize(model)) as session:
                outputs.append(session.run(build.images(1)[0])[0])
        np.testing.assert_allclose(outputs[1] - outputs[0], 1.0, rtol=0.02)

    def test_a_value_quantized_twice(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="two points quantize it"):
            self.edited(tmp_path, lambda points: points[""]["points"].append(dict(points["r1"])))

    def test_a_bias_without_its_weight(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"'b1'.*needs its activation and weight quantized too"):
            self.edited(tmp_path, lambda points: points[""]["points"].remove(points["w1"]))

    def test_half_an_lstm(self, tmp_path: Path) -> None:
        source, _ = lstm()
        plan, _ = made(source, QuantizeDynamic(), feeds=[])
        del plan["points"][1]
        with pytest.raises(SpecError, match=r"quantizes the weights \['w'\] of 'lstm' but not 'r'"):
            apply(source, plan, tmp_path)

    def test_a_dynamic_weight_of_a_node_that_cannot(self, tmp_path: Path) -> None:
        source = CNN
        plan, _ = made(source, QuantizeDynamic(), feeds=[])
        plan["points"][0] |= {"value": "w2", "consumers": ["conv2"], "axis": 0, "scale": [0.1] * 8}
        plan["points"][0]["zero_point"] = [0] * 8
        with pytest.raises(SpecError, match="'conv2' cannot quantize its activation while it runs: the target has no"):
            apply(source, plan, tmp_path)


class TestFiles:
    def test_another_model(self, tmp_path: Path) -> None:
        plan, _ = made(CNN, QuantizeStatic(), feeds=build.images(4))
        with pytest.raises(SpecError, match="made from another model"):
            apply(build.cnn(), plan, tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "does not exist"),
            ("{", "cannot be read"),
            ("[1]", "is not a JSON object"),
            ('{"version": 7}', "version 7"),
            ('{"version": 1, "points": 3}', "points are not a list"),
        ],
    )
    def test_unreadable(self, content: str | None, message: str, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(SpecError, match=message):
            ApplyPlan(str(path)).apply(ir.load(build.cnn()).model, PassContext())

    def test_needs_a_file(self) -> None:
        with pytest.raises(SpecError, match="needs the path of a plan"):
            ApplyPlan()
