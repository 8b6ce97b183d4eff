"""Sizes as polynomials over symbols: what shape arithmetic computes where a dimension is not known.

A size is an int where it is known, else a `Polynomial` with integer coefficients over symbols, each of which stands for
an integer >= 0. Two sizes are equal for all inputs if their normal forms are. Quotients, remainders, and the larger or
smaller of two sizes become symbols of their own, named by what they compute, so that they compare too.

onnx_ir's `SymbolicDim` computes with sympy, which knows more algebra and is two orders of magnitude slower; a sweep
over a large graph does this arithmetic at every node.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_MAX_TERMS = 12
_INT64 = range(-(1 << 63), 1 << 63)

Monomial = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A size that depends on symbols.

    Attributes:
        terms: Pairs of symbols (sorted, repeated for powers, empty for the constant term) and a coefficient that is
            not zero, sorted by symbols. At least one has symbols.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        """Writes the polynomial as it reads in messages, such as `2*N*H+1`."""
        return "+".join("*".join((*([str(c)] if c != 1 or not m else []), *m)) for m, c in reversed(self.terms))


Dim = int | Polynomial
"""A size, or an element of a tensor that holds sizes."""


def symbol(name: str) -> Polynomial:
    """Returns the size that a symbol stands for."""
    return Polynomial((((name,), 1),))


def symbol_name(dim: Dim) -> str | None:
    """Returns the symbol that a size consists of, or None where it is a number or an expression."""
    if isinstance(dim, Polynomial) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1:
            return monomial[0]
    return None


def add(a: Dim, b: Dim) -> Dim | None:
    """Returns a + b, or None where it leaves 64 bits or grows too long."""
    if isinstance(a, int) and isinstance(b, int):
        return _checked({(): a + b})
    total = _terms(a)
    for monomial, coefficient in _terms(b).items():
        total[monomial] = total.get(monomial, 0) + coefficient
    return _checked(total)


def subtract(a: Dim, b: Dim) -> Dim | None:
    """Returns a - b, or None where it leaves 64 bits or grows too long."""
    negative = multiply(b, -1)
    return None if negative is None else add(a, negative)


def multiply(a: Dim, b: Dim) -> Dim | None:
    """Returns a * b, or None where it leaves 64 bits or grows too long."""
    if isinstance(a, int) and isinstance(b, int):
        return _checked({(): a * b})
    total: dict[Monomial, int] = {}
    for left, c in _terms(a).items():
        for right, d in _terms(b).items():
            monomial = tuple(sorted(left + right))
            total[monomial] = total.get(monomial, 0) + c * d
    return _checked(total)


def product(dims: Sequence[Dim]) -> Dim | None:
    """Returns the product of sizes; 1 for none."""
    total: Dim | None = 1
    for dim in dims:
        total = None if total is None else multiply(total, dim)
    return total


def divide(a: Dim, b: Dim) -> Dim | None:
    """Returns a / b rounded towards zero as integer Div does, or None where it is unknown; b is taken not to be 0."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else _checked({(): abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)})
    if b == 0:
        return None
    exact = exact_quotient(a, b)
    return _opaque("div", a, b) if exact is None else exact


def exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """Returns q with a = q * b for all sizes, or None where there is none or b has several terms."""
    if b == 0:
        return None
    if a == b:
        return 1
    divisor = list(_terms(b).items())
    if len(divisor) != 1:
        return None
    symbols, factor = divisor[0]
    quotient = {}
    for monomial, coefficient in _terms(a).items():
        rest = list(monomial)
        if coefficient % factor or any(rest.count(s) < symbols.count(s) for s in symbols):
            return None
        for name in symbols:
            rest.remove(name)
        quotient[tuple(rest)] = coefficient // factor
    return _checked(quotient)


def remainder(a: Dim, b: Dim) -> Dim | None:
    """Returns a modulo b with the sign of b, as integer Mod does, or None where it is unknown."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else a % b
    if b == 0:
        return None
    if exact_quotient(a, b) is not None:
        return 0
    return _opaque("mod", a, b)


def larger(a: Dim, b: Dim) -> Dim | None:
    """Returns the larger of two sizes."""
    order = compare(a, b)
    if order is not None:
        return a if order >= 0 else b
    return _opaque("max", *sorted((a, b), key=str))


def smaller(a: Dim, b: Dim) -> Dim | None:
    """Returns the smaller of two sizes."""
    order = compare(a, b)
    if order is not None:
        return a if order <= 0 else b
    return _opaque("min", *sorted((a, b), key=str))


def compare(a: Dim, b: Dim) -> int | None:
    """Returns -1, 0 or 1 where a is always below, equal to or above b, else None."""
    if a == b:
        return 0
    difference = subtract(a, b)
    if difference is None:
        return None
    if lower_bound(difference) > 0:
        return 1
    negative = multiply(difference, -1)
    return -1 if negative is not None and lower_bound(negative) > 0 else None


def at_least(a: Dim, b: Dim) -> bool:
    """Whether a >= b for all values of the symbols."""
    difference = subtract(a, b)
    return difference is not None and lower_bound(difference) >= 0


def lower_bound(dim: Dim) -> int:
    """Returns a number that the size is never below; far below zero where a coefficient is negative."""
    if isinstance(dim, int):
        return dim
    if any(coefficient < 0 for monomial, coefficient in dim.terms if monomial):
        return _INT64.start
    return next((coefficient for monomial, coefficient in dim.terms if not monomial), 0)


def broadcast(a: Dim | None, b: Dim | None) -> Dim | None:
    """Returns the size that two sizes broadcast to: they are equal, or one of them is 1."""
    if a is b or b == 1 or a == b:
        return a
    if a == 1:
        return b
    known = [dim for dim in (a, b) if isinstance(dim, int)]
    if known:
        return known[0]
    if a is None or b is None:
        return None
    if _is_cut(b, a):
        return a
    return b if _is_cut(a, b) else _opaque("broadcast", *sorted((a, b), key=str))


def _is_cut(a: Dim, b: Dim) -> bool:
    """Whether a is min(b, number above 1), as of a table cut to length: both broadcast only where a is b."""
    name = symbol_name(a) or ""
    if not name.startswith("min("):
        return False
    small, whole = name[4:-1], str(b)
    for limit in (small.removeprefix(f"{whole},"), small.removesuffix(f",{whole}")):
        if limit != small and limit.isdecimal() and int(limit) > 1:
            return True
    return False


def _terms(dim: Dim) -> dict[Monomial, int]:
    return {(): dim} if isinstance(dim, int) else dict(dim.terms)


def _checked(terms: dict[Monomial, int]) -> Dim | None:
    """Normal form of a sum."""
    kept = tuple(sorted((m, c) for m, c in terms.items() if c))
    if len(kept) > _MAX_TERMS or any(c not in _INT64 for _, c in kept):
        return None
    if not kept:
        return 0
    return kept[0][1] if len(kept) == 1 and not kept[0][0] else Polynomial(kept)


def _opaque(function: str, a: Dim, b: Dim) -> Dim | None:
    """A symbol named by what it computes; only for sizes that are never negative, since symbols are not."""
    if lower_bound(a) < 0 or lower_bound(b) < 0:
        return None
    name = f"{function}({a},{b})"
    return symbol(name) if len(name) <= 200 else None
