"""Quantization inside If, Loop and Scan bodies and of local functions."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.measure import Session, describe_machine, load_samples
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.cleanup.cleanup import Cleanup
from sardonyx.passes.quantization.calibration import CALIBRATORS, calibrate
from sardonyx.passes.quantization.calibration.lifting import LARGEST
from sardonyx.passes.quantization.calibration.taps import tapped_model
from sardonyx.passes.quantization.dynamic.quantize import QuantizeDynamic
from sardonyx.passes.quantization.scheme import Scheme
from sardonyx.passes.quantization.scopes import name_inner_values, named_values, nodes_in_order
from sardonyx.passes.quantization.static import QuantizeStatic
from tests import models_for_tests as build
from tests.passes.quantization import body_models as bodies

CASES = {
    "branches": (bodies.branches, [*bodies.feeds(c=True), *bodies.feeds(c=False)], 2),
    "loop": (bodies.loop, bodies.feeds(n=np.int64(5)), 1),
    "branch in a loop": (lambda: bodies.loop(inner_branch=True), bodies.feeds(n=np.int64(5)), 1),
    "scan": (bodies.scan, bodies.feeds(), 1),
    "function": (bodies.function, bodies.feeds(), 2),
}


def context(feeds: bodies.Feeds) -> PassContext:
    return PassContext(capabilities(describe_machine()), load_samples(feeds))


def quantized(source: onnx.ModelProto, feeds: bodies.Feeds, *, dynamic: bool) -> tuple[ir.Model, PassResult]:
    model = ir.load(source).model
    Cleanup().apply(model, PassContext())
    instance = QuantizeDynamic() if dynamic else QuantizeStatic("minmax")
    return model, instance.apply(model, context(feeds))


def runtime_operators(model: ir.Model, folder: Path) -> list[str]:
    """Operators of all graphs that ONNX Runtime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(ir.serialize(model), options, providers=["CPUExecutionProvider"])
    loaded = ir.load(folder / "optimized.onnx").model
    return [each.op_type for each in nodes_in_order(loaded.graph)]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_products_in_bodies_run_as_integers_and_keep_the_function(name: str, dynamic: bool, tmp_path: Path) -> None:
    make, feeds, products = CASES[name]
    source = make()
    model, result = quantized(source, feeds, dynamic=dynamic)
    assert ir.verify(model) == ()
    assert len(result.details["plan"]["compute_nodes"]) == products
    found = runtime_operators(model, tmp_path)
    integer = {"QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    assert sum(op in integer for op in found) == products
    assert "MatMul" not in found
    with Session(ir.serialize(model)) as session:
        for rows in (1, 3, 8):
            for feed in bodies.feeds(2, rows, **{k: v for k, v in feeds[0].items() if k != "x"}):
                expected, actual = build.run(source, feed)[0], session.run(feed)[0]
                # INT8 noise of one or two products; feeds with other rows than the calibration's may saturate a little
                assert np.abs(expected - actual).max() < 0.06 * np.ptp(expected)


def test_a_tap_returns_what_the_value_was(tmp_path: Path) -> None:
    model = ir.load(bodies.loop()).model
    ir.infer_shapes(model)
    ir.save(tapped_model(model, ["p", "h"]), tmp_path / "tapped.onnx")
    (feed,) = bodies.feeds(1, n=np.int64(4))
    with Session(tmp_path / "tapped.onnx") as session:
        product, state = session.run(feed, ["p", "h"])
    weight = next(v for v in model.graph.initializers.values()).const_value.numpy()
    h = feed["x"]
    for step in range(4):
        # a value of unknown size: all its elements, fewer than are looked at, and the zero that stands in for none
        expected = np.unique([0.0, *h.ravel()])
        np.testing.assert_allclose(np.unique(state[step]), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(product[step].max(), (h @ weight).max(), rtol=1e-5)
        h = np.tanh(h @ weight - feed["x"])
    assert product.shape == (4, LARGEST + 2)


def test_a_small_value_of_known_shape_is_tapped_as_it_is(tmp_path: Path) -> None:
    model = ir.load(bodies.scan()).model
    ir.infer_shapes(model)
    ir.save(tapped_model(model, ["row"]), tmp_path / "tapped.onnx")
    (feed,) = bodies.feeds(1)
    with Session(tmp_path / "tapped.onnx") as session:
        (rows,) = session.run(feed, ["row"])
    np.testing.assert_array_equal(rows, feed["x"])


def test_a_branch_that_does_not_run_adds_nothing() -> None:
    model = ir.load(bodies.branches()).model
    name_inner_values(model)
    ir.infer_shapes(model)
    product = {each.name: each.outputs[0].name or "" for each in nodes_in_order(model.graph)}
    ran, rested = product["product1"], product["product2"]
    observed = calibrate(model, [ran, rested], ["minmax"], context(bodies.feeds(c=True)))
    seen = observed.ranges("minmax", Scheme(ir.DataType.UINT8))
    assert seen[ran].low < 0 < seen[ran].high
    assert (seen[rested].low, seen[rested].high) == (0.0, 0.0)


def test_values_of_sibling_bodies_get_names_of_their_own() -> None:
    model = ir.load(bodies.branches()).model
    assert name_inner_values(model)
    assert not name_inner_values(model)
    values = [v for graph in ir.all_graphs(model) for v in ir.graph_values(graph)]
    assert len(named_values(model.graph)) == len(values)
    twin = ir.load(bodies.branches()).model
    name_inner_values(twin)
    assert ir.digest(twin) == ir.digest(model)


@pytest.mark.parametrize("dynamic", [False, True])
def test_names_stay_where_nothing_is_quantized(dynamic: bool) -> None:
    model = ir.load(bodies.branches()).model
    options = {"exclude": ("op:MatMul",)}
    instance = QuantizeDynamic(**options) if dynamic else QuantizeStatic(**options)
    result = instance.apply(model, context(bodies.feeds(c=True)))
    assert not result.modified
    assert ir.digest(model) == ir.digest(ir.load(bodies.branches()).model)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_product_in_a_function_that_was_not_inlined_is_named(dynamic: bool) -> None:
    model = ir.load(bodies.function()).model
    instance = QuantizeDynamic() if dynamic else QuantizeStatic()
    result = instance.apply(model, context(bodies.feeds()))
    assert not result.modified
    assert "the body of the function Layer: run cleanup first" in result.refusals[0].reason


@pytest.mark.parametrize("method", CALIBRATORS)
def test_every_calibrator_observes_bodies(method: str) -> None:
    model = ir.load(bodies.branches()).model
    feeds = [*bodies.feeds(3, c=False), *bodies.feeds(3, c=True)]  # a branch without values comes first
    result = QuantizeStatic(method).apply(model, context(feeds))
    assert sorted(result.details["plan"]["compute_nodes"]) == ["product1", "product2"]
    for point in result.details["plan"]["points"]:
        if point["kind"] == "activation":
            assert point["low"] < point["high"] < 10, point["value"]


def test_moved_data_that_a_body_captures_has_a_pair_of_its_own() -> None:
    """ONNX Runtime aborts where a DequantizeLinear can move behind a MaxPool whose result a body takes."""

    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(op, ["m"], [op])], op, [], [bodies.value(op)])

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c"], ["m"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("If", ["go"], ["y"], name="choice", then_branch=branch("Exp"), else_branch=branch("Neg")),
    ]
    source = bodies.model(
        nodes,
        [bodies.value("x", shape=[1, 4, 6, 6]), bodies.value("go", bodies.BOOL, [])],
        [bodies.value("y", shape=None)],
        [bodies.constant("w", build.weights(4, 4, 3, 3))],
    )
    feeds = [{"x": build.weights(1, 4, 6, 6, seed=seed, scale=1.0), "go": np.array(seed % 2 == 0)} for seed in range(4)]
    model, _ = quantized(source, feeds, dynamic=False)
    (choice,) = (each for each in model.graph if each.op_type == "If")
    for body in ir.node_subgraphs(choice):
        assert next(each.op_type for each in body) == "DequantizeLinear"
    with Session(ir.serialize(model)) as session:
        for feed in feeds:
            expected, actual = build.run(source, feed)[0], session.run(feed)[0]
            assert np.abs(expected - actual).max() < 0.06 * np.ptp(expected)  # INT8 noise of one convolution
