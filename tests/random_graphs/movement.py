"""Operators that only move elements: chains that cancel, that merge, and that do neither."""

from tests.random_graphs.scope import IMAGE, SEQUENCE, Maker, Scope


def transposed(scope: Scope) -> None:
    """Two transposes with something elementwise between them, which together may be none."""
    first = scope.choose([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2])
    back = [first.index(axis) for axis in range(4)]
    value = scope.op("Transpose", scope.take(IMAGE), perm=first)
    value = scope.op(scope.choose("Relu", "Identity", "Sigmoid"), value)
    scope.give(IMAGE, scope.op("Transpose", value, perm=back))


def to_sequence(scope: Scope) -> None:
    """[N, 4, L, 6] to [N, L, 24] and a product to [N, L, 8]."""
    turned = scope.op("Transpose", scope.take(IMAGE), perm=[0, 2, 1, 3])
    flat = scope.op("Reshape", turned, scope.integers(0, 0, 24))
    scope.give(SEQUENCE, scope.op("MatMul", flat, scope.weight(24, 8, scale=0.2)))


def to_image(scope: Scope) -> None:
    """[N, L, 8] by a product to [N, L, 24] and to [N, 4, L, 6]."""
    wide = scope.op("MatMul", scope.take(SEQUENCE), scope.weight(8, 24, scale=0.3))
    apart = scope.op("Reshape", wide, scope.integers(0, 0, 4, 6))
    scope.give(IMAGE, scope.op("Transpose", apart, perm=[0, 2, 1, 3]))


def reshaped(scope: Scope) -> None:
    """Reshapes through other shapes, zeros and -1 among their sizes; back by known or by computed sizes."""
    value = scope.take(IMAGE)
    shape = scope.op("Shape", value, element=7)
    moved = value
    for sizes in scope.choose([(0, 24, -1)], [(0, 4, -1)], [(0, 2, 2, -1, 6), (0, 4, -1)], [(0, -1, 2, 3)]):
        moved = scope.op("Reshape", moved, scope.integers(*sizes))
    moved = scope.op(scope.choose("Identity", "Tanh"), moved)
    target = shape if scope.flip() else scope.integers(0, 4, -1, 6)
    scope.give(IMAGE, scope.op("Reshape", moved, target))


def sliced(scope: Scope) -> None:
    """Slices that take all, or halves that are put together again, in one order or the other."""
    axis = scope.choose(1, 3)
    value, size = scope.take(IMAGE), IMAGE.value[axis]
    half = int(size) // 2
    axes = scope.integers(scope.choose(axis, axis - 4))
    if scope.flip():
        far = scope.integers(scope.choose(int(size), 2**31 - 1, 2**63 - 1))
        scope.give(IMAGE, scope.op("Slice", value, scope.integers(0), far, axes))
        return
    parts = [
        scope.op("Slice", value, scope.integers(start), scope.integers(end), axes)
        for start, end in ((0, half), (half, 2**31 - 1))
    ]
    scope.give(IMAGE, scope.op("Concat", *(parts if scope.flip() else reversed(parts)), axis=axis))


def split(scope: Scope) -> None:
    """Split into equal or unequal parts, one of them perhaps changed, and Concat."""
    value, sizes = scope.take(IMAGE), scope.choose((2, 2), (1, 3))
    outputs = [scope.names.new("split") for _ in sizes]
    if scope.opset >= 13:
        scope.node("Split", [value, scope.integers(*sizes)], outputs, axis=1)
    else:
        scope.node("Split", [value], outputs, axis=1, split=list(sizes))
    scope.made |= dict.fromkeys(outputs, scope.element)
    if scope.flip():
        outputs[0] = scope.op("Relu", outputs[0])
    scope.give(IMAGE, scope.op("Concat", *outputs, axis=1))


def squeezed(scope: Scope) -> None:
    """Axes of size one put in and taken out."""
    value, axis = scope.take(SEQUENCE), scope.choose(0, 1, 2, 3)
    value = scope.squeeze("Unsqueeze", value, axis)
    value = scope.op("Relu", value) if scope.flip() else value
    scope.give(SEQUENCE, scope.squeeze("Squeeze", value, axis))


def expanded(scope: Scope) -> None:
    """Expand to the shape of a value, or by ones to nothing new, before a sum."""
    value, other = scope.take(SEQUENCE), scope.take(SEQUENCE)
    target = scope.op("Shape", other, element=7) if scope.flip() else scope.integers(1, 1, 8)
    spread = scope.op("Expand", scope.choose(scope.weight(8), scope.weight(1, 8)), target)
    scope.give(SEQUENCE, scope.op("Add", value, spread))


def shuffled(scope: Scope) -> None:
    """Channels shuffled, by reshapes around a transpose."""
    apart = scope.op("Reshape", scope.take(IMAGE), scope.integers(0, 2, 2, -1, 6))
    turned = scope.op("Transpose", apart, perm=[0, 2, 1, 3, 4])
    scope.give(IMAGE, scope.op("Reshape", turned, scope.integers(0, 4, -1, 6)))


MAKERS: tuple[Maker, ...] = (
    transposed,
    to_sequence,
    to_image,
    reshaped,
    sliced,
    split,
    squeezed,
    expanded,
    shuffled,
)
