"""The pass that moves Transposes past other operators, where that leaves fewer of them.

Models converted from TensorFlow compute convolutions in one layout and all else in another, with a Transpose at each
border. Operators that work in either layout are permuted as a region, so that the Transposes at its borders cancel.
Which nodes to permute is a minimum cut: a value that is made in one layout and read in the other costs a Transpose.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.fusion.facts import operand
from sardonyx.passes.fusion.layouts import Perm, Turn, inverse, permuted, turn_of
from sardonyx.passes.fusion.transposes import permutation
from sardonyx.passes.provenance import mark

if TYPE_CHECKING:
    from networkx import DiGraph

MAX_ROUNDS = 8
"""Regions that a round has joined are looked at in the next; a bound on the time, as each round reads the graph."""
OPSET = 13
PLAIN, TURNED = "plain", "turned"


@dataclass(frozen=True)
class SinkTransposes(Pass):
    """Permutes regions of operators that work in any layout, where fewer Transposes remain."""

    name = "sink-transposes"
    summary = "move Transposes past other operators where fewer of them remain"

    @ir.paused_gc()
    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Moves Transposes in all graphs; each region that is permuted has strictly fewer of them afterwards."""
        opset = model.opset_imports.get("", 0)
        transposes = list(_transposes(model))
        if opset < OPSET and transposes:
            reason = f"the operators are known from opset {OPSET} on, the model has {opset}"
            return PassResult(model, False, refusals=(Refusal(self.name, reason, (transposes[0].name or "",)),))
        if not transposes:
            return PassResult(model, False)
        ir.ensure_shapes(model)
        names = ir.NameAuthority(model)
        moved = [graph for graph in list(ir.all_graphs(model)) if _sink(graph, names)]
        removed = len(transposes) - len(list(_transposes(model)))
        return PassResult(model, bool(moved), {self.name: removed} if moved else {})


def _transposes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for graph in ir.all_graphs(model) for node in graph if _perm(node) is not None)


def _sink(graph: ir.Graph, names: ir.NameAuthority) -> bool:
    """Permutes regions of one graph until none has too many Transposes; returns whether there was one."""
    for done in range(MAX_ROUNDS):
        moved = False
        kinds = [kind for node in graph if (kind := _perm(node)) is not None]
        for perm in dict.fromkeys(perm for kind in kinds for perm in (kind, inverse(kind))):
            for region in list(_regions(graph, perm)):
                if region.cut():
                    _Turner(region, names).turn()
                    moved = True
        if not moved:
            return done > 0
    return True


def _perm(node: ir.Node | None) -> Perm | None:
    """The permutation of a Transpose that moves something; None for other nodes."""
    if node is None or node.op_type != "Transpose" or node.domain:
        return None
    perm = permutation(node)
    return perm if perm is not None and list(perm) != sorted(perm) else None


def _regions(graph: ir.Graph, perm: Perm) -> "Iterator[_Region]":
    """Yields connected sets of nodes that work permuted by `perm` and touch a Transpose that does or undoes that."""
    seen: set[ir.Node] = set()
    undoing = inverse(perm)
    for node in list(graph):
        kind = _perm(node)
        if kind is None:
            continue
        if kind == perm:
            starts = [use.node for use in node.outputs[0].uses()]
        elif kind == undoing:
            starts = [producer for value in node.inputs if value is not None and (producer := value.producer())]
        else:
            continue
        for start in starts:
            region = _grow(start, graph, perm, seen)
            if region is not None:
                yield region


def _grow(start: ir.Node, graph: ir.Graph, perm: Perm, seen: set[ir.Node]) -> "_Region | None":
    turns: dict[ir.Node, Turn] = {}
    pending = [start]
    while pending:
        node = pending.pop()
        if node in seen or node.graph is not graph:
            continue
        turn = turn_of(node, perm)
        if turn is None:
            continue
        seen.add(node)
        turns[node] = turn
        pending += [p for index in turn.operands if (p := node.inputs[index].producer()) is not None]  # type: ignore[union-attr]
        pending += [use.node for output in node.outputs for use in output.uses() if turn.follows]
    return _Region(graph, perm, turns) if turns else None


@dataclass
class _Region:
    """Nodes that can be permuted together, and which of them are best permuted.

    Attributes:
        graph: Their graph.
        perm: A permuted value w stands for Transpose(w, perm).
        turns: The nodes, and what becomes of each when it is permuted.
        turned: The nodes that are to be permuted; empty until `cut`.
    """

    graph: ir.Graph
    perm: Perm
    turns: Mapping[ir.Node, Turn]
    turned: set[ir.Node] = field(default_factory=set)

    def cut(self) -> int:
        """Finds the nodes to permute.

        Returns:
            By how many there will be fewer Transposes; 0 where nothing is to be gained.
        """
        labels: dict[ir.Node, int] = {node: index for index, node in enumerate(self.turns)}
        ends = [(value, self._supply(value, labels), self._demands(value, labels)) for value in self.values()]
        now = sum(_is_transposed(supply, demands) for _, supply, demands in ends)
        if now <= 1 and any(supply == PLAIN or PLAIN in demands for _, supply, demands in ends):
            return 0  # most regions: they are connected, so that between a plain end and a turned one stays a Transpose
        import networkx
        from networkx.algorithms.flow import edmonds_karp

        network = networkx.DiGraph()
        network.add_nodes_from((PLAIN, TURNED))
        for value, supply, demands in ends:
            _connect(network, value, supply, demands)
        cost, (_, turned) = networkx.minimum_cut(network, PLAIN, TURNED, flow_func=edmonds_karp)
        gain = now - int(cost)
        self.turned = {node for node, label in labels.items() if label in turned} if gain > 0 else set()
        return max(gain, 0)

    def values(self) -> list[ir.Value]:
        """What the nodes read as operands and make, each once."""
        found: dict[ir.Value, None] = {}
        for node, turn in self.turns.items():
            found.update(dict.fromkeys(v for index in turn.operands if (v := node.inputs[index]) is not None))
            found.update(dict.fromkeys(node.outputs if turn.follows else ()))
        return list(found)

    def follows(self, node: ir.Node | None) -> bool:
        """Whether a node's outputs are permuted when it is."""
        return node is not None and node in self.turns and self.turns[node].follows

    def enters(self, value: ir.Value) -> bool:
        """Whether a value is what a Transpose makes of its permuted form, and that form is none of the region's."""
        node = value.producer()
        if node is None or node.graph is not self.graph or _perm(node) != self.perm:
            return False
        source = operand(node, 0)
        return source is not None and not self.follows(source.producer())

    def leaves(self, node: ir.Node) -> bool:
        """Whether a node makes the permuted form of a value that it reads."""
        inside = node.graph is self.graph
        return inside and _perm(node) == inverse(self.perm) and not self.enters(node.outputs[0])

    def reads_permuted(self, node: ir.Node, index: int) -> bool:
        """Whether an input of a node of the region is permuted when the node is."""
        return node in self.turns and index in self.turns[node].operands

    def _supply(self, value: ir.Value, labels: Mapping[ir.Node, int]) -> int | str:
        producer = value.producer()
        if producer is not None and self.follows(producer):
            return labels[producer]
        return TURNED if self.enters(value) else PLAIN

    def _demands(self, value: ir.Value, labels: Mapping[ir.Node, int]) -> set[int | str]:
        """In which form a value is read; a Transpose of another kind takes either form by another permutation."""
        demands: set[int | str] = {PLAIN} if value.is_graph_output() else set()
        for use in value.uses():
            if self.reads_permuted(use.node, use.idx):
                demands.add(labels[use.node])
            elif self.leaves(use.node):
                demands.add(TURNED)
            elif not self.absorbs(use.node, value):
                demands.add(PLAIN)
        return demands

    def absorbs(self, node: ir.Node, value: ir.Value) -> bool:
        """Whether a node is a Transpose of the region's value that remains, with one permutation or another."""
        return _perm(node) is not None and self.follows(value.producer()) and node.graph is self.graph


def _is_transposed(supply: int | str, demands: Set[int | str]) -> bool:
    """Whether a value is read in another form than it is made in, while no node of the region is permuted."""
    return any((demand == TURNED) != (supply == TURNED) for demand in demands)


def _connect(network: "DiGraph[Any]", value: ir.Value, supply: int | str, demands: set[int | str]) -> None:
    """Adds what a value costs: 1 if it is made in one form and read in the other.

    PLAIN is the source and TURNED the sink of the flow, so that an edge is cut from a plain node to a turned one.
    """
    ordered = sorted(demands - {supply}, key=str)
    if supply != TURNED and any(demand != PLAIN for demand in ordered):
        network.add_edge(supply, (value, TURNED), capacity=1)
        network.add_edges_from(((value, TURNED), demand) for demand in ordered if demand != PLAIN)
    if supply != PLAIN and any(demand != TURNED for demand in ordered):
        network.add_edge((value, PLAIN), supply, capacity=1)
        network.add_edges_from((demand, (value, PLAIN)) for demand in ordered if demand != TURNED)


@dataclass
class _Readers:
    """Who reads a value that is going to be permuted, besides permuted nodes.

    Attributes:
        plain: Nodes, with the index of the input, that need what it was.
        leaving: Transposes that make what it is going to be.
        absorbing: Other Transposes, for which another permutation will do.
    """

    plain: list[tuple[ir.Node, int]] = field(default_factory=list)
    leaving: list[ir.Node] = field(default_factory=list)
    absorbing: list[ir.Node] = field(default_factory=list)


@dataclass
class _Turner:
    """Permutes the chosen nodes of a region.

    Attributes:
        region: The region, after its `cut`.
        names: Gives names.
        forms: Permuted forms of values from outside, made or found so far.
    """

    region: _Region
    names: ir.NameAuthority
    forms: dict[ir.Value, ir.Value] = field(default_factory=dict)
    rule: ClassVar[str] = SinkTransposes.name

    def turn(self) -> None:
        """Edits the nodes, then what reads their outputs, then removes Transposes that nothing reads."""
        region = self.region
        entering = [value for value in region.values() if region.enters(value)]
        nodes = [node for node in region.turns if node in region.turned]
        made = [value for node in nodes if region.follows(node) for value in node.outputs]
        readers = [(value, self._readers(value)) for value in made]
        for node in nodes:
            self._edit(node, region.turns[node])
        for value, found in readers:
            self._serve(value, found)
        for value in entering:
            for node in self._readers(value).leaving:
                self._bypass(node, self._form(value))
            transpose = value.producer()
            if transpose is not None and not value.uses() and not value.is_graph_output():
                region.graph.remove(transpose, safe=True)

    def _readers(self, value: ir.Value) -> _Readers:
        found = _Readers()
        for use in value.uses():
            if use.node in self.region.turned and self.region.reads_permuted(use.node, use.idx):
                continue
            if self.region.leaves(use.node):
                found.leaving.append(use.node)
            elif self.region.absorbs(use.node, value):
                found.absorbing.append(use.node)
            else:
                found.plain.append((use.node, use.idx))
        return found

    def _edit(self, node: ir.Node, turn: Turn) -> None:
        for index in turn.operands:
            value = node.inputs[index]
            assert value is not None, "operands are there"
            if value.producer() not in self.region.turned or not self.region.follows(value.producer()):
                node.replace_input_with(index, self._form(value))
        for index in turn.constants:
            value = node.inputs[index]
            tensor = ir.constant_tensor(value) if value is not None else None
            assert tensor is not None, "the turn says that this is a constant"
            self._set_constant(node, index, permuted(tensor.numpy(), self.region.perm))
        for index, numbers in turn.numbers.items():
            self._set_constant(node, index, np.array(numbers, np.int64))
        for attribute in turn.attributes:
            node.attributes[attribute.name] = attribute
        mark(node, self.rule)

    def _set_constant(self, node: ir.Node, index: int, array: "np.typing.NDArray[Any]") -> None:
        name = self.names.value(f"{node.outputs[0].name}_permuted")
        node.resize_inputs(max(len(node.inputs), index + 1))
        node.replace_input_with(index, ir.add_initializer(self.region.graph, name, array))

    def _form(self, value: ir.Value) -> ir.Value:
        """The permuted form of a value from outside."""
        if value not in self.forms:
            producer = value.producer()
            known = [use.node for use in value.uses() if self.region.leaves(use.node)]
            if self.region.enters(value) and producer is not None and producer.inputs[0] is not None:
                self.forms[value] = producer.inputs[0]
            elif known:
                self._place_behind(value, known[0])
                self.forms[value] = known[0].outputs[0]
            else:
                self.forms[value] = self._transpose(value, inverse(self.region.perm))
        return self.forms[value]

    def _serve(self, value: ir.Value, readers: _Readers) -> None:
        """Gives the readers of a value, which is permuted now, what they read before."""
        perm = self.region.perm
        if value.shape is not None:
            value.shape = ir.Shape([value.shape[axis] for axis in inverse(perm)])
        for node in readers.absorbing:
            node.attributes["perm"] = ir.AttrInt64s("perm", [perm[axis] for axis in _perm(node) or ()])
            mark(node, self.rule)
        for node in readers.leaving:
            self._bypass(node, value)
        if not readers.plain and not value.is_graph_output():
            return
        back = self._transpose(value, perm)
        for node, index in readers.plain:
            node.replace_input_with(index, back)
        if value.is_graph_output():
            name, value.name = value.name, self.names.value(f"{value.name}_permuted")
            for position, output in enumerate(self.region.graph.outputs):
                if output is value:
                    self.region.graph.outputs[position] = back
            back.name = name

    def _bypass(self, node: ir.Node, value: ir.Value) -> None:
        """Lets a value take the place of a Transpose that would make the same; a graph output keeps an Identity."""
        if node.outputs[0].is_graph_output():
            copy = ir.Node("", "Identity", [value], name=self.names.node(f"{node.name}_identity"))
            copy.outputs[0].name = self.names.value(f"{node.outputs[0].name}_identity")
            mark(copy, self.rule, node.name)
            self.region.graph.insert_before(node, copy)
            value = copy.outputs[0]
            value.shape, value.type = node.outputs[0].shape, node.outputs[0].type
            name, node.outputs[0].name = node.outputs[0].name, None
            ir.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
            value.name = name
        else:
            ir.replace_all_uses_with(node.outputs[0], value)
        self.region.graph.remove(node, safe=True)

    def _transpose(self, value: ir.Value, perm: Perm) -> ir.Value:
        name = self.names.node(f"{value.name}_transpose")
        node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", perm)], name=name)
        result = node.outputs[0]
        result.name = self.names.value(f"{value.name}_transposed")
        result.type = value.type
        if value.shape is not None:
            result.shape = ir.Shape([value.shape[axis] for axis in perm])
        mark(node, self.rule, value.name)
        self._place_behind(value, node)
        return result

    def _place_behind(self, value: ir.Value, node: ir.Node) -> None:
        producer = value.producer()
        if producer is not None and producer.graph is self.region.graph:
            self.region.graph.insert_after(producer, node)
        elif self.region.graph[0] is not node:
            self.region.graph.insert_before(self.region.graph[0], node)
