"""Which nodes, values and initializers of two models are the same, although names, order, fusion and Q/DQ changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sardonyx import ir

How = Literal["same", "renamed", "replaced", "fused", "decomposed", "moved", "added", "removed"]
"""What became of the nodes of a group.

`same` and `renamed` are one node each with the same operator; attributes, weights and types may differ, which `compare`
says. `replaced` is other operators in their place, `fused` fewer nodes, `decomposed` more, `moved` the same nodes in
another order of computation or in another graph.
"""


@dataclass(frozen=True)
class NodeRef:
    """A node of a model.

    Attributes:
        scope: Path from the main graph to the node's graph: `NODE.ATTRIBUTE` for a subgraph, `NODE.ATTRIBUTE[INDEX]`
            where the attribute holds several, `function DOMAIN::NAME` for a function's body; empty for the main graph.
        name: The node's name.
        op_type: Its operator.
        domain: The operator's domain; empty for the standard one.
        index: Position of the node in its graph.
    """

    scope: tuple[str, ...]
    name: str
    op_type: str
    domain: str
    index: int


@dataclass(frozen=True)
class Group:
    """Nodes of one model that together do what nodes of the other do.

    Attributes:
        before: Nodes of the first model in the order of their graph; empty for added ones.
        after: Nodes of the second model; empty for removed ones.
        how: What became of them.
        evidence: Why they belong together, as a phrase.
    """

    before: tuple[NodeRef, ...]
    after: tuple[NodeRef, ...]
    how: How
    evidence: str


@dataclass(frozen=True)
class Matching:
    """What of two models corresponds. Every node of either model is in exactly one group.

    Attributes:
        groups: Groups in the order of the second model; removed nodes stand after what computes their input.
        values: Name of a value of the first model's main graph -> name of the value of the second's that carries the
            same quantity, quantization noise aside. Inputs and nodes' outputs, no constants.
        initializers: Name of an initializer of the first model's main graph -> name of the one that took its place.
    """

    groups: tuple[Group, ...]
    values: Mapping[str, str]
    initializers: Mapping[str, str]


def match(before: ir.Model, after: ir.Model, *, provenance: bool = True) -> Matching:
    """Matches two models.

    Args:
        before: The first model; it is not changed.
        after: The second model; it is not changed.
        provenance: Whether to believe what the passes of a compile noted in the nodes they made.

    Raises:
        LoadError: If external weights can no longer be read.
    """
    groups: list[Group] = []
    theirs = {_key(ref): ref for ref in _refs(before)}
    for ref in _refs(after):
        partner = theirs.pop(_key(ref), None)
        if partner is None:
            groups.append(Group((), (ref,), "added", "only the second model has a node of this name"))
        else:
            groups.append(Group((partner,), (ref,), "same", "name and operator"))
    groups += [Group((ref,), (), "removed", "only the first model has a node of this name") for ref in theirs.values()]
    values = _values(before.graph) & _values(after.graph)
    weights = set(before.graph.initializers) & set(after.graph.initializers)
    return Matching(tuple(groups), {name: name for name in values}, {name: name for name in weights})


def _key(ref: NodeRef) -> tuple[object, ...]:
    return ref.scope, ref.name, ref.domain, ref.op_type


def _values(graph: ir.Graph) -> set[str]:
    made = (value for node in graph for value in node.outputs)
    return {value.name for value in (*graph.inputs, *made) if value.name}


def _refs(model: ir.Model) -> list[NodeRef]:
    return [NodeRef((), node.name or "", node.op_type, node.domain, index) for index, node in enumerate(model.graph)]
