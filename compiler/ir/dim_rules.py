"""How operators size their outputs, as expressions. See `sardonyx.ir.symbolic`.

A rule gives one list of sizes per output, None for a size that it does not know and None for an output of unknown rank.
Operators without a rule keep what ONNX's own inference says of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as oir

from sardonyx.ir.compute_rules import COMPUTE_RULES
from sardonyx.ir.dims import Dim, add, at_least, exact_quotient, multiply, product, smaller, subtract
from sardonyx.ir.graphs import attribute
from sardonyx.ir.kernels import slice_parameters
from sardonyx.ir.rule_inputs import (
    NO_INTS,
    Dims,
    Rule,
    Sizes,
    broadcast_dims,
    input_dims,
    input_elements,
    is_given,
    known_ints,
)

_FAR = 1 << 31


def _same(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    return (input_dims(node, sizes),)


def _broadcast(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    if "axis" in node.attributes:  # the broadcasting of opset 6
        return ()
    result: Dims = ()
    for index in range(len(node.inputs)):
        result = broadcast_dims(result, input_dims(node, sizes, index))
    return (result,)


def _transpose(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    if dims is None:
        return ()
    perm = attribute(node, "perm", NO_INTS) or range(len(dims) - 1, -1, -1)
    return ([dims[axis] for axis in perm],)


def _reshape(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    target = input_elements(node, sizes, 1)
    data = input_dims(node, sizes)
    if target is None:
        return ()
    result: list[Dim | None] = [
        _reshaped(item, data, axis, bool(attribute(node, "allowzero", 0))) for axis, item in enumerate(target)
    ]
    rest = [dim for dim in result if dim is not None]
    inferred = [axis for axis, item in enumerate(target) if item == -1]
    if len(inferred) == 1 and len(rest) == len(result) - 1 and data is not None:
        total, others = product(data), product(rest)
        if total is not None and others is not None and others != 0:
            result[inferred[0]] = exact_quotient(total, others)
    return (result,)


def _reshaped(item: Dim | None, data: Sequence[Dim] | None, axis: int, allowzero: bool) -> Dim | None:
    """The size that an element of a Reshape's target asks for; a 0 copies unless it is allowed."""
    copied = data[axis] if data is not None and axis < len(data) else None
    if item is None or item == -1 or not at_least(item, 0):
        return None
    if allowzero or at_least(item, 1) or item == copied:
        return item
    if item == 0:
        return copied
    beyond = data is not None and axis >= len(data)
    return item if beyond else None  # a symbol that may be 0, and would then copy


def _flatten(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    if dims is None:
        return ()
    axis = attribute(node, "axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return ([product(dims[:axis]), product(dims[axis:])],)


def _squeeze(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    axes = known_ints(node, sizes, 1, "axes")
    if dims is None or (axes is None and is_given(node, 1, "axes")):
        return ()
    if axes is None:
        return ([dim for dim in dims if dim != 1],) if all(isinstance(dim, int) for dim in dims) else ()
    gone = {axis % len(dims) for axis in axes}
    return ([dim for axis, dim in enumerate(dims) if axis not in gone],)


def _unsqueeze(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims, axes = input_dims(node, sizes), known_ints(node, sizes, 1, "axes")
    if dims is None or axes is None:
        return ()
    rank = len(dims) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(dims)
    return ([1 if axis in new else next(rest) for axis in range(rank)],)


def _concat(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    shapes = [input_dims(node, sizes, index) for index in range(len(node.inputs))]
    first = shapes[0]
    if first is None:
        return ()
    axis = attribute(node, "axis", 1) % len(first)
    result: list[Dim | None] = list(first)
    total: Dim | None = 0
    for dims in shapes:
        total = add(total, dims[axis]) if total is not None and dims is not None else None
        if dims is not None:
            result = [dim if isinstance(dim, int) else known for dim, known in zip(dims, result, strict=True)]
    result[axis] = total
    return (result,)


def _expand(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    target = input_elements(node, sizes, 1)
    if target is None:
        return ()
    wanted = [item if item is not None and at_least(item, 0) else None for item in target]
    return (broadcast_dims(input_dims(node, sizes), wanted),)


def _slice(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    if dims is None:
        return ()
    if "starts" in node.attributes:
        starts, ends, axes, steps = slice_parameters(node, ())
        bounds: list[tuple[Any, Any, int, Any]] = list(zip(starts, ends, axes, steps, strict=True))
    else:
        given = _slice_inputs(node, sizes)
        if given is None:
            return ([None] * len(dims),)
        bounds = given
    result: list[Dim | None] = list(dims)
    for start, end, axis, step in bounds:
        result[axis] = _sliced(dims[axis], start, end) if step == 1 else _stepped(dims[axis], start, end, step)
    return (result,)


def _slice_inputs(node: oir.Node, sizes: Sizes) -> list[tuple[Any, Any, int, Any]] | None:
    """Starts, ends, axes and steps as elements; None where it is not known which axes they are for."""
    starts, ends = input_elements(node, sizes, 1), input_elements(node, sizes, 2)
    axes = known_ints(node, sizes, 3, "axes")
    if axes is None and not is_given(node, 3, "axes") and starts is not None:
        axes = list(range(starts.size))
    if axes is None:
        return None
    unknown = np.full(len(axes), None, object)
    steps = input_elements(node, sizes, 4) if is_given(node, 4, "steps") else np.full(len(axes), 1, object)
    parts = [unknown if items is None else items.ravel() for items in (starts, ends, steps)]
    return list(zip(parts[0], parts[1], axes, parts[2], strict=True))


def _clamped(bound: Dim | None, dim: Dim) -> Dim | None:
    """Where a bound of a Slice with step 1 ends up in [0, dim], or None where that depends on the sizes."""
    if bound is None:
        return None
    if isinstance(bound, int) and bound < 0:
        from_back = add(dim, bound)
        return from_back if from_back is not None and at_least(from_back, 0) else None
    if not at_least(bound, 0):
        return None
    if isinstance(bound, int) and bound >= _FAR:
        return dim
    return smaller(bound, dim)


def _sliced(dim: Dim, start: Dim | None, end: Dim | None) -> Dim | None:
    first, last = _clamped(start, dim), _clamped(end, dim)
    if first is None or last is None:
        return None
    length = subtract(last, first)
    return None if length is None or not at_least(length, 0) else length


def _stepped(dim: Dim, start: Dim | None, end: Dim | None, step: Dim | None) -> Dim | None:
    if not all(isinstance(item, int) for item in (dim, start, end, step)) or step == 0:
        return None
    return len(range(int(dim))[slice(start, end, step)])  # type: ignore[arg-type]


def _gather(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    data, indices = input_dims(node, sizes), input_dims(node, sizes, 1)
    if data is None or indices is None:
        return ()
    axis = attribute(node, "axis", 0) % len(data)
    return ([*data[:axis], *indices, *data[axis + 1 :]],)


def _split(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    if dims is None:
        return ()
    axis = attribute(node, "axis", 0) % len(dims)
    parts: Sequence[Dim | None] = known_ints(node, sizes, 1, "split") or ()
    if not parts:
        whole = dims[axis]
        even = not is_given(node, 1, "split") and isinstance(whole, int) and whole % len(node.outputs) == 0
        parts = [whole // len(node.outputs) if even and isinstance(whole, int) else None] * len(node.outputs)
    return [[*dims[:axis], part, *dims[axis + 1 :]] for part in parts]


def _from_elements(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    items = input_elements(node, sizes, 0)
    return () if items is None else ([item if item is not None and at_least(item, 0) else None for item in items],)


def _tile(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims, repeats = input_dims(node, sizes), input_elements(node, sizes, 1)
    if dims is None or repeats is None:
        return ()
    return ([None if times is None else multiply(dim, times) for dim, times in zip(dims, repeats, strict=True)],)


def _pad(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims, pads = input_dims(node, sizes), known_ints(node, sizes, 1, "pads")
    if dims is None or pads is None or len(pads) != 2 * len(dims):
        return ()
    return ([add(dim, pads[axis] + pads[axis + len(dims)]) for axis, dim in enumerate(dims)],)


def _range(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    parts = [input_elements(node, sizes, index) for index in range(3)]
    if any(part is None or part.size != 1 for part in parts):
        return ([None],)
    start, limit, delta = (part.item() for part in parts if part is not None)
    if delta != 1 or start is None or limit is None:
        return ([None],)
    length = subtract(limit, start)
    return ([length if length is not None and at_least(length, 0) else None],)


def _shape(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    dims = input_dims(node, sizes)
    if dims is None:
        return ([None],)
    return ([len(dims[attribute(node, "start", 0) : attribute(node, "end", len(dims))])],)


def _scalar(node: oir.Node, sizes: Sizes) -> Sequence[Dims]:
    return ((),)


_SAME = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh"),
    *("CumSum", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("Hardmax", "Identity", "InstanceNormalization", "GroupNormalization", "IsInf", "IsNaN", "LayerNormalization"),
    *("LeakyRelu", "Log", "LogSoftmax", "LRN", "LpNormalization", "MeanVarianceNormalization", "Mish", "Neg", "Not"),
    *("QuantizeLinear", "RMSNormalization", "Reciprocal", "Relu", "Round", "ScatterElements", "ScatterND", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"),
    *("ThresholdedRelu", "Trilu", "BatchNormalization", "PRelu", "CastLike", "BitwiseNot"),
)
_SAME_CONTRIBUTED = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding")
_BROADCAST = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"),
)
DIM_RULES: Mapping[tuple[str, str], Rule] = {
    ("", op_type): rule
    for op_type, rule in {
        **dict.fromkeys(_SAME, _same),
        **dict.fromkeys(_BROADCAST, _broadcast),
        "Transpose": _transpose,
        "Reshape": _reshape,
        "Flatten": _flatten,
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Concat": _concat,
        "Expand": _expand,
        "Slice": _slice,
        "Gather": _gather,
        "Split": _split,
        "ConstantOfShape": _from_elements,
        "Tile": _tile,
        "Pad": _pad,
        "Range": _range,
        "Shape": _shape,
        "Size": _scalar,
    }.items()
} | {
    **dict.fromkeys((("com.microsoft", name) for name in _SAME_CONTRIBUTED), _same),
    **COMPUTE_RULES,
}
"""Rules by domain and operator."""

_OTHER_TYPE = frozenset(
    (
        *("ArgMax", "ArgMin", "BitShift", "Cast", "CastLike", "ConstantOfShape", "DequantizeLinear", "IsInf", "IsNaN"),
        *("QuantizeLinear", "Shape", "Size", "Where", "And", "Equal", "Greater", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Not", "Or", "Xor"),
    )
)


_TYPED_OUTPUTS = {"Split": slice(None), "SkipLayerNormalization": slice(0, None, 3)}


def typed_like_input(node: oir.Node) -> Sequence[oir.Value]:
    """Returns the outputs of a node that are of the dtype of its first input, for operators that have a rule."""
    if (node.domain, node.op_type) not in DIM_RULES or node.op_type in _OTHER_TYPE:
        return ()
    return node.outputs[_TYPED_OUTPUTS.get(node.op_type.replace("Simplified", ""), slice(1))]
