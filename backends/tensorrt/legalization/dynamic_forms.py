"""Dynamic quantization (activations quantized while the model runs) becomes float arithmetic on stored INT8 weights.

TensorRT has no INT8 of that kind. The weights keep their integers behind DequantizeLinear, so that the size stays; the
activations are no longer rounded to 8 bits, which moves results towards those of the float model.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.legalization.editing import Array, Editor, Parameters
from sardonyx.backends.tensorrt.qdq import constant, input_of, is_operator, only_user, rank_of
from sardonyx.ir import DataType

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_LSTM = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
_DYNAMIC = "weights stay INT8 behind DequantizeLinear and it computes in float, without rounding activations to 8 bits"


@dataclass(frozen=True)
class Factor:
    """One of the two factors of an integer product: quantized while the model runs, or constant integers."""

    value: ir.Value
    zero_point: ir.Value | None
    source: ir.Node | None

    @property
    def scale_output(self) -> ir.Value | None:
        """The scale that DynamicQuantizeLinear computes."""
        return None if self.source is None else self.source.outputs[1]


@dataclass(frozen=True)
class Scaled:
    """What multiplies an integer product back to real values.

    Attributes:
        end: The last Mul: it yields the real product.
        constants: The product of the constant factors, or None.
    """

    end: ir.Node
    constants: Array | None


def _factor(node: ir.Node, at: int, zero_point: int) -> Factor | None:
    value = input_of(node, at)
    if value is None:
        return None
    producer = value.producer()
    if is_operator(producer, "DynamicQuantizeLinear"):
        return Factor(value, input_of(node, zero_point), producer)
    return Factor(value, input_of(node, zero_point), None) if constant(value) is not None else None


def _leaves(value: ir.Value | None, wanted: set[ir.Value], depth: int = 0) -> Iterator[ir.Value] | None:
    """The factors that a tree of Mul nodes multiplies, or None where one is neither wanted nor constant."""
    if value is None or depth > 4:
        return None
    if value in wanted or constant(value) is not None:
        return iter((value,))
    node = value.producer()
    if node is None or node.op_type != "Mul" or node.domain:
        return None
    parts = [_leaves(each, wanted, depth + 1) for each in node.inputs]
    return None if any(part is None for part in parts) else iter([leaf for part in parts if part for leaf in part])


def _scaled(node: ir.Node, factors: tuple[Factor, Factor]) -> Scaled | str:
    """Follows an integer product through Cast and Mul until all its scales are multiplied in."""
    missing = {factor.scale_output for factor in factors if factor.scale_output is not None}
    wanted = set(missing)
    constants: Array | None = None
    needs_constant = any(factor.source is None for factor in factors)
    cast = only_user(node.outputs[0])
    if cast is None or cast.op_type != "Cast" or ir.attribute(cast, "to", 0) != DataType.FLOAT:
        return "its integers are not cast to FLOAT for the product with the scales"
    current = cast
    while missing or (needs_constant and constants is None):
        following = only_user(current.outputs[0])
        if following is None or following.op_type != "Mul":
            return "no Mul with the scales follows it"
        other = following.inputs[1] if following.inputs[0] is current.outputs[0] else following.inputs[0]
        leaves = _leaves(other, wanted)
        if leaves is None:
            return f"{following.name!r} multiplies it by something else than the scales"
        for leaf in leaves:
            known = constant(leaf)
            if known is None:
                missing.discard(leaf)
            else:
                constants = known if constants is None else constants * known
        current = following
    return Scaled(current, constants)


def _integer_product(op_type: str, attributes: tuple[str, ...]) -> Callable[[Editor, ir.Node], str]:
    def rewrite(editor: Editor, node: ir.Node) -> str:
        first, second = _factor(node, 0, 2), _factor(node, 1, 3)
        if first is None or second is None:
            return "an input is neither a constant nor made by DynamicQuantizeLinear"
        if first.source is None and second.source is None:
            return "both inputs are constants"
        scaled = _scaled(node, (first, second))
        if isinstance(scaled, str):
            return scaled
        inputs = [_real(editor, scaled, factor, op_type) for factor in (first, second)]
        if any(value is None for value in inputs):
            return "the scales of its weights do not lie along their last dimension"
        kept = [node.attributes[name] for name in attributes if name in node.attributes]
        made = editor.op(scaled.end, op_type, inputs, kept, like=scaled.end.outputs[0])
        editor.replace(scaled.end.outputs[0], made)
        ir.remove_unused([scaled.end])
        return ""

    return rewrite


def _real(editor: Editor, scaled: Scaled, factor: Factor, op_type: str) -> ir.Value | None:
    """A factor as real numbers: what was quantized, or the constant behind DequantizeLinear."""
    if factor.source is not None:
        return factor.source.inputs[0]
    scale, shape = scaled.constants, factor.value.shape
    if scale is None or shape is None:
        return None
    several = scale.size > 1
    if several and (op_type != "MatMul" or scale.size != shape[-1] or scale.shape[-1:] != (scale.size,)):
        return None
    axis = len(shape) - 1 if several else None
    return editor.dequantize(scaled.end, factor.value, _constants(editor, scaled.end, factor, scale, axis))


def _constants(editor: Editor, near: ir.Node, factor: Factor, scale: Array, axis: int | None) -> Parameters:
    name, dtype = factor.value.name, factor.value.dtype or DataType.INT8
    zeros = constant(factor.zero_point)
    zeros = np.zeros((), dtype.numpy()) if zeros is None else zeros
    shape = () if axis is None else (scale.size,)
    return Parameters(
        editor.constant(near, f"{name}_scale", np.asarray(scale, np.float32).reshape(shape)),
        editor.constant(
            near, f"{name}_zero_point", np.broadcast_to(zeros.ravel() if shape else zeros.reshape(()), shape)
        ),
        axis,
    )


def _weight(editor: Editor, node: ir.Node, at: int, scale: int, zero_point: int) -> ir.Value | None:
    """DequantizeLinear of the weight at an input, with scales per column where there are several."""
    value, scales = input_of(node, at), constant(input_of(node, scale))
    rank = rank_of(value)
    if value is None or scales is None or rank is None or constant(value) is None:
        return None
    factor = Factor(value, input_of(node, zero_point), None)
    return editor.dequantize(
        node, value, _constants(editor, node, factor, scales, rank - 1 if scales.size > 1 else None)
    )


def _finish(editor: Editor, node: ir.Node, data: ir.Value, weight: ir.Value, bias: ir.Value | None) -> str:
    output = node.outputs[0]
    made = editor.op(node, "MatMul", [data, weight], like=output)
    made = made if bias is None else editor.op(node, "Add", [made, bias], like=output)
    editor.replace(output, made)
    ir.remove_unused([node])
    return ""


def _integer_to_float(editor: Editor, node: ir.Node) -> str:
    value, scale = input_of(node, 0), input_of(node, 2)
    weight = _weight(editor, node, 1, 3, 5)
    if value is None or scale is None or weight is None:
        return "its weights or their scales are computed while the model runs"
    source = value.producer()
    if is_operator(source, "DynamicQuantizeLinear") and source is not None and scale is source.outputs[1]:
        data = source.inputs[0]
    elif constant(scale) is not None and input_of(node, 4) is not None:
        data = editor.dequantize(node, value, Parameters(scale, input_of(node, 4)))
    else:
        return "the scale of its activation is computed while the model runs"
    assert data is not None, "the input of DynamicQuantizeLinear is required"
    return _finish(editor, node, data, weight, input_of(node, 6))


def _dynamic_matmul(editor: Editor, node: ir.Node) -> str:
    data, weight = input_of(node, 0), _weight(editor, node, 1, 2, 3)
    if data is None or weight is None:
        return "its weights or their scales are computed while the model runs"
    return _finish(editor, node, data, weight, input_of(node, 4))


def _lstm(editor: Editor, node: ir.Node) -> str:
    weights = [_lstm_weight(node, *at) for at in ((1, 8, 9), (2, 10, 11))]
    if any(weight is None for weight in weights):
        return "its weights or their scales are computed while the model runs"
    names = ("W", "R")
    made = [
        editor.constant(node, f"{node.name}_{name}", np.ascontiguousarray(weight.transpose(0, 2, 1)))
        for name, weight in zip(names, weights, strict=True)
        if weight is not None
    ]
    inputs = [input_of(node, 0), *made, *(input_of(node, index) for index in range(3, 8))]
    while inputs[-1] is None:
        inputs.pop()
    kept = [node.attributes[name] for name in _LSTM if name in node.attributes]
    lstm = ir.Node("", "LSTM", inputs, kept, num_outputs=len(node.outputs), name=editor.names.node(f"{node.name}_LSTM"))
    ir.mark(lstm, "legalize", node.name)
    graph = node.graph
    assert isinstance(graph, ir.Graph), "nodes of a model are in a graph"
    graph.insert_before(node, lstm)
    for old, new in zip(node.outputs, lstm.outputs, strict=True):
        new.name = editor.names.value(f"{old.name}_float") if old.name else ""
        new.type, new.shape = old.type, old.shape
        editor.replace(old, new)
    ir.remove_unused([node])
    return ""


def _lstm_weight(node: ir.Node, at: int, scale: int, zero_point: int) -> Array | None:
    """Weights [directions, inputs, 4 hidden] as floats; scales and zero points per direction or also per column."""
    stored, scales, zeros = (constant(input_of(node, index)) for index in (at, scale, zero_point))
    if stored is None or scales is None or stored.ndim != 3:
        return None
    shape = (stored.shape[0], 1, -1)
    centred = stored.astype(np.float32) - (0 if zeros is None else zeros.astype(np.float32).reshape(shape))
    return (centred * scales.reshape(shape)).astype(np.float32)


REWRITES: Mapping[str, tuple[Callable[[Editor, ir.Node], str], str]] = {
    "MatMulInteger": (_integer_product("MatMul", ()), _DYNAMIC),
    "ConvInteger": (_integer_product("Conv", _WINDOW), _DYNAMIC),
    "MatMulIntegerToFloat": (_integer_to_float, _DYNAMIC),
    "DynamicQuantizeMatMul": (_dynamic_matmul, _DYNAMIC),
    "DynamicQuantizeLSTM": (_lstm, "weights became FP32 and it computes in float"),
}
"""What rewrites an operator (it returns why it does not), and what to tell of it."""


def write_float(editor: Editor) -> None:
    """Rewrites all dynamically quantized products of a model."""
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            if node.op_type not in REWRITES or node.graph is None:
                continue
            rewrite, told = REWRITES[node.op_type]
            problem = rewrite(editor, node)
            if problem:
                editor.keep(node, problem)
            else:
                editor.report(node, f"{node.op_type} was dynamic quantization: {told}", exact=False)
