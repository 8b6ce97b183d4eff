"""Which weights can be integers in blocks: read from the target's table, never from its name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import BlockSupport, Capabilities
from sardonyx.errors import PassError
from sardonyx.passes.provenance import rules
from sardonyx.passes.quantization.weight_only.grid import BlockGrid, Float32Array

RULE = "quantize-weights"
"""What the nodes that are made here are marked with."""
LOOKUP = "Gather"
"""The operator whose weight is a table of embeddings."""


@dataclass(frozen=True)
class Weight:
    """A constant matrix as a node uses it.

    Attributes:
        value: The value that holds the constant.
        tensor: The constant.
        rows: R, what the blocks of a row are computed into: output channels, or entries of a table.
        columns: K, what is summed over.
        columns_first: Whether it is stored (K, R) instead of (R, K).
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    rows: int
    columns: int
    columns_first: bool

    @property
    def key(self) -> tuple[int, bool]:
        """What weights that quantize to the same integers have in common."""
        return id(self.tensor), self.columns_first

    def read(self) -> Float32Array:
        """Returns the values (R, K); a view where they are stored (K, R).

        Raises:
            LoadError: If external data can no longer be read.
        """
        array: Float32Array = ir.read_array(self.tensor)
        return array.T if self.columns_first else array


@dataclass(frozen=True)
class Site:
    """A node whose weight can be quantized.

    Attributes:
        graph: The graph of the node.
        node: The node.
        weight: Its weight.
        support: The row of the target's table.
    """

    graph: ir.Graph
    node: ir.Node
    weight: Weight
    support: BlockSupport

    @property
    def activation(self) -> ir.Value:
        """The value that the weight is multiplied with, or the indices that are looked up, as they are by now.

        Raises:
            PassError: If the node has lost that input.
        """
        value = self.node.inputs[1 if self.is_lookup else 0]
        if value is None:
            raise PassError(f"The node {self.node.name!r} has lost an input.")
        return value

    @property
    def is_lookup(self) -> bool:
        """Whether the weight is a table of embeddings."""
        return self.node.op_type == LOOKUP


Grids = Mapping[str, BlockGrid]
"""The integers to quantize to by operator; operators that are absent are not asked for."""


def find_sites(
    model: ir.Model, capabilities: Capabilities, grids: Grids, kept_float: Mapping[str, str]
) -> tuple[list[Site], dict[str, str]]:
    """Finds the weights to quantize, in graph order.

    Args:
        model: The model, with shapes.
        capabilities: The target's table.
        grids: The integers to quantize to.
        kept_float: Reason by name of each node to leave in float.

    Returns:
        The sites, and the reason by name of each node that has a constant weight and stays in float.
    """
    sites: list[Site] = []
    reasons: dict[str, str] = {}
    for graph in ir.all_graphs(model):
        for node in graph:
            if node.domain or node.op_type not in grids or RULE in rules(node):
                continue
            found = _site(graph, node, capabilities.blocks.get(node.op_type))
            if found is None:
                continue
            reason = found if isinstance(found, str) else kept_float.get(node.name or "") or _unmet(found, model, grids)
            if reason is not None:
                reasons[node.name or ""] = reason
            elif isinstance(found, Site):
                sites.append(found)
    return sites, reasons


def _site(graph: ir.Graph, node: ir.Node, support: BlockSupport | None) -> Site | str | None:
    """The site at a node, why it is none, or None where there is no constant weight at all."""
    weight_index, activation_index = (0, 1) if node.op_type == LOOKUP else (1, 0)
    value = node.inputs[weight_index]
    if value is None or node.inputs[activation_index] is None:
        return None
    weight = _constant_matrix(value, columns_first=node.op_type == "MatMul" or _is_plain_gemm(node))
    if weight is None or isinstance(weight, str):
        return weight
    if support is None:
        return f"the target does not take weights of {node.op_type} as integers in blocks"
    return Site(graph, node, weight, support)


def _is_plain_gemm(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and not ir.attribute(node, "transB", 0)


def _constant_matrix(value: ir.Value, *, columns_first: bool) -> Weight | str | None:
    """The weight behind a value: a constant, or a constant that is transposed."""
    producer = value.producer()
    if producer is not None and (producer.domain, producer.op_type) == ("", "Transpose"):
        source = producer.inputs[0]
        if source is None or ir.attribute(producer, "perm", (1, 0)) != (1, 0):
            return None
        value, columns_first = source, not columns_first
    tensor = ir.constant_tensor(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return None
    shape = tensor.shape.numpy()
    if len(shape) != 2:
        return f"the weight {value.name!r} has rank {len(shape)}, not 2" if len(shape) > 2 else None
    rows, columns = reversed(shape) if columns_first else shape
    return Weight(value, tensor, rows, columns, columns_first)


def _unmet(site: Site, model: ir.Model, grids: Grids) -> str | None:
    """The first condition that a site does not meet, as a sentence, or None."""
    grid = grids[site.node.op_type]
    conditions: Iterator[str | None] = (condition(site, grid, model) for condition in _CONDITIONS)
    return next(filter(None, conditions), None)


def _types(site: Site, grid: BlockGrid, model: ir.Model) -> str | None:
    weight, taken = site.weight, site.support.dtypes
    dtypes = [weight.tensor.dtype] if site.is_lookup else [weight.tensor.dtype, site.activation.dtype]
    if any(dtype not in taken for dtype in dtypes):
        names = " and ".join("an unknown type" if dtype is None else dtype.name for dtype in dict.fromkeys(dtypes))
        return f"the target takes {' or '.join(d.name for d in taken)} here; {weight.value.name!r} is used with {names}"
    return None


def _grid(site: Site, grid: BlockGrid, model: ir.Model) -> str | None:
    support = site.support
    if grid.bits not in support.bits or grid.block not in support.blocks:
        return (
            f"the target takes {support.bits} bits in blocks of {support.blocks} for {support.op_type}, "
            f"not {grid.bits} in blocks of {grid.block}"
        )
    return None


def _opset(site: Site, grid: BlockGrid, model: ir.Model) -> str | None:
    opset = model.opset_imports.get("", 0)
    if opset < site.support.min_opset:
        return f"the target takes it from opset {site.support.min_opset}; the model has {opset}"
    return None


def _place(site: Site, grid: BlockGrid, model: ir.Model) -> str | None:
    if any(site.graph in _within(function.graph) for function in model.functions.values()):
        return "it is in a function, which cannot hold initializers; inline the model's functions first"
    return None


def _within(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for subgraph in ir.node_subgraphs(node):
            yield from _within(subgraph)


def _size(site: Site, grid: BlockGrid, model: ir.Model) -> str | None:
    weight = site.weight
    if not weight.rows or not weight.columns:
        return f"the weight {weight.value.name!r} is empty"
    if grid.nbytes(weight.rows, weight.columns) >= weight.tensor.nbytes:
        return f"integers and scales would not be smaller than {weight.value.name!r} itself"
    return None


def _gemm(site: Site, grid: BlockGrid, model: ir.Model) -> str | None:
    node = site.node
    if node.op_type != "Gemm":
        return None
    needed: dict[str, float] = {"alpha": 1.0, "transA": 0}
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        needed["beta"] = 1.0
        if bias.shape is None or tuple(bias.shape) != (site.weight.rows,):
            return f"its bias {bias.name!r} is not known to have shape [{site.weight.rows}]"
    unmet = [name for name, value in needed.items() if ir.attribute(node, name, value) != value]
    return f"it has {unmet[0]} other than {needed[unmet[0]]:g}" if unmet else None


def _operands(site: Site, grid: BlockGrid, model: ir.Model) -> str | None:
    if site.is_lookup:
        axis = ir.attribute(site.node, "axis", 0)
        if axis not in (0, -2):
            return f"it looks up along axis {axis}, not the rows"
        whole = site.weight.columns % grid.block == 0
        return None if whole else f"rows of {site.weight.columns} are not whole blocks of {grid.block}"
    shape = site.activation.shape
    if shape is None or len(shape) < 2:
        known = "unknown" if shape is None else str(len(shape))
        return f"the rank of {site.activation.name!r} is {known}, and the target takes 2 and more"
    return None


Condition = Callable[[Site, BlockGrid, ir.Model], str | None]

_CONDITIONS: tuple[Condition, ...] = (_types, _grid, _opset, _place, _operands, _gemm, _size)


def finite(weight: Float32Array) -> bool:
    """Whether all values are finite, without a copy of them."""
    return bool(np.isfinite([weight.min(), weight.max()]).all())
