"""Whether a node meets the conditions of its row in the target's table, and if not, which one."""

from collections.abc import Callable

from sardonyx import ir
from sardonyx.capabilities import OpSupport, Role, WeightSupport

Condition = Callable[[ir.Node, OpSupport, int], str | None]


def unmet_condition(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    """Returns the first condition that keeps a node from running as integers, as a sentence, or None."""
    return next(filter(None, (condition(node, row, opset) for condition in _CONDITIONS)), None)


def weight_axis(node: ir.Node, row: OpSupport) -> int | None:
    """Returns the axis of per-channel weight scales, non-negative, or None for per-tensor scales."""
    support = row.weight_support
    weight = node.inputs[row.weight] if row.weight is not None else None
    axis = channel_axis(node, support) if support is not None else None
    if support is None or weight is None or weight.shape is None or axis is None:
        return None
    rank = len(weight.shape)
    if support.per_channel_ranks is not None and rank not in support.per_channel_ranks:
        return None
    return axis % rank


def channel_axis(node: ir.Node, support: WeightSupport) -> int | None:
    """Returns the axis of per-channel scales that the table gives, which may count from the back, or None."""
    if support.transpose_attribute and ir.attribute(node, support.transpose_attribute, 0):
        return support.transposed_axis if support.transposed_axis is not None else support.channel_axis
    return support.channel_axis


def _opset(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    if not node.domain and opset < row.min_opset:
        return f"the target takes quantized {node.op_type} from opset {row.min_opset}; the model has {opset}"
    return None


def _attributes(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    for name, required in row.attributes.items():
        actual = ir.attribute(node, name, required)
        if actual != required:
            return f"the integer kernel needs {name}={required}, the node has {actual}"
    return None


def _ranks(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    if row.ranks is None:
        return None
    if shape is None:
        return "the rank of its input is unknown"
    return None if len(shape) in row.ranks else f"the integer kernel takes rank {row.ranks}, not {len(shape)}"


def _zero_inputs(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    for index in row.zero_inputs:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        tensor = ir.constant_tensor(value)
        if tensor is None or tensor.size != 1 or tensor.numpy().item() != 0:
            return f"input {index} ({value.name}) is not a constant 0"
    return None


def _float_operands(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    indices = range(len(node.inputs)) if row.inputs is None else row.inputs
    operands = [node.inputs[i] for i in indices if i < len(node.inputs)]
    results = [node.outputs[0]] if row.role is not Role.TRANSPARENT else list(node.outputs)
    for value in (*operands, *results):
        if value is None:
            return "an operand is absent"
        if value.dtype is None:
            return f"the type of {value.name} is unknown: shape inference did not reach it"
        if value.dtype is not ir.DataType.FLOAT:
            return f"{value.name} is {value.dtype.name}, not FLOAT"
    return None


def _constant_operands(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    """Constants are allowed where the table says weight; elsewhere they would be quantized as activations."""
    indices = range(len(node.inputs)) if row.inputs is None else row.inputs
    for index in indices:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and index != row.weight and ir.constant_tensor(value) is not None:
            return f"input {index} ({value.name}) is a constant, which the table does not list as a weight"
    return None


def _weight(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    if row.weight is None or row.weight_support is None:
        return None
    value = node.inputs[row.weight] if row.weight < len(node.inputs) else None
    if value is None:
        return "its weight is absent"
    tensor = ir.constant_tensor(value)
    if tensor is None:
        may_be_activation = row.inputs is None or row.weight in row.inputs
        return None if may_be_activation else f"its weight {value.name} is not a constant"
    if tensor.dtype is not ir.DataType.FLOAT:
        return f"its weight {value.name} is {tensor.dtype.name}, not FLOAT"
    return None


def _groups(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    least = row.weight_support.min_group_inputs if row.weight_support is not None else 1
    groups = ir.attribute(node, "group", 1) if least > 1 else 1
    weight = node.inputs[row.weight] if row.weight is not None and row.weight < len(node.inputs) else None
    if groups == 1 or weight is None:
        return None
    inputs = weight.shape[1] if weight.shape is not None and len(weight.shape) > 1 else None
    if isinstance(inputs, int) and inputs >= least:
        return None
    return f"its {groups} groups have {inputs} input channels each, and integers pay on the target from {least}"


def _bias(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    if row.bias is None or row.bias_dtype is ir.DataType.FLOAT:
        return None
    if row.bias >= len(node.inputs) or node.inputs[row.bias] is None:
        return None
    bias = node.inputs[row.bias]
    tensor = ir.constant_tensor(bias) if bias is not None else None
    if bias is None or tensor is None:
        return "its bias is not a constant"
    axis = weight_axis(node, row)
    weight = node.inputs[row.weight] if row.weight is not None else None
    if axis is None or weight is None or weight.shape is None:
        return None
    channels = weight.shape[axis]
    shape = tuple(tensor.shape)
    if not shape or shape[-1] != channels or tensor.size != channels:
        return f"its bias {bias.name} has shape {shape}, not one value for each of {channels} channels"
    return None


def _single_output(node: ir.Node, row: OpSupport, opset: int) -> str | None:
    extra = [o.name for o in node.outputs[1:] if o.uses() or o.is_graph_output()]
    if extra and row.role is not Role.TRANSPARENT:
        return f"its further outputs {extra} are used"
    return None


_CONDITIONS: tuple[Condition, ...] = (
    _opset,
    _attributes,
    _ranks,
    _zero_inputs,
    _float_operands,
    _constant_operands,
    _weight,
    _groups,
    _bias,
    _single_output,
)
