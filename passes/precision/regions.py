"""Which nodes are converted: connected regions that save more memory traffic than the Casts at their border cost."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sardonyx import ir
from sardonyx.passes.precision.analysis import Analysis, float_constant
from sardonyx.passes.precision.operators import AGNOSTIC, MOVEMENT, VIEWS
from sardonyx.passes.precision.slots import Return, Slot, Use

NOMINAL_DIM = 16
"""Taken for a dimension that is not known, such as a batch or a sequence length."""

SAVED_BYTES = 2
"""What a node saves for each element that it reads or writes in 16 bits instead of 32."""

CAST_BYTES = 6
"""What a Cast moves for each element: 4 bytes on its wide side and 2 on its narrow side."""


@dataclass
class TypePlan:
    """Which nodes, slots and ends of the model are of the 16-bit type.

    Attributes:
        facts: What is known of the model.
        nodes: Nodes that are converted.
        slots: Slots that are converted.
        ends: Inputs and outputs of the model that are converted.
    """

    facts: Analysis
    nodes: set[ir.Node]
    ends: frozenset[ir.Value]
    slots: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._values: set[ir.Value] = set()
        self._uses: set[Use] = set()
        self._returns: set[Return] = set()

    def add_slot(self, slot: Slot) -> None:
        """Converts a slot."""
        self.slots.append(slot)
        self._values.update(slot.values)
        self._uses.update(slot.uses)
        self._returns.update(slot.returns)

    def defined(self, value: ir.Value) -> bool:
        """Whether a FLOAT value is of the 16-bit type where it is defined."""
        producer = value.producer()
        if value in self._values or (value in self.ends and producer is None):
            return True
        if producer is None or producer not in self.nodes:
            return False
        index = value.index()
        return index is not None and index in self.facts.positions(producer).outputs

    def required(self, node: ir.Node, index: int) -> bool | None:
        """Whether a node reads a FLOAT input in the 16-bit type; None where it reads either."""
        if node.op_type in AGNOSTIC and not node.domain:
            return None
        if node in self.nodes:
            return index in self.facts.positions(node).inputs
        return (node, index) in self._uses

    def returned(self, graph: ir.Graph, index: int) -> bool:
        """Whether an output of a graph is of the 16-bit type."""
        return (graph, index) in self._returns or graph.outputs[index] in self.ends


def choose_slots(plan: TypePlan, slots: Sequence[Slot]) -> None:
    """Converts the slots most of whose neighbours are converted; inner ones are decided first."""
    for slot in slots:
        if _score(slot, plan) > 0:
            plan.add_slot(slot)


def _score(slot: Slot, plan: TypePlan) -> int:
    handed = [node.inputs[index] for node, index in slot.uses]
    returned = [graph.outputs[index] for graph, index in slot.returns]
    sources = [value for value in (*handed, *returned) if value is not None and float_constant(value) is None]
    score = sum(1 if plan.defined(value) else -1 for value in sources if value not in slot.values)
    for value in slot.values:
        needs = [plan.required(use.node, use.idx) for use in value.uses() if (use.node, use.idx) not in slot.uses]
        score += sum(1 if need else -1 for need in needs if need is not None)
    return score


@dataclass(frozen=True)
class Region:
    """A connected group of nodes that may be converted.

    Attributes:
        nodes: Its nodes.
        saved: Bytes of memory traffic that its nodes save.
        cost: Bytes that the Casts at its border move.
        casts: Number of those Casts.
    """

    nodes: tuple[ir.Node, ...]
    saved: int
    cost: int
    casts: int

    @property
    def refusal(self) -> str | None:
        """Why it is left in FP32, as a sentence, or None."""
        if all(not node.domain and node.op_type in MOVEMENT for node in self.nodes):
            return "nothing computes in this region"
        if self.saved <= self.cost:
            return f"the region saves {self.saved} bytes of memory traffic, its {self.casts} Casts cost {self.cost}"
        return None


def regions(plan: TypePlan) -> Iterator[Region]:
    """Yields the connected regions of the plan's nodes: linked by values that need no Cast between them."""
    order = {node: number for number, node in enumerate(n for graph in plan.facts.graphs for n in graph)}
    links: dict[Slot | ir.Node, set[Slot | ir.Node]] = {
        node: set() for node in sorted(plan.nodes, key=order.__getitem__)
    }
    for one, other in _links(plan):
        links.setdefault(one, set()).add(other)
        links.setdefault(other, set()).add(one)
    while links:
        component = _component(links)
        nodes = sorted((member for member in component if isinstance(member, ir.Node)), key=order.__getitem__)
        if nodes:
            yield _region(tuple(nodes), plan)


def _links(plan: TypePlan) -> Iterator[tuple[Slot | ir.Node, Slot | ir.Node]]:
    for slot in plan.slots:
        yield from ((slot, node) for node in _neighbours(slot, plan) if node in plan.nodes)
    for node in plan.nodes:
        for index in plan.facts.positions(node).inputs:
            value = node.inputs[index]
            producer = None if value is None else value.producer()
            if value is not None and producer in plan.nodes and plan.defined(value):
                yield node, producer


def _component(links: dict[Slot | ir.Node, set[Slot | ir.Node]]) -> set[Slot | ir.Node]:
    """Takes one connected component out of a graph."""
    pending = [next(iter(links))]
    found = set(pending)
    while pending:
        reached = links.pop(pending.pop()) - found
        found |= reached
        pending.extend(reached)
    return found


def _neighbours(slot: Slot, plan: TypePlan) -> Iterator[ir.Node]:
    handed = [node.inputs[index] for node, index in slot.uses]
    returned = [graph.outputs[index] for graph, index in slot.returns]
    for value in (*handed, *returned):
        producer = None if value is None else value.producer()
        if producer is not None:
            yield producer
    for value in slot.values:
        yield from (use.node for use in value.uses())


def _region(nodes: tuple[ir.Node, ...], plan: TypePlan) -> Region:
    saved = 0
    crossing: set[ir.Value] = set()
    for node in nodes:
        positions = plan.facts.positions(node)
        read = [value for index in positions.inputs if (value := node.inputs[index]) is not None]
        written = [node.outputs[index] for index in positions.outputs]
        if node.op_type not in VIEWS:
            saved += SAVED_BYTES * sum(map(_elements, (*read, *written)))
        crossing.update(value for value in read if float_constant(value) is None and not plan.defined(value))
        crossing.update(value for value in written if _leaves(value, plan))
    return Region(nodes, saved, CAST_BYTES * sum(map(_elements, crossing)), len(crossing))


def _leaves(value: ir.Value, plan: TypePlan) -> bool:
    """Whether a value that is defined in 16 bits is also needed in FP32."""
    if any(plan.required(use.node, use.idx) is False for use in value.uses()):
        return True
    return any(
        output is value and not plan.returned(graph, index)
        for graph in (value.graph,)
        if isinstance(graph, ir.Graph) and value.is_graph_output()
        for index, output in enumerate(graph.outputs)
    )


def _elements(value: ir.Value) -> int:
    if value.shape is None:
        return NOMINAL_DIM**2
    total = 1
    for dim in value.shape:
        total *= dim if isinstance(dim, int) else NOMINAL_DIM
    return total


def keep_worthwhile(plan: TypePlan, found: Iterable[Region]) -> dict[str, list[ir.Node]]:
    """Takes the regions that do not pay out of the plan; returns their nodes by reason."""
    refused: dict[str, list[ir.Node]] = defaultdict(list)
    for region in found:
        if region.refusal is not None:
            refused[region.refusal] += region.nodes
            plan.nodes.difference_update(region.nodes)
    return dict(refused)
