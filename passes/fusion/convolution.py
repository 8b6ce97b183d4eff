"""Rules that fold what surrounds a convolution or Gemm into its weights, bias and padding."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

Float64Array = npt.NDArray[np.float64]
NO_PADS: tuple[int, ...] = ()
LINEAR = ("Conv", "ConvTranspose", "Gemm")


def output_channel_axis(node: ir.Node) -> int | None:
    """Axis of the weight that runs over output channels; None where scaling along it does not scale the output's."""
    if node.op_type == "ConvTranspose":
        return 1 if ir.attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if ir.attribute(node, "transB", 0) else 1
    return 0


def constants_obstacle(values: Sequence[ir.Value | None]) -> str | None:
    """Why operands are not all FLOAT constants, or None; absent ones count as constant."""
    for value in values:
        tensor = ir.constant_tensor(value) if value is not None else None
        if value is not None and (tensor is None or tensor.dtype is not ir.DataType.FLOAT):
            return f"{value.name} is not a FLOAT constant"
    return None


def linear_obstacle(node: ir.Node) -> str | None:
    """Why a factor and an offset per output channel cannot go into a Conv, ConvTranspose or Gemm, or None."""
    if output_channel_axis(node) is None:
        return "the transposed convolution is grouped"
    reason = constants_obstacle(node.inputs[1:])
    if reason is not None:
        return reason
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = ir.constant_tensor(bias) if bias is not None else None
    if tensor is not None and node.op_type == "Gemm" and sum(d != 1 for d in tensor.shape.numpy()) > 1:
        return f"the Gemm's bias has shape {list(tensor.shape)}"
    return None


def scale_and_shift(node: ir.Node, scale: Float64Array, shift: Float64Array, editor: Editor) -> ir.Value:
    """Builds scale * node(x) + shift as one node: W' = scale W, b' = scale b + shift, computed in float64.

    Args:
        node: A Conv, ConvTranspose or Gemm without a `linear_obstacle`.
        scale: One factor per output channel.
        shift: One offset per output channel.
        editor: Makes the node and its constants.
    """
    weight = float64(node.inputs[1])
    shape = [1] * weight.ndim
    shape[output_channel_axis(node) or 0] = -1
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = float64(node.inputs[2]).ravel() if has_bias else np.zeros_like(scale)
    attributes = dict(node.attributes)
    if node.op_type == "Gemm":
        bias = bias * ir.attribute(node, "beta", 1.0)
        attributes.pop("beta", None)  # its default is 1, and the factor is in the bias now
    name = node.inputs[1].name if node.inputs[1] is not None else node.name
    operands = [
        node.inputs[0],
        editor.constant(f"{name}_fused", (weight * scale.reshape(shape)).astype(np.float32)),
        editor.constant(f"{name}_fused_bias", (bias * scale + shift).astype(np.float32)),
    ]
    return editor.op(node.op_type, operands, list(attributes.values()))


def float64(value: ir.Value | None) -> Float64Array:
    """Returns a constant in float64."""
    tensor = ir.constant_tensor(value) if value is not None else None
    if tensor is None:
        raise ValueError("the rule's check makes sure that the operand is a constant")
    return tensor.numpy().astype(np.float64)


class FuseBatchNorm(Rule):
    """With s = gamma / sqrt(variance + epsilon): BatchNormalization(y) = s y + (beta - s mean).

    See Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    name = "fuse-batch-norm"
    summary = "BatchNormalization after Conv, ConvTranspose or Gemm goes into its weights"
    pattern: ClassVar[Op] = Op(
        "BatchNormalization",
        Op(LINEAR, Var("x"), Var("weight"), name="linear", open_inputs=True),
        *(Const(name) for name in ("gamma", "beta", "mean", "variance")),
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses training mode and parameters that are not FLOAT constants."""
        if ir.attribute(found.root, "training_mode", 0):
            return "the BatchNormalization is in training mode"
        return linear_obstacle(found.named["linear"]) or constants_obstacle(found.root.inputs[1:])

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the node with the scaled weights."""
        gamma, beta, mean, variance = (float64(value) for value in found.root.inputs[1:5])
        scale = gamma / np.sqrt(variance + ir.attribute(found.root, "epsilon", 1e-5))
        return scale_and_shift(found.named["linear"], scale, beta - scale * mean, editor)


class FuseChannelwise(Rule):
    """A constant per channel (or one for all) that is added to or multiplied with a convolution's output."""

    name = "fuse-channelwise"
    summary = "Add, Sub, Mul or Div of a constant per channel after Conv or ConvTranspose goes into its weights"
    pattern: ClassVar[Op] = Op(
        ("Add", "Sub", "Mul", "Div"),
        Op(("Conv", "ConvTranspose"), Var("x"), Var("weight"), name="linear", open_inputs=True),
        Const("constant"),
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses constants that vary over anything but channels."""
        linear = found.named["linear"]
        constant = found.constant("constant")
        weight = linear.inputs[1]
        rank = len(weight.shape) if weight is not None and weight.shape is not None else 0
        channels = self._channels(linear)
        shape = (1,) * (rank - constant.ndim) + constant.shape
        if len(shape) != rank or any(d != 1 for i, d in enumerate(shape) if i != 1) or shape[1] not in (1, channels):
            return f"the constant of shape {list(constant.shape)} is not one per channel"
        if found.root.op_type == "Div" and not np.all(constant):
            return "the constant divides by zero"
        if not np.all(np.isfinite(constant)):
            return "the constant is not finite"
        return linear_obstacle(linear) or constants_obstacle((found.values["constant"],))

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the convolution with the constant inside."""
        linear = found.named["linear"]
        constant = np.broadcast_to(found.constant("constant").astype(np.float64).ravel(), self._channels(linear))
        one, zero = np.ones_like(constant), np.zeros_like(constant)
        scale, shift = {
            "Add": (one, constant),
            "Sub": (one, -constant),
            "Mul": (constant, zero),
            "Div": (one / constant if found.root.op_type == "Div" else one, zero),
        }[found.root.op_type]
        return scale_and_shift(linear, scale, shift, editor)

    @staticmethod
    def _channels(linear: ir.Node) -> int:
        tensor = ir.constant_tensor(linear.inputs[1]) if linear.inputs[1] is not None else None
        return 0 if tensor is None else int(tensor.shape.numpy()[output_channel_axis(linear) or 0])


class FusePad(Rule):
    """A Pad that adds zeros to spatial axes is what the `pads` of a convolution do."""

    name = "fuse-pad"
    summary = "Pad with zeros before Conv goes into its pads"
    pattern: ClassVar[Op] = Op(
        "Conv", Op("Pad", Var("x"), Const("amounts"), name="pad", open_inputs=True), Var("weight"), open_inputs=True
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses padding that a convolution cannot express."""
        amounts = _spatial_padding(found.named["pad"])
        if isinstance(amounts, str):
            return amounts
        if ir.attribute(found.root, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return "the Conv's auto_pad depends on the padded size"
        own = ir.attribute(found.root, "pads", NO_PADS)
        return "the Conv's pads do not fit the Pad's rank" if own and len(own) != len(amounts) else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the convolution with the sum of both paddings."""
        amounts = _spatial_padding(found.named["pad"])
        assert isinstance(amounts, list), "the check refuses other padding"
        own = ir.attribute(found.root, "pads", NO_PADS) or (0,) * len(amounts)
        attributes = {a.name: a for a in found.root.attributes.values() if a.name != "auto_pad"}
        total = [a + b for a, b in zip(amounts, own, strict=True)]
        attributes["pads"] = ir.AttrInt64s("pads", total)
        return editor.op("Conv", [found.values["x"], *found.root.inputs[1:]], list(attributes.values()))


def _spatial_padding(pad: ir.Node) -> list[int] | str:
    """The amounts a Pad adds to the spatial axes, begins then ends, or why they do not fit a Conv."""
    if ir.attribute(pad, "mode", "constant") != "constant":
        return f"the Pad's mode is {ir.attribute(pad, 'mode', 'constant')}, not constant"
    tensors = [ir.constant_tensor(v) if v is not None else None for v in pad.inputs[1:]]
    if any(t is None and v is not None for t, v in zip(tensors, pad.inputs[1:], strict=True)) or tensors[0] is None:
        return "the amounts or the value of the Pad are not constant"
    if len(tensors) > 1 and tensors[1] is not None and tensors[1].numpy().item() != 0:
        return "the Pad's value is not 0"
    amounts = [int(a) for a in tensors[0].numpy()]
    if len(tensors) > 2 and tensors[2] is not None:
        shape = pad.inputs[0].shape if pad.inputs[0] is not None else None
        if shape is None:
            return "the rank of the Pad's input is unknown"
        amounts = _spread(amounts, [int(a) % len(shape) for a in tensors[2].numpy()], len(shape))
    rank = len(amounts) // 2
    begins, ends = amounts[:rank], amounts[rank:]
    if any(begins[:2]) or any(ends[:2]):
        return "the Pad adds to the batch or channel axis"
    if min(amounts) < 0:
        return "the Pad crops"
    return begins[2:] + ends[2:]


def _spread(amounts: list[int], axes: list[int], rank: int) -> list[int]:
    """Amounts for all axes from amounts for some."""
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis] = amounts[position]
        full[rank + axis] = amounts[len(axes) + position]
    return full


RULES = (FusePad(), FuseBatchNorm(), FuseChannelwise())
