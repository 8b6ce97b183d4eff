"""Rules about what Q/DQ nodes hold: types, zero points, scales, and the pairs they form."""

from collections.abc import Callable

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.qdq import (
    BYTES,
    FLOAT8,
    NIBBLES,
    STORED,
    Quantizer,
    dequantizer_of,
    input_of,
    is_constant,
    is_dequantize,
    is_operator,
    is_quantize,
    quantizer,
    rank_of,
)
from sardonyx.backends.tensorrt.rules.rule import Hit, NodeCheck, Rule, Scope, names
from sardonyx.ir import DataType

_QDQ = names("QuantizeLinear DequantizeLinear")
_WIDE = frozenset((DataType.INT16, DataType.UINT16))
_DEFAULT_TARGETS = ("8.0", "8.6", "8.9", "12.0")
_FIRST_FLOAT8 = 8.9
_TURING = "7.5"
_FUSED_BLOCKS = (16, 32, 64, 128)


def _seen(check: Callable[[Quantizer, Scope], Hit | None]) -> NodeCheck:
    """A check of what a Q/DQ node holds."""
    return lambda node, scope: check(quantizer(node), scope) if node.inputs and node.inputs[0] is not None else None


def _name(node: ir.Node, index: int) -> str:
    value = input_of(node, index)
    return (value.name or "") if value is not None else ""


def _zero_point(seen: Quantizer, scope: Scope) -> Hit | None:
    if seen.dtype not in BYTES or seen.zero_point is None or seen.is_symmetric:
        return None
    found = seen.zero_point.ravel()
    return Hit(_name(seen.node, 2), f"{int(found[np.flatnonzero(found)[0]])}")


def _zero_point_runtime(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(_name(seen.node, 2)) if seen.zero_point is None else None


def _uint8_weight(seen: Quantizer, scope: Scope) -> Hit | None:
    wrong = seen.dtype is DataType.UINT8 and is_dequantize(seen.node) and is_constant(seen.data)
    return Hit(seen.data.name or "") if wrong else None


def _uint8_activation(seen: Quantizer, scope: Scope) -> Hit | None:
    wrong = seen.dtype is DataType.UINT8 and seen.is_symmetric and not is_constant(seen.data)
    return Hit(_name(seen.node, 2) or (seen.data.name or "")) if wrong else None


def _wide(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "", seen.dtype.name) if seen.dtype in _WIDE else None


def _int32(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "") if seen.dtype is DataType.INT32 else None


def _scale_positive(seen: Quantizer, scope: Scope) -> Hit | None:
    if seen.scale is None or not seen.scale.size or not np.any(~(seen.scale > 0) & ~np.isnan(seen.scale)):
        return None
    return Hit(_name(seen.node, 1), f"{float(seen.scale.min())}")


def _scale_finite(seen: Quantizer, scope: Scope) -> Hit | None:
    if seen.scale is None or np.all(np.isfinite(seen.scale)):
        return None
    return Hit(_name(seen.node, 1))


def _scale_runtime(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(_name(seen.node, 1)) if seen.scale is None else None


def _scale_length(seen: Quantizer, scope: Scope) -> Hit | None:
    given = input_of(seen.node, 2)
    if given is None or seen.scale is None or seen.zero_point is None or seen.scale.size == seen.zero_point.size:
        return None
    return Hit(given.name or "", f"{seen.zero_point.size} zero points and {seen.scale.size} scales")


def _activation_per_channel(seen: Quantizer, scope: Scope) -> Hit | None:
    if seen.scale is None or seen.is_per_tensor or not is_quantize(seen.node) or is_constant(seen.data):
        return None
    return Hit(seen.data.name or "", f"{seen.scale.size}")


def _unpaired(seen: Quantizer, scope: Scope) -> Hit | None:
    """A quantized value that something else than DequantizeLinear takes."""
    if not is_quantize(seen.node):
        return None
    others = [use.node for use in seen.output.uses() if not is_dequantize(use.node)]
    return Hit(seen.output.name or "", f"{others[0].name!r} ({others[0].op_type})") if others else None


def _integers_computed(node: ir.Node, scope: Scope) -> Hit | None:
    """A node that takes quantized values as they are; indices and masks are not of these types."""
    if is_dequantize(node) or is_quantize(node) or (is_operator(node, "Cast")):
        return None
    for value in node.inputs:
        if value is not None and value.dtype in STORED and not value.is_graph_output():
            return Hit(value.name or "", value.dtype.name if value.dtype else "")
    return None


def _dequantized_input(seen: Quantizer, scope: Scope) -> Hit | None:
    """Integers that neither a QuantizeLinear makes nor the model holds; INT8 inputs are fine."""
    if not is_dequantize(seen.node) or is_constant(seen.data) or seen.dtype not in STORED - {DataType.INT8}:
        return None
    return None if is_quantize(seen.data.producer()) else Hit(seen.data.name or "", seen.dtype.name)


def _uint4(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "") if seen.dtype is DataType.UINT4 else None


def _int4_zero_point(seen: Quantizer, scope: Scope) -> Hit | None:
    wrong = seen.dtype is DataType.INT4 and seen.zero_point is not None and not seen.is_symmetric
    return Hit(_name(seen.node, 2)) if wrong else None


def _int4_block_size(seen: Quantizer, scope: Scope) -> Hit | None:
    wrong = seen.dtype is DataType.INT4 and seen.block_size and seen.block_size not in _FUSED_BLOCKS
    return Hit(seen.data.name or "", f"{seen.block_size}") if wrong else None


def _int4_unblocked(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "") if seen.dtype is DataType.INT4 and not seen.block_size else None


def _int8_blocks(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "", f"{seen.block_size}") if seen.dtype in BYTES and seen.block_size else None


def _int4_turing(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "") if seen.dtype in NIBBLES and _TURING in scope.targets else None


def _float8_old(seen: Quantizer, scope: Scope) -> Hit | None:
    old = [target for target in scope.targets or _DEFAULT_TARGETS if float(target) < _FIRST_FLOAT8]
    if seen.dtype not in FLOAT8 or not old:
        return None
    return Hit(seen.data.name or "", ", ".join(old))


def _float8_e5m2(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "") if seen.dtype is DataType.FLOAT8E5M2 else None


def _foldable(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(seen.data.name or "") if is_quantize(seen.node) and is_constant(seen.data) else None


def _quantized_bias(node: ir.Node, scope: Scope) -> Hit | None:
    bias = input_of(node, 2)
    seen = dequantizer_of(bias)
    wrong = seen is not None and seen.dtype in BYTES and rank_of(bias) == 1
    return Hit((bias.name or "") if bias is not None else "") if wrong else None


def _half_scale(seen: Quantizer, scope: Scope) -> Hit | None:
    """A float32 scale whose DequantizeLinear feeds FLOAT16 that was quantized."""
    if not is_dequantize(seen.node) or not is_quantize(seen.data.producer()):
        return None
    source = input_of(seen.data.producer() or seen.node, 0)
    mixed = source is not None and source.dtype is DataType.FLOAT16 and seen.output.dtype is DataType.FLOAT
    return Hit(_name(seen.node, 1)) if mixed else None


def _empty_scale(seen: Quantizer, scope: Scope) -> Hit | None:
    return Hit(_name(seen.node, 1)) if seen.scale is not None and not seen.scale.size else None


_SHIFTED = "Legalization shifts the integers to zero point 0, or rescales where they do not fit."

RULES = (
    Rule(
        "zero-point",
        Severity.REFUSED,
        "{op} {node}: the zero point {tensor} is {detail}; TensorRT takes 0 only (shiftIsAllZeros).",
        f"Quantize symmetrically (ActivationSymmetric and WeightSymmetric of onnxruntime.quantization). {_SHIFTED}",
        _seen(_zero_point),
        _QDQ,
    ),
    Rule(
        "zero-point-runtime",
        Severity.REFUSED,
        "{op} {node}: the zero point {tensor} is computed while the model runs; TensorRT takes constants of 0.",
        "Quantize statically: scales and zero points as initializers.",
        _seen(_zero_point_runtime),
        _QDQ,
    ),
    Rule(
        "uint8-weights",
        Severity.REFUSED,
        "{op} {node}: the weights {tensor} are UINT8, which TensorRT does not take.",
        f"Quantize weights to INT8 (weight_type=QInt8). {_SHIFTED}",
        _seen(_uint8_weight),
        names("DequantizeLinear"),
    ),
    Rule(
        "uint8-activation",
        Severity.WRONG_NUMBERS,
        "{op} {node}: {tensor} makes the quantized type UINT8, which TensorRT reads as INT8, so that 128 to 255 clip.",
        f"Quantize activations to INT8 (activation_type=QInt8, ActivationSymmetric). {_SHIFTED}",
        _seen(_uint8_activation),
        _QDQ,
    ),
    Rule(
        "int16",
        Severity.REFUSED,
        "{op} {node}: {tensor} is quantized to {detail}; TensorRT quantizes to 8 and 4 bits only.",
        "Leave it in float or quantize it to INT8. Legalization leaves it in float.",
        _seen(_wide),
        _QDQ,
    ),
    Rule(
        "int32-dequantized",
        Severity.REFUSED,
        "{op} {node}: {tensor} is INT32, which TensorRT does not dequantize; it takes biases in FP32.",
        "Keep biases in float (QuantizeBias=False). Legalization writes them as FP32 constants.",
        _seen(_int32),
        names("DequantizeLinear"),
    ),
    Rule(
        "scale-positive",
        Severity.REFUSED,
        "{op} {node}: the scale {tensor} holds {detail}; TensorRT takes positive scales only.",
        "Give channels that are all zero a small positive scale, as legalization does; calibrate the others again.",
        _seen(_scale_positive),
        _QDQ,
    ),
    Rule(
        "scale-finite",
        Severity.WRONG_NUMBERS,
        "{op} {node}: the scale {tensor} is infinite or not a number, which TensorRT takes and computes with.",
        "Calibrate again: a scale like this makes every value 0 or NaN.",
        _seen(_scale_finite),
        _QDQ,
    ),
    Rule(
        "scale-runtime",
        Severity.REFUSED,
        "{op} {node}: the scale {tensor} is computed at run time, of which TensorRT's builder can die (SIGSEGV).",
        "Quantize statically: scales as initializers.",
        _seen(_scale_runtime),
        _QDQ,
    ),
    Rule(
        "scale-length",
        Severity.REFUSED,
        "{op} {node}: {tensor} holds {detail}, which TensorRT wants in equal number.",
        "Give each scale its zero point. Legalization repeats a single zero point.",
        _seen(_scale_length),
        _QDQ,
    ),
    Rule(
        "activation-per-channel",
        Severity.SILENT_FLOAT,
        "{op} {node}: the activation {tensor} has {detail} scales; TensorRT runs what it feeds in float.",
        "Quantize activations per tensor.",
        _seen(_activation_per_channel),
        names("QuantizeLinear"),
    ),
    Rule(
        "unpaired-quantize",
        Severity.WRONG_NUMBERS,
        "{op} {node}: {detail} takes its integers {tensor} without a DequantizeLinear; TensorRT builds this unchecked.",
        "Dequantize right behind QuantizeLinear. Legalization does so around operators that only move elements.",
        _seen(_unpaired),
        names("QuantizeLinear"),
    ),
    Rule(
        "integer-arithmetic",
        Severity.WRONG_NUMBERS,
        "{op} {node} takes the {detail} integers {tensor} as they are; TensorRT computes INT8 only between Q/DQ pairs.",
        "Put the operator behind DequantizeLinear, as legalization does with operators that only move elements.",
        _integers_computed,
    ),
    Rule(
        "unpaired-dequantize",
        Severity.REFUSED,
        "{op} {node}: its {detail} integers {tensor} come from neither a QuantizeLinear nor a constant.",
        "Cast them to float and scale them. Legalization writes that.",
        _seen(_dequantized_input),
        names("DequantizeLinear"),
    ),
    Rule(
        "uint4",
        Severity.REFUSED,
        "{op} {node}: {tensor} is UINT4, which TensorRT cannot import.",
        "Use INT4 with zero point 0. Legalization rewrites what is exact in INT4 or INT8.",
        _seen(_uint4),
        _QDQ,
    ),
    Rule(
        "int4-zero-point",
        Severity.REFUSED,
        "{op} {node}: the INT4 weights have the zero point {tensor}; TensorRT takes 0 only.",
        "Quantize weights symmetrically. Legalization rewrites them to INT8 blocks with zero point 0.",
        _seen(_int4_zero_point),
        _QDQ,
    ),
    Rule(
        "int4-unblocked",
        Severity.SILENT_FLOAT,
        "{op} {node}: the INT4 weights {tensor} have no blocks; TensorRT dequantizes them and multiplies in float.",
        "Use block_size 16, 32, 64 or 128, which TensorRT fuses with the product.",
        _seen(_int4_unblocked),
        names("DequantizeLinear"),
    ),
    Rule(
        "int4-block-size",
        Severity.SILENT_FLOAT,
        "{op} {node}: the INT4 weights {tensor} have blocks of {detail}; TensorRT dequantizes them and multiplies in "
        "float.",
        "Use block_size 16, 32, 64 or 128, which TensorRT fuses with the product.",
        _seen(_int4_block_size),
        names("DequantizeLinear"),
    ),
    Rule(
        "int8-blocks",
        Severity.SILENT_FLOAT,
        "{op} {node}: {tensor} has blocks of {detail} in INT8; TensorRT dequantizes them and multiplies in float.",
        "Use INT4 for blocks, or INT8 with a scale for each output channel and quantized activations.",
        _seen(_int8_blocks),
        names("DequantizeLinear"),
    ),
    Rule(
        "int4-sm75",
        Severity.REFUSED,
        "{op} {node}: {tensor} is INT4, which compute capability 7.5 does not have.",
        "Build for 8.0 and newer.",
        _seen(_int4_turing),
        _QDQ,
    ),
    Rule(
        "fp8-compute-capability",
        Severity.REFUSED,
        "{op} {node}: {tensor} is quantized to FP8, which compute capability {detail} does not have.",
        "Build for 8.9 and newer, or quantize to INT8.",
        _seen(_float8_old),
        _QDQ,
    ),
    Rule(
        "fp8-e5m2",
        Severity.REFUSED,
        "{op} {node}: {tensor} is FLOAT8E5M2, which TensorRT cannot import.",
        "Use FLOAT8E4M3FN.",
        _seen(_float8_e5m2),
        _QDQ,
    ),
    Rule(
        "empty-quantized",
        Severity.REFUSED,
        "{op} {node}: the scale {tensor} holds no numbers, which TensorRT cannot import.",
        "Quantize what has no elements with a single scale, or remove it from the model.",
        _seen(_empty_scale),
        _QDQ,
    ),
    Rule(
        "quantized-constant",
        Severity.NOTE,
        "{op} {node} quantizes the constant {tensor} each time the model is built.",
        "Store the integers; legalization does.",
        _seen(_foldable),
        names("QuantizeLinear"),
    ),
    Rule(
        "quantized-bias",
        Severity.NOTE,
        "{op} {node}: the bias {tensor} is quantized, which adds nodes and saves nothing in TensorRT.",
        "Keep biases in FP32; legalization does.",
        _quantized_bias,
        names("Conv ConvTranspose Gemm"),
    ),
    Rule(
        "fp32-scale-in-fp16",
        Severity.NOTE,
        "{op} {node}: the scale {tensor} is FP32 in an FP16 graph, so that what follows runs in FP32.",
        "Write FP16 scales (opset 19).",
        _seen(_half_scale),
        names("DequantizeLinear"),
    ),
)
"""What TensorRT takes of Q/DQ nodes by themselves."""
