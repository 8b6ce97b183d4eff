"""Packed projections: the one product for queries, keys and values becomes three, which run in INT8.

Exact: a column of a product depends on that column of the weight alone.
"""

from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.legalization.editing import Array, Editor, Parameters, declared
from sardonyx.backends.tensorrt.qdq import BYTES, Quantizer, constant, input_of, is_constant
from sardonyx.backends.tensorrt.rules.integers import sides, weight_axis
from sardonyx.backends.tensorrt.rules.projections import PARTS, PackedProjection, packed_projection

_AXES_AS_INPUT = 13
"""Squeeze takes its axes as an input from opset 13."""


def cut_packed_projections(editor: Editor) -> None:
    """A product of INT8 whose thirds are queries, keys and values becomes a product for each."""
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            seen = sides(node) if node.op_type in ("MatMul", "Gemm") and not node.domain else None
            if seen is None or seen.data is None or seen.weight is None or seen.weight.dtype not in BYTES:
                continue
            packed = packed_projection(node)
            if packed is None:
                continue
            why = _obstacle(editor, packed, seen.weight)
            if why:
                editor.keep(node, why)
                continue
            _cut(_Cut(editor, packed, seen.weight))
            editor.report(node, "queries, keys and values got a product each, which is exact")


def _obstacle(editor: Editor, packed: PackedProjection, weight: Quantizer) -> str:
    """Why a packed projection cannot be cut, or an empty text."""
    bias = input_of(packed.product, 2)
    if not is_constant(weight.data) or not weight.is_known:
        return "its second factor is computed while the model runs"
    if packed.product.inputs[1] is not weight.output:
        return f"its weights are moved between {weight.node.name!r} and it"
    if weight.block_size:
        return f"its weights have blocks of {weight.block_size}"
    if not weight.is_per_tensor and weight.axis != weight_axis(packed.product, weight):
        return f"its weights have their scales along axis {weight.axis}"
    if bias is not None and not is_constant(bias):
        return f"its bias {bias.name!r} is computed while the model runs"
    if editor.opset < _AXES_AS_INPUT:
        return f"opset {editor.opset} is older than {_AXES_AS_INPUT}"
    return ""


@dataclass(frozen=True)
class _Cut:
    """What is needed to write the parts of one projection."""

    editor: Editor
    packed: PackedProjection
    weight: Quantizer

    @property
    def width(self) -> int:
        """Columns of a part."""
        return self.packed.columns // PARTS

    def third(self, array: Array, axis: int, index: int) -> Array:
        """Those elements of a constant that belong to a part; all where it does not have one for each column."""
        if not array.ndim or array.shape[axis] != self.packed.columns:
            return array
        return np.take(array, range(index * self.width, (index + 1) * self.width), axis=axis)


def _cut(cut: _Cut) -> None:
    packed, editor = cut.packed, cut.editor
    values = [_replayed(cut, index) for index in range(PARTS)]
    makers = []
    for part in packed.parts:
        value, maker = values[part.index], part.value.producer()
        assert maker is not None, "parts are made by Split, Slice or Gather"
        if not part.keeps_axis:
            axes = editor.constant(maker, f"{part.value.name}_axis", [packed.axis], ir.DataType.INT64)
            value = editor.op(maker, "Squeeze", [value, axes], like=part.value)
        editor.replace(part.value, value)
        makers.append(maker)
    ir.remove_unused([*makers, *reversed(packed.steps), packed.product])


def _replayed(cut: _Cut, index: int) -> ir.Value:
    """Writes the product of one part and the steps behind it, each in front of the original."""
    value = _product(cut, index)
    for step in cut.packed.steps:
        value = _WRITERS[step.op_type](cut, step, value, index)
    return value


def _product(cut: _Cut, index: int) -> ir.Value:
    node, editor, seen = cut.packed.product, cut.editor, cut.weight
    axis = weight_axis(node, seen)
    stored, (scale, zero_point, _) = constant(seen.data), seen.constants
    assert stored is not None, "the weight was seen to be a constant"
    assert axis is not None, "the rank of a constant is known"
    name = f"{seen.data.name}_part{index}"
    if seen.is_per_tensor:
        scales, zeros = scale.reshape(()), zero_point.ravel()[0]
    else:
        scales, zeros = (
            cut.third(np.broadcast_to(each.ravel(), cut.packed.columns), 0, index) for each in (scale, zero_point)
        )
    parameters = Parameters(
        editor.constant(node, f"{name}_scale", scales),
        editor.constant(node, f"{name}_zero_point", zeros),
        None if seen.is_per_tensor else axis,
    )
    kept = editor.constant(node, name, cut.third(stored, axis, index))
    inputs = [node.inputs[0], editor.dequantize(node, kept, parameters)]
    bias = constant(input_of(node, 2))
    if bias is not None:
        inputs.append(editor.constant(node, f"{name}_bias", cut.third(bias, -1, index)))
    return declared(
        editor.op(node, node.op_type, inputs, tuple(node.attributes.values())),
        node.outputs[0].dtype,
        _resized(node.outputs[0], -1, cut.width),
    )


def _resized(value: ir.Value, axis: int, size: int) -> ir.Shape | None:
    if value.shape is None:
        return None
    dims = list(value.shape)
    dims[axis] = size
    return ir.Shape(dims)


def _add(cut: _Cut, step: ir.Node, value: ir.Value, index: int) -> ir.Value:
    bias = next(each for each in step.inputs if is_constant(each))
    stored = constant(bias)
    assert bias is not None, "an Add on the way adds a constant"
    assert stored is not None, "an Add on the way adds a constant"
    part = cut.editor.constant(step, f"{bias.name}_part{index}", cut.third(stored, -1, index))
    return declared(cut.editor.op(step, "Add", [value, part]), value.dtype, value.shape)


def _reshape(cut: _Cut, step: ir.Node, value: ir.Value, index: int) -> ir.Value:
    """The same shape with a third of the columns, or with one part instead of three."""
    output = step.outputs[0]
    rank = len(output.shape) if output.shape is not None else 0
    flat = output.shape is not None and output.shape[-1] == cut.packed.columns
    axis, size = (rank - 1, cut.width) if flat else (_divided_axis(cut.packed), 1)
    shape = _shape_with(cut.editor, step, axis, size)
    made = cut.editor.op(step, "Reshape", [value, shape], tuple(step.attributes.values()))
    return declared(made, output.dtype, _resized(output, axis, size))


def _divided_axis(packed: PackedProjection) -> int:
    """The axis of three parts as the Reshape writes it, before it was moved."""
    axis = packed.axis
    for step in reversed(packed.steps):
        if step.op_type == "Transpose":
            axis = _order(step)[axis]
    return axis


def _order(step: ir.Node) -> tuple[int, ...]:
    shape = step.outputs[0].shape
    return tuple(ir.attribute(step, "perm", ())) or tuple(reversed(range(len(shape) if shape is not None else 0)))


def _shape_with(editor: Editor, step: ir.Node, axis: int, size: int) -> ir.Value:
    """The shape input of a Reshape with another size at one axis; a constant where it was one."""
    given = step.inputs[1]
    assert given is not None, "Reshape has a shape"
    stored = constant(given)
    if stored is not None:
        dims = stored.copy()
        dims[axis] = size
        return editor.constant(step, f"{given.name}_part", dims)
    ends = [editor.constant(step, f"{given.name}_end", [end], ir.DataType.INT64) for end in (0, axis, axis + 1, 2**31)]
    before, behind = (editor.op(step, "Slice", [given, *pair]) for pair in (ends[:2], ends[2:]))
    middle = editor.constant(step, f"{given.name}_size", [size], ir.DataType.INT64)
    return editor.op(step, "Concat", [before, middle, behind], [ir.AttrInt64("axis", 0)])


def _transpose(cut: _Cut, step: ir.Node, value: ir.Value, index: int) -> ir.Value:
    output = step.outputs[0]
    made = cut.editor.op(step, "Transpose", [value], tuple(step.attributes.values()))
    shape = None if value.shape is None else ir.Shape([value.shape[axis] for axis in _order(step)])
    return declared(made, output.dtype, shape)


_WRITERS = {"Add": _add, "Reshape": _reshape, "Transpose": _transpose}
