"""Types that cross the boundary of a body: what If, Loop and Scan hand in, carry on and hand out.

A slot is a set of values and uses that must have one type: an output of an If and what its branches return for it, or a
state of a Loop with its initial value, the body's input and output, and the final value.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.passes.precision.analysis import is_float

Use = tuple[ir.Node, int]
Return = tuple[ir.Graph, int]


@dataclass(frozen=True)
class Slot:
    """Values and uses that share one type.

    Attributes:
        values: Values that the slot defines: outputs of the node and inputs of its bodies.
        uses: Inputs of the node, as (node, index).
        returns: Outputs of its bodies, as (graph, index).
    """

    values: tuple[ir.Value, ...]
    uses: tuple[Use, ...] = ()
    returns: tuple[Return, ...] = ()

    @property
    def convertible(self) -> bool:
        """Whether everything in it is a FLOAT tensor."""
        handed = [node.inputs[index] for node, index in self.uses]
        returned = [graph.outputs[index] for graph, index in self.returns]
        return all(map(is_float, (*self.values, *handed, *returned)))


def slots(graph: ir.Graph) -> list[Slot]:
    """Returns the slots of FLOAT tensors of a graph and everything inside it, those of inner nodes first."""
    found: list[Slot] = []
    for node in graph:
        for body in ir.node_subgraphs(node):
            found += slots(body)
        if not node.domain and node.op_type in _SLOTS:
            found += [slot for slot in _SLOTS[node.op_type](node) if slot.convertible]
    return found


def _if_slots(node: ir.Node) -> Iterator[Slot]:
    branches = tuple(ir.node_subgraphs(node))
    for index, output in enumerate(node.outputs):
        yield Slot((output,), returns=tuple((branch, index) for branch in branches))


def _loop_slots(node: ir.Node) -> Iterator[Slot]:
    """The body takes (iteration, condition, states) and returns (condition, states, scanned)."""
    (body,) = ir.node_subgraphs(node)
    states = len(node.inputs) - 2
    for index, output in enumerate(node.outputs):
        returns = ((body, index + 1),)
        if index < states:
            yield Slot((output, body.inputs[index + 2]), ((node, index + 2),), returns)
        else:
            yield Slot((output,), returns=returns)


def _scan_slots(node: ir.Node) -> Iterator[Slot]:
    """The body takes (states, slices of the scanned inputs) and returns (states, slices of the scanned outputs)."""
    (body,) = ir.node_subgraphs(node)
    if len(body.inputs) != len(node.inputs):
        return  # opset 8, with sequence lengths
    states = len(node.inputs) - ir.attribute(node, "num_scan_inputs", 0)
    for index, output in enumerate(node.outputs):
        returns = ((body, index),)
        if index < states:
            yield Slot((output, body.inputs[index]), ((node, index),), returns)
        else:
            yield Slot((output,), returns=returns)
    for index in range(states, len(node.inputs)):
        yield Slot((body.inputs[index],), ((node, index),))


_SLOTS: Mapping[str, Callable[[ir.Node], Iterator[Slot]]] = {
    "If": _if_slots,
    "Loop": _loop_slots,
    "Scan": _scan_slots,
}
