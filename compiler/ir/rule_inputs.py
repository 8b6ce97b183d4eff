"""What rules on sizes and elements read: the inputs of a node, as far as they are known."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy.typing as npt
import onnx_ir as oir

from sardonyx.ir.dims import Dim, broadcast
from sardonyx.ir.graphs import attribute

Elements = npt.NDArray[Any]
"""Elements as objects: an int or a `Polynomial` where known, None where not; bools are 0 and 1."""

Dims = Sequence[Dim | None] | None
"""Sizes of one value, None for one that is not known; or None where the rank is not known."""

MAX_ELEMENTS = 64
"""Tensors of more elements are no shapes."""

NO_INTS: tuple[int, ...] = ()


class Sizes(Protocol):
    """What rules read: sizes and elements of values that are known already."""

    def dims(self, value: oir.Value) -> tuple[Dim, ...] | None:
        """Returns the sizes of a value, or None where its rank is unknown."""

    def elements(self, value: oir.Value) -> Elements | None:
        """Returns the elements of a small integer tensor as objects, or None."""


Rule = Callable[[oir.Node, Sizes], Sequence[Dims]]


def input_dims(node: oir.Node, sizes: Sizes, index: int = 0) -> tuple[Dim, ...] | None:
    """Returns the sizes of an input, or None where it is left out or its rank is unknown."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else sizes.dims(value)


def input_elements(node: oir.Node, sizes: Sizes, index: int) -> Elements | None:
    """Returns the elements of an input, or None where it is left out or they are unknown."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else sizes.elements(value)


def known_ints(node: oir.Node, sizes: Sizes, index: int, name: str) -> list[int] | None:
    """Returns the ints of an input, or of the attribute that older opsets have in its place; None where unknown."""
    if name in node.attributes:
        return list(attribute(node, name, NO_INTS))
    items = input_elements(node, sizes, index)
    if items is None or not all(isinstance(item, int) for item in items.flat):
        return None
    return [int(item) for item in items.flat]


def is_given(node: oir.Node, index: int, name: str) -> bool:
    """Whether a node has an input, or the attribute that older opsets have in its place."""
    return name in node.attributes or (index < len(node.inputs) and node.inputs[index] is not None)


def broadcast_dims(a: Dims, b: Dims) -> Dims:
    """Returns the sizes that two shapes broadcast to."""
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    left: list[Dim | None] = [*([1] * (rank - len(a))), *a]
    right: list[Dim | None] = [*([1] * (rank - len(b))), *b]
    return [broadcast(x, y) for x, y in zip(left, right, strict=True)]
