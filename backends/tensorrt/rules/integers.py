"""Rules about what Q/DQ nodes stand around: what TensorRT multiplies in INT8, and what it silently does in float."""

from collections.abc import Mapping
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.qdq import (
    BYTES,
    NIBBLES,
    Quantizer,
    dequantizer_of,
    input_of,
    is_constant,
    is_dequantize,
    is_quantize,
    only_user,
    producer_of,
    rank_of,
    through_moves,
)
from sardonyx.backends.tensorrt.rules.rule import Hit, Rule, Scope, names

PRODUCTS: Mapping[str, tuple[int, int]] = {"Conv": (0, 1), "MatMul": (0, 1), "Gemm": (0, 1)}
"""Operators that TensorRT multiplies in INT8, with the two inputs that must both be quantized."""

_TURING = "7.5"
_NORMS = names("LayerNormalization RMSNormalization InstanceNormalization GroupNormalization Softmax")


@dataclass(frozen=True)
class Sides:
    """The two factors of a product as TensorRT sees them.

    Attributes:
        data: What dequantizes the activation, moves skipped; None: it is in float.
        weight: What dequantizes the weight or second activation; None: it is in float.
        constant: Whether the second factor comes from a constant.
    """

    data: Quantizer | None
    weight: Quantizer | None
    constant: bool


def sides(node: ir.Node) -> Sides:
    """Reads what the two factors of a product are dequantized from."""
    first, second = (through_moves(input_of(node, index)) for index in PRODUCTS[node.op_type])
    weight = dequantizer_of(second)
    source = second if weight is None else weight.data
    maker = None if source is None else source.producer()
    if maker is not None and is_quantize(maker):
        source = maker.inputs[0]
    return Sides(_bytes(dequantizer_of(first)), weight, is_constant(source))


def _bytes(seen: Quantizer | None) -> Quantizer | None:
    """A quantizer to 8 bits whose integers come from a QuantizeLinear or a constant."""
    return seen if seen is not None and seen.dtype in BYTES and not seen.block_size else None


def weight_axis(node: ir.Node, weight: Quantizer) -> int | None:
    """Returns the axis of the stored weight along which TensorRT takes scales, or None where that is unknown.

    Axis 0 of Conv's weight; the columns of MatMul's second factor, never those that are summed over.
    """
    if node.op_type == "Conv":
        return 0
    rank = rank_of(weight.output)
    transposed = node.op_type == "Gemm" and ir.attribute(node, "transB", 0)
    axis = None if rank is None else rank - (2 if transposed else 1)
    moved = input_of(node, 1)
    while axis is not None and moved is not None and moved is not weight.output:
        mover = moved.producer()
        permutation = () if mover is None else ir.attribute(mover, "perm", ())
        if mover is None or mover.op_type not in ("Transpose", "Identity") or rank is None:
            return None
        if mover.op_type == "Transpose":
            order: tuple[int, ...] = tuple(permutation) or tuple(reversed(range(rank)))
            axis = order[axis]
        moved = mover.inputs[0]
    return axis


def wrong_axis(node: ir.Node) -> tuple[Quantizer, int] | None:
    """Returns the weight of a product whose scales lie along another axis than TensorRT takes, and the right one."""
    weight = sides(node).weight
    if weight is None or weight.is_per_tensor or weight.scale is None or weight.block_size:
        return None
    axis = weight_axis(node, weight)
    return None if axis is None or axis == weight.axis else (weight, axis)


def _wrong_axis(node: ir.Node, scope: Scope) -> Hit | None:
    found = wrong_axis(node)
    if found is None:
        return None
    weight, axis = found
    return Hit(weight.data.name or "", f"{weight.axis}, and TensorRT takes them along axis {axis}")


def _weight_only(node: ir.Node, scope: Scope) -> Hit | None:
    seen = sides(node)
    wrong = seen.data is None and _bytes(seen.weight) is not None and _between(node) is None
    data = input_of(node, 0)
    return Hit((data.name or "") if data is not None else "") if wrong else None


def _activation_only(node: ir.Node, scope: Scope) -> Hit | None:
    seen = sides(node)
    weight = input_of(node, 1)
    wrong = seen.data is not None and seen.weight is None and weight is not None
    return Hit(weight.name or "") if wrong and weight is not None else None


def _between(node: ir.Node) -> ir.Node | None:
    """The operator between the activation's DequantizeLinear and a product, if one stands there."""
    data = through_moves(input_of(node, 0))
    producer = None if data is None else data.producer()
    if producer is None or is_dequantize(producer) or not producer.inputs:
        return None
    behind = dequantizer_of(through_moves(producer.inputs[0]))
    clamps = producer.op_type in ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Elu")
    return producer if _bytes(behind) is not None and clamps else None


def _operator_between(node: ir.Node, scope: Scope) -> Hit | None:
    found, seen = _between(node), sides(node)
    if found is None or seen.data is not None or _bytes(seen.weight) is None:
        return None
    return Hit(found.outputs[0].name or "", f"{found.name!r} ({found.op_type})")


def _transposed_convolution(node: ir.Node, scope: Scope) -> Hit | None:
    for index in (0, 1):
        value = input_of(node, index)
        if value is not None and dequantizer_of(value) is not None:
            return Hit(value.name or "")
    return None


def _nibbles_in_conv(node: ir.Node, scope: Scope) -> Hit | None:
    weight = dequantizer_of(input_of(node, 1))
    wrong = weight is not None and weight.dtype in NIBBLES
    return Hit(weight.data.name or "") if wrong and weight is not None else None


def _pair_before(node: ir.Node, scope: Scope) -> Hit | None:
    """A pair on the output of a Conv that a Relu, Clip or BatchNormalization takes."""
    seen = dequantizer_of(input_of(node, 0))
    quantize = None if seen is None else seen.data.producer()
    if seen is None or quantize is None or not is_quantize(quantize):
        return None
    maker = producer_of(quantize, 0)
    if maker is None or maker.op_type not in PRODUCTS or maker.domain:
        return None
    return Hit(seen.output.name or "", f"{maker.name!r} ({maker.op_type})")


def _residual(node: ir.Node, scope: Scope) -> Hit | None:
    """An Add both of whose inputs are quantized, one of them straight from a Conv."""
    seen = [dequantizer_of(value) for value in node.inputs]
    if len(seen) != 2 or any(each is None for each in seen):
        return None
    for each in seen:
        quantize = None if each is None else each.data.producer()
        maker = producer_of(quantize, 0) if quantize is not None and is_quantize(quantize) else None
        if each is not None and maker is not None and maker.op_type in PRODUCTS:
            return Hit(each.output.name or "", f"{maker.name!r} ({maker.op_type})")
    return None


def _float_between_pairs(node: ir.Node, scope: Scope) -> Hit | None:
    """An operator between a DequantizeLinear and a QuantizeLinear that TensorRT computes in float."""
    following = only_user(node.outputs[0]) if node.outputs else None
    if dequantizer_of(input_of(node, 0)) is None or following is None or not is_quantize(following):
        return None
    return Hit(node.outputs[0].name or "")


def _linear_resize(node: ir.Node, scope: Scope) -> Hit | None:
    return _float_between_pairs(node, scope) if ir.attribute(node, "mode", "nearest") != "nearest" else None


def _two_activations(node: ir.Node, scope: Scope) -> Hit | None:
    if node.op_type == "Einsum":
        both = len(node.inputs) == 2 and all(dequantizer_of(through_moves(value)) is not None for value in node.inputs)
        return Hit(node.outputs[0].name or "") if both else None
    seen = sides(node)
    both = seen.data is not None and seen.weight is not None and not seen.constant
    return Hit(node.outputs[0].name or "") if both else None


def _concat_scales(node: ir.Node, scope: Scope) -> Hit | None:
    seen = [dequantizer_of(value) for value in node.inputs]
    scales = {
        float(each.scale.ravel()[0])
        for each in seen
        if each is not None and each.is_per_tensor and each.scale is not None
    }
    if len(scales) < 2 or any(each is None for each in seen):
        return None
    return Hit(node.outputs[0].name or "", f"{len(scales)}")


def _depthwise(node: ir.Node, scope: Scope) -> Hit | None:
    weight, groups = input_of(node, 1), ir.attribute(node, "group", 1)
    seen = sides(node)
    if groups < 2 or weight is None or seen.data is None or seen.weight is None or weight.shape is None:
        return None
    return Hit(weight.name or "", f"{groups}") if weight.shape[0] == groups else None


def _turing_conv(node: ir.Node, scope: Scope) -> Hit | None:
    seen = sides(node)
    quantized = seen.data is not None and seen.weight is not None
    return Hit(node.outputs[0].name or "") if quantized and _TURING in scope.targets else None


def _turing_gemm(node: ir.Node, scope: Scope) -> Hit | None:
    output = node.outputs[0]
    wrong = _TURING in scope.targets and output.dtype is ir.DataType.FLOAT
    return Hit(output.name or "") if wrong else None


_PRODUCTS = frozenset(PRODUCTS)

RULES = (
    Rule(
        "conv-weight-axis",
        Severity.SILENT_FLOAT,
        "{op} {node}: the weights {tensor} have their scales along axis {detail}; it runs in float.",
        "Quantize Conv weights along axis 0, their output channels. Legalization quantizes them again where that "
        "keeps them close.",
        _wrong_axis,
        names("Conv"),
    ),
    Rule(
        "matmul-weight-axis",
        Severity.SILENT_FLOAT,
        "{op} {node}: the weights {tensor} have their scales along axis {detail}; it runs in float.",
        "Quantize along the columns of the product, never along what is summed over. Legalization quantizes them "
        "again where that keeps them close.",
        _wrong_axis,
        names("MatMul Gemm"),
    ),
    Rule(
        "weight-only",
        Severity.SILENT_FLOAT,
        "{op} {node}: its weights are INT8 and its activation {tensor} is float, so that it runs in float and only "
        "stores INT8.",
        "Quantize the activation too (static quantization), or keep it for its size.",
        _weight_only,
        _PRODUCTS,
    ),
    Rule(
        "activation-only",
        Severity.SILENT_FLOAT,
        "{op} {node}: its activation is quantized and its weights {tensor} are float, so that it runs in float.",
        "Quantize the weights too, or neither.",
        _activation_only,
        _PRODUCTS,
    ),
    Rule(
        "operator-between",
        Severity.SILENT_FLOAT,
        "{op} {node}: {detail} stands between it and the DequantizeLinear of its activation {tensor}, so that it runs "
        "in float.",
        "Quantize behind that operator. Transpose, Reshape and other data movement may stand there.",
        _operator_between,
        _PRODUCTS,
    ),
    Rule(
        "conv-transpose",
        Severity.SILENT_FLOAT,
        "{op} {node}: {tensor} is quantized, and TensorRT always computes ConvTranspose in float.",
        "Leave ConvTranspose out of the quantization, as legalization does.",
        _transposed_convolution,
        names("ConvTranspose"),
    ),
    Rule(
        "int4-conv",
        Severity.SILENT_FLOAT,
        "{op} {node}: its weights {tensor} are INT4; TensorRT dequantizes them and computes in float.",
        "Quantize Conv to INT8.",
        _nibbles_in_conv,
        names("Conv"),
    ),
    Rule(
        "pair-before-activation",
        Severity.NOTE,
        "{op} {node}: {tensor} is quantized between {detail} and it, which takes additional kernels.",
        "Quantize behind the activation or BatchNormalization only.",
        _pair_before,
        names("Relu Clip BatchNormalization LeakyRelu Sigmoid HardSwish"),
    ),
    Rule(
        "residual-both-quantized",
        Severity.NOTE,
        "{op} {node}: {tensor} is quantized between {detail} and the sum, which rounds once more than needed.",
        "Quantize the skip input of a residual sum only.",
        _residual,
        names("Add"),
    ),
    Rule(
        "average-pool",
        Severity.NOTE,
        "{op} {node}: TensorRT averages {tensor} in float between the pairs around it.",
        "Nothing: results are right.",
        _float_between_pairs,
        names("AveragePool GlobalAveragePool ReduceMean"),
    ),
    Rule(
        "linear-resize",
        Severity.NOTE,
        "{op} {node}: TensorRT interpolates {tensor} in float and quantizes the result again.",
        "mode=nearest stays INT8.",
        _linear_resize,
        names("Resize"),
    ),
    Rule(
        "float-normalization",
        Severity.NOTE,
        "{op} {node}: TensorRT computes {tensor} in float and fuses the QuantizeLinear behind it.",
        "Nothing: results are right.",
        _float_between_pairs,
        _NORMS,
    ),
    Rule(
        "concat-scales",
        Severity.NOTE,
        "{op} {node}: the inputs of {tensor} have {detail} different scales, so that they are quantized again.",
        "Give all inputs of a Concat one scale.",
        _concat_scales,
        names("Concat"),
    ),
    Rule(
        "int8-attention",
        Severity.NOTE,
        "{op} {node}: {tensor} multiplies two quantized activations, which keeps attention from one fused kernel.",
        "Leave attention in FP16, where it fuses, unless INT8 is measured faster.",
        _two_activations,
        names("MatMul Einsum"),
    ),
    Rule(
        "depthwise",
        Severity.NOTE,
        "{op} {node}: the depthwise weights {tensor} ({detail} groups) run in INT8 with their channels expanded.",
        "Leave it in float, which takes fewer bytes, unless INT8 is measured faster.",
        _depthwise,
        names("Conv"),
    ),
    Rule(
        "sm75-conv",
        Severity.SILENT_FLOAT,
        "{op} {node}: {tensor} is quantized, and TensorRT computes every Conv in float for compute capability 7.5.",
        "Build for 8.0 and newer, or leave Conv out of the quantization: on 7.5 its pairs only cost.",
        _turing_conv,
        names("Conv"),
    ),
    Rule(
        "sm75-gemm",
        Severity.REFUSED,
        "{op} {node}: {tensor} is a product in FP32, which TensorRT does not compile for compute capability 7.5.",
        "Build for 8.0 and newer, or write FP16.",
        _turing_gemm,
        names("Gemm MatMul"),
    ),
)
"""What TensorRT runs in INT8, and what not."""
