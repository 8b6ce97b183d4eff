"""Models with bodies (If, Loop, Scan): their nodes and values as one, with names that tell them apart."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from sardonyx import ir

BODIES = frozenset({"If", "Loop", "Scan"})
"""Operators whose bodies are looked into: what runs in others (SequenceMap, contributed ones) stays as it is."""


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yields the bodies of an If, Loop or Scan."""
    if node.op_type in BODIES and not node.domain:
        yield from ir.node_subgraphs(node)


def nodes_in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yields the nodes of a graph and of all bodies in it so that a value is made before it is taken.

    The nodes of a body come before the node that runs it: they take values from outside, and it gives their results.
    """
    for node in graph:
        for body in bodies(node):
            yield from nodes_in_order(body)
        yield node


def graphs_of(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yields a graph and all bodies in it, outer before inner."""
    yield graph
    for node in graph:
        for body in bodies(node):
            yield from graphs_of(body)


def named_values(graph: ir.Graph) -> Mapping[str, ir.Value]:
    """Returns the values of a graph and of all bodies in it by name."""
    return {value.name: value for scope in graphs_of(graph) for value in ir.graph_values(scope) if value.name}


def name_inner_values(model: ir.Model) -> Mapping[ir.Value, str]:
    """Renames values of bodies until no two values of the model share a name, so that a plan can name each.

    Bodies beside each other, such as the branches of an If, may use a name twice. The order of the graph decides the
    new names, so that copies of a model get the same.

    Returns:
        The former names of the values that were renamed.
    """
    inner = [value for body in list(graphs_of(model.graph))[1:] for value in ir.graph_values(body) if value.name]
    counts = Counter(value.name for value in inner)
    if not inner or max(counts.values()) == 1:
        return {}  # a body never shares a name with a graph around it
    names, kept = ir.NameAuthority(model), set()
    former: dict[ir.Value, str] = {}
    for value in inner:
        if value.name in kept:
            former[value] = value.name or ""
            value.name = names.value(value.name or "")
        kept.add(value.name)
    return former


def restore_names(former: Mapping[ir.Value, str]) -> None:
    """Gives values back the names that `name_inner_values` took."""
    for value, name in former.items():
        value.name = name


def remove_unused_constant(value: ir.Value) -> None:
    """Removes an initializer or Constant node whose value nothing reads any more."""
    graph = value.graph
    if graph is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    producer = value.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    else:
        graph.initializers.pop(value.name or "")


def left_in_functions(model: ir.Model, operators: Collection[tuple[str, str]]) -> dict[str, str]:
    """Returns the reason by name of each node of some operators that stays in float because it is in a function.

    Args:
        model: A model; inlining leaves no functions.
        operators: (domain, op_type) of the nodes.
    """
    return {
        node.name or "": f"it is in the body of the function {function.name}: run cleanup first, which inlines it"
        for function in model.functions.values()
        for graph in graphs_of(function.graph)
        for node in graph
        if (node.domain, node.op_type) in operators
    }
