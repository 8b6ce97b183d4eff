"""Integer regions in a 16-bit graph: a product and the DequantizeLinear nodes that feed it have one type.

A target that multiplies integers looks for DequantizeLinear right in front of the product. A Cast between them would
hide it, so that either all of them become 16-bit or none does.
"""

from collections.abc import Iterator, Mapping

from sardonyx import ir
from sardonyx.capabilities import Capabilities, Role

DEQUANTIZE, QUANTIZE = "DequantizeLinear", "QuantizeLinear"
FIRST_HALF_OPSET = 19
"""QuantizeLinear and DequantizeLinear take 16-bit floats from this opset."""


def has_pairs(model: ir.Model) -> bool:
    """Whether a model has nodes that quantize or dequantize."""
    return any(not node.domain and node.op_type in (DEQUANTIZE, QUANTIZE) for g in ir.all_graphs(model) for node in g)


def of_weight(node: ir.Node) -> bool:
    """Whether a DequantizeLinear restores a constant."""
    return node.inputs[0] is not None and ir.constant_tensor(node.inputs[0]) is not None


def integer_products(graphs: tuple[ir.Graph, ...], capabilities: Capabilities) -> Iterator[frozenset[ir.Node]]:
    """Yields groups of nodes that must have one type: products, and the DequantizeLinear nodes that feed them."""
    group_of: dict[ir.Node, set[ir.Node]] = {}
    for graph in graphs:
        for node in graph:
            sources = _dequantized(node)
            row = capabilities.support(node.domain, node.op_type)
            if not sources or row is None or row.role is not Role.COMPUTE:
                continue
            group = {node, *sources}
            for source in sources:
                group |= group_of.get(source, set())
            group_of |= dict.fromkeys(group, group)
    seen: set[int] = set()
    for group in group_of.values():
        if id(group) not in seen:
            seen.add(id(group))
            yield frozenset(group)


def split_group(group: frozenset[ir.Node], refused: Mapping[ir.Node, str]) -> str | None:
    """Returns why a group stays FLOAT as a whole, or None where nothing in it has to."""
    member = next((node for node in group if node in refused), None)
    if member is None:
        return None
    return f"it multiplies integers with {member.name}, which stays FLOAT: {refused[member]}"


def _dequantized(node: ir.Node) -> list[ir.Node]:
    producers = [value.producer() for value in node.inputs if value is not None]
    return [p for p in producers if p is not None and not p.domain and p.op_type == DEQUANTIZE]
