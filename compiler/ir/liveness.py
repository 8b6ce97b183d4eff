"""How much memory activations need at once, from shapes alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as oir

from sardonyx.ir.graphs import all_graphs, graph_values, node_subgraphs


@dataclass(frozen=True)
class Peak:
    """The moment at which the most bytes of activations are needed.

    Attributes:
        nbytes: Bytes of all values that are still needed while a node of the main graph runs, its own outputs and what
            its bodies hold included.
        node: Name of that node; empty where the graph has none.
        unknown: Values whose type or rank is not known and that count as nothing.
    """

    nbytes: int
    node: str
    unknown: int


def peak_activations(model: oir.Model) -> Peak:
    """Returns the peak of activations over the nodes in their order, symbolic dimensions at 1.

    A value is needed from the node that computes it to the last that takes it; inputs from the start, outputs to the
    end. Weights are left out, and so is what a runtime saves by computing in place or needs for its kernels.
    """
    unknown = sum(
        value_bytes(value) is None
        for graph in all_graphs(model)
        for value in graph_values(graph)
        if not value.is_initializer() and value.uses()
    )
    nbytes, node = _peak(model.graph)
    return Peak(nbytes, node, unknown)


def value_bytes(value: oir.Value) -> int | None:
    """Returns the bytes of a value with symbolic dimensions at 1; None where type or rank are not known."""
    if value.shape is None or value.dtype is None or value.dtype in (oir.DataType.STRING, oir.DataType.UNDEFINED):
        return None
    elements = prod(dim if isinstance(dim, int) else 1 for dim in value.shape)
    return -(-elements * value.dtype.bitwidth // 8)


def describe_type(value: oir.Value) -> str:
    """Returns type and shape as text, such as `FLOAT[Nx3x?]`."""
    dims = None if value.shape is None else [str(dim) if str(dim) != "None" else "?" for dim in value.shape]
    return f"{value.dtype.name if value.dtype is not None else '?'}[{'?' if dims is None else 'x'.join(dims)}]"


def set_dims(model: oir.Model, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Gives symbolic dimensions of inputs a size, and forgets the shapes of all computed values.

    Args:
        model: Changed in place; shapes are to be inferred anew.
        sizes: Size by name of the dimension.

    Returns:
        The names that no input has.
    """
    found: set[str] = set()
    for value in model.graph.inputs:
        if value.shape is not None:
            names = [dim.value if isinstance(dim, oir.SymbolicDim) else None for dim in value.shape]
            found.update(name for name in names if name is not None and name in sizes)
            value.shape = oir.Shape([sizes.get(name or "", dim) for name, dim in zip(names, value.shape, strict=True)])
    if found:
        for graph in all_graphs(model):
            for node in graph:
                for output in node.outputs:
                    output.shape = None
    return tuple(name for name in sizes if name not in found)


def _peak(graph: oir.Graph) -> tuple[int, str]:
    """Largest number of bytes in use at a node, and its name."""
    last = _last_uses(graph)
    live = sum(value_bytes(value) or 0 for value in graph.inputs if not value.is_initializer())
    ends: dict[int, int] = {}
    for value in graph.inputs:
        if value in last and not value.is_initializer():
            ends[last[value]] = ends.get(last[value], 0) + (value_bytes(value) or 0)
    peak, where = live, ""
    for index, node in enumerate(graph):
        if node.op_type == "Constant" and not node.domain:
            continue
        for value in node.outputs:
            nbytes = value_bytes(value) or 0
            live += nbytes
            ends[last.get(value, index)] = ends.get(last.get(value, index), 0) + nbytes
        inside = max((_peak(body)[0] for body in node_subgraphs(node)), default=0)
        if live + inside > peak:
            peak, where = live + inside, node.name or ""
        live -= ends.get(index, 0)
    return peak, where


def _last_uses(graph: oir.Graph) -> dict[oir.Value, int]:
    """Position of the last node, bodies included, that takes each value; past the end for outputs."""
    last: dict[oir.Value, int] = {}
    for index, node in enumerate(graph):
        for value in _taken(node):
            last[value] = index
    last |= dict.fromkeys(graph.outputs, len(graph))
    return last


def _taken(node: oir.Node) -> list[oir.Value]:
    taken = [value for value in node.inputs if value is not None]
    for body in node_subgraphs(node):
        taken += [value for inner in body for value in _taken(inner)]
        taken.extend(body.outputs)
    return taken
