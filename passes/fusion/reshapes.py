"""Rules for nodes that only rename the axes of what they are given: Reshape, Flatten, Squeeze, Unsqueeze, and Expand.

They are followed in sizes that may hold symbols, so that chains with dynamic dimensions merge as well.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.facts import (
    ONE,
    Size,
    integers,
    listed,
    normalized,
    operand,
    product,
    same_sizes,
    sizes,
)
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

Sizes = tuple[Size, ...]
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "PRelu", "And", "Or", "Xor", "Where", "Max", "Min", "Sum", "Mean"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor"),
)
"""Operators that broadcast their inputs; PRelu broadcasts its second only."""
PREPARING = ("Expand", "Unsqueeze", "Reshape")
"""Operators that exporters write to prepare a value for broadcasting."""


@dataclass(frozen=True)
class Form:
    """How to get from one shape to another.

    Attributes:
        op_type: Reshape, Squeeze or Unsqueeze; empty where nothing is to be done.
        numbers: The target shape or the axes.
        as_input: Whether Squeeze and Unsqueeze take their axes as an input (opset 13) or as an attribute.
    """

    op_type: str
    numbers: tuple[int, ...] = ()
    as_input: bool = True

    def build(self, x: ir.Value, editor: Editor) -> ir.Value:
        """Builds the node, or returns `x` where there is nothing to do."""
        if not self.op_type:
            return x
        if not self.as_input:
            return editor.op(self.op_type, [x], [ir.AttrInt64s("axes", self.numbers)])
        name = "shape" if self.op_type == "Reshape" else "axes"
        return editor.op(self.op_type, [x, editor.constant(f"{x.name}_{name}", np.array(self.numbers, np.int64))])


def reshaped(node: ir.Node, given: Sizes) -> Sizes | str:
    """Returns the shape that a Reshape, Flatten, Squeeze or Unsqueeze makes of another, or why it is not known."""
    return _RESHAPED[node.op_type](node, given)


def _reshape(node: ir.Node, given: Sizes) -> Sizes | str:
    target = integers(operand(node, 1))
    if target is None:
        return f"the shape of {node.name} is not constant"
    literal_zero = ir.attribute(node, "allowzero", 0) == 1
    dims: list[Size | None] = []
    for axis, dim in enumerate(target):
        if dim == 0 and not literal_zero and axis >= len(given):
            return f"{node.name} copies an axis that its input does not have"
        dims.append(None if dim == -1 else given[axis] if dim == 0 and not literal_zero else Size(dim))
    rest = product(given).over(product([dim for dim in dims if dim is not None]))
    if rest is None and None in dims:
        return f"the size that {node.name} infers is not known"
    return tuple(dim if dim is not None else rest or ONE for dim in dims)


def _flatten(node: ir.Node, given: Sizes) -> Sizes | str:
    axis = ir.attribute(node, "axis", 1)
    axis += len(given) if axis < 0 else 0
    return product(given[:axis]), product(given[axis:])


def _squeeze(node: ir.Node, given: Sizes) -> Sizes | str:
    axes = listed(node, "axes", 1)
    axes = normalized(axes, len(given)) if axes is not None else None
    if axes is None:
        return f"the axes of {node.name} are not constant or not in range"
    if not axes and any(size.fixed is None for size in given):
        return f"{node.name} removes the axes of size 1, and not all sizes are known"
    return tuple(s for a, s in enumerate(given) if (a not in axes if axes else s != ONE))


def _unsqueeze(node: ir.Node, given: Sizes) -> Sizes | str:
    axes = listed(node, "axes", 1)
    axes = normalized(axes, len(given) + len(axes)) if axes is not None else None
    if axes is None:
        return f"the axes of {node.name} are not constant or not in range"
    kept = iter(given)
    return tuple(ONE if axis in axes else next(kept) for axis in range(len(given) + len(axes)))


_RESHAPED: Mapping[str, Callable[[ir.Node, Sizes], Sizes | str]] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


def find_form(source: Sizes, target: Sizes, nodes: Sequence[ir.Node]) -> Form | str:
    """Returns one node, or none, that gives a value of shape `source` the shape `target`, or why there is none.

    Args:
        source: The shape there is.
        target: The shape wanted, of as many elements.
        nodes: What is replaced. Squeeze and Unsqueeze are used where one of these is among them, in its style.
    """
    if source == target:
        return Form("")
    for node in nodes:
        if node.op_type in ("Squeeze", "Unsqueeze") and listed(node, "axes", 1):
            for op_type, longer, shorter in (("Squeeze", source, target), ("Unsqueeze", target, source)):
                axes = _unit_axes(longer, shorter)
                if axes is not None:
                    return Form(op_type, axes, as_input="axes" not in node.attributes)
    return constant_target(source, target, nodes)


def _unit_axes(longer: Sizes, shorter: Sizes) -> tuple[int, ...] | None:
    """Axes of size 1 without which the longer shape is the shorter, or None."""
    axes, matched = [], 0
    for axis, size in enumerate(longer):
        if matched < len(shorter) and size == shorter[matched]:
            matched += 1
        elif size == ONE:
            axes.append(axis)
        else:
            return None
    return tuple(axes) if matched == len(shorter) and axes else None


def constant_target(source: Sizes, target: Sizes, nodes: Sequence[ir.Node] = ()) -> Form | str:
    """Returns a Reshape with a constant target, or why there is none.

    A -1 beside a copied dimension fails on empty tensors; that is taken only where a replaced Reshape does so too.
    """
    if any(size.factor == 0 for size in target):
        return "a dimension is 0, which a Reshape's target means otherwise"
    copied = [a < len(source) and size.fixed is None and source[a] == size for a, size in enumerate(target)]
    open_axes = [a for a, size in enumerate(target) if size.fixed is None and not copied[a]]
    if len(open_axes) > 1:
        return f"{len(open_axes)} dynamic dimensions change their place"
    symbols = {symbol for a, size in enumerate(target) if copied[a] for symbol in size.symbols}
    if open_axes and not symbols <= _never_empty(nodes):
        return "on an empty tensor a Reshape would fail where the nodes do not"
    numbers = (0 if copied[a] else -1 if a in open_axes else size.factor for a, size in enumerate(target))
    return Form("Reshape", tuple(numbers))


def _never_empty(nodes: Sequence[ir.Node]) -> set[str]:
    """Symbols that are not 0 wherever the nodes run: those that a Reshape copies beside a -1."""
    found: set[str] = set()
    for node in nodes:
        target = integers(operand(node, 1)) if node.op_type == "Reshape" else None
        given = sizes(operand(node, 0))
        if target is not None and given is not None and -1 in target and not ir.attribute(node, "allowzero", 0):
            copied = (given[axis] for axis, dim in enumerate(target) if dim == 0 and axis < len(given))
            found.update(symbol for size in copied for symbol in size.symbols)
    return found


class FormRule(Rule):
    """A rule that gives x another form: the same elements in another shape."""

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses what one constant target does not express."""
        form = self._form(found)
        return form if isinstance(form, str) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the one node, or takes x."""
        form = self._form(found)
        assert isinstance(form, Form), "the check refuses other matches"
        return form.build(found.values["x"], editor)

    @abstractmethod
    def _form(self, found: Match) -> Form | str:
        """Returns the form, or why it cannot be expressed."""


class MergeReshapes(FormRule):
    """Of two nodes that rename axes only the last shape counts; it may be the one there was at first."""

    name = "merge-reshapes"
    summary = "two of Reshape, Flatten, Squeeze and Unsqueeze become one or none"
    pattern: ClassVar[Op] = Op(
        RESHAPES, Op(RESHAPES, Var("x"), open_inputs=True, shared=True, name="inner"), open_inputs=True
    )

    def _form(self, found: Match) -> Form | str:
        outer, inner = found.root, found.named["inner"]
        target = integers(operand(outer, 1)) if outer.op_type == "Reshape" else None
        source = sizes(found.values["x"])
        between = reshaped(inner, source) if source is not None else f"the rank of {found.values['x'].name} is unknown"
        known = sizes(inner.outputs[0]) if isinstance(between, str) else between
        result = reshaped(outer, known) if known is not None else between
        if source is None or isinstance(result, str):
            form: Form | str = str(result)
        else:
            form = find_form(source, result, found.nodes)
        if isinstance(form, str) and target is not None and 0 not in target:
            return Form("Reshape", target)  # it does not refer to what it is given
        return form


def _shape_change(node: ir.Node) -> str | None:
    """Why a node is not known to keep the shape of its input, or None."""
    x, given = operand(node, 0), sizes(operand(node, 0))
    same = same_sizes(x, node.outputs[0])
    if not same and given is not None:
        same = (_expanded(node, given) if node.op_type == "Expand" else reshaped(node, given)) == given
    return None if same else f"{node.name} changes the shape, or may"


def _expanded(node: ir.Node, given: Sizes) -> Sizes | None:
    """The shape that an Expand makes where it is known to repeat nothing, or None."""
    target = integers(operand(node, 1))
    if target is None or len(target) > len(given):
        return None
    full = (1,) * (len(given) - len(target)) + target
    return given if all(dim == 1 or size == Size(dim) for dim, size in zip(full, given, strict=True)) else None


class RemoveReshape(Rule):
    """A node that renames or repeats axes and ends in the shape that the value already has."""

    name = "remove-reshape"
    summary = "Reshape, Flatten, Squeeze, Unsqueeze or Expand to the same shape goes"
    pattern: ClassVar[Op] = Op((*RESHAPES, "Expand"), Var("x"), open_inputs=True, fits=_shape_change)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


def _needless(node: ir.Node) -> int | None:
    """Index of a node's first input that is prepared for broadcasting without need, or None."""
    for index, value in enumerate(node.inputs):
        maker = value.producer() if value is not None else None
        if maker is None or maker.op_type not in PREPARING or maker.domain or (node.op_type == "PRelu" and index == 0):
            continue
        before, after = sizes(operand(maker, 0)), sizes(value)
        others = [sizes(other) for position, other in enumerate(node.inputs) if position != index]
        if before is None or after is None or len(before) > len(after):
            continue
        if maker.op_type != "Expand" and before != after[len(after) - len(before) :]:
            continue
        if _is_needless(before, after, [other for other in others if other is not None]):
            return index
    return None


def _is_needless(before: Sizes, after: Sizes, others: Sequence[Sizes]) -> bool:
    """Whether another operand has each axis that is added, and the length of each that is made longer."""
    for back in range(1, len(after) + 1):
        added, size = back > len(before), after[-back]
        if not added and before[-back] == size:
            continue
        reaching = [other[-back] for other in others if back <= len(other)]
        if size not in reaching and not (added and size == ONE and reaching):
            return False
    return True


def _lacks_needless(node: ir.Node) -> str | None:
    return f"{node.name} reads no Expand that it can do without" if _needless(node) is None else None


class RemoveExpand(Rule):
    """An operator that broadcasts does itself what an Expand, or axes of size 1 put in front, do before it."""

    name = "remove-expand"
    summary = "Expand, or axes put in front, go where the elementwise operator behind them broadcasts to the same shape"
    pattern: ClassVar[Op] = Op(ELEMENTWISE, open_inputs=True, fits=_lacks_needless)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator on what is expanded."""
        index = _needless(found.root)
        inputs = list(found.root.inputs)
        prepared = inputs[index] if index is not None else None
        maker = prepared.producer() if prepared is not None else None
        assert index is not None and maker is not None, "the pattern fits only where there is one"  # noqa: PT018
        inputs[index] = maker.inputs[0]
        return editor.op(found.root.op_type, inputs, list(found.root.attributes.values()))


RULES = (MergeReshapes(), RemoveReshape())
LATE_RULES = (RemoveExpand(),)
