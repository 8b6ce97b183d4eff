"""FP16 models in FP32: everything between the model's ends, or nothing with a reason."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import sardonyx
from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.precision.convert import ConvertFloat
from sardonyx.passes.precision.widen import WidenFloat, computes_in_half
from sardonyx.pipeline import Recipe
from tests import models_for_tests as build
from tests.passes.contract import PassContract
from tests.passes.precision.precision_models import FLOAT16_RTOL, assert_close, counts
from tests.passes.precision.test_random_half_graphs import bodies
from tests.passes.test_random_graphs import SHAPE, graphs

EVERYTHING = ConvertFloat(keep_io=False, kernels="schema")


def halved(source: onnx.ModelProto) -> onnx.ModelProto:
    """The model as an exporter of half precision writes it, its inputs and outputs too."""
    model = ir.load(source).model
    EVERYTHING.apply(model, PassContext())
    return onnx.load_model_from_string(ir.serialize(model))


def half_images(count: int) -> list[dict[str, np.ndarray]]:
    return [{name: value.astype(np.float16) for name, value in feed.items()} for feed in build.images(count)]


def widened(source: onnx.ModelProto) -> tuple[ir.Model, sardonyx.passes.base.PassResult]:
    model = ir.load(source).model
    result = WidenFloat().apply(model, PassContext())
    assert ir.verify(model) == ()
    onnx.checker.check_model(onnx.load_model_from_string(ir.serialize(model)), full_check=True)
    return model, result


class TestWidenFloat(PassContract):
    instance = WidenFloat()
    rtol = FLOAT16_RTOL  # the original rounds every value to 11 bits
    atol = FLOAT16_RTOL

    def sources(self) -> list[onnx.ModelProto]:
        return [halved(build.cnn()), build.cnn()]

    def feed(self) -> dict[str, np.ndarray]:
        return build.images(1)[0]

    def test_function_is_kept(self) -> None:
        for feed in half_images(3):
            assert_close(halved(build.cnn()), self.applied(halved(build.cnn()))[0], feed)


def test_the_ends_keep_their_types_and_one_cast_each_is_left() -> None:
    model, result = widened(halved(build.cnn()))
    assert [v.dtype for v in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT16] * 2
    assert counts(model)["Cast"] == 2
    assert not computes_in_half(model)
    assert result.stats["casts"] == 2
    tensors = [v.const_value for v in model.graph.initializers.values()]
    assert ir.DataType.FLOAT16 not in {t.dtype for t in tensors if t is not None}


def test_weights_are_exact_and_attributes_follow() -> None:
    weight = np.array([1 / 3, 65504, 6e-8, -np.inf], np.float16)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("ConstantOfShape", ["s"], ["f"], value=numpy_helper.from_array(weight[:1])),
        helper.make_node("Cast", ["n"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["h", "f"], ["a"]),
        helper.make_node("Max", ["a", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    source = build.proto(nodes, {}, {"y": [4]}, {"s": np.array([4], np.int64)})
    source.graph.input.append(helper.make_tensor_value_info("n", TensorProto.INT32, [4]))
    model, _ = widened(source)
    (y,) = build.run(model, {"n": np.array([0, 0, 1, 2], np.int32)})
    third = np.float32(np.float16(1 / 3))
    np.testing.assert_array_equal(y, [third, 65504, 1 + third, 2 + third])


def test_an_output_that_is_an_input_or_a_weight_or_given_twice() -> None:
    half = TensorProto.FLOAT16
    nodes = [helper.make_node("Add", ["x", "w"], ["a"])]
    source = build.proto(nodes, {}, {}, {"w": np.ones(2, np.float16)})
    source.graph.input.append(helper.make_tensor_value_info("x", half, [2]))
    source.graph.output.extend(helper.make_tensor_value_info(name, half, [2]) for name in ("a", "x"))
    model, _ = widened(source)
    x = np.array([1, 2], np.float16)
    for before, after in zip(build.run(source, {"x": x}), build.run(model, {"x": x}), strict=True):
        assert after.dtype == np.float16
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Fancy", ["x"], ["y"], domain="my.domain", name="n"), "the type of y is not known"),
        (helper.make_node("SequenceConstruct", ["x"], ["y"], name="n"), "y is not a tensor but holds FLOAT16"),
    ],
)
def test_what_is_not_known_keeps_the_model_as_it_is(node: onnx.NodeProto, reason: str) -> None:
    ends = [helper.make_node("Relu", ["h"], ["x"]), node]
    graph = helper.make_graph(ends, "g", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2])])
    graph.input.append(helper.make_tensor_value_info("h", TensorProto.FLOAT16, [2]))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    model = ir.load(helper.make_model(graph, opset_imports=imports, ir_version=8)).model
    digest = ir.digest(model)
    result = WidenFloat().apply(model, PassContext())
    assert [(r.reason, r.nodes) for r in result.refusals] == [(reason, ("n",))]
    assert ir.digest(model) == digest
    assert not result.modified


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30)
@given(source=st.one_of(graphs(), bodies()), seed=st.integers(0, 1000))
def test_there_and_back_keeps_the_function(source: onnx.ModelProto, seed: int) -> None:
    feed = {"x": build.weights(*SHAPE, seed=seed, scale=1.0)}
    half = halved(source)
    model, _ = widened(half)
    assert not computes_in_half(model)
    given = {"x": feed["x"].astype(np.float16)} if half.graph.input[0].type.tensor_type.elem_type == 10 else feed
    for before, after in zip(build.run(source, feed), build.run(model, given), strict=True):
        scale = max(1.0, float(np.abs(before).max()))
        np.testing.assert_allclose(after / scale, before / scale, rtol=0, atol=FLOAT16_RTOL)


def test_an_fp16_model_gets_integers_on_a_target_that_computes_in_fp32() -> None:
    recipe = Recipe(timing_seconds=0.05, give_back_seconds=0.5, report=False, max_drop=0.5)
    record = sardonyx.compile(halved(build.cnn()), data=half_images(24), recipe=recipe).record
    quantized = record.candidate("quantized")
    assert quantized is not None
    assert quantized.integer_nodes > 0
    assert quantized.accuracy is not None
    assert quantized.accuracy.drop < 0.05  # INT8 noise on a network with random weights
