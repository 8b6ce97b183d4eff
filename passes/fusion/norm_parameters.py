"""Rules that move a constant factor or term behind a normalization into its scale and bias."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.fusion.elementwise import X
from sardonyx.passes.fusion.obstacles import as_float32, not_float
from sardonyx.passes.rewriting.pattern import Const, Match, Op
from sardonyx.passes.rewriting.rule import Editor, Rule

FloatArray = npt.NDArray[np.float32]
PER_POSITION = ("LayerNormalization", "RMSNormalization")
"""Their parameters have the shape of the last, normalized axes."""
PER_CHANNEL = ("InstanceNormalization", "GroupNormalization")
"""Their parameters have one element for each channel, the second axis."""
WITH_BIAS = ("LayerNormalization", *PER_CHANNEL)


def broadcast_parameter(found: Match, name: str, dims: tuple[int, ...] | str) -> FloatArray | str:
    """Gives a matched constant the shape of a parameter of the last axes of x.

    Args:
        found: A match with the value x and the constant.
        name: Name of the constant in the match.
        dims: Sizes of the last axes, or why they are not known.

    Returns:
        The constant with shape `dims`, or why it does not vary along these axes alone.
    """
    array, x = found.constant(name), found.values["x"]
    value = found.values[name]
    if isinstance(dims, str):
        return dims
    if x.shape is None or array.ndim > x.shape.rank():
        return f"{value.name} may add dimensions to {x.name}"
    split = max(0, array.ndim - len(dims))
    outer, inner = array.shape[:split], array.shape[split:]
    aligned = dims[len(dims) - len(inner) :]
    if any(size != 1 for size in outer) or any(size not in (1, dim) for size, dim in zip(inner, aligned, strict=True)):
        return f"{value.name} of shape {list(array.shape)} does not vary along the normalized axes {list(dims)} alone"
    return np.broadcast_to(array.reshape(inner), dims)


class _Absorb(Rule):
    """A constant behind a normalization, as its parameter."""

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses parameters that are computed, of another type, or that vary along other axes."""
        norm = found.named["norm"]
        for value in (*norm.inputs[1:], found.values["operand"]):
            if value is not None and ir.constant_tensor(value) is None:
                return f"the parameter {value.name} of {norm.name} is not constant"
        reason = not_float(found.values["x"]) or not_float(found.values["operand"])
        operand = self._operand(found)
        return reason or (operand if isinstance(operand, str) else None)

    @staticmethod
    def _operand(found: Match) -> FloatArray | str:
        """The constant in the shape of the normalization's scale, or why it does not have it."""
        scale = found.constant("scale")
        if found.named["norm"].op_type in PER_POSITION:
            return broadcast_parameter(found, "operand", scale.shape)
        array, x = found.constant("operand"), found.values["x"]
        if x.shape is None or array.ndim > x.shape.rank():
            return f"{found.values['operand'].name} may add dimensions to {x.name}"
        aligned = array.reshape((1,) * (x.shape.rank() - array.ndim) + array.shape)
        if aligned.size != aligned.shape[1] or aligned.size not in (1, scale.size):
            return f"{found.values['operand'].name} of shape {list(array.shape)} is not one element for each channel"
        return np.broadcast_to(aligned.ravel(), scale.shape)

    @staticmethod
    def _bias(found: Match) -> ir.Value | None:
        inputs = found.named["norm"].inputs
        return inputs[2] if len(inputs) > 2 else None


def _parameter(editor: Editor, kept: ir.Value, product: npt.NDArray[np.float64], operand: FloatArray) -> ir.Value:
    """The operand itself where it is the whole parameter, shared as it is, else a new constant."""
    tensor = ir.constant_tensor(kept)
    if tensor is not None and tuple(tensor.shape.numpy()) == operand.shape and np.array_equal(product, operand):
        return kept
    return editor.constant(f"{kept.name}_fused", as_float32(product))


class AbsorbScale(_Absorb):
    """norm(x) * factor: the factor goes into the scale, and into the bias if there is one."""

    name = "absorb-norm-scale"
    summary = "a constant factor behind a normalization goes into its scale"
    pattern: ClassVar[Op] = Op(
        "Mul", Op((*PER_POSITION, *PER_CHANNEL), X, Const("scale"), name="norm", open_inputs=True), Const("operand")
    )

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the normalization with the product of both factors."""
        factor = np.asarray(self._operand(found), np.float64)
        norm, bias = found.named["norm"], self._bias(found)
        scale = found.constant("scale") * factor
        inputs = [found.values["x"], _parameter(editor, found.values["operand"], scale, as_float32(factor))]
        if bias is not None:
            tensor = ir.constant_tensor(bias)
            assert tensor is not None, "the check refuses computed parameters"
            product = tensor.numpy() * factor
            inputs.append(editor.constant(f"{bias.name}_fused", as_float32(product)) if np.any(product) else bias)
        return editor.op(norm.op_type, inputs, list(norm.attributes.values()))


class AbsorbBias(_Absorb):
    """norm(x) + term: the term goes into the bias."""

    name = "absorb-norm-bias"
    summary = "a constant term behind a normalization goes into its bias"
    pattern: ClassVar[Op] = Op("Add", Op(WITH_BIAS, X, Const("scale"), name="norm", open_inputs=True), Const("operand"))

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the normalization with the sum of both terms."""
        term = np.asarray(self._operand(found), np.float64)
        norm, bias = found.named["norm"], self._bias(found)
        tensor = ir.constant_tensor(bias) if bias is not None else None
        total = term if tensor is None else tensor.numpy() + term
        parameter = _parameter(editor, found.values["operand"], total, as_float32(term))
        return editor.op(
            norm.op_type, [found.values["x"], found.values["scale"], parameter], list(norm.attributes.values())
        )


RULES = (AbsorbScale(), AbsorbBias())
