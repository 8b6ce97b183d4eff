"""Activations that quantizers absorbed: a grid whose range ends where an activation clips computes that activation."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from sardonyx import ir
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.view import ABSENT, NodeView, Place, View

_ACTIVATIONS = frozenset({("", "Relu"), ("", "Clip")})


@dataclass(frozen=True)
class Absorbed:
    """Nodes that clip alike, of which one model has activations and the other quantizers.

    Attributes:
        before: Places of such nodes in the first model.
        after: Places of such nodes in the second.
    """

    before: frozenset[Place] = frozenset()
    after: frozenset[Place] = frozenset()

    def joined(self, other: Self) -> "Absorbed":
        """Returns the nodes of both."""
        return Absorbed(self.before | other.before, self.after | other.after)


def absorbed_activations(pairs: Pairs) -> Absorbed:
    """Finds activations of which one side alone is matched, with a value that is quantized to what they let through.

    Args:
        pairs: What is matched; it is not changed.
    """
    ours = list(_found(pairs.before, pairs.after, pairs.forward))
    theirs = list(_found(pairs.after, pairs.before, pairs.backward))
    return Absorbed(
        frozenset([*(place for place, _ in ours), *(q for _, quantizers in theirs for q in quantizers)]),
        frozenset([*(place for place, _ in theirs), *(q for _, quantizers in ours for q in quantizers)]),
    )


def _found(view: View, other: View, partners: Mapping[int, int]) -> Iterator[tuple[Place, list[Place]]]:
    """Yields activations of a model with the quantizers of the other that absorbed them."""
    quantizers = _first_quantizers(other)
    for node in view.nodes:
        if node.kind not in _ACTIVATIONS or node.inputs[0] == ABSENT or node.outputs[0] in view.constants:
            continue
        partner = _one_partner(node, partners)
        if partner is None or _still_clipped(other, partner):
            continue
        limits = _limits(node, view)
        found = [_place(q) for q in quantizers.get(partner, ()) if limits and _within(_range(q, other), limits)]
        if found:
            yield _place(node), found


def _one_partner(node: NodeView, partners: Mapping[int, int]) -> int | None:
    """The partner of what an activation reads or of what it computes, where the other has none."""
    sides = [partners[value] for value in (node.inputs[0], node.outputs[0]) if value in partners]
    return sides[0] if len(sides) == 1 else None


def _still_clipped(view: View, value: int) -> bool:
    """Whether an activation computes a value, or reads it, so that the quantizer absorbed none."""
    maker = view.maker(value)
    readers = [view.nodes[position] for position, _ in view.consumers[value]]
    return any(node.kind in _ACTIVATIONS for node in readers) or (maker is not None and maker.kind in _ACTIVATIONS)


def _first_quantizers(view: View) -> Mapping[int, Sequence[NodeView]]:
    """Quantizers by the value that they are the first to round."""
    found: dict[int, list[NodeView]] = defaultdict(list)
    for node in view.nodes:
        source = node.node.inputs[0] if node.node.inputs else None
        if node.node.op_type != "QuantizeLinear" or not node.transparent or source is None:
            continue
        if view.values[node.inputs[0]] is source:
            found[node.inputs[0]].append(node)
    return found


def _limits(node: NodeView, view: View) -> tuple[float, float] | None:
    """What an activation clips to; None where that is computed while running."""
    if node.kind == ("", "Relu"):
        return 0.0, np.inf
    limits = [ir.attribute(node.node, "min", -np.inf), ir.attribute(node.node, "max", np.inf)]
    for place, value in enumerate(node.inputs[1:3]):
        if value == ABSENT:
            continue
        constant = view.constants.get(value)
        if constant is None or constant.tensor is None or constant.size != 1:
            return None
        limits[place] = float(ir.read_array(constant.tensor).reshape(()))
    return float(limits[0]), float(limits[1])


def _range(node: NodeView, view: View) -> tuple[float, float] | None:
    """The least and largest value of a quantizer's grid; None where its scale is not one constant."""
    scale, point = (view.constants.get(value) for value in (*node.inputs[1:3], ABSENT, ABSENT)[:2])
    integers = node.node.outputs[0].dtype
    if scale is None or scale.tensor is None or scale.size != 1 or integers is None or not integers.is_integer():
        return None
    if point is not None and point.tensor is None:
        return None
    step = float(ir.read_array(scale.tensor).reshape(()))
    zero = 0 if point is None or point.tensor is None else int(ir.read_array(point.tensor).reshape(()))
    return step * (int(integers.min) - zero), step * (int(integers.max) - zero)


def _within(spread: tuple[float, float] | None, limits: tuple[float, float]) -> bool:
    """Whether nothing outside the limits is on a grid, but for rounding of its ends."""
    if spread is None:
        return False
    slack = (spread[1] - spread[0]) / 255 / 2
    return spread[0] >= limits[0] - slack and spread[1] <= limits[1] + slack


def _place(node: NodeView) -> Place:
    return node.ref.scope, node.ref.index
