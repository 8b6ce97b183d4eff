"""Writing a quantized weight into the graph, in the form that the target's table names.

MatMulNBits            A dequantize(W)^T, with W packed to uint8 (R, B, block * bits / 8); blocks with offsets O (R, B)
                       add sums(A) dequantize(O)^T, where sums(A) (..., B) sums A over the columns of each block
GatherBlockQuantized   rows of the same W, which a product and a lookup can therefore share
DequantizeLinear       the standard operator of opset 21 with block_size, before the node whose weight it is; for a
                       lookup behind it, so that only the rows that are looked up are dequantized
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.passes.provenance import mark
from sardonyx.passes.quantization.weight_only.grid import BlockGrid, BlockWeight, pack
from sardonyx.passes.quantization.weight_only.rounding import round_to_nearest
from sardonyx.passes.quantization.weight_only.sites import RULE, Site

PACKED, ROWS_FIRST, COLUMNS_FIRST = "packed", "rows-first", "columns-first"
"""Layouts: what packed kernels share, and the matrix (R, K) or (K, R) for the standard operator."""


@dataclass(frozen=True)
class Parts:
    """The tensors of a quantized weight in one layout.

    Attributes:
        grid: Its integers.
        columns: K.
        levels: The integers.
        scale: The scales.
        zero_point: The zero points; None for symmetric grids, where the form implies them.
        offset: The offsets, quantized themselves; None where blocks have none.
    """

    grid: BlockGrid
    columns: int
    levels: ir.TensorProtocol
    scale: ir.TensorProtocol
    zero_point: ir.TensorProtocol | None
    offset: "Parts | None" = None


def layout_of(site: Site) -> str:
    """Returns the layout that a site's kernel reads; sites with one weight and one layout share tensors.

    Raises:
        PassError: If the target's table names a kernel that nothing here writes.
    """
    kernel = site.support.kernel[1]
    if kernel not in _WRITERS:
        raise PassError(
            f"The target's table names {kernel} for weights of {site.node.op_type} in blocks.",
            remedy=f"Only {', '.join(_WRITERS)} can be written.",
        )
    if kernel != "DequantizeLinear":
        return PACKED
    wants_rows = site.is_lookup or ir.attribute(site.node, "transB", 0) == 1
    return ROWS_FIRST if wants_rows else COLUMNS_FIRST


def store(weight: BlockWeight, layout: str, name: str, scratch: ir.ScratchFile) -> Parts:
    """Writes a quantized weight to a scratch file.

    Args:
        weight: The weight.
        layout: One of `layout_of`.
        name: What the tensors' names begin with.
        scratch: The file.

    Raises:
        SaveError: If the file cannot be written.
    """
    grid, dtype = weight.grid, ir.DataType.UINT8
    levels, scale, zero_point = weight.levels, weight.scale, weight.zero_point
    if layout == PACKED:
        levels, zero_point = pack(levels, grid.bits), pack(zero_point, grid.bits)
    else:
        dtype = _STANDARD_TYPES[grid.bits, grid.symmetric]
        levels = levels.reshape(len(levels), -1)[:, : weight.columns]
        if grid.symmetric:  # modulo 256, as two's complement: the zero point becomes 0
            levels = (levels - np.uint8(grid.middle)).view(np.int8)
        if layout == COLUMNS_FIRST:
            levels, scale, zero_point = levels.T, scale.T, zero_point.T
    stored_levels = scratch.add(f"{name}_quantized", levels.astype(dtype.numpy()), dtype)
    stored_scale = scratch.add(f"{name}_scale", scale)
    stored_zero_point = stored_offset = None
    if not grid.symmetric:
        stored_zero_point = scratch.add(f"{name}_zero_point", zero_point.astype(dtype.numpy()), dtype)
    if weight.offset is not None:
        offsets = round_to_nearest(weight.offset, grid.offset_grid)
        stored_offset = store(offsets, layout, f"{name}_offset", scratch)
    return Parts(grid, weight.columns, stored_levels, stored_scale, stored_zero_point, stored_offset)


def without_offsets(site: Site, grid: BlockGrid) -> str | None:
    """Returns why the blocks of a site cannot have offsets, or None."""
    if layout_of(site) == PACKED and grid.offset_grid.bits in site.support.bits:
        return None
    return f"the target's {site.support.kernel[1]} cannot multiply with the offsets of blocks"


_STANDARD_TYPES = {
    (4, False): ir.DataType.UINT4,
    (4, True): ir.DataType.INT4,
    (8, False): ir.DataType.UINT8,
    (8, True): ir.DataType.INT8,
}


class Activations(StrEnum):
    """Which kernels may round the other operand of a product to 8 bits."""

    INT8 = "int8"
    """All."""
    FLOAT = "float"
    """None."""
    AUTO = "auto"
    """Those whose bits the target is slow to multiply in float: `BlockSupport.float_bits`."""


class Writer:
    """Rewrites the nodes of sites to kernels that take integers.

    Args:
        model: The model to edit.
        activations: Which kernels get the attributes that make them round activations; see `Activations`.
    """

    def __init__(self, model: ir.Model, activations: Activations) -> None:
        self.model = model
        self.activations = activations
        self.names = ir.NameAuthority(model)
        self._values: dict[tuple[int, ...], ir.Value] = {}
        self._sums: dict[tuple[int, ir.Value, int], ir.Value] = {}

    def write(self, site: Site, parts: Parts) -> None:
        """Exchanges a site's node, and removes the float weight where nothing reads it any more."""
        node = site.node
        domain, kernel = site.support.kernel
        inputs = list(node.inputs)
        result = _WRITERS[kernel](self, site, parts)
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        if result is not None:
            _take_place(node.outputs[0], result)
            site.graph.remove(node, safe=True)
        for value in inputs:
            _drop_if_dead(value)

    def attributes(self, site: Site, bits: int) -> Mapping[str, int]:
        """The attributes that the target's table names for a site's kernel, where it may round activations."""
        slow = bits not in site.support.float_bits
        rounds = self.activations is Activations.INT8 or (self.activations is Activations.AUTO and slow)
        return site.support.attributes if rounds else {}

    def constant(self, site: Site, tensor: ir.TensorProtocol | None) -> ir.Value | None:
        """The initializer of a tensor in the site's graph; sites that share the tensor share it."""
        if tensor is None:
            return None
        key = id(site.graph), id(tensor)
        if key not in self._values:
            name = self.names.value(tensor.name or f"{site.weight.value.name}_quantized")
            self._values[key] = ir.add_initializer(site.graph, name, tensor)
        return self._values[key]

    def op(
        self,
        site: Site,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int] = MappingProxyType({}),
    ) -> ir.Value:
        """Adds a node before the site's, of its kernel's domain if it is the kernel, and returns its output."""
        domain, kernel = site.support.kernel
        node = ir.Node(
            domain if op_type == kernel else "",
            op_type,
            list(inputs),
            [ir.AttrInt64(name, value) for name, value in attributes.items()],
            name=self.names.node(f"{site.node.name}_{op_type}"),
        )
        mark(node, RULE, site.node.name)
        node.outputs[0].name = self.names.value(f"{site.node.outputs[0].name}_{op_type}")
        site.graph.insert_before(site.node, node)
        return node.outputs[0]

    def shape(self, site: Site, name: str, values: Sequence[int]) -> ir.Value:
        """Adds a constant of INT64."""
        return ir.add_initializer(site.graph, self.names.value(name), np.array(values, np.int64))

    def block_sums(self, site: Site, block: int) -> ir.Value:
        """The sums of a site's activation over the columns of each block; sites that share it share the sums.

        They are a product with a matrix of ones and zeros: ONNX Runtime's ReduceSum leaves empty tensors as they are.
        """
        activation, columns = site.activation, site.weight.columns
        key = id(site.graph), activation, block
        if key not in self._sums:
            member = self._values.get((id(site.graph), columns, block))
            if member is None:
                of_block = np.arange(columns)[:, None] // block == np.arange(-(-columns // block))
                name = self.names.value(f"blocks_{columns}_{block}")
                member = ir.add_initializer(site.graph, name, of_block.astype(np.float32))
                self._values[id(site.graph), columns, block] = member
            self._sums[key] = self.op(site, "MatMul", [activation, member])
            self._sums[key].type = ir.TensorType(activation.dtype or ir.DataType.FLOAT)
        return self._sums[key]


def _matmul_nbits(writer: Writer, site: Site, parts: Parts) -> ir.Value:
    bias = site.node.inputs[2] if len(site.node.inputs) > 2 else None
    product = _product(writer, site, parts, site.activation, bias)
    if parts.offset is None:
        return product
    offsets = _product(writer, site, parts.offset, writer.block_sums(site, parts.grid.block), None)
    product.type = offsets.type = ir.TensorType(site.activation.dtype or ir.DataType.FLOAT)
    return writer.op(site, "Add", [product, offsets])


def _product(writer: Writer, site: Site, parts: Parts, operand: ir.Value, bias: ir.Value | None) -> ir.Value:
    constants = [writer.constant(site, tensor) for tensor in (parts.levels, parts.scale, parts.zero_point)]
    inputs = [operand, *constants, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    sizes = {"K": parts.columns, "N": site.weight.rows, "bits": parts.grid.bits, "block_size": parts.grid.block}
    return writer.op(site, "MatMulNBits", inputs, {**sizes, **writer.attributes(site, parts.grid.bits)})


def _gather_block_quantized(writer: Writer, site: Site, parts: Parts) -> ir.Value:
    weight, grid = site.weight, parts.grid
    levels, scale, zero_point = (writer.constant(site, t) for t in (parts.levels, parts.scale, parts.zero_point))
    shape = (weight.rows, weight.columns * grid.bits // 8)
    table = writer.op(site, "Reshape", [levels, writer.shape(site, f"{weight.value.name}_table_shape", shape)])
    table.dtype, table.shape = ir.DataType.UINT8, ir.Shape(shape)
    inputs = [table, site.activation, scale, *([] if zero_point is None else [zero_point])]
    attributes = {"gather_axis": 0, "quantize_axis": 1, "bits": grid.bits, "block_size": grid.block}
    return writer.op(site, "GatherBlockQuantized", inputs, {**attributes, **writer.attributes(site, grid.bits)})


def _dequantize_linear(writer: Writer, site: Site, parts: Parts) -> ir.Value | None:
    inputs = [writer.constant(site, tensor) for tensor in (parts.levels, parts.scale, parts.zero_point)]
    block = parts.grid.block
    if site.is_lookup:
        rows = [None if v is None else writer.op(site, "Gather", [v, site.activation], {"axis": 0}) for v in inputs]
        for row, value in zip(_given(rows), _given(inputs), strict=True):
            row.type = ir.TensorType(value.dtype or ir.DataType.FLOAT)
        return writer.op(site, "DequantizeLinear", _given(rows), {"axis": -1, "block_size": block})
    axis = 0 if layout_of(site) == COLUMNS_FIRST else 1
    restored = writer.op(site, "DequantizeLinear", _given(inputs), {"axis": axis, "block_size": block})
    restored.dtype, restored.shape = ir.DataType.FLOAT, ir.Shape(parts.levels.shape.numpy())
    site.node.replace_input_with(1, restored)
    return None


_WRITERS: Mapping[str, Callable[[Writer, Site, Parts], ir.Value | None]] = {
    "MatMulNBits": _matmul_nbits,
    "GatherBlockQuantized": _gather_block_quantized,
    "DequantizeLinear": _dequantize_linear,
}
"""What writes a kernel: each returns what takes the place of the node's output, or None where the node stays."""


def _given(values: Sequence[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None]


def _take_place(old: ir.Value, new: ir.Value) -> None:
    """Gives a value's uses, and its name where it is a graph output, to another."""
    new.type, new.shape, name = old.type, old.shape, old.name
    was_output = old.is_graph_output()
    ir.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if was_output:
        old.name, new.name = None, name


def _drop_if_dead(value: ir.Value | None) -> None:
    """Removes a constant, or a constant that is transposed, that nothing reads any more."""
    if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    producer = value.producer()
    if value.is_initializer() and value.graph is not None:
        value.graph.initializers.pop(value.name or "")
    elif producer is not None and producer.graph is not None and producer.op_type in ("Constant", "Transpose"):
        sources = list(producer.inputs)
        producer.graph.remove(producer, safe=True)
        for source in sources:
            _drop_if_dead(source)
