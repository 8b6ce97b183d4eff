"""Property: whatever the graph, the converted model is valid, loads, computes the same within FP16, and stays put."""

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.precision.convert import ConvertFloat
from tests import models_for_tests as build
from tests.passes.precision.precision_models import FLOAT16_RTOL, convert
from tests.passes.test_random_graphs import SHAPE, graphs


@st.composite
def bodies(draw: st.DrawFn) -> onnx.ModelProto:
    """A random graph inside the branches of an If, beside a matrix product around it."""
    inner = draw(graphs())
    source = build.proto([], {"x": SHAPE}, {}, {})
    branches = {}
    for name in ("then_branch", "else_branch"):
        body = onnx.GraphProto()
        body.CopyFrom(inner.graph)
        body.name = name
        del body.input[:]
        del body.output[1:]
        _rename(body, name)
        branches[name] = body
    source.graph.node.extend(
        [
            helper.make_node("Conv", ["x", "around"], ["h"]),
            helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
            helper.make_node("Greater", ["total", "none"], ["flag"]),
            helper.make_node("If", ["flag"], ["i"], **branches),
            helper.make_node("Conv", ["i", "around"], ["y"]),
        ]
    )
    constants = {"around": build.weights(4, 4, 1, 1), "none": np.float32(0)}
    source.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    source.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE))
    return source


def _rename(body: onnx.GraphProto, prefix: str) -> None:
    """Gives a body's values names of its own; its input `x` becomes the outer value `h`."""

    def named(name: str) -> str:
        return {"": "", "x": "h"}.get(name, f"{prefix}_{name}")

    for node in body.node:
        node.input[:] = [named(name) for name in node.input]
        node.output[:] = [named(name) for name in node.output]
    for value in (*body.initializer, *body.output):
        value.name = named(value.name)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(source=st.one_of(graphs(), bodies()), seed=st.integers(0, 1000), measured=st.booleans())
def test_conversion_keeps_the_function(source: onnx.ModelProto, seed: int, *, measured: bool) -> None:
    feed = {"x": build.weights(*SHAPE, seed=seed, scale=1.0)}
    instance = ConvertFloat()
    model, result = convert(source, instance, samples=[feed] if measured else None)
    for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
        scale = max(1.0, float(np.abs(before).max()))
        np.testing.assert_allclose(after / scale, before / scale, rtol=0, atol=FLOAT16_RTOL)
    digest = ir.digest(model)
    assert result.modified == (digest != ir.digest(ir.load(source).model))
    if not measured:
        assert not instance.apply(model, PassContext()).modified
        assert ir.digest(model) == digest
