"""What a matching of two models says: which nodes, values and initializers correspond."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sardonyx.diff.pairs import Pairs

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
        pairs: The tables it was read off, which spare `compare` to make them again; None where built by hand.
    """

    groups: tuple[Group, ...]
    values: Mapping[str, str]
    initializers: Mapping[str, str]
    pairs: "Pairs | None" = field(default=None, repr=False, compare=False)
