"""Errors along two models: what is compared, what is explained, and which place is the first that parts."""

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.diff.drift import drift
from sardonyx.diff.drift_schema import Drift, Place
from sardonyx.diff.expectation import Extent, mixed_error, rounding_error
from sardonyx.diff.matching import Matching, match
from sardonyx.diff.measuring import DriftOptions
from sardonyx.errors import DataError, UsageError
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext
from sardonyx.pipeline import PassManager, available_passes, parse_pipeline
from tests.models_for_tests import Array, cnn, images, model, weights


def by_name(before: ir.Model, after: ir.Model) -> Matching:
    """A matching of equal names, so that a test says itself what corresponds."""
    names = [{v.name for v in (*m.graph.inputs, *(o for n in m.graph for o in n.outputs))} for m in (before, after)]
    return Matching((), {name: name for name in names[0] & names[1] if name}, {})


def between(before: ir.Model, after: ir.Model, budget_bytes: int = 1 << 28) -> Drift:
    options = DriftOptions(budget_bytes=budget_bytes)
    return drift(before, after, by_name(before, after), load_samples(images(3)), options)


def first(found: Drift) -> Place:
    assert found.first is not None
    return found.places[found.first]


def changed_weight(name: str, factor: float) -> ir.Model:
    changed = ir.load(cnn()).model
    value = changed.graph.initializers[name]
    assert value.const_value is not None
    array = np.array(ir.read_array(value.const_value))
    array[0] *= factor
    value.const_value = ir.tensor(array, name=name)
    return changed


def quantized(source: ir.Model) -> ir.Model:
    passes = parse_pipeline("quantize-static", available_passes())
    target = backend("onnxruntime").capabilities(describe_machine())
    context = PassContext(target, load_samples(images(8)))
    return PassManager(passes, context=context).run(ir.clone(source)).model


def with_wrong_scale(changed: ir.Model, factor: float) -> ir.Value:
    """Multiplies the scale of the second quantizer of a model and returns it."""
    quantizers = [node for node in changed.graph if node.op_type == "QuantizeLinear"]
    scale = quantizers[1].inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    scale.const_value = ir.tensor(ir.read_array(scale.const_value) * np.float32(factor), name=scale.name)
    return scale


def place_of(found: Drift, before: str, kind: str = "value", noise: str = "") -> Place:
    return next(p for p in found.places if p.before == before and p.kind == kind and p.noise.startswith(noise))


def test_a_model_is_equal_to_itself_at_every_value() -> None:
    one = ir.load(cnn()).model
    found = between(one, ir.clone(one))
    assert found.samples == 3
    assert {p.before for p in found.places} == {v.name for node in one.graph for v in node.outputs}
    assert all(p.total.equal and p.local is not None and p.local.equal for p in found.places)
    assert found.first is None


def test_a_wrong_weight_is_told_from_what_follows_from_it() -> None:
    found = between(ir.load(cnn()).model, changed_weight("w2", 1.5))
    place = first(found)
    assert (place.kind, place.before) == ("constant", "w2")
    assert [n.name for n in place.before_nodes] == [n.name for n in place.after_nodes] == ["conv2"]
    assert [p.before for p in found.parting] == ["w2"]
    consequence = place_of(found, "scores")
    assert consequence.total.relative is not None
    assert consequence.total.relative > 1e-3
    assert consequence.local is not None
    assert consequence.local.equal
    assert place_of(found, "r1").total.equal


def test_an_exchanged_input_is_named() -> None:
    after = ir.load(cnn()).model
    values = {v.name: v for node in after.graph for v in node.outputs}
    add = next(node for node in after.graph if node.op_type == "Add")
    add.replace_input_with(1, values["n1"])
    found = between(ir.load(cnn()).model, after)
    assert [n.name for n in first(found).after_nodes] == ["add1"]
    assert [p.before for p in found.parting] == ["a1"]


def test_optimizing_parts_nowhere() -> None:
    source = ir.load(cnn()).model
    passes = parse_pipeline("fuse, cleanup", available_passes())
    after = PassManager(passes).run(ir.clone(source)).model
    assert ir.num_nodes(after) < ir.num_nodes(source)
    found = drift(source, after, match(source, after), load_samples(images(2)))
    assert found.first is None
    assert place_of(found, "scores").local is not None


def test_quantizing_is_explained_by_its_grids() -> None:
    source = ir.load(cnn(batch_norm=False)).model
    after = quantized(source)
    found = drift(source, after, match(source, after), load_samples(images(3)))
    assert found.first is None
    kinds = {(p.kind, p.noise) for p in found.places}
    assert ("constant", "step") in kinds
    assert ("value", "step") in kinds
    scores = place_of(found, "scores")
    assert scores.total.relative is not None
    assert 0 < scores.total.relative < 0.1


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_a_wrong_scale_is_told_from_the_noise_of_quantizing(factor: float) -> None:
    source = ir.load(cnn(batch_norm=False)).model
    after = quantized(source)
    scale = with_wrong_scale(after, factor)
    found = drift(source, after, match(source, after), load_samples(images(3)))
    readers = {use.node.name for use in scale.uses()}
    assert readers & {n.name for n in first(found).after_nodes}


def test_values_are_compared_in_pieces_with_the_same_result() -> None:
    one, other = ir.load(cnn()).model, changed_weight("w1", 1.1)
    whole = between(one, other)
    pieces = between(one, other, budget_bytes=1)
    assert pieces == whole


def test_samples_may_differ_in_shape() -> None:
    one = model([helper.make_node("Relu", ["x"], ["y"], name="relu")], {"x": ["N", "M"]}, {"y": ["N", "M"]})
    samples = load_samples([{"x": weights(2, 3)}, {"x": weights(4, 1)}])
    found = drift(one, ir.clone(one), by_name(one, one), samples)
    assert found.samples == 2
    assert found.places[0].total.equal


def test_a_body_is_compared_at_its_node() -> None:
    def branching(factor: float) -> ir.Model:
        def branch(name: str, scale: float) -> object:
            tensor = numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale")
            node = helper.make_node("Mul", ["h", f"{name}_scale"], [f"{name}_out"], name=f"{name}_mul")
            out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2])
            return helper.make_graph([node], name, [], [out], [tensor])

        nodes = [
            helper.make_node("Relu", ["x"], ["h"], name="relu"),
            helper.make_node("ReduceSum", ["h"], ["s"], name="sum", keepdims=0),
            helper.make_node("Cast", ["s"], ["c"], name="cast", to=TensorProto.BOOL),
            helper.make_node(
                "If", ["c"], ["y"], name="if", then_branch=branch("then", factor), else_branch=branch("else", 1.0)
            ),
        ]
        return model(nodes, {"x": [2]}, {"y": [2]})

    before, after = branching(2.0), branching(3.0)
    samples = load_samples([{"x": np.array([1, 2], np.float32)}])
    found = drift(before, after, by_name(before, after), samples)
    assert [p.before for p in found.parting] == ["y"]
    assert [n.name for n in first(found).after_nodes] == ["if"]


def test_nan_in_one_model_is_a_difference_and_counted() -> None:
    def with_function(op_type: str) -> ir.Model:
        return model([helper.make_node(op_type, ["x"], ["y"], name="f")], {"x": [3]}, {"y": [3]})

    before, after = with_function("Abs"), with_function("Sqrt")
    samples = load_samples([{"x": np.array([1, -4, -9], np.float32)}])
    found = drift(before, after, by_name(before, after), samples)
    assert first(found).total.nonfinite == 2


def test_the_second_model_may_not_need_more_inputs() -> None:
    one = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, {"y": [3]})
    other = model([helper.make_node("Add", ["x", "z"], ["y"])], {"x": [3], "z": [3]}, {"y": [3]})
    with pytest.raises(UsageError, match="input 'z'"):
        drift(one, other, by_name(one, other), load_samples([{"x": weights(3)}]))


def test_a_sample_must_have_every_input() -> None:
    one = ir.load(cnn()).model
    with pytest.raises(DataError, match="no input 'image'"):
        drift(one, one, by_name(one, one), load_samples([{"picture": weights(1, 3, 16, 16)}]))


def test_a_generator_may_fill_its_arrays_anew() -> None:
    one, other = ir.load(cnn()).model, changed_weight("w2", 1.5)

    def reusing() -> Iterator[dict[str, Array]]:
        array = np.empty((1, 3, 16, 16), np.float32)
        for feed in images(3):
            array[:] = feed["image"]
            yield {"image": array}

    found = drift(one, other, by_name(one, other), load_samples(reusing))
    assert found.places == between(one, other).places


def test_a_rounded_input_is_compared_with_the_input() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"], name="dequantize"),
    ]
    relu = helper.make_node("Relu", ["x"], ["y"], name="relu")
    before = model([relu], {"x": [4]}, {"y": [4]})
    after = model([*nodes, helper.make_node("Relu", ["d"], ["y"])], {"x": [4]}, {"y": [4]}, {"scale": np.float32(0.1)})
    sample = {"x": np.array([-5, 1.04, 7.03, 20], np.float32)}
    found = drift(before, after, Matching((), {"x": "x"}, {}), load_samples([sample]))
    rounded, result = found.places
    assert (rounded.before, rounded.after, rounded.noise) == ("x", "d", "step")
    assert rounded.total.max_abs == pytest.approx(5.0)  # without a zero point the grid is unsigned: -5 becomes 0
    assert result.local is not None
    assert result.local.equal
    assert not result.total.equal


def test_there_must_be_samples() -> None:
    one = ir.load(cnn()).model
    with pytest.raises(DataError, match="no samples"):
        drift(one, one, by_name(one, one), load_samples([]))


def test_the_document_can_be_read_again() -> None:
    found = between(ir.load(cnn()).model, changed_weight("w1", 2.0))
    assert Drift.model_validate_json(found.model_dump_json()) == found


def test_what_is_explained() -> None:
    assert rounding_error([]) == 0.0
    assert rounding_error([ir.DataType.FLOAT]) < rounding_error([ir.DataType.FLOAT, ir.DataType.FLOAT16]) < 0.02
    assert mixed_error([0.01]) == 0.3  # too few to know what is usual
    assert mixed_error([0.1] * 9 + [5.0]) == pytest.approx(0.4)
    extent = Extent()
    extent.update(np.array([-1.0, 3.0, np.nan], np.float32))
    assert (extent.low, extent.high, extent.count) == (-1.0, 3.0, 2)
    assert extent.rms == pytest.approx(5**0.5)
