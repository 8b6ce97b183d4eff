"""Convolutions, matrix products, normalizations and what stands around them."""

from typing import Any

from tests.random_graphs.scope import IDS, IMAGE, SEQUENCE, Maker, Scope


def convolution(scope: Scope) -> None:
    """Pad, Conv, BatchNormalization, a constant per channel and an activation, each perhaps."""
    value = scope.take(IMAGE)
    attributes: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    if scope.flip():
        pads = scope.integers(0, 0, 1, 1, 0, 0, 1, 1)
        value, attributes = scope.op("Pad", value, pads, *scope.choose((), (scope.number(0),))), {}
    group = scope.choose(1, 2, 4)
    bias = scope.choose((), (scope.weight(4),))
    value = scope.op("Conv", value, scope.weight(4, 4 // group, 3, 3, scale=0.2), *bias, group=group, **attributes)
    if scope.flip():
        value = _batch_norm(scope, value)
    if scope.flip():
        constant = scope.weight(*scope.choose((4, 1, 1), (1, 4, 1, 1), (1,)), scale=0.2, offset=1.5)
        value = scope.op(scope.choose("Add", "Sub", "Mul", "Div"), value, constant)
    scope.give(IMAGE, scope.op("Relu", value) if scope.flip() else value)


def _batch_norm(scope: Scope, value: str) -> str:
    scale, variance = (scope.weight(4, scale=0.1, offset=1.0) for _ in range(2))
    return scope.op("BatchNormalization", value, scale, scope.weight(4), scope.weight(4), variance)


def batch_norm(scope: Scope) -> None:
    scope.give(IMAGE, _batch_norm(scope, scope.take(IMAGE)))


def matrix_product(scope: Scope) -> None:
    """MatMul with a bias and a factor, or Gemm on rows."""
    value, weight, bias = scope.take(SEQUENCE), scope.weight(8, 8, scale=0.3), scope.weight(8)
    if scope.flip():
        product = scope.op("MatMul", value, weight)
        value = scope.op("Add", *scope.choose((product, bias), (bias, product)))
        if scope.flip():
            value = scope.op(scope.choose("Mul", "Add"), value, scope.weight(8, scale=0.1, offset=1.0))
    else:
        rows = scope.op("Reshape", value, scope.integers(-1, 8))
        product = scope.op("Gemm", rows, weight, bias, transB=scope.choose(0, 1), alpha=scope.choose(1.0, 0.5))
        shape = scope.op("Shape", value, element=7)
        value = scope.op("Reshape", product, shape)
    scope.give(SEQUENCE, value)


def attention(scope: Scope) -> None:
    """Softmax of products of a sequence with itself."""
    query, key = scope.take(SEQUENCE), scope.take(SEQUENCE)
    turned = scope.op("Transpose", key, perm=[0, 2, 1])
    scores = scope.op("Mul", scope.op("MatMul", query, turned), scope.number(8**-0.5))
    scope.give(SEQUENCE, scope.op("MatMul", scope.op("Softmax", scores, axis=2), scope.take(SEQUENCE)))


def layer_norm(scope: Scope) -> None:
    """The written-out form, with Pow or Mul, with and without scale and bias."""
    value = scope.take(SEQUENCE)
    centred = scope.op("Sub", value, scope.reduce("ReduceMean", value, -1))
    squares = scope.op("Pow", centred, scope.number(2)) if scope.flip() else scope.op("Mul", centred, centred)
    variance = scope.op("Add", scope.reduce("ReduceMean", squares, -1), scope.number(1e-2))
    result = scope.op("Div", centred, scope.op("Sqrt", variance))
    if scope.flip():
        result = scope.op("Mul", result, scope.weight(8, scale=0.1, offset=1.0))
    scope.give(SEQUENCE, scope.op("Add", result, scope.weight(8)) if scope.flip() else result)


def embedding(scope: Scope) -> None:
    scope.give(SEQUENCE, scope.op("Gather", scope.weight(5, 8), scope.take(IDS)))


MAKERS: tuple[Maker, ...] = (convolution, convolution, batch_norm, matrix_product, attention, layer_norm, embedding)
