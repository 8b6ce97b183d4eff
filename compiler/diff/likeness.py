"""Weights that are nearly the same, as quantizing leaves them: known by a few of their elements."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sardonyx import ir
from sardonyx.diff.dequantize import restored_constant
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.quantities import is_dequantize
from sardonyx.diff.stages import FAMILIES, heavy_nodes
from sardonyx.diff.view import ABSENT, NodeView, View

SKETCH_ELEMENTS = 512
NEAR = 0.15
"""Relative difference below which two sketches are one weight: rounding to 4 bits in blocks leaves about 0.1."""
APART = 4.0
"""Any other weight has to be this many times as far off."""


def match_like_weights(pairs: Pairs) -> int:
    """Matches what nodes compute of which one restores its weights from integers that are nearly the other's weights.

    What they read is left to the neighbourhood: nothing says that it is the same. Where neither stores integers,
    weights that are nearly the same were changed on purpose, such as by a BatchNormalization folded into them.

    Args:
        pairs: What is matched so far; more is added.

    Returns:
        How many values were matched.

    Raises:
        LoadError: If external weights can no longer be read.
    """
    theirs = _by_form(pairs.after, pairs.backward)
    found = 0
    for form, before in _by_form(pairs.before, pairs.forward).items():
        after = theirs.get(form, [])
        for ours, partner in _mutually_best([w.sketch for w in before], [w.sketch for w in after]):
            if before[ours].restored == after[partner].restored:
                continue
            for value, other in zip(before[ours].node.outputs, after[partner].node.outputs, strict=False):
                if pairs.same_shape(value, other):
                    found += pairs.add(value, other, "computed with nearly the same weights")
    return found


@dataclass(frozen=True)
class _Weighted:
    """A node, elements of its weight, and whether a DequantizeLinear restores that."""

    node: NodeView
    sketch: NDArray[np.float64]
    restored: bool


def _by_form(view: View, matched: Mapping[int, int]) -> Mapping[object, list[_Weighted]]:
    """Nodes that compute nothing matched, by operator and shape of the weight."""
    found: dict[object, list[_Weighted]] = defaultdict(list)
    for node in heavy_nodes(view):
        if any(output in matched for output in node.outputs):
            continue
        weight = _weight(view, node)
        tensor = None if weight is None else restored_constant(weight)
        if weight is not None and tensor is not None and tensor.dtype.is_floating_point():
            form = FAMILIES.get(node.kind, node.kind), tuple(tensor.shape.numpy())
            found[form].append(_Weighted(node, _sketch(ir.read_array(tensor)), is_dequantize(weight.producer())))
    return found


def _weight(view: View, node: NodeView) -> ir.Value | None:
    """The largest constant that a node reads, as it reads it."""
    read = [
        (view.constants[number].size, value)
        for number, value in zip(node.inputs, node.node.inputs, strict=False)
        if number != ABSENT and number in view.constants and value is not None
    ]
    return max(read, key=lambda item: item[0])[1] if read else None


def _sketch(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """Elements spread over an array, at most `SKETCH_ELEMENTS`."""
    flat = array.reshape(-1)
    places = np.unique(np.linspace(0, flat.size - 1, min(SKETCH_ELEMENTS, flat.size)).astype(np.int64))
    return flat[places].astype(np.float64)


def _mutually_best(
    ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]
) -> Iterator[tuple[int, int]]:
    """Yields the places of sketches that are near each other, and far from all others of either side."""
    if not ours or not theirs:
        return
    candidates = np.stack(theirs)
    far = np.stack([np.sqrt(np.square(candidates - one).sum(1)) / (np.sqrt(np.square(one).sum()) or 1) for one in ours])
    for row, column in enumerate(far.argmin(axis=1)):
        least = far[row, column]
        rivals = np.concatenate([np.delete(far[row], column), np.delete(far[:, column], row)])
        if least <= NEAR and rivals.min(initial=np.inf) >= APART * least:
            yield row, int(column)
