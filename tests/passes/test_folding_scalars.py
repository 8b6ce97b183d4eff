"""A folded scalar stays a scalar: a shape of [1] in its place breaks the Concat behind its Unsqueeze."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.folding.constants import FoldConstants
from tests import models_for_tests as build
from tests.exactness import judge


@pytest.mark.parametrize("casts", [0, 1])
def test_a_computed_size_is_folded_to_a_scalar(casts: int) -> None:
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["size"]),
        node("Div", ["size", "two"], ["half"]),
        *[node("Cast", ["half"], ["cast"], to=TensorProto.INT64)] * casts,
        node("Unsqueeze", ["cast" if casts else "half", "axes"], ["row"]),
        node("Concat", ["minus", "row"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"one": np.int64(1), "two": np.int64(2), "axes": np.array([0]), "minus": np.array([-1])}
    source = build.proto(nodes, {"x": ["N", 8, 3]}, {"y": None}, constants)
    model = ir.load(source).model
    FoldConstants().apply(model, PassContext())
    for value in model.graph.initializers.values():
        tensor = ir.constant_tensor(value)
        assert tensor is not None
        assert tensor.numpy().shape == tuple(tensor.shape.numpy()) == tuple(value.shape or ())
    outcome = judge(source, [{"x": np.ones((batch, 8, 3), np.float32)} for batch in (1, 2)])
    assert outcome.verdict == "equal", outcome.reason
