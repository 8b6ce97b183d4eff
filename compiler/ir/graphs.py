"""Walking, copying, naming and small edits of models."""

import gc
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as oir

from sardonyx.errors import VerifyError

T = TypeVar("T")
GRAPH, GRAPHS = oir.AttributeType.GRAPH, oir.AttributeType.GRAPHS


@contextmanager
def paused_gc() -> Iterator[None]:
    """Pauses the cyclic garbage collector: building many linked objects is then 2 to 4 times faster."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def root_graphs(model: oir.Model) -> Iterator[oir.Graph]:
    """Yields the main graph and the body of each function, without their subgraphs."""
    yield model.graph
    for function in model.functions.values():
        yield function.graph


def all_graphs(model: oir.Model) -> Iterator[oir.Graph]:
    """Yields the main graph, the functions' graphs, and all their subgraphs, outer before inner."""
    for root in root_graphs(model):
        yield from with_subgraphs(root)


def with_subgraphs(graph: oir.Graph) -> Iterator[oir.Graph]:
    """Yields a graph and all graphs inside it, outer before inner, in node order."""
    yield graph
    for node in graph:
        for attr in node.attributes.data.values():
            kind = attr.type
            if kind is GRAPH or kind is GRAPHS:  # rare: a generator for each node would take several times as long
                for subgraph in attribute_graphs(attr):
                    yield from with_subgraphs(subgraph)


def node_subgraphs(node: oir.Node) -> Iterator[oir.Graph]:
    """Yields the graphs that are attributes of `node`, such as the branches of an If."""
    for attr in node.attributes.data.values():
        kind = attr.type
        if kind is GRAPH or kind is GRAPHS:
            yield from attribute_graphs(attr)


def attribute_graphs(attr: oir.Attr) -> Sequence[oir.Graph]:
    """Returns the graphs of an attribute of type GRAPH or GRAPHS; none for a function's parameter."""
    if attr.is_ref():
        return ()
    return (attr.as_graph(),) if attr.type is GRAPH else attr.as_graphs()


def graph_values(graph: oir.Graph) -> Iterator[oir.Value]:
    """Yields each value that `graph` itself defines once: inputs, initializers, node outputs; they may be renamed."""
    yield from graph.inputs
    for value in tuple(graph.initializers.values()):
        if not value.is_graph_input():
            yield value
    for node in graph:
        yield from node.outputs


def num_nodes(model: oir.Model) -> int:
    """Returns the number of nodes, those in subgraphs and functions included."""
    return sum(len(graph) for graph in all_graphs(model))


def operator_counts(model: oir.Model) -> dict[str, int]:
    """Returns how often each operator occurs, most frequent first.

    Operators outside the standard domain are written `domain::Operator`.
    """
    counts = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for graph in all_graphs(model)
        for node in graph
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def clone(model: oir.Model) -> oir.Model:
    """Returns an independent copy whose weights are shared with `model`.

    Nodes, values, shapes and types are new objects, so that no edit of one model shows in the other.

    Raises:
        VerifyError: If the model cannot be copied because its nodes are not in topological order or refer
            to values that it does not define.
    """
    with paused_gc():
        try:
            copy = model.clone()
        except (RuntimeError, ValueError, KeyError) as error:
            raise VerifyError(
                f"The model cannot be copied: {root_cause(error)}",
                remedy="Run sardonyx.ir.verify on it to see which rule it breaks.",
            ) from error
        for graph in all_graphs(copy):
            for value in graph_values(graph):
                if isinstance(value.type, oir.TensorType):
                    value.type = own_type(value.type)
    return copy


def own_type(shared: oir.TensorType) -> oir.TensorType:
    """Returns a copy of a type for one value: `value.dtype = ...` would change a shared one in place."""
    return oir.TensorType(shared.dtype, denotation=shared.denotation)


def root_cause(error: BaseException) -> str:
    """Returns the first line of the innermost error that led to `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).strip().splitlines()[0]


class NameAuthority:
    """Gives names that no value or node of a model has, and remembers what it gave.

    Args:
        model: The model whose names are taken, in all its graphs.
    """

    def __init__(self, model: oir.Model) -> None:
        self._model = model
        self._taken: tuple[set[str | None], set[str | None]] | None = None
        self._counters: dict[str, int] = {}

    def value(self, name: str) -> str:
        """Returns `name`, or `name` with the first free number, as the name of a new value."""
        return self._fresh(name, self._names()[0])

    def node(self, name: str) -> str:
        """Returns `name`, or `name` with the first free number, as the name of a new node."""
        return self._fresh(name, self._names()[1])

    def _names(self) -> tuple[set[str | None], set[str | None]]:
        """Names of values and of nodes, collected when the first name is asked for."""
        if self._taken is None:
            values: set[str | None] = set()
            nodes: set[str | None] = set()
            for graph in all_graphs(self._model):
                values.update(value.name for value in (*graph.inputs, *graph.initializers.values()))
                for node in graph:
                    nodes.add(node.name)
                    for value in (*node.inputs, *node.outputs):  # what is read may be in no graph while one is edited
                        if value is not None:
                            values.add(value.name)
            self._taken = values, nodes
        return self._taken

    def _fresh(self, name: str, taken: set[str | None]) -> str:
        candidate = name
        while candidate in taken:
            self._counters[name] = self._counters.get(name, 0) + 1
            candidate = f"{name}_{self._counters[name]}"
        taken.add(candidate)
        return candidate


def add_initializer(
    graph: oir.Graph, name: str, data: npt.NDArray[np.generic] | np.generic | oir.TensorProtocol
) -> oir.Value:
    """Adds a constant to `graph` and returns its value, with dtype and shape set.

    Raises:
        ValueError: If `graph` already has an initializer of that name; `NameAuthority` gives free ones.
    """
    if isinstance(data, np.ndarray | np.generic):
        array = np.asarray(data)
        data = oir.Tensor(array, name=name) if array.dtype.kind in "biufc" else oir.tensor(array, name=name)
    tensor: oir.TensorProtocol = data
    value = oir.Value(
        name=name,
        type=oir.TensorType(tensor.dtype),
        shape=oir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def remove_unused(nodes: Iterable[oir.Node]) -> None:
    """Removes those of `nodes` whose outputs nothing needs, and what only they needed: nodes and initializers."""
    remove_unused_initializers(remove_unused_nodes(nodes))


def remove_unused_nodes(nodes: Iterable[oir.Node]) -> list[oir.Value]:
    """Removes those of `nodes` whose outputs nothing needs, and the nodes that only they needed.

    Returns:
        The initializers that they read, each once. Many small edits look at those once in the end, as looking whether
        a value is used takes time in proportion to its uses.
    """
    constants: dict[oir.Value, None] = {}
    pending = deque(nodes)
    while pending:
        node = pending.popleft()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        read = dict.fromkeys(value for value in (*node.inputs, *_detach_subgraphs(node)) if value is not None)
        node.graph.remove(node, safe=True)
        for value in read:
            producer = value.producer()
            if producer is not None:
                pending.append(producer)
            elif value.is_initializer():
                constants[value] = None
    return list(constants)


def remove_unused_initializers(values: Iterable[oir.Value]) -> None:
    """Removes those of `values` that are initializers and that nothing needs."""
    for value in values:
        graph = value.graph
        if graph is None or not value.is_initializer() or value.is_graph_output() or value.is_graph_input():
            continue
        if value.name is not None and not value.uses():
            graph.initializers.pop(value.name)


def _detach_subgraphs(node: oir.Node) -> list[oir.Value | None]:
    """Lets the subgraphs of a node that goes let go of all values, and returns those."""
    read: list[oir.Value | None] = []
    for graph in node_subgraphs(node):
        for inner in graph:
            read += [*inner.inputs, *_detach_subgraphs(inner)]
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
        graph.outputs.clear()
    return read


def attribute(node: oir.Node, name: str, default: T) -> T:
    """Returns the value of a node's attribute, or `default` where the node does not have it.

    Lists of numbers and strings come back as tuples.

    Raises:
        VerifyError: If the attribute has another type than `default`, or refers to a function's parameter.
    """
    attr = node.attributes.get(name)
    if attr is None:
        return default
    if attr.is_ref():
        raise VerifyError(
            f"Attribute {name!r} of node {node.name!r} ({node.op_type}) refers to a function's parameter.",
            remedy="Inline the model's functions first.",
        )
    value = attr.value
    if default is not None and not _same_kind(value, default):
        raise VerifyError(
            f"Attribute {name!r} of node {node.name!r} ({node.op_type}) is a {type(value).__name__}, "
            f"expected {type(default).__name__}.",
            remedy="The model breaks the operator's schema: export it again.",
        )
    return cast(T, value)


def _same_kind(value: object, default: object) -> bool:
    if isinstance(default, Sequence) and not isinstance(default, str):
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, type(default))


def name_list(names: Sequence[str], limit: int = 3) -> str:
    """Returns names as a phrase for messages: the first few quoted, then how many more there are."""
    shown = ", ".join(repr(re.sub(r"\s+", " ", name)) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
