"""Property: decomposed forms chained at random, some spoilt or read in mid-pattern, keep their function."""

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse
from tests import models_for_tests as build
from tests.passes.fusion.forms import CANDIDATES
from tests.passes.fusion.golden import FORMS

SHAPE = ("N", 4, 8)
ALL = [  # FLOAT of SHAPE in and out
    form for form in FORMS if form.shape == SHAPE and "Transpose" not in form.text and "to = 10" not in form.text
]
NEWEST = 24
POOLS = {
    17: [form for form in ALL if form.opset == 17],
    NEWEST: [form for form in ALL if "axes" not in form.text],  # an input of reductions since opset 18
}
PREDICATES = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Up to four forms, each on some earlier value; in every other one a node reads another value than it should."""
    opset = draw(st.sampled_from(sorted(POOLS)))
    values = ["x"]
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for index in range(draw(st.integers(1, 4))):
        source = draw(st.sampled_from(POOLS[opset])).model()
        known = {tensor.name: tensor for tensor in source.graph.initializer}
        constants |= {name: onnx.numpy_helper.to_array(tensor) for name, tensor in known.items()}
        names = {name: name for name in ("", *known)} | {"x": draw(st.sampled_from(values))}
        readers = [n for n in source.graph.node if "x" in n.input and n.op_type != "Shape"]
        if draw(st.booleans()):
            spoilt = draw(st.sampled_from(readers))
            spoilt.input[list(spoilt.input).index("x")] = "spoilt"
            names["spoilt"] = draw(st.sampled_from(values))
        for node in source.graph.node:
            names |= {name: f"v{index}_{name}" for name in node.output}
        for node in source.graph.node:
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
        nodes += source.graph.node
        values.append(names["y"])
    inner = [node.output[0] for node in nodes[:-1] if node.op_type not in PREDICATES]
    outputs = {values[-1]: None}
    if inner and draw(st.booleans()):
        outputs[draw(st.sampled_from(inner))] = None
    return build.proto(nodes, {"x": SHAPE}, outputs, constants, opset)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(source=graphs(), size=st.integers(1, 3), seed=st.integers(0, 1000))
def test_the_rules_keep_the_function(source: onnx.ModelProto, size: int, seed: int) -> None:
    model = ir.load(source).model
    Fuse(enable=CANDIDATES).apply(model, PassContext())
    assert ir.verify(model) == ()
    feed = {"x": build.weights(size, *SHAPE[1:], seed=seed, scale=1.0)}
    for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
        assert after.shape == before.shape
        scale = max(1.0, float(np.abs(before).max()))
        # normalizing a row of nearly equal values multiplies rounding errors by up to 1 / sqrt(epsilon) = 316
        np.testing.assert_allclose(after / scale, before / scale, rtol=1e-4, atol=1e-4)
    assert not Fuse(enable=CANDIDATES).apply(model, PassContext()).modified
