"""Cases of fusion rules: what becomes what at which sizes, and what is refused, for tests of several topics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from sardonyx import ir
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.fusion.fuse import RULES, Fuse
from sardonyx.passes.rewriting.driver import near_misses
from tests import models_for_tests as build

node = helper.make_node
Shape = Sequence[int | str]
FIXED: tuple[Mapping[str, int], ...] = ({},)


def ints(*numbers: int) -> np.ndarray:
    """A list of integers."""
    return np.array(numbers, np.int64)


@dataclass(frozen=True)
class RuleCase:
    """A graph from x (and others) to the output of its last node.

    Attributes:
        nodes: The graph.
        constants: Its constants.
        becomes: Operators afterwards.
        rules: How often which rule is applied.
        inputs: Shapes of the inputs.
        at: Sizes of the symbols at which the function is compared.
        outputs: Names of the outputs; none: the last node's.
    """

    nodes: Sequence[onnx.NodeProto]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    becomes: Sequence[str] = ()
    rules: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Shape] = field(default_factory=lambda: {"x": (2, 3, 4, 6)})
    at: Sequence[Mapping[str, int]] = FIXED
    outputs: Sequence[str] = ()

    def source(self, opset: int = 17) -> onnx.ModelProto:
        """Builds the model."""
        outputs = self.outputs or [name for name in self.nodes[-1].output if name]
        return build.proto(self.nodes, dict(self.inputs), dict.fromkeys(outputs), dict(self.constants), opset)

    def feeds(self) -> list[dict[str, np.ndarray]]:
        """Inputs at each of the sizes."""
        return [
            {
                name: build.weights(*(sizes.get(d, 1) if isinstance(d, str) else d for d in shape), seed=s, scale=2.0)
                for s, (name, shape) in enumerate(self.inputs.items())
            }
            for sizes in self.at
        ]


def check_rewritten(case: RuleCase) -> None:
    """Checks what a case becomes, by which rules, that its function stays, and that a second run changes nothing."""
    source = case.source()
    model = ir.load(source).model
    result = Fuse().apply(model, PassContext())
    assert build.operators(model) == list(case.becomes)
    assert result.stats == case.rules
    assert result.modified is bool(case.rules)
    check_function(source, model, case.feeds())
    assert not Fuse().apply(model, PassContext()).modified


def check_function(source: onnx.ModelProto, model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Checks that a model is sound, has the interface of its source, and computes the same."""
    assert ir.verify(model) == ()
    assert [v.name for v in model.graph.outputs] == [v.name for v in source.graph.output]
    for feed in feeds:
        for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
            assert after.dtype == before.dtype
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def check_refused(case: RuleCase, rule: str, reason: str, opset: int = 17) -> None:
    """Checks that a rule leaves a case alone and says why, in the result or when asked about a node."""
    model = ir.load(case.source(opset), opset=opset).model
    others = tuple(other.name for other in RULES if other.name != rule)
    result: PassResult = Fuse(disable=others).apply(model, PassContext())
    assert not result.modified
    reasons = [refusal.reason for refusal in result.refusals]
    for inner in list(model.graph):
        reasons += [text for other, text in near_misses(model, RULES, inner.name or "") if other.name == rule]
    assert any(reason in text for text in reasons), reasons
