"""Rules for activations with two pieces: Elu, Celu, Selu, LeakyRelu, PRelu, ThresholdedRelu.

Those whose operator is measured slower than its decomposition (benchmarks/fused_forms.py) are candidates: ONNX
Runtime's kernels of Elu, Celu and Selu call a slower exponential than Exp, and that of PRelu is a general loop.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.fusion.bounds import LARGEST, bounds
from sardonyx.passes.fusion.elementwise import Elementwise, X, where_positive
from sardonyx.passes.fusion.obstacles import near, not_single, single
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Pattern
from sardonyx.passes.rewriting.rule import Editor

_RELU = Op("Relu", X)
_MIN = Op("Min", X, Const("ceiling", 0.0))
_NEGATIVE_PART = AnyOf(_MIN, Op("Clip", X, name="ceiling", open_inputs=True))
"""min(x, 0) for an exponential, to which the largest negative number and minus infinity are the same."""


def _not_negative_part(found: Match) -> str | None:
    """Why a matched Clip is not min(x, 0), or None."""
    clip = found.named.get("ceiling")
    known = None if clip is None else bounds(clip)
    return None if clip is None or known == (-LARGEST, 0.0) else f"{clip.name} does not clip at 0 from above alone"


def _exp_minus_one(part: Pattern) -> AnyOf:
    return AnyOf(Op("Sub", Op("Exp", part), Const("one", 1.0)), Op("Add", Op("Exp", part), Const("minus", -1.0)))


def _not_positive(found: Match, *names: str) -> str | None:
    """Why one of some matched constants is not a single number above 0, or None."""
    reason = not_single(found, *names)
    if reason is not None:
        return reason
    wrong = next((name for name in names if name in found.values and not single(found, name) > 0), None)
    return None if wrong is None else f"the constant {found.values[wrong].name} is not above 0"


class Elu(Elementwise):
    """x where x > 0, else alpha (exp(x) - 1)."""

    name = "elu"
    summary = "Where(x > 0, x, alpha * (Exp(x) - 1)) becomes Elu"
    operator = "Elu"
    candidate = True
    pattern: ClassVar[AnyOf] = AnyOf(
        *where_positive(X, AnyOf(_exp_minus_one(X), Op("Mul", _exp_minus_one(X), Const("alpha")))),
        Op("Add", _RELU, _exp_minus_one(_NEGATIVE_PART)),
        Op("Add", _RELU, Op("Mul", _exp_minus_one(_NEGATIVE_PART), Const("alpha"))),
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses an alpha that is not a positive number."""
        return _not_negative_part(found) or _not_positive(found, "alpha")

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns alpha."""
        return [ir.AttrFloat32("alpha", single(found, "alpha") if "alpha" in found.values else 1.0)]


_CELU_NEGATIVE = Op("Mul", _exp_minus_one(Op(("Div", "Mul"), X, Const("inner"), name="inner")), Const("alpha"))


class Celu(Elementwise):
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1)): operator Celu-12."""

    name = "celu"
    summary = "Relu(x) + Min(0, alpha * (Exp(x / alpha) - 1)), or the same by Where, becomes Celu"
    operator = "Celu"
    candidate = True
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Add", _RELU, Op("Min", _CELU_NEGATIVE, Const("ceiling", 0.0))), *where_positive(X, _CELU_NEGATIVE)
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses different factors within and without, and those that are not positive."""
        reason = _not_positive(found, "alpha", "inner")
        if reason is not None:
            return reason
        alpha, inner = single(found, "alpha"), single(found, "inner")
        same = near(alpha, inner) if found.named["inner"].op_type == "Div" else near(alpha * inner, 1.0)
        return None if same else f"{found.values['inner'].name} and {found.values['alpha'].name} do not cancel at 0"

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns alpha."""
        return [ir.AttrFloat32("alpha", single(found, "alpha"))]


def _selu(alpha: float, gamma: float) -> Sequence[ir.Attr]:
    return [ir.AttrFloat32("alpha", alpha), ir.AttrFloat32("gamma", gamma)]


class Selu(Elementwise):
    """gamma elu(x)."""

    name = "selu"
    summary = "Elu(x) * gamma becomes Selu"
    operator = "Selu"
    pattern: ClassVar[Op] = Op("Mul", Op("Elu", X, name="elu"), Const("gamma"))

    def obstacle(self, found: Match) -> str | None:
        """Refuses factors that are not positive numbers."""
        elu = found.named["elu"]
        if not ir.attribute(elu, "alpha", 1.0) > 0:
            return f"the alpha of {elu.name} is not above 0"
        return _not_positive(found, "gamma")

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns alpha and gamma."""
        return _selu(ir.attribute(found.named["elu"], "alpha", 1.0), single(found, "gamma"))


class SeluFromWhere(Elementwise):
    """gamma x where x > 0, else slope (exp(x) - 1), as torch decomposes elu with a scale."""

    name = "selu-from-where"
    summary = "Where(x > 0, x * gamma, (Exp(x) - 1) * slope) becomes Selu"
    operator = "Selu"
    candidate = True
    pattern: ClassVar[AnyOf] = AnyOf(
        *where_positive(Op("Mul", X, Const("gamma")), Op("Mul", _exp_minus_one(X), Const("slope")))
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses factors that are not positive numbers."""
        return _not_positive(found, "gamma", "slope")

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns alpha and gamma."""
        gamma = single(found, "gamma")
        return _selu(single(found, "slope") / gamma, gamma)


_SLOPED = Op("Mul", X, Const("slope"))
_MIRRORED = Op("Relu", Op("Neg", X))


class _TwoSlopes(Elementwise):
    """x where x > 0, else slope * x; where the pattern has the slope negated, it is called so."""

    pattern: ClassVar[AnyOf] = AnyOf(
        *where_positive(X, _SLOPED),
        Op("Max", X, _SLOPED),
        Op("Add", _RELU, Op("Mul", _MIN, Const("slope"))),
        Op("Sub", _RELU, Op("Mul", _MIRRORED, Const("slope"))),
        Op("Add", _RELU, Op("Mul", _MIRRORED, Const("negated"))),
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses slopes for which the larger of two lines is the other one."""
        slope = _slope(found)
        if found.root.op_type == "Max" and not (np.all(slope > 0) and np.all(slope <= 1)):
            return f"Max(x, slope * x) has another slope than above 0 and up to 1: {found.values['slope'].name}"
        return None


class LeakyRelu(_TwoSlopes):
    """x where x > 0, else slope * x, with one slope."""

    name = "leaky-relu"
    summary = "Where(x > 0, x, slope * x), Max(x, slope * x) or Relu(x) - slope * Relu(-x) becomes LeakyRelu"
    operator = "LeakyRelu"

    def obstacle(self, found: Match) -> str | None:
        """Refuses, besides, several slopes."""
        return not_single(found, "slope", "negated") or super().obstacle(found)

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns the slope."""
        return [ir.AttrFloat32("alpha", float(_slope(found).item()))]


class PRelu(_TwoSlopes):
    """x where x > 0, else slope * x, with slopes that broadcast to x: operator PRelu-9."""

    name = "prelu"
    summary = "the same with several slopes becomes PRelu"
    operator = "PRelu"
    candidate = True

    def obstacle(self, found: Match) -> str | None:
        """Refuses, besides, slopes that may add to the shape of x."""
        x, shape = found.values["x"], _slope(found).shape
        if not _stretches_to(shape, x):
            return f"the slopes of shape {list(shape)} may add to the shape of {x.name}"
        return super().obstacle(found)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds PRelu, with the slopes as they are where they are not negated."""
        kept = found.values.get("slope")
        slope = editor.constant(f"{found.values['negated'].name}_slope", _slope(found)) if kept is None else kept
        return editor.op("PRelu", [found.values["x"], slope])


def _slope(found: Match) -> npt.NDArray[np.float32]:
    return found.constant("slope") if "slope" in found.values else -found.constant("negated")


def _stretches_to(shape: tuple[int, ...], x: ir.Value) -> bool:
    """Whether an array of a shape is known to broadcast to x without changing x's shape."""
    if x.shape is None or len(shape) > x.shape.rank():
        return False
    aligned = list(x.shape)[x.shape.rank() - len(shape) :]
    return all(size in (1, dim) for size, dim in zip(shape, aligned, strict=True))


class ThresholdedRelu(Elementwise):
    """x where x > alpha, else 0: operator ThresholdedRelu-10; both are 0 where x is not a number."""

    name = "thresholded-relu"
    summary = "Where(x > alpha, x, 0) becomes ThresholdedRelu"
    operator = "ThresholdedRelu"
    pattern: ClassVar[Op] = Op("Where", Op("Greater", X, Const("alpha")), X, Const("zero", 0.0))

    def obstacle(self, found: Match) -> str | None:
        """Refuses several thresholds."""
        return not_single(found, "alpha")

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns the threshold."""
        return [ir.AttrFloat32("alpha", single(found, "alpha"))]


RULES = (Elu(), Celu(), Selu(), SeluFromWhere(), LeakyRelu(), PRelu(), ThresholdedRelu())
