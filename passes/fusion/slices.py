"""Rules for Slice, and for Gather of one index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.facts import (
    ENDLESS,
    INT64_MAX,
    axis_of,
    fixed_size,
    integers,
    listed,
    normalized,
    operand,
    rank,
)
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

SLICE_INPUT_OPSET = 10


def slice_obstacle(opset: int) -> str | None:
    """Returns why a Slice that takes its parameters as inputs cannot be made, or None."""
    return None if opset >= SLICE_INPUT_OPSET else f"Slice needs opset {SLICE_INPUT_OPSET}, the model has {opset}"


@dataclass(frozen=True)
class Cut:
    """What a Slice takes of one axis, as ONNX writes it.

    Attributes:
        start: First index; a negative one counts from the back.
        stop: The index behind the last.
        step: Distance of indices; negative ones go backwards.
    """

    start: int
    stop: int
    step: int = 1

    def resolved(self, size: int | None) -> "Cut | None":
        """Returns the cut with indices counted from the front, or None where that depends on an unknown size."""
        if self.step < 1 or (size is None and (self.start < 0 or self.stop < 0)):
            return None
        if size is None:
            return Cut(self.start, INT64_MAX if self.stop >= ENDLESS else self.stop, self.step)
        return Cut(*slice(self.start, self.stop, self.step).indices(size))

    def then(self, other: "Cut") -> "Cut":
        """Returns one cut for this and another of what it leaves; both resolved."""
        stop = min(self.stop, self.start + other.stop * self.step)
        return Cut(self.start + other.start * self.step, stop, self.step * other.step)

    def is_whole(self, size: int | None) -> bool:
        """Whether the cut takes the whole axis."""
        resolved = self.resolved(size)
        end = INT64_MAX if size is None else size
        return resolved is not None and (resolved.start, resolved.step) == (0, 1) and resolved.stop >= end

    def single(self, size: int | None) -> int | None:
        """Returns the index, where the cut takes exactly one if it takes any; or None."""
        if size is None and self.start == -1 and self.stop >= ENDLESS and self.step >= 1:
            return -1
        resolved = self.resolved(size)
        return resolved.start if resolved is not None and resolved.stop == resolved.start + 1 else None


def cuts(node: ir.Node) -> Mapping[int, Cut] | str:
    """Returns what a Slice takes of each axis that it names, or why that is not known."""
    starts, ends, axes, steps = (integers(operand(node, index)) for index in range(1, 5))
    given = [operand(node, index) is not None for index in range(1, 5)]
    if starts is None or ends is None or (given[2] and axes is None) or (given[3] and steps is None):
        return f"the parameters of {node.name} are not constant"
    axes = normalized(tuple(range(len(starts))) if axes is None else axes, rank(operand(node, 0)))
    if axes is None:
        return f"an axis of {node.name} counts from the back and the rank is unknown"
    steps = (1,) * len(starts) if steps is None else steps
    return {axis: Cut(*cut) for axis, *cut in zip(axes, starts, ends, steps, strict=True)}


def slice_of(x: ir.Value, taken: Mapping[int, Cut], editor: Editor) -> ir.Value:
    """Builds a Slice."""
    parts = {
        "starts": [min(cut.start, INT64_MAX) for cut in taken.values()],
        "ends": [min(cut.stop, INT64_MAX) for cut in taken.values()],
        "axes": list(taken),
        "steps": [cut.step for cut in taken.values()],
    }
    constants = [editor.constant(f"{x.name}_{name}", np.array(numbers, np.int64)) for name, numbers in parts.items()]
    return editor.op("Slice", [x, *constants])


class MergeSlices(Rule):
    """Slices of slices are one Slice: along other axes as they are, along the same axis composed."""

    name = "merge-slices"
    summary = "Slice of a Slice becomes one"
    pattern: ClassVar[Op] = Op(
        "Slice", Op("Slice", Var("x"), name="inner", open_inputs=True, shared=True), open_inputs=True
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses parameters that are not constant, and a shared axis counted from the back of an unknown size."""
        merged = self._merged(found)
        return merged if isinstance(merged, str) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds one Slice with the parameters of both."""
        merged = self._merged(found)
        assert not isinstance(merged, str), "the check refuses other matches"
        return slice_of(found.values["x"], merged, editor)

    @staticmethod
    def _merged(found: Match) -> Mapping[int, Cut] | str:
        inner, outer = cuts(found.named["inner"]), cuts(found.root)
        if isinstance(inner, str) or isinstance(outer, str):
            return inner if isinstance(inner, str) else str(outer)
        merged = {**inner, **outer}
        for axis in inner.keys() & outer.keys():
            first = inner[axis].resolved(fixed_size(found.values["x"], axis))
            second = outer[axis].resolved(fixed_size(found.root.inputs[0], axis))
            if first is None or second is None:
                return f"both slice axis {axis}, backwards or from the end of an unknown size"
            merged[axis] = first.then(second)
        return merged


def _takes_less(node: ir.Node) -> str | None:
    taken = cuts(node)
    if isinstance(taken, str):
        return taken
    whole = all(cut.is_whole(fixed_size(operand(node, 0), axis)) for axis, cut in taken.items())
    return None if whole else f"{node.name} does not take all, or may not"


class RemoveSlice(Rule):
    """A Slice that takes every element of each axis."""

    name = "remove-slice"
    summary = "Slice that takes all goes"
    pattern: ClassVar[Op] = Op("Slice", Var("x"), open_inputs=True, fits=_takes_less)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


@dataclass(frozen=True)
class Picked:
    """One index of one axis."""

    axis: int
    index: int


def _picked_by_slice(node: ir.Node) -> Picked | str:
    taken = cuts(node)
    if isinstance(taken, str):
        return taken
    for axis, cut in taken.items():
        index = cut.single(fixed_size(operand(node, 0), axis))
        if len(taken) == 1 and index is not None:
            return Picked(axis, index)
    return f"{node.name} takes more than one index of one axis, or may"


def _picked_by_gather(node: ir.Node) -> Picked | str:
    axis, indices = axis_of(node, 0), integers(operand(node, 1))
    if axis is None or indices is None or len(indices) != 1 or rank(operand(node, 1)) != 1:
        return f"{node.name} does not take one constant index in a list"
    return Picked(axis, indices[0])


class PickIndex(Rule):
    """One index of an axis, and then the axis removed, is what Gather does with an index that is a scalar."""

    name = "pick-index"
    summary = "Squeeze of a Slice or Gather of one index becomes Gather"
    pattern: ClassVar[Op] = Op(
        "Squeeze", Op(("Slice", "Gather"), Var("x"), name="inner", open_inputs=True), open_inputs=True
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses more than one index and a Squeeze of other axes."""
        picked = self._picked(found)
        return picked if isinstance(picked, str) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the Gather."""
        picked = self._picked(found)
        assert isinstance(picked, Picked), "the check refuses other matches"
        index = editor.constant(f"{found.root.outputs[0].name}_index", np.array(picked.index, np.int64))
        return editor.op("Gather", [found.values["x"], index], [ir.AttrInt64("axis", picked.axis)])

    @staticmethod
    def _picked(found: Match) -> Picked | str:
        inner = found.named["inner"]
        picked = (_picked_by_slice if inner.op_type == "Slice" else _picked_by_gather)(inner)
        axes = listed(found.root, "axes", 1)
        axes = normalized(axes, rank(found.values["x"])) if axes is not None else None
        if isinstance(picked, Picked) and axes != (picked.axis,):
            return f"{found.root.name} does not remove just axis {picked.axis}, or may not"
        return picked


class SliceIndex(Rule):
    """One index of an axis, and then the axis put back, is a Slice."""

    name = "slice-index"
    summary = "Unsqueeze of a Gather with a scalar index becomes Slice"
    pattern: ClassVar[Op] = Op("Unsqueeze", Op("Gather", Var("x"), Const("index"), name="gather"), open_inputs=True)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses indices that are lists or may be out of range, and an axis put elsewhere."""
        x, axis = found.values["x"], axis_of(found.named["gather"], 0)
        index, count = found.constant("index"), rank(found.values["x"])
        axes = listed(found.root, "axes", 1)
        if axis is None or count is None or index.ndim:
            return f"{found.values['index'].name} is not a scalar, or the rank of {x.name} is unknown"
        if axes is None or normalized(axes, count) != (axis,):
            return f"{found.root.name} does not put axis {axis} back"
        size = fixed_size(x, axis)
        inside = size is not None and -size <= int(index) < size
        return (
            slice_obstacle(opset)
            if inside
            else f"{found.values['index'].name} may be out of the range of axis {axis} of {x.name}"
        )

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the Slice."""
        axis = axis_of(found.named["gather"], 0) or 0
        index = int(found.constant("index")) % (fixed_size(found.values["x"], axis) or 1)
        return slice_of(found.values["x"], {axis: Cut(index, index + 1)}, editor)


RULES = (MergeSlices(), RemoveSlice(), SliceIndex())
LATE_RULES = (PickIndex(),)
