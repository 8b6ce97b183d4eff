"""MatMulNBits becomes MatMul with its weight behind a blocked DequantizeLinear.

ONNX Runtime packs a weight [K, N] as UINT8 [N, blocks, bytes of a block], low nibble first, with scales [N * blocks]
and zero points that default to the middle (8 for 4 bits, 128 for 8). DequantizeLinear takes [K, N] in INT4 with scales
[blocks, N] along axis 0, from opset 21; below, the weight becomes floats.
"""

from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.legalization.editing import Array, Editor, declared
from sardonyx.backends.tensorrt.legalization.weights import fitting_type
from sardonyx.backends.tensorrt.qdq import constant, input_of

FIRST_BLOCK_OPSET = 21
"""From here on DequantizeLinear takes blocks and 4 bits."""

FIRST_INT4_IR = 10
"""The first version of the file format with 4-bit integers."""


@dataclass(frozen=True)
class _Weight:
    """An unpacked weight.

    Attributes:
        integers: [K, N], zero points subtracted; None where those are not integers.
        scales: [blocks, N].
        values: [K, N] as floats.
    """

    integers: Array | None
    scales: Array
    values: Array


def write_blocks(editor: Editor) -> None:
    """Rewrites all MatMulNBits of a model."""
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            if node.op_type != "MatMulNBits":
                continue
            weight = _unpacked(node)
            if isinstance(weight, str):
                editor.keep(node, weight)
                continue
            _rewrite(editor, node, weight)


def _rewrite(editor: Editor, node: ir.Node, weight: _Weight) -> None:
    size = ir.attribute(node, "block_size", 0)
    rows = weight.values.shape[0]
    name, output = node.inputs[1].name if node.inputs[1] else node.name, node.outputs[0]
    obstacle = _obstacle(editor.opset, weight, rows % size == 0)
    if obstacle or weight.integers is None:
        value = editor.constant(node, f"{name}_float", weight.values)
        told = f"MatMulNBits became MatMul with float weights, because {obstacle}"
    else:
        dtype = fitting_type(weight.integers)
        stored = editor.constant(node, f"{name}_{dtype.name.lower()}", weight.integers, dtype)
        scales = editor.constant(node, f"{name}_scale", weight.scales)
        attributes = [ir.AttrInt64("axis", 0), ir.AttrInt64("block_size", size)]
        value = editor.op(node, "DequantizeLinear", [stored, scales], attributes)
        declared(value, scales.dtype, ir.Shape(weight.values.shape))
        editor.model.ir_version = max(editor.model.ir_version, FIRST_INT4_IR)
        told = f"MatMulNBits became MatMul behind DequantizeLinear of {dtype.name} blocks, equal but for rounding"
    made = editor.op(node, "MatMul", [input_of(node, 0), value], like=output)
    bias = input_of(node, 5)
    made = made if bias is None else editor.op(node, "Add", [made, bias], like=output)
    editor.replace(output, made)
    ir.remove_unused([node])
    editor.report(node, told)


def _obstacle(opset: int, weight: _Weight, divides: bool) -> str:
    """Why a weight cannot be blocks of integers, or nothing."""
    if opset < FIRST_BLOCK_OPSET:
        return f"DequantizeLinear takes blocks from opset {FIRST_BLOCK_OPSET} and the model has {opset}"
    if not divides:
        return "its blocks do not divide its rows"
    return "its zero points are not integers" if weight.integers is None else ""


def _unpacked(node: ir.Node) -> _Weight | str:
    """The weight of a node, or why it cannot be read."""
    packed, scales, zeros = (constant(input_of(node, index)) for index in (1, 2, 3))
    bits, size = ir.attribute(node, "bits", 4), ir.attribute(node, "block_size", 0)
    if input_of(node, 4) is not None:
        return "its rows are in another order (g_idx)"
    if packed is None or scales is None or (input_of(node, 3) is not None and zeros is None):
        return "its weights are computed while the model runs"
    if bits not in (4, 8) or not size:
        return f"it has {bits} bits in blocks of {size}"
    rows, columns = ir.attribute(node, "K", 0), ir.attribute(node, "N", 0)
    blocks = -(-rows // size)
    levels = _unpack(packed.reshape(columns, blocks, -1), bits).reshape(columns, blocks, -1)[:, :, :size]
    middle = np.full((columns, blocks), 1 << (bits - 1), np.float32)
    if zeros is not None:
        whole = zeros.dtype == np.uint8
        middle = _unpack(zeros.reshape(columns, -1), bits)[:, :blocks] if whole else zeros.reshape(columns, blocks)
    centred = (levels.astype(np.float32) - middle.astype(np.float32)[:, :, None]).reshape(columns, -1)[:, :rows].T
    by_block = np.ascontiguousarray(scales.reshape(columns, blocks).T)
    values = (centred * np.repeat(by_block, size, axis=0)[:rows]).astype(scales.dtype)
    exact = bool(np.all(centred == np.rint(centred)) and np.max(np.abs(centred), initial=0) <= 127)
    return _Weight(centred.astype(np.int64) if exact else None, by_block, values)


def _unpack(packed: Array, bits: int) -> Array:
    """Bytes, or nibbles of bytes along the last dimension, low ones first."""
    if bits == 8:
        return packed
    return np.stack((packed & 0xF, packed >> 4), axis=-1).reshape(*packed.shape[:-1], -1)
