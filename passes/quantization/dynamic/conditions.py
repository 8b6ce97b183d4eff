"""Whether a node can be quantized dynamically on a target, and if not, why."""

from collections.abc import Mapping

from sardonyx import ir
from sardonyx.capabilities import DynamicSupport

MIN_OPSET = 11
"""DynamicQuantizeLinear is defined from this opset of the standard domain on."""

WITHOUT_KERNEL: Mapping[str, str] = {
    "Conv": "convolutions are quantized with ranges from samples: use quantize-static",
    "GRU": "the target has no GRU with integer weights; LSTM it may have",
    "RNN": "the target has no RNN with integer weights; LSTM it may have",
}
"""Operators that people expect to be quantized and that a target does not list, with the reason to give."""

MAX_PRODUCTS = (2**31 - 1) // (255 * 128)
"""Products of UINT8 and INT8 that INT32 can hold the sum of, whatever they are."""

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
"""Operators whose weights are never activations."""


def why_not(node: ir.Node, row: DynamicSupport, opset: int) -> str | None:
    """Returns why a node of the table cannot be quantized dynamically, as a sentence, or None.

    Args:
        node: A node of an operator that the target's table lists.
        row: Its row.
        opset: The model's opset of the standard domain.
    """
    if opset < MIN_OPSET:
        return f"DynamicQuantizeLinear needs opset {MIN_OPSET}; the model has {opset}"
    for name, required in row.attributes.items():
        actual = ir.attribute(node, name, required)
        if actual != required:
            return f"the target needs {name}={required}, the node has {actual}"
    for index in row.weights:
        reason = _weight(node, index)
        if reason is not None:
            return reason
    return _matrix(node) if row.weight_support is not None else _recurrent(node, row)


def _weight(node: ir.Node, index: int) -> str | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return f"its weight, input {index}, is absent"
    tensor = ir.constant_tensor(value)
    if tensor is None:
        first = node.inputs[0]
        if first is not None and ir.constant_tensor(first) is not None:
            return f"its constant {first.name} is the first operand, and integer weights are the second"
        return f"its weight {value.name} is not a constant"
    if tensor.dtype is not ir.DataType.FLOAT:
        return f"its weight {value.name} is {tensor.dtype.name}, not FLOAT"
    if not tensor.size:
        return f"its weight {value.name} is empty"
    return None


def _matrix(node: ir.Node) -> str | None:
    weight = node.inputs[1]
    assert weight is not None, "checked before"
    shape = weight.shape.numpy() if weight.shape is not None else ()
    if len(shape) != 2:
        return f"its weight {weight.name} has rank {len(shape)}, not 2"
    products = shape[1 if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else 0]
    if products > MAX_PRODUCTS:
        return f"sums of {products} products with its weight {weight.name} may overflow INT32"
    if node.op_type != "Gemm":
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and ir.attribute(node, "beta", 1.0) != 1.0 and ir.constant_tensor(bias) is None:
        return f"beta={ir.attribute(node, 'beta', 1.0)} scales {bias.name}, which is not a constant"
    return None


def _recurrent(node: ir.Node, row: DynamicSupport) -> str | None:
    for index in row.weights:
        weight = node.inputs[index]
        if weight is None or weight.shape is None or len(weight.shape) != 3:
            return f"its weight {weight.name if weight else index} has no shape [directions, 4 * hidden, input]"
    return None
