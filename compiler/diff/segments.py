"""Parts of a model between given values: which nodes they are, and as models that run by themselves."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from sardonyx import ir


@dataclass(frozen=True)
class Segment:
    """The nodes that compute a value from others.

    Attributes:
        nodes: In the order of the graph; nodes without inputs from outside, such as Constant, included.
        reads: What they take from outside: values at which the segment was bounded and inputs of the graph, in the
            order of first use; no initializers.
    """

    nodes: tuple[ir.Node, ...]
    reads: tuple[ir.Value, ...]


class Wiring:
    """What each node of a main graph reads, the values that its bodies capture included.

    Args:
        graph: The main graph; it must not change while this is used.
    """

    def __init__(self, graph: ir.Graph) -> None:
        captured = ir.analyze_implicit_usage(graph)
        self.values: Mapping[str, ir.Value] = {value.name: value for value in ir.graph_values(graph) if value.name}
        self._position = {node: index for index, node in enumerate(graph)}
        self._captured = {
            node: tuple(dict.fromkeys(v for body in ir.node_subgraphs(node) for v in captured.get(body, ())))
            for node in graph
            if node.attributes
        }
        self._graph = graph

    def position(self, value: ir.Value) -> int:
        """Returns the place of the node that computes a value, -1 for inputs and initializers."""
        producer = value.producer()
        return -1 if producer is None else self._position[producer]

    def index(self, node: ir.Node) -> int:
        """Returns the place of a node in the graph."""
        return self._position[node]

    def read_by(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Returns the values of the main graph that a node needs."""
        explicit = [value for value in node.inputs if value is not None]
        inner = (value for value in self._captured.get(node, ()) if value.graph is self._graph)
        return tuple(dict.fromkeys((*explicit, *inner)))

    def segment(self, targets: Iterable[ir.Value], stops: Set[ir.Value]) -> Segment:
        """Returns what computes values from the nearest ones among `stops` and the graph's inputs.

        Args:
            targets: What is computed; that they are among `stops` themselves does not matter.
            stops: Where to stop on the way back.
        """
        nodes: dict[ir.Node, None] = {}
        pending = [producer for producer in (value.producer() for value in targets) if producer is not None]
        while pending:
            node = pending.pop()
            if node in nodes:
                continue
            nodes[node] = None
            for value in self.read_by(node):
                producer = value.producer()
                if producer is not None and value not in stops:
                    pending.append(producer)
        ordered = tuple(sorted(nodes, key=self._position.__getitem__))
        reads = dict.fromkeys(v for node in ordered for v in self.read_by(node))
        outer = (v for v in reads if v in stops or (v.producer() is None and v.const_value is None))
        return Segment(ordered, tuple(outer))


@dataclass(frozen=True)
class Replacement:
    """A constant to put in place of an input of a node.

    Attributes:
        node: Place of the node in its main graph.
        input: Index of the input.
        tensor: What it shall read.
    """

    node: int
    input: int
    tensor: ir.TensorProtocol


def cut_model(
    model: ir.Model, outputs: Sequence[str], given: Sequence[str] = (), replacements: Sequence[Replacement] = ()
) -> tuple[ir.Model, dict[str, str]]:
    """Returns the part of a model that computes some values from its inputs and from values given from outside.

    A value can be given and wanted: what reads it reads the given one, what is wanted is the one computed.

    Args:
        model: The model; it stays as it is and shares its weights with the result.
        outputs: Names of the values wanted, computed by nodes of the main graph.
        given: Names of values of the main graph that become inputs.
        replacements: Constants to exchange.

    Returns:
        The part, and the names of its inputs by the name of the value given. Inputs of the model that the part needs
        keep their names; so do the outputs.
    """
    copy = ir.clone(model)
    names = ir.NameAuthority(copy)
    nodes = list(copy.graph)
    for number, exchanged in enumerate(replacements):
        name = names.value(f"given_constant_{number}")
        nodes[exchanged.node].replace_input_with(
            exchanged.input, ir.add_initializer(copy.graph, name, exchanged.tensor)
        )
    values = {value.name: value for value in ir.graph_values(copy.graph)}
    inputs = {value.name or "": value for value in copy.graph.inputs if not value.is_initializer()}
    renamed = {name: name for name in inputs}
    for name in given:
        if name in inputs:
            continue
        source = values[name]
        fresh = ir.Value(name=names.value(f"{name}_given"), type=source.type)
        ir.replace_all_uses_with(source, fresh)
        copy.graph.inputs.append(fresh)
        inputs[name], renamed[name] = fresh, fresh.name or ""
    part = ir.convenience.extract(copy.graph, list(inputs.values()), [values[name] for name in outputs])
    kept = {value.name for value in part.inputs if value.uses()}
    part.inputs[:] = [value for value in part.inputs if value.name in kept]
    result = ir.Model(part, ir_version=model.ir_version, functions=list(copy.functions.values()))
    return result, {name: inner for name, inner in renamed.items() if inner in kept}
