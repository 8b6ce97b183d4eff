"""Rules that write decomposed layer, RMS and instance normalization back to one operator.

The normalizing operators take a scale, and some a bias; the rules here give them ones and zeros, which those of
`norm_parameters` replace by what follows.
"""

from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.elementwise import X
from sardonyx.passes.fusion.norm_parameters import broadcast_parameter
from sardonyx.passes.fusion.obstacles import (
    lacking,
    not_float,
    not_single,
    same_axes,
    single,
    static_dims,
    widening,
)
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Pattern
from sardonyx.passes.rewriting.rule import Editor, Rule

_MEAN = Op("ReduceMean", X, open_inputs=True)
_CENTRED = Op("Sub", X, _MEAN)


def _mean_square(part: Pattern) -> Op:
    square = AnyOf(Op("Pow", part, Const("two", 2.0)), Op("Mul", part, part))
    return Op("ReduceMean", square, open_inputs=True)


def _deviation(part: Pattern) -> AnyOf:
    """The root sqrt(mean(value^2) + epsilon)."""
    shifted = Op("Add", _mean_square(part), Const("epsilon"))
    return AnyOf(Op("Sqrt", shifted), Op("Pow", shifted, Const("power", 0.5)))


def _inverse_deviation(part: Pattern) -> AnyOf:
    """The inverse root 1 / sqrt(mean(value^2) + epsilon)."""
    return AnyOf(
        Op("Reciprocal", _deviation(part)),
        Op("Div", Const("one", 1.0), _deviation(part)),
        Op("Pow", Op("Add", _mean_square(part), Const("epsilon")), Const("inverse_power", -0.5)),
    )


def _normalized(part: Pattern) -> AnyOf:
    """A value over sqrt(mean(value^2) + epsilon)."""
    return AnyOf(Op("Div", part, _deviation(part)), Op("Mul", part, _inverse_deviation(part)))


def _reductions_obstacle(found: Match) -> str | None:
    """Why the input, the axes or epsilon of a match are not those of a normalization, or None."""
    x, axes = found.values["x"], same_axes(found)
    reason = not_float(x) or not_single(found, "epsilon") or widening(found, x)
    if reason is not None or isinstance(axes, str):
        return reason or str(axes)
    epsilon = single(found, "epsilon")
    return None if epsilon >= 0 else f"{found.values['epsilon'].name} is {epsilon:g}, below 0"


def _trailing_dims(found: Match) -> tuple[int, ...] | str:
    """The sizes of the reduced axes where these are the last ones, or why they are not."""
    x, axes = found.values["x"], same_axes(found)
    if isinstance(axes, str):
        return axes
    rank = x.shape.rank() if x.shape is not None else 0
    if axes != tuple(range(rank - len(axes), rank)):
        return f"the axes {list(axes)} of {x.name} are not its last ones"
    return static_dims(x, axes)


class _OverTrailingAxes(Rule):
    """A normalization over the last axes, of known sizes."""

    operator: ClassVar[str]

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other axes, unknown sizes, other types, and opsets without the operator."""
        dims = _trailing_dims(found)
        reason = lacking(self.operator, opset) or _reductions_obstacle(found)
        return reason or (dims if isinstance(dims, str) else None)

    @staticmethod
    def _attributes(found: Match, dims: tuple[int, ...]) -> list[ir.Attr]:
        return [ir.AttrInt64("axis", -len(dims)), ir.AttrFloat32("epsilon", single(found, "epsilon"))]

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the operator with a scale of ones."""
        dims = _trailing_dims(found)
        assert not isinstance(dims, str), "the check refuses other axes"
        scale = editor.constant(f"{found.root.name}_scale", np.ones(dims, np.float32))
        return editor.op(self.operator, [found.values["x"], scale], self._attributes(found, dims))


class LayerNorm(_OverTrailingAxes):
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon): operator LayerNormalization-17."""

    name = "layer-norm"
    summary = "decomposed layer normalization over the last axes becomes LayerNormalization"
    operator = "LayerNormalization"
    pattern: ClassVar[AnyOf] = _normalized(_CENTRED)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses, besides, what reads as an instance normalization."""
        return super().check(found, opset) or ("it is an instance normalization" if _per_instance(found) else None)


class LayerNormFromMoments(_OverTrailingAxes):
    """x g + (bias - mean g) with g = scale / sqrt(variance + epsilon), as `tf.nn.batch_normalization` computes it."""

    name = "layer-norm-from-moments"
    summary = "x * g + (bias - mean * g) with g = scale / deviation over the last axes becomes LayerNormalization"
    operator = "LayerNormalization"
    _gain = Op("Mul", _inverse_deviation(_CENTRED), Const("scale"))
    pattern: ClassVar[Op] = Op("Add", Op("Mul", X, _gain), Op("Sub", Const("bias"), Op("Mul", _MEAN, _gain)))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses, besides, parameters that do not vary along the last axes alone."""
        reason = super().check(found, opset)
        if reason is not None:
            return reason
        dims = _trailing_dims(found)
        parameters = [broadcast_parameter(found, name, dims) for name in ("scale", "bias")]
        return next((known for known in parameters if isinstance(known, str)), None)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds LayerNormalization with its scale and bias."""
        dims = _trailing_dims(found)
        assert not isinstance(dims, str), "the check refuses other axes"
        parameters = [
            editor.constant(found.values[name].name or name, np.asarray(broadcast_parameter(found, name, dims)))
            for name in ("scale", "bias")
        ]
        return editor.op(self.operator, [found.values["x"], *parameters], self._attributes(found, dims))


class RmsNorm(_OverTrailingAxes):
    """x / sqrt(mean(x^2) + epsilon): operator RMSNormalization-23."""

    name = "rms-norm"
    summary = "decomposed root-mean-square normalization over the last axes becomes RMSNormalization"
    operator = "RMSNormalization"
    pattern: ClassVar[AnyOf] = _normalized(X)


class InstanceNorm(Rule):
    """(x - mean) / sqrt(variance + epsilon) over all axes behind the channels: operator InstanceNormalization-6."""

    name = "instance-norm"
    summary = "decomposed normalization of each channel becomes InstanceNormalization"
    pattern: ClassVar[AnyOf] = _normalized(_CENTRED)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other axes, unknown numbers of channels and other types."""
        x = found.values["x"]
        reason = _reductions_obstacle(found)
        if reason is not None:
            return reason
        if not _per_instance(found):
            return f"it does not normalize {x.name} over all axes behind the channels"
        channels = static_dims(x, (1,))
        return channels if isinstance(channels, str) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds InstanceNormalization with a scale of ones and a bias of zeros."""
        channels = static_dims(found.values["x"], (1,))
        assert not isinstance(channels, str), "the check refuses unknown channels"
        scale = editor.constant(f"{found.root.name}_scale", np.ones(channels, np.float32))
        bias = editor.constant(f"{found.root.name}_bias", np.zeros(channels, np.float32))
        attributes = [ir.AttrFloat32("epsilon", single(found, "epsilon"))]
        return editor.op("InstanceNormalization", [found.values["x"], scale, bias], attributes)


def _per_instance(found: Match) -> bool:
    """Whether all axes behind the channels are reduced, there are several, and no layer normalization's scale follows.

    Over one axis, and before a scale with one element for each position, the same nodes are layer normalization.
    """
    x, axes = found.values["x"], same_axes(found)
    rank = x.shape.rank() if x.shape is not None else 0
    if isinstance(axes, str) or rank < 4 or axes != tuple(range(2, rank)):
        return False
    dims = static_dims(x, axes)
    for use in found.root.outputs[0].uses():
        for value in use.node.inputs if use.node.op_type == "Mul" else ():
            tensor = ir.constant_tensor(value) if value is not None else None
            if tensor is not None and tensor.size > 1 and tuple(tensor.shape.numpy())[-len(axes) :] == dims:
                return False
    return True


RULES = (LayerNorm(), LayerNormFromMoments(), InstanceNorm(), RmsNorm())
