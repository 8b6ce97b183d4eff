"""What becomes of a value: the elementwise functions that its users apply to it, such as SiLU.

Numbers far below zero matter to a convolution and not to SiLU, which makes nothing of them. An error in a value is
therefore judged by the error it makes where the elementwise functions of that value end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul

import numpy as np

from sardonyx import ir
from sardonyx.passes.quantization.methods.channels import FloatArray

SILU_IGNORES = -8.0
"""Below, SiLU is nearer to zero than 0.003."""

_Function = Callable[[FloatArray, ir.Node], FloatArray]


def _sigmoid(x: FloatArray, node: ir.Node) -> FloatArray:
    return 0.5 * (1 + np.tanh(x / 2))


def _hard_sigmoid(x: FloatArray, node: ir.Node) -> FloatArray:
    return np.clip(ir.attribute(node, "alpha", 0.2) * x + ir.attribute(node, "beta", 0.5), 0.0, 1.0)


_UNARY: Mapping[str, _Function] = {
    "Relu": lambda x, node: np.maximum(x, 0.0),
    "LeakyRelu": lambda x, node: np.where(x < 0, ir.attribute(node, "alpha", 0.01) * x, x),
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, node: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
    "Tanh": lambda x, node: np.tanh(x),
    "Exp": lambda x, node: np.exp(np.minimum(x, 80.0)),
    "Softplus": lambda x, node: np.logaddexp(0.0, x),
}
"""Elementwise operators of one operand."""


@dataclass(frozen=True)
class Response:
    """What the elementwise functions of a value make of it.

    Attributes:
        samples: Values, ascending, shape (n,).
        results: What becomes of each, shape (ends, n): one row a value in which the functions end.
    """

    samples: FloatArray
    results: FloatArray

    @property
    def is_identity(self) -> bool:
        """Whether nothing elementwise is done to the value."""
        return bool(np.array_equal(self.results, self.samples[None]))

    def at(self, values: FloatArray) -> FloatArray:
        """Returns the results at other values, interpolated: shape (ends, len(values))."""
        return np.stack([np.interp(values, self.samples, row) for row in self.results])


def response(value: ir.Value, samples: FloatArray) -> Response:
    """Follows the elementwise functions of one value.

    Args:
        value: The value.
        samples: Values to follow, ascending, shape (n,).
    """
    made: dict[ir.Value, FloatArray] = {value: samples}
    pending = [value]
    ends: list[ir.Value] = []
    while pending:
        current = pending.pop()
        users = [use.node for use in current.uses()]
        new = {node: _apply(node, made) for node in users}
        if any(result is None for result in new.values()) or current.is_graph_output() or not users:
            ends.append(current)
        for node, result in new.items():
            if result is not None and node.outputs[0] not in made:
                made[node.outputs[0]] = result
                pending.append(node.outputs[0])
    waiting = {node for current in made for node in (use.node for use in current.uses()) if node.outputs[0] in made}
    kept = [end for end in ends if end.is_graph_output() or any(use.node not in waiting for use in end.uses())]
    return Response(samples, np.stack([made[end] for end in kept or ends or [value]]))


def _apply(node: ir.Node, made: Mapping[ir.Value, FloatArray]) -> FloatArray | None:
    """The node's result where it is an elementwise function of values that were made, else None."""
    if node.domain:
        return None
    operands = [made.get(operand) for operand in node.inputs if operand is not None]
    function = _UNARY.get(node.op_type)
    if function is not None and operands[0] is not None:
        return function(operands[0], node)
    if node.op_type == "Mul" and len(operands) == 2:
        factors = [operand for operand in operands if operand is not None]
        return reduce(mul, factors) if len(factors) == 2 else None
    return None


@dataclass(frozen=True)
class ScaledGate:
    """The input z of z * sigmoid(s[c] z), with a scale a channel, as cross-layer equalization writes SiLU.

    Attributes:
        axis: The axis of channels in z, negative.
        scales: s, shape (channels,).
    """

    axis: int
    scales: FloatArray

    def low(self, lows: FloatArray) -> float:
        """Returns the value below which no channel makes anything of z, for the smallest value of each channel."""
        return float(np.maximum(lows, SILU_IGNORES / self.scales).min(initial=0.0))


def scaled_gate(value: ir.Value) -> ScaledGate | None:
    """Returns the gate that a value goes into, or None where it does not go into one alone."""
    users = [use.node for use in value.uses()]
    for unscale, product in (users, users[::-1]) if len(users) == 2 else ():
        if unscale.op_type != "Mul" or product.op_type != "Mul":
            continue
        tensors = [ir.constant_tensor(each) for each in unscale.inputs if each is not None]
        constants = [tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None]
        sigmoids = [use.node for use in unscale.outputs[0].uses()]
        if len(constants) != 1 or len(sigmoids) != 1 or sigmoids[0].op_type != "Sigmoid":
            continue
        wide = [axis - constants[0].ndim for axis, size in enumerate(constants[0].shape) if size > 1]
        if sigmoids[0].outputs[0] in product.inputs and len(wide) == 1 and (constants[0] > 0).all():
            return ScaledGate(wide[0], constants[0].ravel())
    return None
