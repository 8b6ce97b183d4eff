"""Reasons that many fusion rules have for refusing, and what they read from constants and reductions."""

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import CONSTANT_RTOL, Match

FIRST_OPSET = {
    "Celu": 12,
    "Clip": 11,
    "Elu": 6,
    "Gelu": 20,
    "GroupNormalization": 21,
    "HardSigmoid": 6,
    "HardSwish": 14,
    "InstanceNormalization": 6,
    "LayerNormalization": 17,
    "LeakyRelu": 6,
    "LogSoftmax": 13,
    "Mish": 18,
    "PRelu": 9,
    "RMSNormalization": 23,
    "Relu": 6,
    "Selu": 6,
    "Sigmoid": 6,
    "Softmax": 13,
    "Softplus": 1,
    "Swish": 24,
    "ThresholdedRelu": 10,
}
"""The standard opset from which an operator computes what the rules take it to compute."""

NO_AXES: tuple[int, ...] = ()


def lacking(op_type: str, opset: int) -> str | None:
    """Why a standard operator cannot be written into a model of an opset, or None."""
    first = FIRST_OPSET[op_type]
    return None if opset >= first else f"{op_type} needs opset {first}, the model has {opset}"


def not_float(value: ir.Value) -> str | None:
    """Why a value is not FLOAT, or None.

    Other floating types are refused: in FLOAT16 a decomposition rounds after each step and the operator once at the
    end, which is more than a rounding apart, and runtimes lack kernels for DOUBLE.
    """
    return None if value.dtype is ir.DataType.FLOAT else f"{value.name} is not known to be FLOAT"


def widening(found: Match, x: ir.Value) -> str | None:
    """Why a matched constant of one element may add dimensions to x by broadcasting, or None."""
    for value in found.values.values():
        tensor = ir.constant_tensor(value)
        if tensor is None or tensor.size != 1 or not tensor.shape.rank():
            continue
        if x.shape is None or tensor.shape.rank() > x.shape.rank():
            return f"the constant {value.name} has shape {list(tensor.shape)}, which may add dimensions to {x.name}"
    return None


def not_single(found: Match, *names: str) -> str | None:
    """Why one of some matched constants is not a single element, or None; names that did not match do not count."""
    for name in names:
        if name in found.values and found.constant(name).size != 1:
            return f"the constant {found.values[name].name} has more than one element"
    return None


def single(found: Match, name: str) -> float:
    """Returns a matched constant of one element."""
    return float(found.constant(name).item())


def near(a: float, b: float) -> bool:
    """Whether two constants are equal but for float32 rounding."""
    return bool(np.isclose(a, b, rtol=CONSTANT_RTOL, atol=0))


def reduced_axes(node: ir.Node) -> tuple[int, ...] | str:
    """Returns the axes of a reduction, counted from the front and in order, or why they are not known.

    Axes are an attribute or, from opset 18 on (ReduceSum: 13), an input. The reduced dimensions must be kept.
    """
    x = node.inputs[0]
    if x is None or x.shape is None:
        return f"the rank of the input of {node.name} is unknown"
    if ir.attribute(node, "keepdims", 1) != 1:
        return f"{node.name} drops the dimensions that it reduces"
    axes = ir.attribute(node, "axes", NO_AXES)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.constant_tensor(node.inputs[1])
        if tensor is None:
            return f"the axes of {node.name} are not constant"
        axes = tuple(int(a) for a in tensor.numpy().ravel())
    if not axes:
        return f"{node.name} names no axes"
    return tuple(sorted(axis % x.shape.rank() for axis in axes))


def same_axes(found: Match) -> tuple[int, ...] | str:
    """Returns the axes that all matched reductions share, or why there are none such."""
    axes = [reduced_axes(node) for node in found.nodes if node.op_type.startswith("Reduce")]
    reason = next((known for known in axes if isinstance(known, str)), None)
    if reason is not None:
        return reason
    return axes[0] if len(set(axes)) == 1 else "the reductions are over different axes"


def static_dims(x: ir.Value, axes: tuple[int, ...]) -> tuple[int, ...] | str:
    """Returns the sizes of some axes of a value of known rank, or why they are not known and above 0."""
    dims = [] if x.shape is None else [x.shape[axis] for axis in axes]
    sizes = tuple(dim for dim in dims if isinstance(dim, int) and dim > 0)
    if not sizes or len(sizes) < len(axes):
        return f"the sizes of the axes {list(axes)} of {x.name} are not known, or 0"
    return sizes


def as_float32(array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Returns an array as FLOAT weights."""
    return np.asarray(array, np.float32)
