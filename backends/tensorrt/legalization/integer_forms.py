"""Operators that compute with integers directly (QLinearConv, QGemm, QLinearAdd, ...) become Q/DQ around float ones.

That is exact but for rounding: ONNX defines these operators as the float operator between the same scales and zero
points, and integer kernels round where float arithmetic rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.backends.tensorrt.legalization.editing import Editor, Parameters, declared
from sardonyx.backends.tensorrt.qdq import constant, input_of, rank_of

Indices = tuple[int, int, int]


@dataclass(frozen=True)
class Operand:
    """A quantized input: the value, its parameters, and the axis of those if there are several."""

    value: ir.Value | None
    scale: ir.Value | None
    zero_point: ir.Value | None
    axis: int = 0


@dataclass(frozen=True)
class Form:
    """An integer operator as a float one.

    Attributes:
        op_type: The float operator.
        operands: Its quantized inputs.
        output: Scale and zero point of its output; None where the output is float.
        others: Its float inputs behind the quantized ones, made on demand.
        first: Its inputs that are neither and stand in front, as the condition of Where.
        attributes: Names of attributes that it takes over.
        more: Attributes that it gets besides.
    """

    op_type: str
    operands: tuple[Operand, ...]
    output: tuple[ir.Value | None, ir.Value | None] | None
    others: Callable[[Editor], Sequence[ir.Value | None]] = lambda editor: ()
    first: tuple[ir.Value | None, ...] = ()
    attributes: tuple[str, ...] = ()
    more: tuple[ir.Attr, ...] = ()


Reader = Callable[[ir.Node, Editor], "Form | str"]
"""Reads an integer operator, or says why it cannot be written in float."""

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides")


def _operand(node: ir.Node, at: Indices, axis: int = 0) -> Operand:
    value, scale, zero_point = (input_of(node, index) for index in at)
    return Operand(value, scale, zero_point, axis)


def _float_bias(
    node: ir.Node, at: int, scales: tuple[int, int], factor: float
) -> Callable[[Editor], Sequence[ir.Value | None]] | str:
    bias = input_of(node, at)
    if bias is None:
        return lambda editor: ()
    stored, first, second = (constant(v) for v in (bias, input_of(node, scales[0]), input_of(node, scales[1])))
    if stored is None or first is None or second is None:
        return f"its bias {bias.name!r} is computed while the model runs"
    # Rounded to float32 once each, as DequantizeLinear with the scale x * w rounds.
    array = (stored.astype("float32") * (first * second).astype("float32") * factor).astype("float32")
    return lambda editor: (editor.constant(node, f"{bias.name}_float", array),)


def _conv(node: ir.Node, editor: Editor) -> Form | str:
    bias = _float_bias(node, 8, (1, 4), 1.0)
    if isinstance(bias, str):
        return bias
    operands = (_operand(node, (0, 1, 2)), _operand(node, (3, 4, 5), axis=0))
    return Form("Conv", operands, (input_of(node, 6), input_of(node, 7)), bias, attributes=_WINDOW)


def _matmul(node: ir.Node, editor: Editor) -> Form | str:
    ranks = rank_of(input_of(node, 0)), rank_of(input_of(node, 3))
    if None in ranks:
        return "the ranks of its inputs are unknown"
    a = _operand(node, (0, 1, 2), axis=max((ranks[0] or 2) - 2, 0))
    b = _operand(node, (3, 4, 5), axis=(ranks[1] or 1) - 1)
    return Form("MatMul", (a, b), (input_of(node, 6), input_of(node, 7)))


def _gemm(node: ir.Node, editor: Editor) -> Form | str:
    alpha = ir.attribute(node, "alpha", 1.0)
    bias = _float_bias(node, 6, (1, 4), alpha)
    if isinstance(bias, str):
        return bias
    axis = 0 if ir.attribute(node, "transB", 0) else 1
    operands = (_operand(node, (0, 1, 2)), _operand(node, (3, 4, 5), axis=axis))
    output = (input_of(node, 7), input_of(node, 8)) if input_of(node, 7) is not None else None
    return Form("Gemm", operands, output, bias, attributes=("alpha", "transA", "transB"))


def _elementwise(op_type: str) -> Reader:
    def read(node: ir.Node, editor: Editor) -> Form | str:
        operands = (_operand(node, (0, 1, 2)), _operand(node, (3, 4, 5)))
        return Form(op_type, operands, (input_of(node, 6), input_of(node, 7)))

    return read


def _unary(op_type: str, attributes: tuple[str, ...] = ()) -> Reader:
    def read(node: ir.Node, editor: Editor) -> Form | str:
        if ir.attribute(node, "channels_last", 0):
            return "its channels are the last dimension (channels_last)"
        output = (input_of(node, 3), input_of(node, 4))
        return Form(op_type, (_operand(node, (0, 1, 2)),), output, attributes=attributes)

    return read


def _softmax(node: ir.Node, editor: Editor) -> Form | str:
    rank = rank_of(input_of(node, 0))
    axis = ir.attribute(node, "axis", -1)
    last = rank is not None and axis in (-1, rank - 1)
    if ir.attribute(node, "opset", 13) < 13 and not last:
        return "it flattens its input as Softmax did before opset 13"
    return Form(
        "Softmax",
        (_operand(node, (0, 1, 2)),),
        (input_of(node, 3), input_of(node, 4)),
        more=(ir.AttrInt64("axis", axis),),
    )


def _reduce_mean(node: ir.Node, editor: Editor) -> Form | str:
    output = (input_of(node, 3), input_of(node, 4))
    axes = ir.attribute(node, "axes", ())
    form = Form("ReduceMean", (_operand(node, (0, 1, 2)),), output, attributes=("axes", "keepdims"))
    if editor.opset < 18 or not axes:
        return form
    others = lambda editor: (editor.constant(node, f"{node.name}_axes", list(axes), ir.DataType.INT64),)  # noqa: E731
    return Form("ReduceMean", form.operands, output, others, attributes=("keepdims",))


def _concat(node: ir.Node, editor: Editor) -> Form | str:
    operands = tuple(_operand(node, (i, i + 1, i + 2)) for i in range(2, len(node.inputs) - 2, 3))
    return Form("Concat", operands, (input_of(node, 0), input_of(node, 1)), attributes=("axis",))


def _where(node: ir.Node, editor: Editor) -> Form | str:
    operands = (_operand(node, (1, 2, 3)), _operand(node, (4, 5, 6)))
    return Form("Where", operands, (input_of(node, 7), input_of(node, 8)), first=(input_of(node, 0),))


READERS: Mapping[str, Reader] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _elementwise("Add"),
    "QLinearMul": _elementwise("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu", ("alpha",)),
    "QLinearAveragePool": _unary("AveragePool", _POOL),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearSoftmax": _softmax,
    "QLinearReduceMean": _reduce_mean,
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
}
"""Integer operators that have a float form between Q/DQ pairs."""


def write_pairs(editor: Editor) -> None:
    """Rewrites all integer operators of the table to Q/DQ form."""
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            reader = READERS.get(node.op_type)
            if reader is None:
                continue
            form = _checked(reader(node, editor))
            if isinstance(form, str):
                editor.keep(node, form)
                continue
            _rewrite(editor, node, form)
            told = f"{node.op_type} became {form.op_type} between Q/DQ pairs, equal but for rounding"
            editor.report(node, told, exact=False)  # at a tie that is a whole step of the integers


def _checked(form: Form | str) -> Form | str:
    """A form whose required inputs are there, or why it cannot be written."""
    if isinstance(form, str):
        return form
    for operand in form.operands:
        if operand.value is None or operand.scale is None:
            return "it leaves out an input that its schema requires"
    if form.output is not None and form.output[0] is None:
        return "it leaves out the scale of its output"
    return form


def _rewrite(editor: Editor, node: ir.Node, form: Form) -> None:
    inputs = [*form.first, *(_restored(editor, node, operand) for operand in form.operands), *form.others(editor)]
    attributes = [node.attributes[name] for name in form.attributes if name in node.attributes]
    made = editor.op(node, form.op_type, inputs, [*attributes, *form.more])
    output = node.outputs[0]
    declared(made, ir.DataType.FLOAT, output.shape)
    if form.output is not None and form.output[0] is not None:
        made = editor.quantize(node, made, _parameters(editor, node, form.output[0], form.output[1], output.dtype, 0))
    editor.replace(output, made)
    ir.remove_unused([node])


def _restored(editor: Editor, node: ir.Node, operand: Operand) -> ir.Value:
    assert operand.value is not None, "forms were checked"
    assert operand.scale is not None, "forms were checked"
    dtype = operand.value.dtype
    parameters = _parameters(editor, node, operand.scale, operand.zero_point, dtype, operand.axis)
    return editor.dequantize(node, operand.value, parameters)


def _parameters(
    editor: Editor,
    node: ir.Node,
    scale: ir.Value,
    zero_point: ir.Value | None,
    dtype: ir.DataType | None,
    axis: int,
) -> Parameters:
    """Parameters as scalars where they are one element, with a zero point where it was left out."""
    known = constant(scale)
    several = known is not None and known.size > 1
    if known is not None and known.size == 1 and known.ndim:
        scale = editor.constant(node, f"{scale.name}_scalar", known.reshape(()))
    zeros = constant(zero_point)
    if zero_point is None:
        zero_point = editor.constant(node, f"{scale.name}_zero_point", 0, dtype or ir.DataType.UINT8)
    elif zeros is not None and zeros.size == 1 and zeros.ndim and not several:
        zero_point = editor.constant(node, f"{zero_point.name}_scalar", zeros.reshape(()))
    return Parameters(scale, zero_point, axis if several else None)
