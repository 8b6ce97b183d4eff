"""Elementwise operators: single ones, constants, casts, conditions, and activations written out."""

import numpy as np
from onnx import TensorProto

from tests.random_graphs.scope import IDS, IMAGE, SEQUENCE, Kind, Maker, Scope


def _kind(scope: Scope) -> Kind:
    kind: Kind = scope.choose(IMAGE, SEQUENCE)
    return kind


def unary(scope: Scope) -> None:
    kind = _kind(scope)
    op_type = scope.choose("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "LeakyRelu", "HardSigmoid")
    scope.give(kind, scope.op(op_type, scope.take(kind)))


def binary(scope: Scope) -> None:
    kind = _kind(scope)
    scope.give(kind, scope.op(scope.choose("Add", "Sub", "Max", "Min"), scope.take(kind), scope.take(kind)))


def gated(scope: Scope) -> None:
    """A product that cannot grow without bound."""
    kind = _kind(scope)
    gate = scope.op(scope.choose("Sigmoid", "HardSigmoid", "Tanh"), scope.take(kind))
    scope.give(kind, scope.op("Mul", *scope.choose((gate, scope.take(kind)), (scope.take(kind), gate))))


def with_constant(scope: Scope) -> None:
    """A constant of any shape that broadcasts, on either side, neutral ones among them."""
    kind = _kind(scope)
    shape = scope.choose((), (1,), (kind.value[-1],), (4, 1, 6) if kind is IMAGE else (1, 8))
    op_type = scope.choose("Add", "Sub", "Mul", "Div")
    constant = scope.choose(
        scope.weight(*shape, scale=0.2, offset=2.0),
        scope.number(1.0),
        scope.number(0.0) if op_type in ("Add", "Sub") else scope.number(-1.0),
    )
    value = scope.take(kind)
    backwards = op_type != "Div" and scope.flip()
    scope.give(kind, scope.op(op_type, *((constant, value) if backwards else (value, constant))))


def computed_constant(scope: Scope) -> None:
    """Arithmetic on constants only, to be folded."""
    kind = _kind(scope)
    weight = scope.weight(kind.value[-1])
    product = scope.op("Mul", weight, scope.op("Sigmoid", weight))
    scope.give(kind, scope.op("Add", scope.take(kind), product))


def clipped(scope: Scope) -> None:
    kind = _kind(scope)
    value = scope.take(kind)
    for _ in range(scope.choose(1, 2)):
        low, high = scope.choose((-1.0, 1.0), (0.0, 6.0), (0.0, None), (None, 0.5))
        ends = ["" if end is None else scope.number(end) for end in (low, high)]
        value = scope.op("Clip", value, *ends)
    scope.give(kind, value)


def cast(scope: Scope) -> None:
    """To another type and back: only where nothing is lost may that go."""
    kind = _kind(scope)
    other = scope.choose(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, scope.element)
    there = scope.op("Cast", scope.take(kind), element=other, to=other)
    scope.give(kind, scope.op("Cast", there, to=scope.element))


def chosen(scope: Scope) -> None:
    """Where, by a condition on integers, which rounding cannot change."""
    ids = scope.take(IDS)
    limit = scope.constant(np.array(scope.choose(0, 2, 9), np.int64))
    condition = scope.op(scope.choose("Greater", "Less"), ids, limit, element=TensorProto.BOOL)
    wide = scope.squeeze("Unsqueeze", condition, 2, TensorProto.BOOL)
    scope.give(
        SEQUENCE, scope.op("Where", wide, scope.take(SEQUENCE), scope.choose(scope.take(SEQUENCE), scope.number(0)))
    )


def integer(scope: Scope) -> None:
    """Arithmetic on indices that stays within their range."""
    ids = scope.take(IDS)
    two = scope.constant(np.array(2, np.int64))
    doubled = scope.op("Mul", ids, two, element=TensorProto.INT64)
    scope.give(
        IDS,
        scope.op("Div", doubled, scope.choose(two, scope.constant(np.array(4, np.int64))), element=TensorProto.INT64),
    )


def swish(scope: Scope) -> None:
    """x * sigmoid(x), x * clip(x + 3, 0, 6) / 6 and the erf form of Gelu, sometimes of two values instead of one."""
    kind = _kind(scope)
    x = scope.take(kind)
    other = scope.choose(x, x, scope.take(kind))
    form = scope.choose("silu", "hard-swish", "gelu")
    if form == "silu":
        result = scope.op("Mul", x, scope.op("Sigmoid", other))
    elif form == "hard-swish":
        moved = scope.op("Clip", scope.op("Add", other, scope.number(3)), scope.number(0), scope.number(6))
        result = scope.op("Div", scope.op("Mul", x, moved), scope.number(6))
    else:
        erf = scope.op("Erf", scope.op("Div", other, scope.number(2**0.5)))
        half = scope.op("Mul", x, scope.op("Add", erf, scope.number(1)))
        result = scope.op("Mul", half, scope.number(0.5))
    scope.give(kind, scope.op("Tanh", result) if scope.flip() else result)


def zero_of_a_sign(scope: Scope) -> None:
    """1 / (z + 0), clipped, where z is -1 or -0: with that sum it is never 1 / -0."""
    limit = scope.constant(np.array(scope.choose(0, 2, 9), np.int64))
    above = scope.op("Cast", scope.op("Greater", scope.take(IDS), limit, element=TensorProto.BOOL), to=scope.element)
    negated = scope.op("Mul", scope.squeeze("Unsqueeze", above, 2), scope.number(-1.0))
    total = scope.op("Add", negated, scope.number(0.0))
    if scope.flip():
        total = scope.op("Transpose", total, perm=[1, 0, 2])
        total = scope.op("Transpose", total, perm=[1, 0, 2])
    told = scope.op("Clip", scope.op("Div", scope.number(1.0), total), scope.number(-1.0), scope.number(1.0))
    scope.give(SEQUENCE, scope.op("Mul", scope.take(SEQUENCE), scope.choose(told, total)))


MAKERS: tuple[Maker, ...] = (
    unary,
    unary,
    binary,
    gated,
    with_constant,
    computed_constant,
    clipped,
    cast,
    chosen,
    integer,
    swish,
    zero_of_a_sign,
)
