"""Quantized values: every QuantizeLinear gets its DequantizeLinear, with INT8 and zero point 0 on both sides.

Values of another zero point are shifted where all of them fit INT8, which changes nothing. Where they do not, the range
is widened to a symmetric one. What saturated before (quantizers drop a Relu or Clip that saturation stands for) then
saturates in a Relu or Clip.
"""

from collections.abc import Mapping

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.legalization.editing import Array, Editor, Parameters, declared, graph_of
from sardonyx.backends.tensorrt.qdq import (
    BYTES,
    MICROSOFT,
    MOVES,
    Quantizer,
    constant,
    dequantizer_of,
    input_of,
    is_constant,
    is_dequantize,
    is_quantize,
    limits,
    quantizer,
    quantizers,
)
from sardonyx.ir import DataType

CLAMP_STEPS = 2.0
"""A widened range reaches so many steps of the old scale past the old one before saturation gets a node of its own:
the ends of ranges that quantizers call symmetric differ by that much."""

_WIDE = frozenset((DataType.INT16, DataType.UINT16))
_ON_INTEGERS = BYTES | _WIDE
_MOVES = MOVES | {"Resize", "Pad"}


def use_standard_domain(editor: Editor) -> None:
    """Q/DQ of ONNX Runtime's domain become the standard ones where those mean the same."""
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            if seen.node.domain == MICROSOFT and seen.dtype in BYTES | {DataType.INT32} and not seen.block_size:
                seen.node.domain = ""
                editor.report(seen.node, "Q/DQ of the domain com.microsoft became the standard operator")


def float_moves(editor: Editor) -> None:
    """Operators that move quantized integers move the dequantized values instead, and the result is quantized again.

    Exact: element by element, the same integers come out.
    """
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            if node.op_type not in _MOVES or node.domain or not node.inputs:
                continue
            source = _shared_quantizer(node)
            if source is None or not _moves_only(node):
                continue
            _move_in_float(editor, node, source)
            editor.report(node, f"{node.op_type} on integers moved between Q/DQ pairs, which is exact")


def _shared_quantizer(node: ir.Node) -> Quantizer | None:
    """The per-tensor quantization that all data inputs of a node share, or None."""
    count = len(node.inputs) if node.op_type == "Concat" else 1
    found = [_origin(value) for value in node.inputs[:count]]
    first = found[0]
    if first is None or first.dtype not in _ON_INTEGERS or not first.is_per_tensor or first.zero_point is None:
        return None
    same = all(each is not None and _parameters_of(each) == _parameters_of(first) for each in found)
    return first if same else None


def _parameters_of(seen: Quantizer) -> tuple[float, int, DataType]:
    scale, zero_point, dtype = seen.constants
    return float(scale.ravel()[0]), int(zero_point.ravel()[0]), dtype


def _origin(value: ir.Value | None) -> Quantizer | None:
    """The QuantizeLinear that makes a value."""
    node = None if value is None else value.producer()
    return quantizer(node) if node is not None and is_quantize(node) else None


def _moves_only(node: ir.Node) -> bool:
    """Whether padding and resizing make no values that were not there; padding with anything but 0 does."""
    if node.op_type == "Resize":
        return ir.attribute(node, "mode", "nearest") == "nearest"
    return node.op_type != "Pad" or ir.attribute(node, "mode", "constant") != "constant"


def _move_in_float(editor: Editor, node: ir.Node, source: Quantizer) -> None:
    parameters = _same(source)
    scale_dtype = parameters.scale.dtype
    count = len(node.inputs) if node.op_type == "Concat" else 1
    for index in range(count):
        value = node.inputs[index]
        assert value is not None, "data inputs were looked at"
        node.replace_input_with(index, editor.dequantize(node, value, parameters))
    following = graph_of(node)
    for output in node.outputs:
        if not output.name:
            continue
        quantize = ir.Node(
            "", "QuantizeLinear", [output, *source.node.inputs[1:]], name=editor.names.node(f"{node.name}_Q")
        )
        made = quantize.outputs[0]
        made.name = editor.names.value(f"{output.name}_quantized")
        declared(made, source.dtype, output.shape)
        following.insert_after(node, quantize)
        ir.mark(quantize, "legalize", node.name)
        _hand_over(output, made, quantize)
        declared(output, scale_dtype, output.shape)


def _hand_over(old: ir.Value, new: ir.Value, except_for: ir.Node) -> None:
    """Lets the readers of a value, but one node, read another, which takes its name as graph output."""
    for use in tuple(old.uses()):
        if use.node is not except_for:
            use.node.replace_input_with(use.idx, new)
    graph = old.graph
    if graph is not None and old.is_graph_output():
        name = old.name
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = new
        old.name, new.name = f"{new.name}_float", name


def _same(seen: Quantizer) -> Parameters:
    """The parameters of a node for another node of the same values."""
    scale = input_of(seen.node, 1)
    assert scale is not None, "the scale is required"
    return Parameters(scale, input_of(seen.node, 2), None if seen.is_per_tensor else seen.axis)


def symmetric_activations(editor: Editor) -> None:
    """Activations become INT8 with zero point 0: shifted where that is exact, else widened; 16 bits become float."""
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            if is_constant(seen.data) or not is_quantize(seen.node) or seen.scale is None or seen.zero_point is None:
                continue
            if seen.dtype in _WIDE and seen.is_per_tensor and _only_dequantized(seen.output):
                _leave_in_float(editor, seen)
            elif seen.dtype in BYTES and (seen.dtype is DataType.UINT8 or not seen.is_symmetric):
                _make_symmetric(editor, seen)


def _only_dequantized(value: ir.Value) -> bool:
    return not value.is_graph_output() and all(is_dequantize(use.node) for use in value.uses())


def _is_same(seen: Quantizer, other: Quantizer) -> bool:
    """Whether a DequantizeLinear has the parameters of its QuantizeLinear."""
    if other.scale is None or other.zero_point is None or seen.scale is None or seen.zero_point is None:
        return False
    return np.array_equal(seen.scale.ravel(), other.scale.ravel()) and np.array_equal(
        np.broadcast_to(seen.zero_point.ravel(), seen.scale.size),
        np.broadcast_to(other.zero_point.ravel(), seen.scale.size),
    )


def _leave_in_float(editor: Editor, seen: Quantizer) -> None:
    readers = [quantizer(use.node) for use in seen.output.uses()]
    if not all(_is_same(seen, reader) for reader in readers):
        editor.keep(seen.node, "its DequantizeLinear has other parameters")
        return
    clamped = saturated(editor, seen, seen.node)
    dtype = seen.dtype.name if seen.dtype else ""
    for reader in readers:
        editor.replace(reader.output, clamped)
    ir.remove_unused([reader.node for reader in readers])
    told = f"{dtype} pairs were removed: what they round runs in float, with their saturation kept"
    editor.report(seen.node, told, exact=False)


def _make_symmetric(editor: Editor, seen: Quantizer) -> None:
    readers = [quantizer(use.node) for use in seen.output.uses()]
    if not _only_dequantized(seen.output) or not all(_is_same(seen, reader) for reader in readers):
        editor.keep(seen.node, "something else than a DequantizeLinear of the same parameters takes its integers")
        return
    scale, zero_point, dtype = seen.constants
    shift = limits(dtype)[0] - limits(DataType.INT8)[0]  # 128 for UINT8, 0 for INT8
    nodes = [seen.node, *(reader.node for reader in readers)]
    if np.all(zero_point.astype(np.int64) == shift):
        _write(editor, nodes, seen, scale)
        editor.report(seen.node, f"{dtype.name} with zero point {shift} became INT8 with zero point 0, which is exact")
    elif seen.is_per_tensor:
        _widen(editor, seen, nodes)
    else:
        editor.keep(seen.node, "its channels have different zero points")


def _write(editor: Editor, nodes: list[ir.Node], seen: Quantizer, scale: Array) -> None:
    """Gives Q/DQ nodes a scale and INT8 zero points of 0, which they share."""
    near = nodes[0]
    name = seen.data.name
    shape = () if seen.is_per_tensor else (scale.size,)
    values = (
        editor.constant(near, f"{name}_scale", np.asarray(scale).reshape(shape)),
        editor.constant(near, f"{name}_zero_point", np.zeros(shape, np.int8)),
    )
    for node in nodes:
        node.attributes.pop("output_dtype", None)
        node.resize_inputs(3)
        for index, value in enumerate(values, start=1):
            replace_input(node, index, value)
    declared(near.outputs[0], DataType.INT8, near.outputs[0].shape)


def replace_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Replaces an input, and removes the initializer that nothing needs any more."""
    old = node.inputs[index]
    node.replace_input_with(index, value)
    graph = None if old is None else old.graph
    if old is None or old.uses() or not old.is_initializer() or old.is_graph_input() or old.is_graph_output():
        return
    if graph is not None and old.name is not None:
        graph.initializers.pop(old.name, None)


def _widen(editor: Editor, seen: Quantizer, nodes: list[ir.Node]) -> None:
    scales, zeros, stored_as = seen.constants
    low, high = seen.range()
    smallest, largest = limits(DataType.INT8)
    scale = np.asarray(max(high / largest, low / smallest)).astype(scales.dtype)
    new = (smallest * float(scale), largest * float(scale))
    clamped = _clamp(editor, seen, seen.node, new)
    old = f"{stored_as.name} with zero point {int(zeros.ravel()[0])}"
    _write(editor, nodes, seen, scale)
    seen.node.replace_input_with(0, clamped)
    steps = float(scale) / float(scales.ravel()[0])
    editor.report(
        seen.node,
        f"{old} and range [{low:.4g}, {high:.4g}] became INT8 with zero point 0 and range "
        f"[{new[0]:.4g}, {new[1]:.4g}]: steps are {steps:.3g} times as wide",
        exact=False,
    )


def saturated(editor: Editor, seen: Quantizer, before: ir.Node) -> ir.Value:
    """Returns what a QuantizeLinear quantizes in float, with the saturation at its ends, for a node to read."""
    return _clamp(editor, seen, before, (-np.inf, np.inf))


def _clamp(editor: Editor, seen: Quantizer, before: ir.Node, new: tuple[float, float]) -> ir.Value:
    """Puts the saturation at the old ends where the new range reaches past them and nothing else keeps values in."""
    scales, _, _ = seen.constants
    value, old = seen.data, seen.range()
    slack = CLAMP_STEPS * float(scales.ravel()[0]) + 1e-6 * max(map(abs, old))
    known = known_range(value)
    low = old[0] if new[0] < old[0] - slack and known[0] < old[0] - slack else None
    high = old[1] if new[1] > old[1] + slack and known[1] > old[1] + slack else None
    return editor.clip(before, value, low, high)


_RANGES: Mapping[str, tuple[float, float]] = {
    "Relu": (0.0, np.inf),
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softplus": (0.0, np.inf),
    "Tanh": (-1.0, 1.0),
    "Abs": (0.0, np.inf),
    "Sqrt": (0.0, np.inf),
    "Exp": (0.0, np.inf),
}
"""What an operator's results lie in, whatever its input."""


def known_range(value: ir.Value) -> tuple[float, float]:
    """Returns an interval in which a value lies, as far as the nodes that make it tell."""
    low, high = -np.inf, np.inf
    for _ in range(100):
        node = value.producer()
        if node is None or node.domain or not node.inputs or node.inputs[0] is None:
            return low, high
        found = _node_range(node)
        if found is not None:
            return max(low, found[0]), min(high, found[1])
        keeps = (node.op_type in MOVES and node.op_type != "Concat") or node.op_type in (
            "GlobalAveragePool",
            "AveragePool",
        )
        if not keeps:
            return low, high
        value = node.inputs[0]
    return low, high


def _node_range(node: ir.Node) -> tuple[float, float] | None:
    if is_dequantize(node):
        seen = dequantizer_of(node.outputs[0])
        known = seen is not None and seen.is_per_tensor and seen.zero_point is not None and seen.dtype in _ON_INTEGERS
        return seen.range() if known and seen is not None else None
    if node.op_type == "Clip":
        ends = [constant(input_of(node, index)) for index in (1, 2)]
        low, high = (float(end.item()) if end is not None and end.size == 1 else None for end in ends)
        return (-np.inf if low is None else low, np.inf if high is None else high)
    return _RANGES.get(node.op_type)


def lone_integers(editor: Editor) -> None:
    """Integers that enter or leave the model without their other half are computed in float, as ONNX defines them.

    INT8 with zero point 0 is left: TensorRT binds such inputs and outputs.
    """
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            known = seen.scale is not None and seen.zero_point is not None and seen.is_per_tensor
            if not known or seen.dtype not in _ON_INTEGERS or (seen.dtype is DataType.INT8 and seen.is_symmetric):
                continue
            if is_dequantize(seen.node) and not is_constant(seen.data) and _origin(seen.data) is None:
                _dequantize_in_float(editor, seen)
            elif is_quantize(seen.node) and seen.output.is_graph_output():
                _quantize_in_float(editor, seen)


def _dequantize_in_float(editor: Editor, seen: Quantizer) -> None:
    scales, zeros, _ = seen.constants
    node, dtype = seen.node, DataType.from_numpy(scales.dtype)
    like = seen.output
    value = editor.op(node, "Cast", [seen.data], [ir.AttrInt64("to", dtype.value)], like=like)
    if not seen.is_symmetric:
        zero_point = editor.constant(node, f"{node.name}_zero_point", float(zeros.ravel()[0]), dtype)
        value = editor.op(node, "Sub", [value, zero_point], like=like)
    scale = editor.constant(node, f"{node.name}_scale", scales.reshape(()))
    editor.replace(seen.output, editor.op(node, "Mul", [value, scale], like=like))
    ir.remove_unused([node])
    editor.report(node, "DequantizeLinear of integers from outside became Cast, Sub and Mul, which is exact")


def _quantize_in_float(editor: Editor, seen: Quantizer) -> None:
    scales, zeros, stored_as = seen.constants
    node, dtype = seen.node, DataType.from_numpy(scales.dtype)
    readers = [use.node for use in seen.output.uses()]
    like = seen.data
    value = editor.op(node, "Div", [like, editor.constant(node, f"{node.name}_scale", scales.reshape(()))], like=like)
    value = editor.op(node, "Round", [value], like=like)
    if not seen.is_symmetric:
        zero_point = editor.constant(node, f"{node.name}_zero_point", float(zeros.ravel()[0]), dtype)
        value = editor.op(node, "Add", [value, zero_point], like=like)
    low, high = limits(stored_as)
    value = editor.clip(node, value, float(low), float(high))
    value = editor.op(node, "Cast", [value], [ir.AttrInt64("to", stored_as.value)], like=like)
    declared(value, stored_as, like.shape)
    if readers:
        copy = editor.quantize(node, seen.data, _same(seen))
        for reader in readers:
            reader.replace_input_with(0, copy)
    editor.replace(seen.output, value)
    ir.remove_unused([node])
    editor.report(node, "QuantizeLinear of an output became Div, Round, Clip and Cast, which is exact but for rounding")


def same_volume(editor: Editor) -> None:
    """One zero point beside several scales is repeated; parameters of one element become scalars."""
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            if seen.scale is None or seen.zero_point is None or seen.block_size or input_of(seen.node, 2) is None:
                continue
            if seen.zero_point.size == 1 < seen.scale.size:
                zeros = np.repeat(seen.zero_point.ravel(), seen.scale.size)
                replace_input(seen.node, 2, editor.constant(seen.node, f"{seen.node.name}_zero_point", zeros))
                editor.report(seen.node, "one zero point beside several scales was repeated")
