"""Multiply-accumulates of convolutions and matrix products."""

from collections.abc import Callable, Mapping
from math import prod

import onnx_ir as oir

from sardonyx.ir.graphs import attribute


def _dims(value: oir.Value | None) -> tuple[int, ...] | None:
    """Shape with symbolic dimensions at 1, or None where even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else 1 for d in value.shape)


def has_macs(node: oir.Node) -> bool:
    """Whether a node is a convolution or a matrix product."""
    return not node.domain and node.op_type in _MACS


def node_macs(node: oir.Node) -> int | None:
    """Returns a node's multiply-accumulates with symbolic dimensions at 1.

    Returns:
        Their number; None where shapes are unknown, and for operators other than convolutions and matrix products.
    """
    if not has_macs(node):
        return None
    output, weight = _dims(node.outputs[0]), _dims(node.inputs[1] if len(node.inputs) > 1 else None)
    if output is None or weight is None:
        return None
    return _MACS[node.op_type](node, output, weight)


def _conv_transpose(node: oir.Node, output: tuple[int, ...], weight: tuple[int, ...]) -> int | None:
    source = _dims(node.inputs[0])
    return None if source is None else prod(source) * prod(weight[1:])


_MACS: Mapping[str, Callable[[oir.Node, tuple[int, ...], tuple[int, ...]], int | None]] = {
    "Conv": lambda node, output, weight: prod(output) * prod(weight[1:]),
    "ConvInteger": lambda node, output, weight: prod(output) * prod(weight[1:]),
    "ConvTranspose": _conv_transpose,
    "MatMul": lambda node, output, weight: prod(output) * (weight[-2] if len(weight) > 1 else weight[0]),
    "MatMulInteger": lambda node, output, weight: prod(output) * weight[-2],
    "Gemm": lambda node, output, weight: prod(output) * weight[1 if attribute(node, "transB", 0) else 0],
}
"""Multiply-accumulates by operator, from output and weight shapes."""
