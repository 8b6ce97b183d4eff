"""Scales of weights that are quantized for kernels which quantize their activations themselves."""

import math

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import Capabilities, DynamicSupport
from sardonyx.passes.quantization.arithmetic import affine_parameters, integer_range, quantize
from sardonyx.passes.quantization.conditions import channel_axis
from sardonyx.passes.quantization.plan import PointKind, QuantPoint

GATE_AXIS = 1
"""LSTM weights are [directions, 4 * hidden, input]: every row of every gate has its own scale."""


def channel_axes(rank: int, axis: int) -> tuple[int, ...]:
    """Returns the axes along which scales vary: of a recurrent weight the directions and the rows of the gates."""
    return (0, GATE_AXIS) if rank == 3 else (axis,)


def weight_axis(node: ir.Node, row: DynamicSupport) -> int:
    """Returns the axis of per-channel scales of a node's weights as they are stored, non-negative."""
    axis = channel_axis(node, row.weight_support) if row.weight_support is not None else None
    return GATE_AXIS if axis is None else axis % 2


def weight_point(
    value: ir.Value, axis: int, consumers: tuple[str, ...], capabilities: Capabilities
) -> QuantPoint | None:
    """Chooses symmetric scales from the extremes of a weight's channels.

    Args:
        value: A constant.
        axis: The axis of its channels.
        consumers: Names of the nodes that take it.
        capabilities: The target's weight type, and whether it must keep to 7 bits.

    Returns:
        The point, or None where the weight holds NaN or infinities.
    """
    tensor = ir.constant_tensor(value)
    assert tensor is not None, "only constant weights are planned"
    array = ir.read_array(tensor)
    kept = channel_axes(array.ndim, axis)
    others = tuple(i for i in range(array.ndim) if i not in kept)
    low, high = array.min(axis=others), array.max(axis=others)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    integers = integer_range(capabilities.weight_dtype, narrow=True, reduce_range=capabilities.reduce_range)
    scale, zero_point = affine_parameters(low, high, integers, symmetric=True)
    return QuantPoint(
        value=value.name or "",
        kind=PointKind.DYNAMIC_WEIGHT,
        dtype=capabilities.weight_dtype.name,
        scale=tuple(scale.ravel().tolist()),
        zero_point=tuple(zero_point.ravel().tolist()),
        axis=axis,
        consumers=consumers,
        reason="weight of a product whose activation is quantized while it runs, symmetric, per-channel",
    )


def quantized_weight(tensor: ir.TensorProtocol, point: QuantPoint) -> np.typing.NDArray[np.generic]:
    """Returns a weight as integers of the point's type, of the same shape."""
    array = ir.read_array(tensor)
    dtype = ir.DataType[point.dtype]
    kept = channel_axes(array.ndim, point.axis or 0)
    shape = [size if axis in kept else 1 for axis, size in enumerate(array.shape)]
    scale = np.asarray(point.scale, np.float64).reshape(shape)
    zero_point = np.asarray(point.zero_point, np.int64).reshape(shape)
    return quantize(array, scale, zero_point, integer_range(dtype)).astype(dtype.numpy())


def scales_needed(tensor: ir.TensorProtocol, axis: int) -> int:
    """Returns how many scales a weight has."""
    shape = tensor.shape.numpy()
    return math.prod(shape[i] for i in channel_axes(len(shape), axis))
