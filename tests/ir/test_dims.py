"""Sizes as polynomials: what they compute is what their values compute, whatever the symbols stand for."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sardonyx.ir import dims
from sardonyx.ir.dims import Dim, Polynomial, symbol

N, H, W = symbol("N"), symbol("H"), symbol("W")


def value(dim: Dim, sizes: dict[str, int]) -> int:
    """The number that a polynomial is where its symbols have these values."""
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        for name in monomial:
            coefficient *= sizes[name]
        total += coefficient
    return total


polynomials = st.recursive(
    st.one_of(st.integers(-6, 6), st.sampled_from([N, H, W])),
    lambda inner: st.tuples(st.sampled_from([dims.add, dims.subtract, dims.multiply]), inner, inner).map(
        lambda parts: parts[0](parts[1], parts[2]) or 0
    ),
    max_leaves=5,
)
assignments = st.fixed_dictionaries({name: st.integers(0, 7) for name in "NHW"})
EXACT: dict[Callable[[Dim, Dim], Dim | None], Callable[[int, int], int]] = {
    dims.add: lambda a, b: a + b,
    dims.subtract: lambda a, b: a - b,
    dims.multiply: lambda a, b: a * b,
}


@pytest.mark.parametrize("operation", EXACT)
@given(a=polynomials, b=polynomials, sizes=assignments)
def test_arithmetic(operation: Callable[[Dim, Dim], Dim | None], a: Dim, b: Dim, sizes: dict[str, int]) -> None:
    result = operation(a, b)
    if result is not None:
        assert value(result, sizes) == EXACT[operation](value(a, sizes), value(b, sizes))


@given(a=polynomials, b=polynomials, sizes=assignments)
def test_order(a: Dim, b: Dim, sizes: dict[str, int]) -> None:
    order = dims.compare(a, b)
    x, y = value(a, sizes), value(b, sizes)
    assert order is None or order == (x > y) - (x < y)
    assert not dims.at_least(a, b) or x >= y
    assert dims.lower_bound(a) <= x


@given(a=polynomials, b=polynomials, sizes=assignments)
def test_quotients(a: Dim, b: Dim, sizes: dict[str, int]) -> None:
    quotient = dims.exact_quotient(a, b)
    if quotient is not None and value(b, sizes):
        assert value(quotient, sizes) * value(b, sizes) == value(a, sizes)


def test_equal_expressions_are_equal() -> None:
    assert dims.multiply(N, dims.multiply(H, W) or 0) == dims.product([W, N, H])
    assert dims.add(N, N) == dims.multiply(2, N)
    assert dims.subtract(N, N) == 0
    assert dims.divide(dims.product([N, 12, 64]) or 0, dims.multiply(N, 64) or 0) == 12
    assert dims.divide(N, 2) == dims.divide(N, 2) != dims.divide(H, 2)
    assert dims.larger(N, H) == dims.larger(H, N)
    assert dims.smaller(dims.add(N, 1) or 0, N) == N


def test_what_is_not_known_is_not_said() -> None:
    assert dims.compare(N, 1) is None
    assert dims.divide(dims.subtract(N, 3) or 0, 2) is None  # may be negative, and symbols are not
    assert dims.divide(7, 0) is None
    assert dims.multiply(2**40, 2**40) is None
    assert dims.remainder(N, 0) is None


def test_broadcast() -> None:
    assert dims.broadcast(N, 1) == N
    assert dims.broadcast(N, 5) == 5
    assert dims.broadcast(N, None) is None
    assert dims.broadcast(N, dims.smaller(N, 512)) == N
    assert dims.broadcast(N, dims.smaller(N, 1)) not in (N, None)
    assert dims.broadcast(N, H) == dims.broadcast(H, N)


def test_names() -> None:
    assert dims.symbol_name(N) == "N"
    assert dims.symbol_name(dims.multiply(2, N) or 0) is None
    assert str(dims.add(dims.product([2, N, H]) or 0, 1)) == "2*H*N+1"
    assert isinstance(N, Polynomial)
