"""What the tests of the conversion share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from sardonyx import ir
from sardonyx.measure import load_samples
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.precision.convert import ConvertFloat
from tests import models_for_tests as build

FLOAT16_RTOL = 4e-3
"""Beside the largest output: FP16 rounds each value by up to 2^-11, and a few roundings in a row add up."""

Feed = Mapping[str, np.ndarray]


def convert(
    source: onnx.ModelProto, instance: ConvertFloat | None = None, samples: Sequence[Feed] | None = None, **context: Any
) -> tuple[ir.Model, PassResult]:
    """Loads, converts and verifies: structure, and that no value's type contradicts its node."""
    model = ir.load(source).model
    given = PassContext(samples=None if samples is None else load_samples(list(samples)), **context)
    result = (instance or ConvertFloat()).apply(model, given)
    assert ir.verify(model) == ()
    onnx.checker.check_model(onnx.load_model_from_string(ir.serialize(model)), full_check=True)
    report = ir.infer_shapes(ir.clone(model))
    assert (report.corrected, report.failures) == ((), ())
    return model, result


def assert_close(source: onnx.ModelProto, model: ir.Model, feed: Feed, rtol: float = FLOAT16_RTOL) -> list[np.ndarray]:
    """Both models run on ONNX Runtime and agree beside the largest output; returns the converted model's outputs."""
    after = build.run(model, feed)
    for expected, actual in zip(build.run(source, feed), after, strict=True):
        assert actual.shape == expected.shape
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=rtol)
    return after


def counts(model: ir.Model) -> Counter[str]:
    """Operators of all graphs."""
    return Counter(node.op_type for graph in ir.all_graphs(model) for node in graph)


def types(model: ir.Model, op_type: str) -> list[ir.DataType | None]:
    """The type of the first output of each node of an operator, in order."""
    return [node.outputs[0].dtype for graph in ir.all_graphs(model) for node in graph if node.op_type == op_type]


def reasons(result: PassResult) -> dict[str, str]:
    """Why each node stayed in FP32, by node name."""
    stayed = (refusal for refusal in result.refusals if refusal.rule == "stay-in-float32")
    return {node: refusal.reason for refusal in stayed for node in refusal.nodes}
