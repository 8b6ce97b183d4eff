"""Rules for Concat and Split."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.facts import axis_of, fixed_size, listed, operand
from sardonyx.passes.fusion.slices import Cut, cuts, slice_obstacle, slice_of
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

SPLIT_INPUT_OPSET = 13


def split_cuts(node: ir.Node) -> tuple[Cut, ...] | str:
    """Returns the part of the axis that each output of a Split is, or why that is not known."""
    axis, sizes = axis_of(node, 0), listed(node, "split", 1)
    total = fixed_size(operand(node, 0), axis) if axis is not None else None
    if axis is None or sizes is None or (not sizes and total is None):
        return f"the parts of {node.name} are not constant"
    if not sizes:
        each = -(-(total or 0) // len(node.outputs))  # the last part is smaller where it does not divide
        sizes = tuple(min(each, max((total or 0) - each * part, 0)) for part in range(len(node.outputs)))
    return tuple(Cut(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0)))


@dataclass(frozen=True)
class _Part:
    """A part of an axis of a value: what a Slice or an output of a Split is."""

    whole: ir.Value
    axis: int
    start: int
    stop: int


def _part(value: ir.Value | None) -> _Part | None:
    node = value.producer() if value is not None else None
    source = operand(node, 0) if node is not None else None
    if node is None or source is None or node.domain or node.op_type not in ("Slice", "Split"):
        return None
    if node.op_type == "Split":
        parts, axis = split_cuts(node), axis_of(node, 0)
        if isinstance(parts, str) or axis is None:
            return None
        cut = parts[node.outputs.index(value)]
        return _Part(source, axis, cut.start, cut.stop)
    taken = cuts(node)
    if isinstance(taken, str) or len(taken) != 1:
        return None
    ((axis, raw),) = taken.items()
    resolved = raw.resolved(fixed_size(source, axis))
    if resolved is None or resolved.step != 1 or resolved.stop < resolved.start:
        return None
    return _Part(source, axis, resolved.start, resolved.stop)


def _joined(node: ir.Node) -> tuple[int, int] | None:
    """First and last index of inputs of a Concat that together are one whole value, or None."""
    axis = axis_of(node, 0)
    parts = [_part(value) for value in node.inputs]
    for first, part in enumerate(parts):
        if part is None or part.start != 0 or part.axis != axis:
            continue
        total, last = fixed_size(part.whole, part.axis), first
        reached = part.stop
        while last + 1 < len(parts) and (following := parts[last + 1]) is not None and reached != total:
            if (following.whole, following.axis, following.start) != (part.whole, axis, reached):
                break
            last, reached = last + 1, following.stop
        if reached == total and last > first:
            return first, last
    return None


def _joins_nothing(node: ir.Node) -> str | None:
    return f"no inputs of {node.name} are all parts of one value in order" if _joined(node) is None else None


class RestoreParts(Rule):
    """A Concat of all parts that Slices or a Split made of a value, in order, is that value."""

    name = "restore-parts"
    summary = "Concat of the parts that Slices or a Split made of a value becomes that value"
    pattern: ClassVar[Op] = Op("Concat", open_inputs=True, fits=_joins_nothing)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the whole, or builds the Concat of the whole and the rest."""
        joined = _joined(found.root)
        assert joined is not None, "the pattern fits only where there is something to join"
        first, last = joined
        part = _part(found.root.inputs[first])
        assert part is not None, "joined inputs are parts"
        inputs = [*found.root.inputs[:first], part.whole, *found.root.inputs[last + 1 :]]
        return part.whole if len(inputs) == 1 else editor.op("Concat", inputs, list(found.root.attributes.values()))


def _inner_concat(value: ir.Value | None, axis: int) -> ir.Node | None:
    """The Concat along an axis that makes a value which only one node uses, once."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "Concat" or node.domain or axis_of(node, 0) != axis:
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def _lacks_inner_concat(node: ir.Node) -> str | None:
    axis = axis_of(node, 0)
    if axis is not None and any(_inner_concat(value, axis) is not None for value in node.inputs):
        return None
    return f"{node.name} reads no Concat along the same axis that it alone uses"


class MergeConcats(Rule):
    """A Concat of Concats along one axis is one."""

    name = "merge-concats"
    summary = "Concat of a Concat along the same axis becomes one"
    pattern: ClassVar[Op] = Op("Concat", open_inputs=True, fits=_lacks_inner_concat)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds one Concat."""
        axis = axis_of(found.root, 0) or 0
        inputs: list[ir.Value | None] = []
        for value in found.root.inputs:
            inner = _inner_concat(value, axis)
            inputs += [value] if inner is None else inner.inputs
        return editor.op("Concat", inputs, [ir.AttrInt64("axis", axis)])


def _used(node: ir.Node) -> list[int]:
    return [index for index, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()]


def _uses_several(node: ir.Node) -> str | None:
    return None if len(_used(node)) == 1 else f"{len(_used(node))} outputs of {node.name} are used, not 1"


class SplitToSlice(Rule):
    """A Split of which one part is used copies the others for nothing."""

    name = "split-to-slice"
    summary = "Split with one used output becomes Slice"
    pattern: ClassVar[Op] = Op("Split", Var("x"), open_inputs=True, fits=_uses_several)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses parts whose place is not known."""
        parts = split_cuts(found.root)
        return parts if isinstance(parts, str) else slice_obstacle(opset)

    def rewrite(self, found: Match, editor: Editor) -> Sequence[ir.Value]:
        """Builds the Slice, or takes the input where there is one part only."""
        (index,) = _used(found.root)
        parts = split_cuts(found.root)
        assert not isinstance(parts, str), "the check refuses other matches"
        x, old = found.values["x"], found.root.outputs[index]
        taken = x if len(parts) == 1 else slice_of(x, {axis_of(found.root, 0) or 0: parts[index]}, editor)
        taken.shape, taken.type = taken.shape or old.shape, taken.type or old.type
        return [taken if output is old else output for output in found.root.outputs]


def _tiles(node: ir.Node) -> list[ir.Node] | str:
    """Slices, this one first, that together take the whole of a fixed axis without overlap, or why there are none."""
    first = _part(node.outputs[0])
    size = fixed_size(first.whole, first.axis) if first is not None else None
    if first is None or size is None or first.start != 0:
        return f"{node.name} does not take the beginning of one axis of a known size"
    following: dict[int, tuple[ir.Node, _Part]] = {}
    for use in first.whole.uses():
        part = _part(use.node.outputs[0]) if use.node.graph is node.graph and use.node.op_type == "Slice" else None
        if part is not None and part.whole is first.whole and part.axis == first.axis and part.start < part.stop:
            following.setdefault(part.start, (use.node, part))
    tiles, reached = [node], first.stop
    while reached < size and reached in following:
        tile, part = following[reached]
        tiles.append(tile)
        reached = part.stop
    return tiles if reached == size and len(tiles) > 1 else f"other slices of {first.whole.name} do not complete it"


def _tiles_nothing(node: ir.Node) -> str | None:
    tiles = _tiles(node)
    return tiles if isinstance(tiles, str) else None


class SlicesToSplit(Rule):
    """Slices that together take the whole of an axis are one Split."""

    name = "slices-to-split"
    summary = "Slices that together take a whole axis become Split"
    pattern: ClassVar[Op] = Op("Slice", Var("x"), open_inputs=True, fits=_tiles_nothing)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses opsets in which a Split takes its parts otherwise."""
        return None if opset >= SPLIT_INPUT_OPSET else f"Split needs opset {SPLIT_INPUT_OPSET}, the model has {opset}"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the Split where its input is made, before all of the Slices."""
        tiles = _tiles(found.root)
        assert not isinstance(tiles, str), "the pattern fits only where there are tiles"
        x = found.values["x"]
        parts = [part for tile in tiles if (part := _part(tile.outputs[0])) is not None]
        lengths = editor.constant(f"{x.name}_split", np.array([part.stop - part.start for part in parts], np.int64))
        axis = ir.AttrInt64("axis", parts[0].axis)
        outputs = editor.node("Split", [x, lengths], [axis], outputs=len(tiles), after=x)
        for tile, output in zip(tiles[1:], outputs[1:], strict=True):
            editor.replace(tile.outputs[0], output)
        return outputs[0]


RULES = (RestoreParts(), MergeConcats(), SplitToSlice())
LATE_RULES = (SlicesToSplit(),)
