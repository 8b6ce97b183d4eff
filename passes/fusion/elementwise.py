"""What rules for activations share: an operator of one input, written as elementwise operators and scalars."""

from collections.abc import Sequence
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.obstacles import lacking, not_float, widening
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Pattern, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

X = Var("x")


class Elementwise(Rule):
    """Writes a decomposed function of one FLOAT tensor x, shape kept, back to one operator.

    Attributes:
        operator: The standard operator.
    """

    operator: ClassVar[str]

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses opsets without the operator, other types, constants that widen x, and what `obstacle` says."""
        x = found.values["x"]
        return lacking(self.operator, opset) or not_float(x) or widening(found, x) or self.obstacle(found)

    def obstacle(self, found: Match) -> str | None:
        """Returns why the constants of a match are not those of the operator, or None."""
        return None

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns the attributes of the operator."""
        return ()

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator."""
        return editor.op(self.operator, [found.values["x"]], self.attributes(found))


def scaled(part: Pattern, factor: float, name: str) -> AnyOf:
    """A pattern times a constant: as a product, or as a division by the inverse."""
    return AnyOf(Op("Mul", part, Const(name, factor)), Op("Div", part, Const(f"{name}_inverse", 1.0 / factor)))


def scaled_product(a: Pattern, b: Pattern, factor: float, name: str) -> tuple[Op, ...]:
    """The ways to write a * b * factor."""
    product = Op("Mul", a, b)
    whole = (part for part in scaled(product, factor, name).patterns if isinstance(part, Op))
    return (Op("Mul", scaled(a, factor, name), b), Op("Mul", a, scaled(b, factor, name)), *whole)


def where_positive(positive: Pattern, negative: Pattern) -> tuple[Op, ...]:
    """The ways to choose by the sign of x between two functions that are equal at 0."""
    above = Op(("Greater", "GreaterOrEqual"), X, Const("zero", 0.0))
    below = Op(("Less", "LessOrEqual"), X, Const("zero", 0.0))
    return Op("Where", above, positive, negative), Op("Where", below, negative, positive)
