"""Rules that write decomposed Gelu back to the operator Gelu-20; erf and tanh are different functions and stay so."""

from collections.abc import Sequence
from math import pi, sqrt
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.elementwise import Elementwise, X, scaled, scaled_product
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op

CUBIC = 0.044715
"""Coefficient of x^3 in the tanh form, from Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016)."""


def _plus_one(part: Op) -> Op:
    return Op("Add", part, Const("one", 1.0))


class GeluErf(Elementwise):
    """x / 2 * (1 + erf(x / sqrt(2)))."""

    name = "gelu-erf"
    summary = "x / 2 * (1 + erf(x / sqrt(2))) becomes Gelu"
    operator = "Gelu"
    pattern: ClassVar[AnyOf] = AnyOf(
        *scaled_product(X, _plus_one(Op("Erf", scaled(X, sqrt(0.5), "root"))), 0.5, "half"),
    )


_SQUARE = AnyOf(Op("Mul", X, X), Op("Pow", X, Const("two", 2.0)))
_CUBE = AnyOf(Op("Pow", X, Const("three", 3.0)), Op("Mul", _SQUARE, X))
_CUBIC_TERM = AnyOf(
    Op("Mul", _CUBE, Const("cubic", CUBIC)),
    Op("Mul", Op("Mul", Op("Mul", X, Const("cubic", CUBIC)), X), X),
    Op("Mul", Op("Mul", _SQUARE, Const("cubic", CUBIC)), X),
)
_SQUARE_TERM = AnyOf(
    Op("Mul", _SQUARE, Const("cubic", CUBIC)),
    Op("Mul", Op("Mul", X, Const("cubic", CUBIC)), X),
)
_SLOPE = sqrt(2.0 / pi)
_ARGUMENT = AnyOf(
    Op("Mul", Op("Add", X, _CUBIC_TERM), Const("slope", _SLOPE)),
    *scaled_product(X, Op("Add", _SQUARE_TERM, Const("first", 1.0)), _SLOPE, "slope"),
)


class GeluTanh(Elementwise):
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""

    name = "gelu-tanh"
    summary = "x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) becomes Gelu with approximate=tanh"
    operator = "Gelu"
    pattern: ClassVar[AnyOf] = AnyOf(*scaled_product(X, _plus_one(Op("Tanh", _ARGUMENT)), 0.5, "half"))

    def attributes(self, found: Match) -> Sequence[ir.Attr]:
        """Returns the approximation."""
        return [ir.AttrString("approximate", "tanh")]


RULES = (GeluErf(), GeluTanh())
