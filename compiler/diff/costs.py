"""What nodes cost, without running them."""

from collections.abc import Iterable, Iterator
from math import prod

from sardonyx import ir
from sardonyx.diff.schema import Cost, Totals


def cost_of(nodes: Iterable[ir.Node]) -> Cost:
    """Returns the cost of nodes; a constant that several of them read counts once."""
    constants: dict[int, ir.TensorProtocol] = {}
    count = macs = unknown = activations = 0
    for node in nodes:
        count += 1
        constants.update((id(tensor), tensor) for tensor in _constants(node))
        if ir.has_macs(node):
            found = ir.node_macs(node)
            macs, unknown = macs + (found or 0), unknown + (found is None)
        if node.op_type != "Constant":
            activations += sum(map(_value_bytes, node.outputs))
    return Cost(
        nodes=count,
        parameters=sum(tensor.size for tensor in constants.values()),
        weight_bytes=sum(tensor.nbytes for tensor in constants.values()),
        macs=macs,
        unknown_macs=unknown,
        activation_bytes=activations,
    )


def totals_of(model: ir.Model) -> Totals:
    """Returns the totals of a model."""
    nodes = (node for graph in ir.all_graphs(model) for node in graph)
    return Totals(cost=cost_of(nodes), operators=ir.operator_counts(model), nbytes=ir.nbytes(model))


def _constants(node: ir.Node) -> Iterator[ir.TensorProtocol]:
    """Tensors that a node reads as initializers or holds itself."""
    for value in node.inputs:
        if value is not None and value.is_initializer() and value.const_value is not None:
            yield value.const_value
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.TENSOR and not attr.is_ref():
            yield attr.as_tensor()


def _value_bytes(value: ir.Value) -> int:
    if value.dtype is None or value.shape is None or value.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return 0
    return prod(dim if isinstance(dim, int) else 1 for dim in value.shape) * value.dtype.bitwidth // 8
