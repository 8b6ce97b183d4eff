"""Graphs for the page: nodes, what became of them, which belong together, and which runs of equal nodes fold.

A run is a connected part of the graph that nothing changed. Folding must not make a cycle: a path may leave a run, go
through something that changed, and come back. So nodes belong to one run only where equally many other nodes lie above
them, on the path that has the most: along an edge that number never falls, and through such a node it rises, so that no
path comes back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx

from sardonyx import ir
from sardonyx.report.content import Drawing

SHORTEST_RUN = 3
"""Runs of fewer equal nodes are drawn as they are."""
MOST_NODES = 60_000
"""Nodes of both graphs together beyond which they are not drawn: the data alone would be tens of megabytes."""

EQUAL, INTERFACE = "equal", "interface"
STATES: Mapping[str, str] = {
    EQUAL: "equal",
    "changed": "changed",
    "fused": "fused or rewritten",
    "moved": "moved",
    "removed": "only before",
    "added": "only after",
    INTERFACE: "input or output",
}
"""Meaning by state of a node; the keys are also style classes."""


@dataclass(frozen=True)
class DrawnNode:
    """A node as it is drawn.

    Attributes:
        name: Its name.
        op: Its operator, with the domain where that is not ONNX's own.
        inputs: Positions, in the graph's list, of the nodes whose results it takes.
        state: A key of `STATES`.
        note: What else there is to say of it.
        bodies: Title and anchor of the drawing of each body that it has.
    """

    name: str
    op: str
    inputs: tuple[int, ...] = ()
    state: str = EQUAL
    note: str = ""
    bodies: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class DrawnGraph:
    """A graph as it is drawn: its nodes so that each comes after those that it takes results from."""

    title: str
    nodes: tuple[DrawnNode, ...]

    def with_states(self, states: Mapping[int, str], notes: Mapping[int, str]) -> "DrawnGraph":
        """Returns the graph with states and notes by position; other nodes stay as they are."""
        nodes = [
            replace(node, state=states.get(index, node.state), note=notes.get(index, node.note))
            for index, node in enumerate(self.nodes)
        ]
        return replace(self, nodes=tuple(nodes))


def drawn_graph(graph: ir.Graph, title: str) -> tuple[DrawnGraph, dict[int, int]]:
    """Returns a graph of a model, with inputs and outputs as nodes and constants left out.

    What is computed of constants alone, such as a dequantized weight, is left out with them. A value that a body of a
    node captures counts as an input of the node; those that this graph captures itself are drawn as inputs.

    Returns:
        The graph, and its positions by the position of a node in the model's graph.
    """
    nodes: list[DrawnNode] = []
    made: dict[ir.Value, int] = {}
    places: dict[int, int] = {}
    entering = [("input", value) for value in graph.inputs if value.name not in graph.initializers]
    for what, value in (*entering, *(("outer value", value) for value in _captured(graph))):
        made[value] = len(nodes)
        nodes.append(DrawnNode(value.name or "", what, state=INTERFACE))
    for index, node in enumerate(graph):
        taken = list(_taken(node))
        inputs = dict.fromkeys(made[value] for value in taken if value in made)
        if (node.op_type == "Constant" and not node.domain) or (taken and not inputs):
            continue
        places[index] = len(nodes)
        made |= dict.fromkeys(node.outputs, len(nodes))
        op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        nodes.append(DrawnNode(node.name or "", op, tuple(inputs)))
    ends = [value for value in graph.outputs if value in made]
    nodes += [DrawnNode(value.name or "", "output", (made[value],), INTERFACE) for value in ends]
    return DrawnGraph(title, tuple(nodes)), places


def _captured(graph: ir.Graph) -> Iterable[ir.Value]:
    """The values from outside that a graph and the bodies in it take, without constants."""
    own = set(_defined(graph))
    taken = (value for node in graph for value in _taken(node))
    outer = dict.fromkeys(value for value in (*taken, *graph.outputs) if value not in own)
    return [value for value in outer if ir.constant_tensor(value) is None]


def _defined(graph: ir.Graph) -> Iterator[ir.Value]:
    """The values that a graph and the bodies in it define."""
    yield from (*graph.inputs, *graph.initializers.values())
    for node in graph:
        yield from node.outputs
        for body in ir.node_subgraphs(node):
            yield from _defined(body)


def _taken(node: ir.Node) -> Iterable[ir.Value]:
    """The values that a node and its bodies take."""
    yield from (value for value in node.inputs if value is not None)
    for graph in ir.node_subgraphs(node):
        for inner in graph:
            yield from _taken(inner)


def draw(
    graphs: Sequence[DrawnGraph], links: Iterable[tuple[int, int]] = (), *, title: str = "Graph", anchor: str = ""
) -> Drawing | None:
    """Returns the drawing of one graph, or of two side by side.

    Args:
        graphs: One graph or two, the original first.
        links: Positions of nodes, in the first and in the second graph, that belong together.
        title: What is shown.
        anchor: By what other drawings of the page refer to this one, which is shown when it is asked for; empty for one
            that is shown at once.

    Returns:
        The drawing; None where the graphs are larger than a page can hold.
    """
    if sum(len(graph.nodes) for graph in graphs) > MOST_NODES:
        return None
    fold = len(graphs) > 1
    sides = [_side(graph, runs(graph.nodes) if fold else []) for graph in graphs]
    present = {node.state for graph in graphs for node in graph.nodes}
    legend = [(state, meaning) for state, meaning in STATES.items() if state in present and fold]
    caption = (
        "Matched nodes stand in one row and are linked. A box with a shadow is a run of equal nodes: select it to "
        "unfold it on both sides. Constants, and what is computed of them alone, are not drawn."
    )
    return Drawing(
        {"sides": sides, "links": sorted(set(links)), "states": STATES},
        title,
        caption if fold else "",
        (*legend, *([("run", "folded run of equal nodes")] if any(side["folds"] for side in sides) else [])),
        anchor,
        _extent(graphs) if anchor else "",
    )


def _extent(graphs: Sequence[DrawnGraph]) -> str:
    """What there is to see, in a few words."""
    nodes = [[node for node in graph.nodes if node.state != INTERFACE] for graph in graphs]
    changed = sum(node.state != EQUAL for side in nodes for node in side)
    return f"{max(map(len, nodes)):,} nodes, " + (f"{changed:,} of both sides changed" if changed else "equal")


def _side(graph: DrawnGraph, folds: list[list[int]]) -> dict[str, Any]:
    return {
        "title": graph.title,
        "names": [node.name for node in graph.nodes],
        "ops": [node.op for node in graph.nodes],
        "states": [node.state for node in graph.nodes],
        "inputs": [list(node.inputs) for node in graph.nodes],
        "notes": {index: node.note for index, node in enumerate(graph.nodes) if node.note},
        "folds": folds,
        "bodies": {index: node.bodies for index, node in enumerate(graph.nodes) if node.bodies},
    }


def runs(nodes: Sequence[DrawnNode]) -> list[list[int]]:
    """Returns the runs of equal nodes that fold: positions in order, so that contracting each leaves no cycle.

    Args:
        nodes: Nodes so that each comes after those that it takes results from.
    """
    above: list[int] = []
    for node in nodes:
        counts = (above[i] + (nodes[i].state != EQUAL) for i in node.inputs)
        above.append(max(counts, default=0))
    equal = nx.Graph()
    equal.add_nodes_from(index for index, node in enumerate(nodes) if node.state == EQUAL)
    equal.add_edges_from(
        (source, index)
        for index, node in enumerate(nodes)
        for source in node.inputs
        if node.state == nodes[source].state == EQUAL and above[source] == above[index]
    )
    return sorted(sorted(run) for run in nx.connected_components(equal) if len(run) >= SHORTEST_RUN)
