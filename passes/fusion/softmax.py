"""Rules that write decomposed Softmax and LogSoftmax back to one operator."""

from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.elementwise import X
from sardonyx.passes.fusion.obstacles import lacking, not_float, same_axes
from sardonyx.passes.rewriting.pattern import AnyOf, Match, Op, Pattern
from sardonyx.passes.rewriting.rule import Editor, Rule

_MAX = Op("ReduceMax", X, open_inputs=True)
_SHIFTED = Op("Sub", X, _MAX)


def _sum(part: Pattern) -> Op:
    return Op("ReduceSum", part, open_inputs=True)


def _share(part: Pattern) -> AnyOf:
    """exp(part) / sum(exp(part))."""
    powers = Op("Exp", part)
    return AnyOf(Op("Div", powers, _sum(powers)), Op("Mul", powers, Op("Reciprocal", _sum(powers))))


class _OverOneAxis(Rule):
    """A normalization of exponentials over one axis: operators Softmax-13 and LogSoftmax-13."""

    operator: ClassVar[str]

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses several axes, other types, and opsets in which the operator is another one."""
        axes = same_axes(found)
        reason = lacking(self.operator, opset) or not_float(found.values["x"])
        if reason is not None or isinstance(axes, str):
            return reason or str(axes)
        return None if len(axes) == 1 else f"it is over the axes {list(axes)}, not over one"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator."""
        axes = same_axes(found)
        assert not isinstance(axes, str), "the check refuses unknown axes"
        return editor.op(self.operator, [found.values["x"]], [ir.AttrInt64("axis", axes[0])])


class Softmax(_OverOneAxis):
    """exp(x - max(x)) / sum(exp(x - max(x)))."""

    name = "softmax"
    summary = "Exp(x - max) / ReduceSum(Exp(x - max)) becomes Softmax"
    operator = "Softmax"
    pattern: ClassVar[AnyOf] = _share(_SHIFTED)


class SoftmaxUnshifted(_OverOneAxis):
    """exp(x) / sum(exp(x)).

    A candidate: from x = 88.73 on exp(x) overflows and the decomposition is not a number, the operator is.
    """

    name = "softmax-unshifted"
    summary = "Exp(x) / ReduceSum(Exp(x)) becomes Softmax"
    operator = "Softmax"
    candidate = True
    pattern: ClassVar[AnyOf] = _share(X)


class LogSoftmax(_OverOneAxis):
    """x - log(sum(exp(x))), with the largest x taken out of the exponentials."""

    name = "log-softmax"
    summary = "x - log of the sum of exponentials becomes LogSoftmax"
    operator = "LogSoftmax"
    _log_sum = Op("Log", _sum(Op("Exp", _SHIFTED)))
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Sub", _SHIFTED, _log_sum),
        Op("Sub", X, Op("Add", _log_sum, _MAX)),
        Op("Sub", X, Op("ReduceLogSumExp", X, open_inputs=True)),
    )


class LogOfSoftmax(Rule):
    """log(softmax(x)).

    A candidate: where the softmax underflows its logarithm is minus infinity, the operator's is finite.
    """

    name = "log-of-softmax"
    summary = "Log(Softmax(x)) becomes LogSoftmax"
    candidate = True
    pattern: ClassVar[Op] = Op("Log", Op("Softmax", X, name="softmax"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other types."""
        return lacking("LogSoftmax", opset) or not_float(found.values["x"])

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds LogSoftmax over the same axis."""
        return editor.op("LogSoftmax", [found.values["x"]], list(found.named["softmax"].attributes.values()))


RULES = (Softmax(), SoftmaxUnshifted(), LogSoftmax(), LogOfSoftmax())
