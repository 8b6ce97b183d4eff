"""Operators on indices and shapes, in numpy: what constant folding meets most, without the cost of a one-node model.

ONNX's reference implementation stays the definition: each kernel agrees with it (a property test says so), and gives
up (None) on whatever it is not sure of. Kernels that only move elements also take arrays of objects, which is how
elements that are not known are moved.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as oir

from sardonyx.ir.graphs import attribute

Array = npt.NDArray[Any]
Inputs = Sequence[Array | None]
Kernel = Callable[[oir.Node, Inputs], Array | None]

_PLAIN = frozenset(np.dtype(name) for name in ("bool", "int32", "int64", "float32", "float64"))
_INT64_MIN, _INT64_MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_NO_INTS: tuple[int, ...] = ()


def run_kernel(node: oir.Node, inputs: Inputs) -> Array | None:
    """Computes the only output of a node of the standard domain, or returns None where no kernel is sure to.

    Args:
        node: The node; its attributes refer to no function's parameter.
        inputs: One array per input, None for an input left out. The data of operators that only move elements may be
            of any dtype, objects included; arithmetic takes bool, int32, int64, float32 and float64.
    """
    if node.domain or len(node.outputs) != 1:
        return None
    if node.op_type in MOVES:
        kernel = MOVES[node.op_type]
    elif node.op_type in ARITHMETIC and all(array is None or array.dtype in _PLAIN for array in inputs):
        kernel = ARITHMETIC[node.op_type]
    else:
        return None
    try:
        with np.errstate(all="ignore"):
            return kernel(node, inputs)
    except (IndexError, ValueError, TypeError):  # numpy refuses the inputs: the reference says why
        return None


def _input(inputs: Inputs, index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _first(inputs: Inputs) -> Array:
    array = _input(inputs, 0)
    if array is None:
        raise ValueError
    return array


def _ints(array: Array | None) -> list[int]:
    """The elements of an index input.

    Raises:
        ValueError: If it is left out or does not hold numbers.
    """
    if array is None or array.dtype.kind not in "iu":
        raise ValueError
    return [int(item) for item in array.ravel()]


def _axes(node: oir.Node, inputs: Inputs) -> list[int] | None:
    """Axes of Squeeze, Unsqueeze and reductions: an input since opset 13 or 18, an attribute before."""
    array = _input(inputs, 1)
    if array is not None:
        return _ints(array)
    return list(attribute(node, "axes", _NO_INTS)) if "axes" in node.attributes else None


def _identity(node: oir.Node, inputs: Inputs) -> Array:
    return _first(inputs)


def _gather(node: oir.Node, inputs: Inputs) -> Array | None:
    data, indices = _first(inputs), _input(inputs, 1)
    if indices is None or indices.dtype.kind not in "iu":
        return None
    return np.asarray(np.take(data, indices, axis=attribute(node, "axis", 0)), data.dtype)


def _slice(node: oir.Node, inputs: Inputs) -> Array | None:
    data = _first(inputs)
    starts, ends, axes, steps = slice_parameters(node, inputs)
    if len({axis % data.ndim for axis in axes}) != len(axes) or 0 in steps:
        return None
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return data[tuple(index)]


def slice_parameters(node: oir.Node, inputs: Inputs) -> tuple[list[int], list[int], list[int], list[int]]:
    """Returns starts, ends, axes and steps of a Slice of any opset, defaults filled in.

    Raises:
        ValueError: If starts, ends or another given parameter is not an array of ints.
    """
    if "starts" in node.attributes:  # before opset 10
        starts = list(attribute(node, "starts", _NO_INTS))
        ends = list(attribute(node, "ends", _NO_INTS))
        axes = list(attribute(node, "axes", tuple(range(len(starts)))))
        return starts, ends, axes, [1] * len(starts)
    starts, ends = _ints(_input(inputs, 1)), _ints(_input(inputs, 2))
    axes = _ints(inputs[3]) if _input(inputs, 3) is not None else list(range(len(starts)))
    steps = _ints(inputs[4]) if _input(inputs, 4) is not None else [1] * len(starts)
    return starts, ends, axes, steps


def _concat(node: oir.Node, inputs: Inputs) -> Array | None:
    arrays = [array for array in inputs if array is not None]
    if len(arrays) != len(inputs) or len({array.dtype for array in arrays}) != 1:
        return None
    return np.concatenate(arrays, axis=attribute(node, "axis", 1))


def _squeeze(node: oir.Node, inputs: Inputs) -> Array:
    axes = _axes(node, inputs)
    return np.squeeze(_first(inputs), axis=None if axes is None else tuple(axes))


def _unsqueeze(node: oir.Node, inputs: Inputs) -> Array | None:
    axes = _axes(node, inputs)
    return None if axes is None else np.expand_dims(_first(inputs), axis=tuple(axes))


def _reshape(node: oir.Node, inputs: Inputs) -> Array | None:
    data, target = _first(inputs), _ints(_input(inputs, 1))
    if not attribute(node, "allowzero", 0):
        target = [data.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return data.reshape(target)


def _transpose(node: oir.Node, inputs: Inputs) -> Array:
    perm = attribute(node, "perm", _NO_INTS)
    return np.transpose(_first(inputs), perm if "perm" in node.attributes else None)


def _expand(node: oir.Node, inputs: Inputs) -> Array:
    data, target = _first(inputs), _ints(_input(inputs, 1))
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(target)))


def _flatten(node: oir.Node, inputs: Inputs) -> Array | None:
    data, axis = _first(inputs), attribute(node, "axis", 1)
    if not -data.ndim <= axis <= data.ndim:
        return None
    axis = axis + data.ndim if axis < 0 else axis
    return data.reshape(int(np.prod(data.shape[:axis], dtype=np.int64)), -1) if data.size else None


MOVES: Mapping[str, Kernel] = {
    "Identity": _identity,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "Flatten": _flatten,
}
"""Operators that move or repeat elements. All inputs but the first (of Concat: none) hold indices."""


def _binary(function: Callable[[Array, Array], Array]) -> Kernel:
    def run(node: oir.Node, inputs: Inputs) -> Array | None:
        a, b = inputs
        if a is None or b is None or a.dtype != b.dtype or "axis" in node.attributes:  # axis: broadcast of opset 6
            return None
        return np.asarray(function(a, b))

    return run


def _unary(function: Callable[[Array], Array]) -> Kernel:
    return lambda node, inputs: np.asarray(function(_first(inputs)))


def _divide(a: Array, b: Array) -> Array:
    """Integers are divided towards zero; a zero divisor has no result."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if a.dtype.kind != "i" or not np.all(b) or np.any((a == np.iinfo(a.dtype).min) & (b == -1)):
        raise ValueError
    quotient = np.asarray(a - np.fmod(a, b)) // b
    return quotient.astype(a.dtype)


def _mod(node: oir.Node, inputs: Inputs) -> Array | None:
    a, b = inputs
    if a is None or b is None or a.dtype != b.dtype or a.dtype.kind != "i" or not np.all(b):
        return None
    return np.asarray(np.fmod(a, b) if attribute(node, "fmod", 0) else np.mod(a, b))


def _extreme(function: Callable[[Array, Array], Array]) -> Kernel:
    def run(node: oir.Node, inputs: Inputs) -> Array | None:
        result = _first(inputs)
        for array in inputs[1:]:
            if array is None or array.dtype != result.dtype or array.dtype.kind != "i":
                return None
            result = np.asarray(function(result, array))
        return result

    return run


def _where(node: oir.Node, inputs: Inputs) -> Array | None:
    condition, a, b = inputs
    if condition is None or a is None or b is None or condition.dtype.kind != "b" or a.dtype != b.dtype:
        return None
    return np.where(condition, a, b)


def _cast(node: oir.Node, inputs: Inputs) -> Array | None:
    data = _first(inputs)
    target = np.dtype(oir.DataType(attribute(node, "to", 0)).numpy())
    if target not in _PLAIN:
        return None
    # What does not fit an integer is up to the machine, in numpy as in runtimes.
    if target.kind == "i" and data.dtype.kind in "if" and data.size:
        bounds = np.iinfo(target)
        if not np.all(np.isfinite(data)) or float(data.max()) >= bounds.max or float(data.min()) <= bounds.min:
            return data if data.dtype == target else None
    return data.astype(target)


def _reduce(function: Callable[..., Array]) -> Kernel:
    def run(node: oir.Node, inputs: Inputs) -> Array | None:
        data, axes = _first(inputs), _axes(node, inputs)
        if data.dtype.kind != "i" or (not axes and attribute(node, "noop_with_empty_axes", 0)) or not data.size:
            return None
        keep = bool(attribute(node, "keepdims", 1))
        result = function(data, axis=tuple(axes) if axes else None, keepdims=keep)
        return np.asarray(result, data.dtype)

    return run


def _range(node: oir.Node, inputs: Inputs) -> Array | None:
    if any(array is None or array.size != 1 or array.dtype.kind != "i" for array in inputs):
        return None
    start, limit, delta = (int(array.item()) for array in inputs if array is not None)
    return np.arange(start, limit, delta, dtype=_first(inputs).dtype) if delta else None


def _constant_of_shape(node: oir.Node, inputs: Inputs) -> Array | None:
    shape = _ints(_first(inputs))
    fill = np.zeros(1, np.float32)
    if "value" in node.attributes:
        fill = node.attributes["value"].as_tensor().numpy()
    return np.full(shape, fill.ravel()[0], fill.dtype) if fill.dtype in _PLAIN else None


ARITHMETIC: Mapping[str, Kernel] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_divide),
    "Mod": _mod,
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Sqrt": _unary(np.sqrt),
    "Min": _extreme(np.minimum),
    "Max": _extreme(np.maximum),
    "Equal": _binary(np.equal),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Not": _unary(np.logical_not),
    "Where": _where,
    "Cast": _cast,
    "ReduceSum": _reduce(np.sum),
    "ReduceProd": _reduce(np.prod),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
}
"""Operators that compute with elements, on the dtypes that numpy and runtimes compute alike."""
