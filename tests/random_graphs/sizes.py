"""Chains of integers: sizes of values, taken apart, computed with and put together to shapes."""

import numpy as np
from onnx import TensorProto

from tests.random_graphs.scope import IDS, IMAGE, SEQUENCE, Kind, Maker, Scope

INT64 = int(TensorProto.INT64)


def _size(scope: Scope, kind: Kind, axis: int) -> str:
    """One size of a value, as a vector of one element, in one of the ways in which exporters write it."""
    shape = scope.op("Shape", scope.take(kind), element=INT64)
    if scope.flip():
        return scope.op("Slice", shape, scope.integers(axis), scope.integers(axis + 1), element=INT64)
    scalar = scope.op("Gather", shape, scope.constant(np.array(axis, np.int64)), element=INT64)
    if scope.flip():
        one = scope.constant(np.array(1, np.int64))
        scalar = scope.op(scope.choose("Mul", "Div"), scalar, one, element=INT64)
    return scope.squeeze("Unsqueeze", scalar, 0, INT64)


def _concat(scope: Scope, *parts: str) -> str:
    return scope.op("Concat", *parts, axis=0, element=INT64)


def heads(scope: Scope) -> None:
    """Attention's view: [N, L, 8] to [N, L, 2, 4], turned, and back, by computed sizes."""
    batch, length = _size(scope, SEQUENCE, 0), _size(scope, SEQUENCE, 1)
    apart = scope.op(
        "Reshape", scope.take(SEQUENCE), _concat(scope, batch, length, scope.integers(2), scope.integers(4))
    )
    turned = scope.op("Transpose", apart, perm=[0, 2, 1, 3])
    turned = scope.op("Relu", turned) if scope.flip() else turned
    back = scope.op("Transpose", turned, perm=[0, 2, 1, 3])
    width = scope.op("Mul", scope.integers(2), scope.integers(4), element=INT64)
    last = scope.choose(width, scope.integers(-1), _size(scope, SEQUENCE, 2))
    scope.give(SEQUENCE, scope.op("Reshape", back, _concat(scope, batch, length, last)))


def flattened(scope: Scope) -> None:
    """[N, 4, L, 6] to [N * L, 24] and back, the product of sizes computed."""
    batch, length = _size(scope, IMAGE, 0), _size(scope, IMAGE, 2)
    rows = scope.op("Mul", batch, length, element=INT64)
    turned = scope.op("Transpose", scope.take(IMAGE), perm=[0, 2, 1, 3])
    flat = scope.op("Reshape", turned, _concat(scope, rows, scope.integers(24)))
    flat = scope.op("Tanh", flat) if scope.flip() else flat
    apart = scope.op("Reshape", flat, _concat(scope, batch, length, scope.integers(4), scope.integers(6)))
    scope.give(IMAGE, scope.op("Transpose", apart, perm=[0, 2, 1, 3]))


def filled(scope: Scope) -> None:
    """A constant made to the size of a value: ConstantOfShape, or Expand of one element."""
    shape = _concat(scope, _size(scope, SEQUENCE, 0), _size(scope, SEQUENCE, 1), scope.integers(8))
    if scope.flip():
        spread = scope.op("Expand", scope.number(0.5), shape)
    else:
        plain = scope.op("ConstantOfShape", shape, element=int(TensorProto.FLOAT))
        spread = scope.op("Cast", plain, to=scope.element)
    scope.give(SEQUENCE, scope.op("Add", scope.take(SEQUENCE), spread))


def positions(scope: Scope) -> None:
    """Range over the length, as indices or as a ramp that is added."""
    length = scope.op("Squeeze", _size(scope, IDS, 1), element=INT64)
    zero, one = (scope.constant(np.array(number, np.int64)) for number in (0, 1))
    ramp = scope.op("Range", zero, length, one, element=INT64)
    ramp = scope.op("Cast", ramp, to=scope.element)
    ramp = scope.op("Mul", ramp, scope.number(0.1))
    column = scope.squeeze("Unsqueeze", ramp, 1)
    scope.give(SEQUENCE, scope.op("Add", scope.take(SEQUENCE), column))


def part(scope: Scope) -> None:
    """A slice whose end is a computed size, and which therefore takes all."""
    end = _size(scope, SEQUENCE, 1)
    scope.give(SEQUENCE, scope.op("Slice", scope.take(SEQUENCE), scope.integers(0), end, scope.integers(1)))


MAKERS: tuple[Maker, ...] = (heads, flattened, filled, positions, part)
