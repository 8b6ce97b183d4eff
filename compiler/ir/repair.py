"""Repairs of what exporters get wrong, on the graph: each keeps the function and says what it did."""

import graphlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as oir

from sardonyx.errors import LoadError
from sardonyx.ir.graphs import NameAuthority, all_graphs, graph_values, name_list, node_subgraphs, root_graphs

_FIRST_IR_WITHOUT_INITIALIZER_INPUTS = 4


@dataclass(frozen=True)
class Repair:
    """Something that was wrong with a model and what was done about it.

    Attributes:
        kind: In kebab-case, such as `duplicate-value` or `opset-raised`.
        message: What was wrong and what was done, as a sentence.
        names: Names of the nodes or values concerned.
    """

    kind: str
    message: str
    names: tuple[str, ...] = ()


def repair_model(model: oir.Model) -> tuple[Repair, ...]:
    """Applies all structural repairs to `model` in place and returns those that were needed.

    Raises:
        LoadError: If the graph has a cycle.
    """
    return tuple(repair for rule in _RULES for repair in rule(model))


def merge_domain_alias(model: oir.Model) -> Iterator[Repair]:
    """Writes the standard domain as the empty string where a model imports it as `ai.onnx`."""
    for imports in [model.opset_imports, *(f.opset_imports for f in model.functions.values())]:
        alias = imports.pop("ai.onnx", None)
        if alias is not None:
            imports.setdefault("", alias)
            yield Repair("domain-alias", "The operator set 'ai.onnx' is imported by its standard name ''.")


def drop_initializer_inputs(model: oir.Model) -> Iterator[Repair]:
    """Removes initializers from the graph inputs, where they are there by habit and not as defaults.

    Before IR version 4 every initializer had to be an input as well. Since then such an input is a default
    that a caller may override; where all of several initializers are listed, the exporter kept the old habit.
    """
    graph = model.graph
    listed = [value for value in graph.inputs if value.is_initializer()]
    by_habit = len(listed) > 1 and len(listed) == len(graph.initializers)
    if not listed or not (by_habit or model.ir_version < _FIRST_IR_WITHOUT_INITIALIZER_INPUTS):
        return
    kept = [value for value in graph.inputs if not value.is_initializer()]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    model.ir_version = max(model.ir_version, _FIRST_IR_WITHOUT_INITIALIZER_INPUTS)
    names = tuple(value.name or "" for value in listed)
    message = f"{len(names)} initializers were also listed as graph inputs; they are constants now."
    yield Repair("initializer-input", message, names)


def name_values(model: oir.Model) -> Iterator[Repair]:
    """Renames inner values whose name another value in the same or an outer graph has."""
    names = NameAuthority(model)
    renamed: list[str] = []
    for root in root_graphs(model):
        _name_values(root, {}, names, renamed)
    if renamed:
        message = f"{len(renamed)} values shared a name with another value; they were renamed."
        yield Repair("duplicate-value", message, tuple(dict.fromkeys(renamed)))


def _name_values(graph: oir.Graph, visible: dict[str, oir.Value], names: NameAuthority, renamed: list[str]) -> None:
    # Inputs and outputs come first: they keep their names.
    interface = [*graph.inputs, *(v for v in graph.outputs if v.graph is graph)]
    own = [v.name for v in interface if v.name and visible.setdefault(v.name, v) is v]
    fixed = {id(visible[name]) for name in own}
    for value in graph_values(graph):
        if id(value) in fixed or not (value.name or value.uses() or value.is_graph_output()):
            continue
        if not value.name or visible.get(value.name, value) is not value:
            renamed.append(value.name or "")
            value.name = names.value(value.name or "value")
        visible[value.name] = value
        own.append(value.name)
    for node in graph:
        for subgraph in node_subgraphs(node):
            _name_values(subgraph, visible, names, renamed)
    for name in own:
        visible.pop(name, None)


def sort_nodes(model: oir.Model) -> Iterator[Repair]:
    """Puts nodes into topological order, in subgraphs and functions too.

    Raises:
        LoadError: If the graph has a cycle, with the names of the nodes on it.
    """
    for root in root_graphs(model):
        unsorted = _unsorted_nodes(root, set())
        if not unsorted:
            continue
        try:
            root.sort()
        except ValueError:
            raise LoadError(
                f"The graph {root.name!r} has a cycle through the nodes {name_list(_cycle(root), 8)}.",
                remedy="Export the model again: a graph with a cycle cannot run.",
            ) from None
        message = f"{len(unsorted)} nodes came before a node they depend on; the nodes were sorted."
        yield Repair("unsorted-nodes", message, tuple(unsorted))


def _unsorted_nodes(graph: oir.Graph, done: set[oir.Node]) -> list[str]:
    """Returns the nodes that use the output of a node of the same model that comes later."""
    found: list[str] = []
    for node in graph:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in done and producer.graph is not None:
                found.append(node.name or node.op_type)
                break
        for subgraph in node_subgraphs(node):
            found.extend(_unsorted_nodes(subgraph, done))
        done.add(node)
    return found


def _cycle(root: oir.Graph) -> list[str]:
    """Returns names of the nodes on one cycle; a node depends on all nodes inside its subgraphs."""
    sorter: graphlib.TopologicalSorter[oir.Node] = graphlib.TopologicalSorter()
    for node in root.all_nodes():
        producers = (value.producer() for value in node.inputs if value is not None)
        inner = (inner for subgraph in node_subgraphs(node) for inner in subgraph)
        sorter.add(node, *(producer for producer in producers if producer is not None), *inner)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return [node.name or node.op_type for node in error.args[1][1:]]
    return []


def name_nodes(model: oir.Model) -> Iterator[Repair]:
    """Gives each node a name that no other node of the model has: reports and refusals point by name."""
    counts = Counter(node.name for graph in all_graphs(model) for node in graph)
    if not counts[""] and not counts[None] and all(count == 1 for count in counts.values()):
        return
    names = NameAuthority(model)
    seen: set[str] = set()
    renamed: list[str] = []
    for node in (node for graph in all_graphs(model) for node in graph):
        if not node.name or node.name in seen:
            node.name = names.node(node.name or node.op_type)
            renamed.append(node.name)
        seen.add(node.name)
    yield Repair("node-name", f"{len(renamed)} nodes had no name of their own and got one.", tuple(renamed))


_RULES: tuple[Callable[[oir.Model], Iterable[Repair]], ...] = (
    merge_domain_alias,
    drop_initializer_inputs,
    name_values,
    sort_nodes,
    name_nodes,
)
