"""Rules for nodes that only move data, and for those that do nothing."""

from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

NO_PERM: tuple[int, ...] = ()


class MergeReshapes(Rule):
    """The inner of two reshapes does not matter, unless the outer copies a dimension from it (a 0)."""

    name = "merge-reshapes"
    summary = "Reshape of a Reshape, Flatten, Squeeze or Unsqueeze becomes one Reshape"
    pattern: ClassVar[Op] = Op(
        "Reshape", Op(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), Var("x"), open_inputs=True), Const("shape")
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses a target shape that refers to the inner one."""
        if not np.all(found.constant("shape")):
            return "the outer shape has a 0, which copies a dimension of the inner one"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the outer Reshape on the inner input."""
        return editor.op("Reshape", [found.values["x"], found.values["shape"]], list(found.root.attributes.values()))


class MergeTransposes(Rule):
    """Two permutations are one; their product may be none at all."""

    name = "merge-transposes"
    summary = "Transpose of a Transpose becomes one or none"
    pattern: ClassVar[Op] = Op("Transpose", Op("Transpose", Var("x"), name="inner"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses permutations that are not written out: without them the rank must be known."""
        if any(not ir.attribute(node, "perm", NO_PERM) for node in found.nodes):
            return "a Transpose has no perm"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the product of both permutations."""
        inner = ir.attribute(found.named["inner"], "perm", NO_PERM)
        perm = [inner[axis] for axis in ir.attribute(found.root, "perm", NO_PERM)]
        if perm == sorted(perm):
            return found.values["x"]
        return editor.op("Transpose", [found.values["x"]], [ir.AttrInt64s("perm", perm)])


class RemoveCast(Rule):
    """A Cast to the type that the value already has."""

    name = "remove-cast"
    summary = "Cast to the same type goes"
    pattern: ClassVar[Op] = Op("Cast", Var("x"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses casts that change the type, or may."""
        dtype = found.values["x"].dtype
        target = ir.attribute(found.root, "to", 0)
        return None if dtype is not None and dtype.value == target else "it changes the type, or the type is unknown"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


class RemoveReshape(Rule):
    """A reshape to the static shape that the value already has."""

    name = "remove-reshape"
    summary = "Reshape, Flatten or Expand to the same static shape goes"
    pattern: ClassVar[Op] = Op(("Reshape", "Flatten", "Expand"), Var("x"), open_inputs=True)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses what changes the shape, or may."""
        before, after = found.values["x"].shape, found.root.outputs[0].shape
        same = before is not None and after is not None and before.is_static() and list(before) == list(after)
        return None if same else "it changes the shape, or a dimension is not static"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


RULES = (MergeReshapes(), MergeTransposes(), RemoveCast(), RemoveReshape())
