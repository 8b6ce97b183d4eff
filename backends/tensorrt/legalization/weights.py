"""Quantized constants: stored as INT8 or INT4 with zero point 0, scales positive and along the axis TensorRT takes.

A shift of integers is exact. Where integers do not fit, and where scales lie along another axis, constants are
quantized again; the change then tells how close they stay.
"""

from collections.abc import Collection, Iterator

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.legalization.editing import Array, Editor, along, dequantized, rounded
from sardonyx.backends.tensorrt.legalization.pairs import replace_input, saturated
from sardonyx.backends.tensorrt.qdq import (
    BYTES,
    NIBBLES,
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
from sardonyx.backends.tensorrt.rules.integers import PRODUCTS, wrong_axis
from sardonyx.ir import DataType

CLOSE_DECIBELS = 30.0
"""Weights are quantized again only if signal stays this far above the error. 8 bits keep about 40 dB of weights
that are normally distributed; 30 dB is an error of 3 % of their root mean square."""

_WIDE = frozenset((DataType.INT16, DataType.UINT16, DataType.INT32))
_BIASED = ("Conv", "ConvTranspose", "Gemm")


def store_integers(editor: Editor) -> None:
    """QuantizeLinear of a float constant becomes the integers it yields."""
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            values = constant(seen.data) if is_quantize(seen.node) and seen.is_known and not seen.block_size else None
            if values is None or seen.dtype not in BYTES or not np.all(np.isfinite(values)):
                continue
            scales, zeros, stored_as = seen.constants
            low, high = limits(stored_as)
            zero_point = along(zeros, seen, values.shape).astype(np.float64)
            quotient = np.rint(values / along(scales, seen, values.shape).astype(values.dtype))
            stored = np.clip(quotient + zero_point, low, high).astype(stored_as.numpy())
            editor.replace(seen.output, editor.constant(seen.node, f"{seen.data.name}_quantized", stored))
            ir.remove_unused([seen.node])
            editor.report(seen.node, "QuantizeLinear of a constant was computed, so that the integers are stored")


def float_biases(editor: Editor) -> None:
    """Constants of 16 and 32 bits, and quantized biases, become float constants: what DequantizeLinear computes."""
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            if not is_dequantize(seen.node) or not is_constant(seen.data) or not seen.is_known:
                continue
            if seen.dtype in _WIDE or (seen.dtype in BYTES and _feeds_bias(seen.output)):
                _to_float(editor, seen)
                dtype = seen.dtype.name if seen.dtype else ""
                editor.report(seen.node, f"the {dtype} constant behind it became a float constant, which is exact")


def _feeds_bias(value: ir.Value) -> bool:
    uses = value.uses()
    return bool(uses) and all(use.node.op_type in _BIASED and use.idx == 2 for use in uses)


def _to_float(editor: Editor, seen: Quantizer) -> None:
    stored = constant(seen.data)
    assert stored is not None, "only constants become constants"
    editor.replace(seen.output, editor.constant(seen.node, f"{seen.data.name}_float", dequantized(seen, stored)))
    ir.remove_unused([seen.node])


def symmetric_weights(editor: Editor) -> None:
    """Constants of 8 bits get INT8 with zero point 0; shifted where all of them fit, else quantized again."""
    low, high = limits(DataType.INT8)
    for seen, centred in _centred(editor, BYTES, DataType.INT8):
        scales, _, stored_as = seen.constants
        if np.all((centred >= low) & (centred <= high)):
            _store(editor, seen, centred, scales, seen.axis)
            editor.report(
                seen.node, f"its {stored_as.name} constant was shifted to INT8 with zero point 0, which is exact"
            )
        elif not seen.block_size:
            _requantize(editor, seen, None if seen.is_per_tensor else seen.axis, "its integers do not fit INT8")


def _store(editor: Editor, seen: Quantizer, integers: Array, scale: Array, axis: int) -> None:
    """Gives a DequantizeLinear INT8 constants with zero point 0."""
    node, name = seen.node, seen.data.name
    shape = () if scale.size == 1 else scale.shape
    node.resize_inputs(3)
    replace_input(node, 0, editor.constant(node, f"{name}_int8", integers, DataType.INT8))
    replace_input(node, 1, editor.constant(node, f"{name}_scale", scale.reshape(shape)))
    replace_input(node, 2, editor.constant(node, f"{name}_zero_point", np.zeros(shape, np.int8)))
    if shape:
        node.attributes["axis"] = ir.AttrInt64("axis", axis)


def _requantize(editor: Editor, seen: Quantizer, axis: int | None, why: str) -> bool:
    """Quantizes a constant again, with scales along an axis; returns whether it stays close enough for that."""
    stored = constant(seen.data)
    assert stored is not None, "only constants are quantized again"
    values = dequantized(seen, stored).astype(np.float32)
    others = tuple(each for each in range(values.ndim) if each != axis)
    reach = np.max(np.abs(values), axis=others, keepdims=True, initial=0.0)
    scale = np.where(reach > 0, reach / np.float32(limits(DataType.INT8)[1]), np.float32(1)).astype(values.dtype)
    integers = rounded(values, scale, DataType.INT8)
    decibels = _decibels(values, integers.astype(np.float32) * scale)
    if decibels < CLOSE_DECIBELS:
        editor.keep(seen.node, f"{why}, and INT8 along axis {axis} would keep it at {decibels:.0f} dB only")
        return False
    _store(editor, seen, integers, scale.ravel().astype(seen.constants[0].dtype), axis or 0)
    told = f"its constant was quantized again because {why}; signal to error: {decibels:.0f} dB"
    editor.report(seen.node, told, exact=False)
    return True


def _decibels(values: Array, approximation: Array) -> float:
    """Ratio of the power of values to that of their error, in decibels; infinite without error."""
    error = float(np.sum((values.astype(np.float64) - approximation) ** 2))
    power = float(np.sum(values.astype(np.float64) ** 2))
    return float("inf") if error == 0 else float("-inf") if power == 0 else 10 * float(np.log10(power / error))


def product_axes(editor: Editor) -> None:
    """Weights of products whose scales lie along another axis than TensorRT multiplies with are quantized again."""
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            found = wrong_axis(node) if node.op_type in PRODUCTS and not node.domain else None
            if found is None or found[0].dtype not in BYTES or not found[0].is_known or not is_constant(found[0].data):
                continue
            weight, axis = found
            if len(weight.output.uses()) == 1:
                _requantize(editor, weight, axis, f"its scales were along axis {weight.axis}")


def float_transposed_convolutions(editor: Editor) -> None:
    """ConvTranspose takes float: its weights are dequantized, the pair on its activation is left out."""
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            if node.op_type != "ConvTranspose" or node.domain:
                continue
            changed = [_float_input(editor, node, index) for index in (0, 1)]
            if any(changed):
                told = "its Q/DQ pairs were removed, because TensorRT computes ConvTranspose in float"
                editor.report(node, told, exact=False)


def _float_input(editor: Editor, node: ir.Node, index: int) -> bool:
    seen = dequantizer_of(input_of(node, index))
    if seen is None or not seen.is_known:
        return False
    stored = constant(seen.data)
    if stored is not None:
        value = editor.constant(node, f"{seen.data.name}_float", dequantized(seen, stored))
    else:
        quantize = seen.data.producer()
        if quantize is None or not is_quantize(quantize) or not seen.is_per_tensor:
            return False
        value = saturated(editor, quantizer(quantize), node)
    node.replace_input_with(index, value)
    ir.remove_unused([seen.node])
    return True


def positive_scales(editor: Editor) -> None:
    """Constants' scales become positive: a scale of 0 means zeros, a negative one changes the integers' sign."""
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            stored = constant(seen.data) if is_dequantize(seen.node) and seen.is_known and seen.is_symmetric else None
            if stored is None or seen.dtype is not DataType.INT8 or seen.block_size:
                continue
            scales, _, _ = seen.constants
            if np.all(scales > 0) or not np.all(np.isfinite(scales)):
                continue
            sign = np.sign(along(scales, seen, stored.shape)).astype(np.int64)
            integers = stored.astype(np.int64) * sign
            if np.any(integers > limits(DataType.INT8)[1]):
                editor.keep(seen.node, "the sign of its integer -128 cannot be changed in INT8")
                continue
            scale = np.where(scales == 0, 1, np.abs(scales)).astype(scales.dtype)
            _store(editor, seen, integers, scale, seen.axis)
            editor.report(seen.node, "scales of 0 became 1 with zeros, negative ones changed sides, which is exact")


def signed_blocks(editor: Editor) -> None:
    """Constants of 4 bits get INT4 with zero point 0 where they fit, else INT8 with the same scales; both are exact."""
    for seen, centred in _centred(editor, NIBBLES, DataType.INT4):
        dtype = fitting_type(centred)
        store_blocks(editor, seen.node, centred, dtype, seen.constants[0])
        editor.report(seen.node, f"its 4-bit constant was shifted to {dtype.name} with zero point 0, which is exact")


def _centred(editor: Editor, stored_as: Collection[DataType], right: DataType) -> Iterator[tuple[Quantizer, Array]]:
    """Yields dequantized constants of some types with integers less zero points, but not those that are right."""
    for graph in ir.all_graphs(editor.model):
        for seen in quantizers(graph):
            stored = constant(seen.data) if is_dequantize(seen.node) and seen.is_known else None
            if stored is None or seen.dtype not in stored_as or (seen.dtype is right and seen.is_symmetric):
                continue
            yield seen, stored.astype(np.int64) - along(seen.constants[1], seen, stored.shape).astype(np.int64)


def fitting_type(integers: Array) -> DataType:
    """Returns INT4 where integers fit it, else INT8."""
    low, high = limits(DataType.INT4)
    return DataType.INT4 if np.all((integers >= low) & (integers <= high)) else DataType.INT8


def store_blocks(editor: Editor, node: ir.Node, integers: Array, dtype: DataType, scale: Array) -> None:
    """Gives a DequantizeLinear other integers with the same scales and no zero point."""
    name = node.inputs[0].name if node.inputs[0] is not None else node.name
    replace_input(node, 0, editor.constant(node, f"{name}_{dtype.name.lower()}", integers, dtype))
    replace_input(node, 1, editor.constant(node, f"{name}_scale", scale))
    if len(node.inputs) > 2:
        replace_input(node, 2, None)
        node.resize_inputs(2)
