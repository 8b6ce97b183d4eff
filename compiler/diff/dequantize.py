"""What DequantizeLinear makes of constants, also of those versions that ONNX's reference implementation has not."""

from collections.abc import Sequence

import numpy as np

from sardonyx import ir
from sardonyx.diff.quantities import is_dequantize
from sardonyx.measure import Array


def restored_constant(value: ir.Value) -> ir.TensorProtocol | None:
    """Returns a constant as a tensor, dequantized where a DequantizeLinear restores it.

    Args:
        value: An initializer, or the output of a node that restores a constant.

    Returns:
        The tensor, which is computed each time it is read where it must be; None where it cannot be, as for what
        another operator, such as Reshape, makes of constants.
    """
    tensor = ir.convenience.get_const_tensor(value)
    node = value.producer()
    if tensor is not None or node is None or not is_dequantize(node):
        return tensor
    stored = [tensor for tensor in stored_tensors(node) if tensor is not None]
    if len(stored) != len(node.inputs) or value.dtype is None or value.shape is None or not value.shape.is_static():
        return None
    dtype = value.dtype.numpy()

    def restore() -> ir.TensorProtocol:
        return ir.tensor(_dequantized(node, [ir.read_array(tensor) for tensor in stored]).astype(dtype))

    return ir.LazyTensor(restore, dtype=value.dtype, shape=ir.Shape(value.shape.numpy()), name=value.name)


def stored_tensors(node: ir.Node) -> list[ir.TensorProtocol | None]:
    """Returns the inputs of a node that are constants; None for the others."""
    return [None if value is None else ir.convenience.get_const_tensor(value) for value in node.inputs]


def _dequantized(node: ir.Node, arrays: Sequence[Array]) -> Array:
    """Returns (integers - zero point) * scale, in float32."""
    values, (scale, *zero_points) = arrays[0].astype(np.float32), (a.astype(np.float32) for a in arrays[1:])
    for zero_point in zero_points:
        values -= spread_over(node, zero_point, values.shape)
    values *= spread_over(node, scale, values.shape)
    return values


def spread_over(node: ir.Node, parameter: Array, shape: Sequence[int]) -> Array:
    """Gives a scale or zero point a shape that broadcasts: one for all, one a slice of the axis, or one a block.

    Args:
        node: The DequantizeLinear that reads it.
        parameter: The scale or zero point.
        shape: Of the values that the node restores.
    """
    axis = ir.attribute(node, "axis", 1)
    block = ir.attribute(node, "block_size", 0)
    if block:
        whole = np.repeat(parameter, block, axis)
        return np.take(whole, range(shape[axis]), axis)
    if parameter.size == 1:
        return parameter.reshape(())
    along = [1] * len(shape)
    along[axis] = parameter.size
    return parameter.reshape(along)
