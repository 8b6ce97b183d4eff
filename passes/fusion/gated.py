"""Rules for the sigmoid and its relatives: Sigmoid, Swish, HardSigmoid, HardSwish, Softplus, Mish."""

from collections.abc import Sequence
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.elementwise import Elementwise, X, scaled_product
from sardonyx.passes.fusion.obstacles import near, not_single, single
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op

SIXTH = 1.0 / 6.0
SOFTPLUS_IS_X = 15.0
"""From here on log(1 + exp(x)) = x + log(1 + exp(-x)) rounds to x in FLOAT: exp(-15) / 15 is 2e-8."""
_NEGATED = AnyOf(Op("Neg", X), Op("Mul", X, Const("minus", -1.0)))
_ONE_PLUS_EXP_MINUS = Op("Add", Op("Exp", _NEGATED), Const("one", 1.0))
_RELU6 = Op("Clip", Op("Add", X, Const("three", 3.0)), Const("bottom", 0.0), Const("top", 6.0))


class Sigmoid(Elementwise):
    """1 / (1 + exp(-x)); where exp(-x) overflows both are 0."""

    name = "sigmoid"
    summary = "1 / (1 + exp(-x)) becomes Sigmoid"
    operator = "Sigmoid"
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Div", Const("numerator", 1.0), _ONE_PLUS_EXP_MINUS), Op("Reciprocal", _ONE_PLUS_EXP_MINUS)
    )


class Swish(Elementwise):
    """x * sigmoid(alpha x): SiLU where alpha is 1, QuickGelu where it is 1.702; operator Swish-24.

    A candidate: a runtime without a kernel for Swish runs its definition, which multiplies by alpha = 1 too.
    """

    name = "swish"
    summary = "x * Sigmoid(alpha * x) becomes Swish"
    operator = "Swish"
    candidate = True
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Mul", X, Op("Sigmoid", AnyOf(X, Op("Mul", X, Const("alpha"))))),
        Op("Div", X, _ONE_PLUS_EXP_MINUS),
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses an alpha that is not a single number."""
        return not_single(found, "alpha")

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns alpha."""
        return [ir.AttrFloat32("alpha", single(found, "alpha") if "alpha" in found.values else 1.0)]


class HardSigmoid(Elementwise):
    """clip(a x + b, 0, 1), or clip(x + b, 0, c) / c."""

    name = "hard-sigmoid"
    summary = "Clip(a * x + b, 0, 1) or Clip(x + b, 0, c) / c becomes HardSigmoid"
    operator = "HardSigmoid"
    pattern: ClassVar[AnyOf] = AnyOf(
        Op(
            "Clip",
            Op("Add", Op(("Mul", "Div"), X, Const("factor"), name="scaling"), Const("offset")),
            Const("bottom", 0.0),
            Const("top", 1.0),
        ),
        Op(
            ("Mul", "Div"),
            Op("Clip", Op("Add", X, Const("offset")), Const("bottom", 0.0), Const("top")),
            Const("factor"),
            name="scaling",
        ),
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses several slopes or offsets, and a clipped range that does not become 0 to 1."""
        reason = not_single(found, "factor", "offset", "top")
        if reason is not None:
            return reason
        if single(found, "factor") == 0:
            return f"the constant {found.values['factor'].name} is 0"
        if found.root.op_type != "Clip" and not near(single(found, "top") * self._slope(found), 1.0):
            return f"the bound {single(found, 'top'):g} times the slope {self._slope(found):g} is not 1"
        return None

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns the slope and the offset of the clipped line."""
        slope, offset = self._slope(found), single(found, "offset")
        beta = offset if found.root.op_type == "Clip" else offset * slope
        return [ir.AttrFloat32("alpha", slope), ir.AttrFloat32("beta", beta)]

    @staticmethod
    def _slope(found: Match) -> float:
        factor = single(found, "factor")
        return 1.0 / factor if found.named["scaling"].op_type == "Div" else factor


class HardSwish(Elementwise):
    """x max(0, min(1, x / 6 + 0.5)): operator HardSwish-14."""

    name = "hard-swish"
    summary = "x * HardSigmoid(x) with alpha 1/6 and beta 1/2, or x * Clip(x + 3, 0, 6) / 6, becomes HardSwish"
    operator = "HardSwish"
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Mul", X, Op("HardSigmoid", X, name="gate")), *scaled_product(X, _RELU6, SIXTH, "sixth")
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses a HardSigmoid with another slope or offset."""
        gate = found.named.get("gate")
        if gate is None:
            return None
        alpha, beta = ir.attribute(gate, "alpha", 0.2), ir.attribute(gate, "beta", 0.5)
        if not near(alpha, SIXTH) or not near(beta, 0.5):
            return f"the HardSigmoid {gate.name} has alpha={alpha:g} and beta={beta:g}"
        return None


class Mish(Elementwise):
    """x * tanh(softplus(x)): operator Mish-18."""

    name = "mish"
    summary = "x * Tanh(Softplus(x)) becomes Mish"
    operator = "Mish"
    pattern: ClassVar[Op] = Op("Mul", X, Op("Tanh", Op("Softplus", X)))


class Softplus(Elementwise):
    """log(exp(x) + 1), where torch's dynamo exporter chooses x itself above a threshold.

    A candidate: from x = 88.73 on exp(x) overflows and the decomposition is infinite, the operator is x. ONNX Runtime's
    kernel is measured slower, too: it calls a slower exponential than Exp.
    """

    name = "softplus"
    summary = "Log(Exp(x) + 1) becomes Softplus, and Where(x > threshold, x, Softplus(x)) too"
    operator = "Softplus"
    candidate = True
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Log", Op("Add", Op("Exp", X), Const("one", 1.0))),
        Op("Where", Op("Greater", X, Const("threshold")), X, Op("Softplus", X)),
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses thresholds under which the softplus of x is not x yet."""
        if "threshold" not in found.values:
            return None
        reason = not_single(found, "threshold")
        if reason is not None or single(found, "threshold") >= SOFTPLUS_IS_X:
            return reason
        return f"the threshold {found.values['threshold'].name} is below {SOFTPLUS_IS_X:g}"


RULES = (Sigmoid(), Swish(), HardSwish(), HardSigmoid(), Mish(), Softplus())
