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


class MergeSlices(Rule):
    """Slices along different axes are one Slice."""

    name = "merge-slices"
    summary = "Slice of a Slice along other axes becomes one"
    pattern: ClassVar[Op] = Op(
        "Slice",
        Op("Slice", Var("x"), Const("starts"), Const("ends"), Const("axes"), name="inner", open_inputs=True),
        *(Const(f"outer_{part}") for part in ("starts", "ends", "axes")),
        open_inputs=True,
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses slices that share an axis, steps that are not constant, and axes that cannot be compared."""
        steps = [node.inputs[4] for node in (found.named["inner"], found.root) if len(node.inputs) > 4]
        if any(value is not None and ir.constant_tensor(value) is None for value in steps):
            return "the steps of a Slice are not constant"
        axes = np.concatenate([found.constant("axes"), found.constant("outer_axes")])
        shape = found.values["x"].shape
        if np.any(axes < 0) and shape is None:
            return "an axis counts from the back and the rank is unknown"
        axes = axes if shape is None else axes % len(shape)
        return None if len(set(axes.tolist())) == axes.size else "both slice the same axis"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds one Slice with the parameters of both."""
        inner = found.named["inner"]
        name = f"{found.root.outputs[0].name}"
        parts = {
            part: np.concatenate([found.constant(part), found.constant(f"outer_{part}")]).astype(np.int64)
            for part in ("starts", "ends", "axes")
        }
        parts["steps"] = np.concatenate([_steps(inner), _steps(found.root)])
        constants = [editor.constant(f"{name}_{part}", array) for part, array in parts.items()]
        return editor.op("Slice", [found.values["x"], *constants])


def _steps(node: ir.Node) -> "np.typing.NDArray[np.int64]":
    """Steps of a Slice with constant starts; 1 for each axis where there are none."""
    value = node.inputs[4] if len(node.inputs) > 4 else None
    tensor = ir.constant_tensor(value) if value is not None else None
    starts = ir.constant_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    size = 0 if starts is None else starts.size
    return np.ones(size, np.int64) if tensor is None else tensor.numpy().astype(np.int64)


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


RULES = (MergeReshapes(), MergeTransposes(), MergeSlices(), RemoveCast(), RemoveReshape())
