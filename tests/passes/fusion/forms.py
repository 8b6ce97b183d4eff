"""Decomposed forms as ONNX text, and what every rule that recognizes one must keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import pi, sqrt

import numpy as np
import onnx
from onnx import parser

from sardonyx import ir
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.fusion.fuse import RULES, Fuse
from tests import models_for_tests as build

SCALARS = {
    "zero": 0.0,
    "one": 1.0,
    "minus_one": -1.0,
    "two": 2.0,
    "three": 3.0,
    "six": 6.0,
    "half": 0.5,
    "minus_half": -0.5,
    "sixth": 1 / 6,
    "root2": sqrt(2),
    "root_half": sqrt(0.5),
    "cubic": 0.044715,
    "slope": sqrt(2 / pi),
    "alpha": 0.3,
    "gamma": 1.7,
    "epsilon": 1e-5,
}
CANDIDATES = tuple(rule.name for rule in RULES if rule.candidate)


@dataclass(frozen=True)
class Form:
    """A graph from x to y, and what is to become of it.

    Attributes:
        text: Its nodes in ONNX's text format, separated by semicolons; names in `SCALARS` and `constants` are constant.
        operators: Operators afterwards; for a refused form, why it is refused.
        rules: Names of the rules applied, in any order.
        opset: Standard opset.
        shape: Shape of x; N is tried at several sizes.
        constants: Further constants.
        sizes: Sizes of N at which it runs.
    """

    text: str
    operators: str
    rules: tuple[str, ...] = ()
    opset: int = 17
    shape: tuple[int | str, ...] = ("N", 4, 8)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    sizes: tuple[int, ...] = (0, 1, 3)

    def model(self, shape: tuple[int | str, ...] = ()) -> onnx.ModelProto:
        """Builds the model, with another shape of x where one is given."""
        nodes = [parser.parse_node(line.strip()) for line in self.text.split(";") if line.strip()]
        known = {name: np.float32(value) for name, value in SCALARS.items()} | dict(self.constants)
        read = {name for node in nodes for name in node.input}
        constants = {name: array for name, array in known.items() if name in read}
        return build.proto(nodes, {"x": shape or self.shape}, {"y": None}, constants, self.opset)

    def feed(self, size: int, scale: float = 3.0) -> dict[str, np.ndarray]:
        """Returns random input with N of a size, in the range where activations bend."""
        return {"x": build.weights(*(size if dim == "N" else int(dim) for dim in self.shape), seed=size, scale=scale)}


def fuse(form: Form) -> tuple[ir.Model, PassResult]:
    """Applies all rules, candidates too."""
    model = ir.load(form.model()).model
    return model, Fuse(enable=CANDIDATES).apply(model, PassContext())


def check_becomes(form: Form) -> None:
    """Asserts which rules were applied, what came of it, that it computes the same, and that once is enough."""
    model, result = fuse(form)
    assert sorted(result.stats) == sorted(set(form.rules)), [r.reason for r in result.refusals]
    assert build.operators(model) == form.operators.split()
    assert ir.verify(model) == ()
    for size in form.sizes:
        feed = form.feed(size)
        (before,), (after,) = build.run(form.model(), feed), build.run(model, feed)
        assert after.shape == before.shape
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=2e-6)
    assert not Fuse(enable=CANDIDATES).apply(model, PassContext()).modified


def check_refused(form: Form) -> None:
    """Asserts that nothing was done, and that the reason is among those given."""
    _, result = fuse(form)
    assert not result.modified, result.stats
    assert any(form.operators in refusal.reason for refusal in result.refusals), result.refusals
    assert all(refusal.nodes for refusal in result.refusals)
