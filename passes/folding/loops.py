"""Unrolling loops at compile time: a Loop with a small constant trip count becomes its iterations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.folding.inlining import replace_outputs, splice
from sardonyx.passes.provenance import mark

_AXES_ARE_INPUTS = 13


@dataclass(frozen=True)
class UnrollLoops(Pass):
    """Replaces each Loop whose trip count is constant, and which nothing ends earlier, by its iterations.

    Attributes:
        max_nodes: Loops that would become more nodes than this are left alone.
    """

    name = "unroll-loops"
    summary = "replace a Loop with a small constant trip count by its iterations"

    max_nodes: int = 64

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Unrolls loops, in subgraphs too, inner ones of an unrolled loop in a later run of the pass."""
        refusals: list[Refusal] = []
        unrolled = 0
        names = ir.NameAuthority(model)
        opset = model.opset_imports.get("", 0)
        loops = [n for graph in ir.all_graphs(model) for n in graph if n.op_type == "Loop" and not n.domain]
        for node in reversed(loops):  # inner before outer, so that a body is final when it is copied
            reason = self._refusal(node)
            if reason is not None:
                refusals.append(Refusal(self.name, f"Loop {node.name!r} stays: {reason}", (node.name or "",)))
                continue
            _unroll(node, names, opset)
            unrolled += 1
        return PassResult(model, unrolled > 0, {self.name: unrolled} if unrolled else {}, tuple(refusals))

    def _refusal(self, node: ir.Node) -> str | None:
        body = _body(node)
        if body is None:
            return "its body is a function's parameter"
        trips = _trips(node, body)
        if isinstance(trips, str):
            return trips
        nodes = trips * sum(1 for _ in body.all_nodes())
        if nodes > self.max_nodes:
            return f"its {trips} iterations would become {nodes} nodes, above the budget of {self.max_nodes}"
        collected = body.outputs[len(_states(node)) + 1 :]
        if trips == 0 and any(not _is_static(value) for value in collected):
            return "it never runs, and the shape of what it would collect is unknown"
        return None


def _body(node: ir.Node) -> ir.Graph | None:
    attribute = node.attributes.get("body")
    return None if attribute is None or attribute.is_ref() else attribute.as_graph()


def _states(node: ir.Node) -> list[ir.Value]:
    """Initial values of what the iterations hand on; trailing inputs left out hand on nothing."""
    return [value for value in node.inputs[2:] if value is not None]


def _constant_item(value: ir.Value | None) -> int | None:
    tensor = None if value is None else ir.constant_tensor(value)
    return None if tensor is None or tensor.size != 1 else int(tensor.numpy().item())


def _trips(node: ir.Node, body: ir.Graph) -> int | str:
    """How often a loop runs, or why that is not known."""
    limit, condition = (node.inputs[index] if index < len(node.inputs) else None for index in (0, 1))
    if _constant_item(limit) == 0 or _constant_item(condition) == 0:
        return 0
    trips = _constant_item(limit)
    if trips is None:
        return "its trip count is computed when the model runs"
    if condition is not None and _constant_item(condition) is None:
        return f"whether it starts depends on {condition.name!r}"
    if trips > 1 and not _goes_on(body):
        return f"its body computes in {body.outputs[0].name!r} whether it goes on"
    return max(trips, 0)


def _goes_on(body: ir.Graph) -> bool:
    """Whether a body's condition is always true: a constant, or the condition that it was given."""
    result = body.outputs[0]
    producer = result.producer()
    while producer is not None and producer.op_type == "Identity" and not producer.domain:
        source = producer.inputs[0]
        if source is None:
            return False
        result, producer = source, source.producer()
    return result is body.inputs[1] or _constant_item(result) == 1


def _is_static(value: ir.Value) -> bool:
    return value.dtype is not None and value.shape is not None and value.shape.is_static()


def _unroll(node: ir.Node, names: ir.NameAuthority, opset: int) -> None:
    body, graph = _body(node), node.graph
    assert body is not None
    assert graph is not None
    trips = _trips(node, body)
    assert isinstance(trips, int)
    states = _states(node)
    count = len(states)
    collected: list[list[ir.Value]] = [[] for _ in body.outputs[count + 1 :]]
    for iteration in range(trips):
        number = ir.add_initializer(
            graph, names.value(f"{node.name or node.op_type}_iteration"), np.array(iteration, np.int64)
        )
        going = ir.add_initializer(graph, names.value(f"{node.name or node.op_type}_condition"), np.array(True))
        copy = body.clone(allow_outer_scope_values=True)
        condition, *results = splice(node, copy, [number, going, *states], names, UnrollLoops.name)
        states = results[:count]
        for values, value in zip(collected, results[count:], strict=True):
            values.append(value)
        decided = condition.producer()
        if decided is not None:
            ir.remove_unused([decided])
    stacked = [
        _stack(node, values, names, opset) if values else _empty(node, formal, names)
        for values, formal in zip(collected, body.outputs[count + 1 :], strict=True)
    ]
    replace_outputs(node, [*states, *stacked][: len(node.outputs)], names)


def _empty(node: ir.Node, formal: ir.Value, names: ir.NameAuthority) -> ir.Value:
    """What a loop that never runs collects: no entries of the shape that its body declares."""
    graph = node.graph
    assert graph is not None
    assert formal.shape is not None
    assert formal.dtype is not None
    shape = (0, *(int(size) for size in formal.shape.numpy()))
    return ir.add_initializer(
        graph, names.value(f"{node.name or node.op_type}_nothing"), np.empty(shape, formal.dtype.numpy())
    )


def _stack(node: ir.Node, values: Sequence[ir.Value], names: ir.NameAuthority, opset: int) -> ir.Value:
    """Puts what the iterations collected along a new first axis."""
    graph = node.graph
    assert graph is not None
    rows = []
    for value in values:
        if opset >= _AXES_ARE_INPUTS:
            axis = ir.add_initializer(graph, names.value(f"{node.name or node.op_type}_axis"), np.array([0], np.int64))
            rows.append(_insert(node, "Unsqueeze", [value, axis], (), names))
        else:
            rows.append(_insert(node, "Unsqueeze", [value], [ir.AttrInt64s("axes", [0])], names))
    return rows[0] if len(rows) == 1 else _insert(node, "Concat", rows, [ir.AttrInt64("axis", 0)], names)


def _insert(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value], attributes: Sequence[ir.Attr], names: ir.NameAuthority
) -> ir.Value:
    graph = node.graph
    assert graph is not None
    new = ir.Node("", op_type, inputs, attributes, name=names.node(f"{node.name or node.op_type}_{op_type}"))
    new.outputs[0].name = names.value(f"{node.name or node.op_type}_{op_type}")
    graph.insert_before(node, new)
    mark(new, UnrollLoops.name, node.name)
    return new.outputs[0]
