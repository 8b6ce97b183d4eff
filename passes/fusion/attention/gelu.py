"""Rules for Gelu and its approximations, where the opset has no Gelu of its own or the target adds the bias with it.

Gelu(x) = x / 2 (1 + erf(x / sqrt 2)); Hendrycks and Gimpel 2016, arXiv:1606.08415, which gives the approximations by
tanh and by the logistic function too. Each stays what it is: no form is replaced by another.
"""

import math
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.attention.rule import MICROSOFT, FusedRule, known_dims, same, scalar, shaped
from sardonyx.passes.fusion.gelu import GeluErf, GeluTanh
from sardonyx.passes.fusion.obstacles import widening
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor

GELU_OPSET = 20
"""From here on Gelu is a standard operator, with approximate = none or tanh."""


class _GeluRule(FusedRule):
    """What rules for Gelu have in common."""

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses opsets that have Gelu, other types, and constants that widen x."""
        if opset >= GELU_OPSET:
            return f"Gelu is a standard operator from opset {GELU_OPSET}, the model has {opset}"
        return self.dtype_obstacle(found.values["x"]) or widening(found, found.values["x"])

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator."""
        return self.make(editor, [found.values["x"]])[0]


class Gelu(_GeluRule):
    """x / 2 (1 + erf(x / sqrt 2))."""

    name = "gelu"
    summary = "decomposed Gelu becomes com.microsoft Gelu below opset 20"
    op_type = "Gelu"
    pattern: ClassVar[AnyOf] = GeluErf.pattern


class FastGelu(_GeluRule):
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""

    name = "fast-gelu"
    summary = "decomposed tanh approximation of Gelu becomes FastGelu below opset 20"
    op_type = "FastGelu"
    pattern: ClassVar[AnyOf] = GeluTanh.pattern


class QuickGelu(FusedRule):
    """x sigmoid(alpha x), with any alpha: 1.702 approximates Gelu, 1 is SiLU."""

    name = "quick-gelu"
    summary = "x * Sigmoid(alpha * x) becomes QuickGelu"
    op_type = "QuickGelu"
    pattern: ClassVar[Op] = Op(
        "Mul",
        Var("x"),
        AnyOf(Op("Sigmoid", Op("Mul", Var("x"), Const("alpha"))), Op("Sigmoid", Var("x"))),
    )

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses an alpha that is not one finite number, and other types."""
        alpha = scalar(found.values["alpha"]) if "alpha" in found.values else 1.0
        if alpha is None or not math.isfinite(alpha):
            return "alpha is not one finite number"
        return self.dtype_obstacle(found.values["x"]) or widening(found, found.values["x"])

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds QuickGelu."""
        alpha = scalar(found.values["alpha"]) if "alpha" in found.values else 1.0
        return self.make(editor, [found.values["x"]], [ir.AttrFloat32("alpha", alpha or 0.0)])[0]


class BiasGelu(FusedRule):
    """Gelu(x + bias) with a bias of rank 1; Gelu made by another rule."""

    name = "bias-gelu"
    summary = "Add of a bias before com.microsoft Gelu becomes BiasGelu"
    op_type = "BiasGelu"
    pattern: ClassVar[Op] = Op("Gelu", Op("Add", Var("x"), Const("bias")), domain=MICROSOFT)

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses biases that are not one number for each element of the last axis."""
        x, bias = found.values["x"], found.constant("bias")
        if ir.attribute(found.root, "approximate", "none") != "none":
            return f"{found.root.name} is the approximation by tanh"
        if x.shape is None or bias.ndim != 1 or not len(x.shape) or not same(x.shape[-1], bias.size):
            return f"{found.values['bias'].name} is not known to hold one number for each element of the last axis"
        return self.dtype_obstacle(x)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator with the bias as an input."""
        x = found.values["x"]
        return shaped(self.make(editor, [x, found.values["bias"]])[0], x, known_dims(x))


class BiasStandardGelu(BiasGelu):
    """Gelu(x + bias) with a bias of rank 1; the standard operator."""

    name = "bias-standard-gelu"
    summary = "Add of a bias before Gelu (opset 20) becomes BiasGelu"
    pattern: ClassVar[Op] = Op("Gelu", Op("Add", Var("x"), Const("bias")))


class BiasFastGelu(BiasGelu):
    """FastGelu(x + bias) with a bias of rank 1."""

    name = "bias-fast-gelu"
    summary = "Add of a bias before FastGelu goes into it"
    op_type = "FastGelu"
    pattern: ClassVar[Op] = Op("FastGelu", Op("Add", Var("x"), Const("bias")), domain=MICROSOFT)


RULES = (Gelu, FastGelu, QuickGelu, BiasGelu, BiasStandardGelu, BiasFastGelu)
