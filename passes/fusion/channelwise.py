"""Rules that fold affine maps per channel into the linear operator in front of them or behind them.

All compute the new weight and bias in float64 and round once. The results differ from the original's by the rounding of
float32 sums of products: about 1e-6 of the largest term.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.affine import (
    MOVES,
    Affine,
    Float64Array,
    Indices,
    affine_of,
    axis_before,
    channels_behind,
    constant_obstacle,
    float64,
)
from sardonyx.passes.fusion.facts import ends_form
from sardonyx.passes.fusion.linear import (
    NO_PADS,
    WEIGHTED,
    Linear,
    bias_values,
    biased_matmul,
    build,
    copy_obstacle,
    like,
    linear_of,
    response,
    scaled_weight,
)
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Mismatch, Op, Pattern, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

_NORM_CONSTANTS = tuple(Const(name) for name in ("gamma", "beta", "mean", "variance"))
_WEIGHTED = Op(WEIGHTED, Var("x"), Var("weight"), name="linear", open_inputs=True)
_BIASED = biased_matmul(Var("x"))
_MATMUL = Op("MatMul", Var("x"), Const("weight"), name="linear")


def _behind_moves(*linears: Op) -> AnyOf:
    """The operators themselves, or one or two moves of their output."""

    def alternatives() -> Iterator[Pattern]:
        for linear in linears:
            first = Op(MOVES, linear, name="first", open_inputs=True)
            yield from (linear, first, Op(MOVES, first, name="second", open_inputs=True))

    return AnyOf(*alternatives())


@dataclass(frozen=True)
class _Plan:
    """What a match amounts to: the operator, and the factors and offsets of its channels."""

    linear: Linear
    scale: Float64Array
    shift: Float64Array


class _AfterLinear(Rule):
    """Folds an affine map of an operator's output into its weight and bias."""

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses what is not constant, not per channel, not finite, or would copy a large weight."""
        plan = found.plans[self.name] = self._plan(found)
        return plan if isinstance(plan, str) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator with scaled weights, and the moves behind it."""
        plan = found.plans[self.name]
        assert isinstance(plan, _Plan), "the check refuses other matches"
        linear = plan.linear
        weight = scaled_weight(linear, plan.scale, linear.output, editor)
        x = found.values["x"]
        value = build(linear, x, weight, bias_values(linear) * plan.scale + plan.shift, editor)
        for move in _moves(found):
            value = like(
                editor.op(move.op_type, [value, *move.inputs[1:]], list(move.attributes.values())), move.outputs[0]
            )
        return value

    def _plan(self, found: Match) -> _Plan | str:
        affine = affine_of(found.root, found.values.get("constant"))
        if isinstance(affine, str):
            return affine
        linear = linear_of(found)
        if isinstance(linear, str):
            return linear
        reason = _moved_obstacle(affine, found, linear)
        if reason is not None:
            return reason
        channels = linear.output.channels(linear.shape)
        if affine.scale.size not in (1, channels):
            return f"{found.root.name} has {affine.scale.size} channels, {linear.node.name} has {channels}"
        scale, shift = np.broadcast_to(affine.scale, channels), np.broadcast_to(affine.shift, channels)
        reason = copy_obstacle(linear, found.nodes) if np.any(scale != 1.0) else None
        return reason or _Plan(linear, scale, shift)


def _moves(found: Match) -> list[ir.Node]:
    return [found.named[name] for name in ("first", "second") if name in found.named]


def _moved_obstacle(affine: Affine, found: Match, linear: Linear) -> str | None:
    """Why the map's channels are not the operator's, seen through the moves between them, or None."""
    axis = affine.axis
    for move in reversed(_moves(found)) if axis is not None else ():
        before = axis_before(move, axis) if axis is not None else axis
        if isinstance(before, str):
            return before
        axis = before
    if axis is None:
        return None
    if linear.behind.shape is None:
        return f"the rank of {linear.behind.name} is unknown"
    own = linear.output.value_axis % len(linear.behind.shape)
    return None if axis == own else f"{found.root.name} varies over axis {axis}, the channels are axis {own}"


class FuseBatchNorm(_AfterLinear):
    """BatchNormalization is an affine map per channel."""

    name = "fuse-batch-norm"
    summary = "BatchNormalization after a convolution, Gemm, MatMul or normalization goes into its weights"
    pattern: ClassVar[Op] = Op("BatchNormalization", _behind_moves(_WEIGHTED, _BIASED, _MATMUL), *_NORM_CONSTANTS)


class FuseChannelwise(_AfterLinear):
    """A constant per channel (or one for all) that is added to or multiplied with an output."""

    name = "fuse-channelwise"
    summary = "Add, Sub, Mul or Div of a constant per channel goes into the weights of the operator before it"
    pattern: ClassVar[Op] = Op(("Add", "Sub", "Mul", "Div"), _behind_moves(_WEIGHTED, _BIASED), Const("constant"))


class ScaleMatMul(_AfterLinear):
    """A MatMul without bias takes factors; an offset stays the Add that it is."""

    name = "scale-matmul"
    summary = "Mul or Div by a constant per column after MatMul goes into its constant operand"
    pattern: ClassVar[Op] = Op(("Mul", "Div"), _behind_moves(_MATMUL), Const("constant"))


class FuseDifference(_AfterLinear):
    """The difference of a constant and an output: scale -1."""

    name = "fuse-difference"
    summary = "a constant minus the output of a linear operator goes into its weights"
    pattern: ClassVar[Op] = Op("Sub", Const("constant"), _behind_moves(_WEIGHTED, _BIASED))


_MAPPED: tuple[Op, ...] = (
    Op("BatchNormalization", Var("x"), *_NORM_CONSTANTS, name="affine"),
    Op(("Add", "Sub", "Mul", "Div"), Var("x"), Const("constant"), name="affine"),
    Op("Sub", Const("constant"), Var("x"), name="affine"),
)
_SOURCE = AnyOf(*_MAPPED, *(Op(MOVES, mapped, name="first", open_inputs=True) for mapped in _MAPPED))


class _BeforeLinear(Rule):
    """Folds an affine map of an operator's input into its weight and bias."""

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses what is not constant or per channel, and offsets where padding or a lacking bias is in the way.

        The end of a written-out normalization or Gelu stays: runtimes that compute it as a whole know it by that.
        """
        if ends_form(found.values["x"]):
            return f"{found.named['affine'].name} ends a normalization or Gelu, which runtimes compute as a whole"
        plan = found.plans[self.name] = self._plan(found)
        return plan if isinstance(plan, str) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator with scaled weights on the map's input, moved as before."""
        plan = found.plans[self.name]
        assert isinstance(plan, _Plan), "the check refuses other matches"
        linear, x = plan.linear, found.values["x"]
        for move in _moves(found):
            moved = editor.op(move.op_type, [x, *move.inputs[1:]], list(move.attributes.values()))
            x = like(moved, move.outputs[0])
        bias = bias_values(linear)
        if np.any(plan.shift):
            bias = bias + response(linear, plan.shift)
        return build(linear, x, scaled_weight(linear, plan.scale, linear.input, editor), bias, editor)

    def _plan(self, found: Match) -> _Plan | str:
        affine = affine_of(found.named["affine"], found.values.get("constant"))
        if isinstance(affine, str):
            return affine
        linear = linear_of(found)
        if isinstance(linear, str):
            return linear
        channels = _input_channels(affine, found, linear)
        if isinstance(channels, str):
            return channels
        scale, shift = affine.scale[channels], affine.shift[channels]
        reason = _offset_obstacle(linear) if np.any(shift) else None
        if reason is None and np.any(scale != 1.0):
            reason = copy_obstacle(linear, found.nodes)
        return reason or _Plan(linear, scale, shift)


def _input_channels(affine: Affine, found: Match, linear: Linear) -> Indices | str:
    """The map's channel for each input channel of the operator, or why they do not correspond."""
    count = linear.input.channels(linear.shape)
    given = linear.node.inputs[0]
    if affine.axis is None:
        return np.zeros(count, np.int64)
    x = found.values["x"]
    if x.shape is None or x.shape[affine.axis] != affine.scale.size:
        return f"{x.name} is not known to have {affine.scale.size} channels"
    if given is None or given.shape is None:
        return f"the rank of the input of {linear.node.name} is unknown"
    own = linear.input.value_axis % len(given.shape)
    moves = _moves(found)
    if not moves:
        same = own == affine.axis and count == affine.scale.size
        return (
            np.arange(count, dtype=np.int64)
            if same
            else f"{found.named['affine'].name} varies over another axis than the channels"
        )
    channels = channels_behind(moves[0], affine, own)
    if isinstance(channels, str):
        return channels
    return channels if channels.size == count else f"{moves[0].name} changes the number of channels"


def _offset_obstacle(linear: Linear) -> str | None:
    """Why an offset of the input is not one offset per output channel, or None."""
    node = linear.node
    if node.op_type == "ConvTranspose":
        return f"an offset before the transposed convolution {node.name} acts less at its border"
    if node.op_type == "Conv":
        padded = ir.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        if padded or any(ir.attribute(node, "pads", NO_PADS)):
            return f"{node.name} pads with zeros, to which the offset is not added"
    if node.op_type == "MatMul":
        x = node.inputs[0]
        plain = len(linear.shape) == 2 and x is not None and x.shape is not None and len(x.shape) == 2
        if len(linear.shape) != 2 or (linear.bias is None and not plain):
            return f"{node.name} has no bias that could take the offset"
    return None


class FoldInputMap(_BeforeLinear):
    """f(s x + t) is linear in x too: W' = W s, b' = b + W t."""

    name = "fold-input-map"
    summary = "BatchNormalization or a constant per channel before Conv, ConvTranspose, Gemm or MatMul goes into it"
    pattern: ClassVar[Op] = Op(
        ("Conv", "ConvTranspose", "Gemm", "MatMul"), _SOURCE, Var("weight"), name="linear", open_inputs=True
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses a transposed input, and what `_BeforeLinear` refuses."""
        if ir.attribute(found.root, "transA", 0):
            return f"the input of {found.root.name} is transposed"
        return super().check(found, opset)


class FoldInputMapWithBias(_BeforeLinear):
    """The same before a MatMul whose bias is added by a node of its own."""

    name = "fold-input-map-with-bias"
    summary = "BatchNormalization or a constant per channel before MatMul and Add of a bias goes into both"
    pattern: ClassVar[Op] = biased_matmul(_SOURCE)


class MergeConstants(Rule):
    """Two constants that are added, or multiplied, one after the other, are one.

    (x + a) + b and x + (a + b) differ by the rounding of the inner sum: at most 2^-24 of the largest term.
    """

    name = "merge-constants"
    summary = "Add and Sub of two constants become one Add, Mul and Div by two constants one Mul"
    pattern: ClassVar[Op] = Op(
        ("Add", "Sub", "Mul", "Div"),
        Op(("Add", "Sub", "Mul", "Div"), Var("x"), Const("inner"), name="first"),
        Const("outer"),
    )

    def find(self, node: ir.Node) -> Match | Mismatch:
        """Leaves out a sum of a product, and a product of a sum."""
        found = super().find(node)
        if isinstance(found, Match) and (found.named["first"].op_type in _SUMS) != (node.op_type in _SUMS):
            first = found.named["first"]
            return Mismatch(f"{first.name} is {first.op_type}, {node.name} is {node.op_type}", node.name or "", 2)
        return found

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other types, and results that are larger or not finite."""
        merged = self._merged(found)
        return merged if isinstance(merged, str) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds one Add or Mul."""
        merged = self._merged(found)
        assert not isinstance(merged, str), "the check refuses other matches"
        tensor = ir.constant_tensor(found.values["outer"])
        dtype = np.float32 if tensor is None else tensor.dtype.numpy()
        constant = editor.constant(f"{found.values['outer'].name}_merged", merged.astype(dtype))
        return editor.op("Add" if found.root.op_type in _SUMS else "Mul", [found.values["x"], constant])

    @staticmethod
    def _merged(found: Match) -> Float64Array | str:
        first, inner, outer = found.named["first"], found.values["inner"], found.values["outer"]
        reason = constant_obstacle(inner) or constant_obstacle(outer)
        if reason is not None:
            return reason
        sign, other_sign = (-1.0 if node.op_type in ("Sub", "Div") else 1.0 for node in (first, found.root))
        a, b = float64(inner), float64(outer)
        with np.errstate(all="ignore"):  # what is not finite is refused
            merged = sign * a + other_sign * b if first.op_type in _SUMS else a**sign * b**other_sign
        if merged.size > max(a.size, b.size):
            return f"{inner.name} and {outer.name} together are larger than each"
        if not np.all(np.abs(merged) < _LARGEST) or not np.all(np.isfinite(a)) or not np.all(np.isfinite(b)):
            return f"{inner.name} and {outer.name} together leave the range of FLOAT"
        return merged


_SUMS = ("Add", "Sub")
_LARGEST = float(np.finfo(np.float32).max)

RULES = (
    FuseBatchNorm(),
    FuseChannelwise(),
    ScaleMatMul(),
    FuseDifference(),
    FoldInputMap(),
    FoldInputMapWithBias(),
    MergeConstants(),
)
