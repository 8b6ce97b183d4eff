"""Operators with constant weights: where their channels lie, and how factors and offsets go into their constants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.fusion.affine import Float64Array, constant_obstacle, float64
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Pattern
from sardonyx.passes.rewriting.rule import Editor

NO_PADS: tuple[int, ...] = ()
SHARED_BYTES = 1 << 20
"""A larger weight that other nodes read too is not scaled: the copy would stand beside it in the file."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "BatchNormalization")
"""Operators with a weight per output channel as second input and an optional bias as third."""


@dataclass(frozen=True)
class Side:
    """Where the channels of an operator's input or output are.

    Attributes:
        weight_axis: Axis of the weight that runs over them; may count from the back.
        value_axis: Axis of the input or output itself; may count from the back.
        groups: Above 1, `weight_axis` runs over the channels of one group, and axis 0 of the weight over all groups.
    """

    weight_axis: int
    value_axis: int
    groups: int = 1

    def channels(self, weight: tuple[int, ...]) -> int:
        """Returns how many channels there are, from the weight's shape."""
        return weight[self.weight_axis] * self.groups

    def spread(self, factors: Float64Array, weight: tuple[int, ...]) -> Float64Array:
        """Returns factors per channel in a shape that multiplies the weight of the given shape."""
        if self.groups > 1:
            rows = weight[0] // self.groups
            spread = np.repeat(factors.reshape(self.groups, 1, -1), rows, axis=1)
            return spread.reshape(*weight[:2], *(1,) * (len(weight) - 2))
        shape = [1] * len(weight)
        shape[self.weight_axis] = -1
        return factors.reshape(shape)


def _groups(node: ir.Node) -> int:
    return ir.attribute(node, "group", 1)


def _transposed(node: ir.Node) -> int:
    return ir.attribute(node, "transB", 0)


_OUTPUT: Mapping[str, Callable[[ir.Node], Side]] = {
    "Conv": lambda node: Side(0, 1),
    "ConvTranspose": lambda node: Side(1, 1, _groups(node)),
    "Gemm": lambda node: Side(0 if _transposed(node) else 1, 1),
    "MatMul": lambda node: Side(-1, -1),
    "BatchNormalization": lambda node: Side(0, 1),
}
_INPUT: Mapping[str, Callable[[ir.Node], Side]] = {
    "Conv": lambda node: Side(1, 1, _groups(node)),
    "ConvTranspose": lambda node: Side(0, 1),
    "Gemm": lambda node: Side(1 if _transposed(node) else 0, 1),
    "MatMul": lambda node: Side(-2, -1),
}


@dataclass(frozen=True)
class Linear:
    """An operator with constant weights, and the Add of its bias where it is a MatMul.

    Attributes:
        node: The operator.
        weight: Its second input.
        bias: Its bias, or what an Add behind a MatMul adds.
        behind: The value it computes, bias included.
    """

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    behind: ir.Value

    @cached_property
    def output(self) -> Side:
        """Where the output channels are."""
        return _OUTPUT[self.node.op_type](self.node)

    @cached_property
    def input(self) -> Side:
        """Where the input channels are."""
        return _INPUT[self.node.op_type](self.node)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return tuple(self.tensor.shape.numpy())

    @cached_property
    def tensor(self) -> ir.TensorProtocol:
        """The weight as a tensor."""
        tensor = ir.constant_tensor(self.weight)
        assert tensor is not None, "the obstacle is asked for first"
        return tensor

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The weight's dtype."""
        return np.dtype(self.tensor.dtype.numpy())


def biased_matmul(x: Pattern) -> Op:
    """The pattern of a MatMul by a constant, with its bias."""
    return Op("Add", Op("MatMul", x, Const("weight"), name="linear"), Const("bias"), name="bias_add")


def linear_of(found: Match) -> Linear | str:
    """Reads the nodes named `linear` and `bias_add` of a match, or says why nothing can go into their constants."""
    node, add = found.named["linear"], found.named.get("bias_add")
    weight = node.inputs[1]
    reason = constant_obstacle(weight)
    if reason is not None or weight is None:
        return reason or f"{node.name} has no weight"
    third = node.inputs[2] if len(node.inputs) > 2 else None
    bias = third if add is None else found.values["bias"]
    linear = Linear(node, weight, bias, (add or node).outputs[0])
    return _node_obstacle(linear) or _bias_obstacle(linear) or linear


def _node_obstacle(linear: Linear) -> str | None:
    node = linear.node
    if ir.attribute(node, "training_mode", 0):
        return f"the BatchNormalization {node.name} is in training mode"
    if node.op_type == "MatMul" and len(linear.shape) < 2:
        return f"the weight {linear.weight.name} is a vector"
    return None


def _bias_obstacle(linear: Linear) -> str | None:
    reason = constant_obstacle(linear.bias, linear.tensor.dtype)
    if reason is not None or linear.bias is None:
        return reason
    tensor = ir.constant_tensor(linear.bias)
    dims = () if tensor is None else tuple(tensor.shape.numpy())
    product = linear.node.outputs[0].shape
    rank = 1 if product is None else len(product)
    channels = linear.output.channels(linear.shape)
    fits = all(dim == 1 for dim in dims[:-1]) and (not dims or dims[-1] in (1, channels)) and len(dims) <= rank
    return None if fits else f"the bias {linear.bias.name} of {linear.node.name} has shape {list(dims)}"


def copy_obstacle(linear: Linear, removed: tuple[ir.Node, ...]) -> str | None:
    """Why the weight must not be copied, or None."""
    size = linear.tensor.nbytes
    if size > SHARED_BYTES and any(use.node not in removed for use in linear.weight.uses()):
        return f"other nodes use {linear.weight.name} too, and a scaled copy would add {size} bytes"
    return None


def bias_values(linear: Linear) -> Float64Array:
    """Returns the bias per output channel (shape [channels]) in float64, a Gemm's beta included; zeros for none."""
    channels = linear.output.channels(linear.shape)
    if linear.bias is None:
        return np.zeros(channels)
    beta = ir.attribute(linear.node, "beta", 1.0) if linear.node.op_type == "Gemm" else 1.0
    return np.broadcast_to(float64(linear.bias).ravel() * beta, channels)


def scaled_weight(linear: Linear, factors: Float64Array, side: Side, editor: Editor) -> ir.Value:
    """Returns the weight times a factor per channel (shape [channels]) of one side; itself where all are 1."""
    if np.all(factors == 1.0):
        return linear.weight
    compute = partial(_scaled, linear.tensor, factors, side)
    return editor.lazy_constant(f"{linear.weight.name}_fused", linear.tensor.dtype, linear.shape, compute)


def _scaled(tensor: ir.TensorProtocol, factors: Float64Array, side: Side) -> npt.NDArray[Any]:
    """Multiplies in float64 and rounds once; numpy converts piece by piece, so no weight is held in float64."""
    weight = ir.read_array(tensor)
    spread = side.spread(factors, weight.shape)
    result = np.empty(weight.shape, weight.dtype)
    return np.multiply(weight, spread, out=result, dtype=np.float64, casting="unsafe")


def response(linear: Linear, offsets: Float64Array) -> Float64Array:
    """Returns what the weight makes of an input that is `offsets` (shape [input channels]) everywhere, without padding.

    Returns:
        One value per output channel, in float64, a Gemm's alpha included.
    """
    weight = ir.read_array(linear.tensor)
    rows = weight if linear.output.weight_axis == 0 else weight.T
    groups = linear.input.groups
    grouped = rows.reshape(groups, rows.shape[0] // groups, rows.shape[1], -1)
    inputs = offsets.reshape(groups, rows.shape[1])
    sums: Float64Array = np.einsum("goik,gi->go", grouped, inputs, dtype=np.float64, casting="unsafe").ravel()
    return sums * float(ir.attribute(linear.node, "alpha", 1.0) if linear.node.op_type == "Gemm" else 1.0)


def build(linear: Linear, x: ir.Value, weight: ir.Value, bias: Float64Array, editor: Editor) -> ir.Value:
    """Makes the operator again with another input, weight and bias.

    Args:
        linear: What is replaced; its attributes stay, except that a Gemm's beta is in the bias now.
        x: The input.
        weight: The weight.
        bias: The bias, of shape [output channels]; a MatMul without bias, or a convolution, gets none where it is zero.
        editor: Makes the nodes and constants.
    """
    node = linear.node
    constant = None
    if linear.bias is not None or np.any(bias):
        constant = editor.constant(f"{linear.weight.name}_fused_bias", bias.astype(linear.dtype))
    attributes = [a for a in node.attributes.values() if (node.op_type, a.name) != ("Gemm", "beta")]
    if node.op_type == "MatMul":
        product = like(editor.op("MatMul", [x, weight]), node.outputs[0])
        return product if constant is None else like(editor.op("Add", [product, constant]), linear.behind)
    inputs = [x, weight, constant, *node.inputs[3:]]
    while inputs[-1] is None:
        inputs.pop()
    return like(editor.op(node.op_type, inputs, attributes), node.outputs[0])


def like(value: ir.Value, model: ir.Value) -> ir.Value:
    """Gives a new value the type and shape of the one it stands for, and returns it."""
    value.type, value.shape = model.type, model.shape
    return value
