"""Writes a type plan: element types, converted constants, and one Cast a value wherever two types meet."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from sardonyx import ir
from sardonyx.passes.precision.analysis import Analysis, float_constant, is_float
from sardonyx.passes.precision.formats import convert_constant
from sardonyx.passes.precision.masks import is_bound, mask_limit
from sardonyx.passes.precision.operators import TYPE_ATTRIBUTES
from sardonyx.passes.precision.regions import TypePlan
from sardonyx.passes.provenance import mark

RULE = "convert-float"


class Rewriter:
    """Applies a plan to its model.

    Args:
        plan: Which nodes, slots and ends are converted. It describes the model as it was, so all its answers are
            taken before the first edit.
    """

    def __init__(self, plan: TypePlan) -> None:
        self.facts: Analysis = plan.facts
        self.plan = plan
        self.names = ir.NameAuthority(plan.facts.model)
        self.stats: Counter[str] = Counter()
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._constants: dict[tuple[ir.Value, float | None], ir.Value] = {}
        self._tensors: dict[tuple[int, float | None], tuple[ir.TensorProtocol, ir.TensorProtocol]] = {}

    def write(self) -> None:
        """Edits the model."""
        values = [value for graph in self.facts.graphs for value in ir.graph_values(graph) if is_float(value)]
        defined = {value: self.plan.defined(value) for value in values}
        required = {value: self._requirements(value) for value in values}
        returned = [
            (graph, index, self.plan.returned(graph, index), value)
            for graph in self.facts.graphs
            for index, value in enumerate(graph.outputs)
            if is_float(value)
        ]
        masks = {value for value in values if self.facts.masks(value)}
        for value, narrow in defined.items():
            if narrow and float_constant(value) is None:
                value.dtype = self.facts.form.dtype
                self.stats["values"] += 1
        self._nodes()
        for value, uses in required.items():
            for node, index, narrow in uses:
                if float_constant(value) is not None:
                    if narrow:
                        node.replace_input_with(index, self._constant(value, self._limit(value, node, index, masks)))
                elif narrow is not defined[value]:
                    node.replace_input_with(index, self._cast(value, narrow=narrow, clamp=value in masks))
        for graph, index, narrow, value in returned:
            self._return(graph, index, value, narrow=narrow, defined=defined.get(value, narrow))
        self._drop_idle_casts()
        self._drop_unused_constants(required)

    def _requirements(self, value: ir.Value) -> list[tuple[ir.Node, int, bool]]:
        found = []
        for node, index in value.uses():
            narrow = self.plan.required(node, index)
            if narrow is not None:
                found.append((node, index, narrow))
        return found

    def _limit(self, value: ir.Value, node: ir.Node, index: int, masks: set[ir.Value]) -> float | None:
        """The magnitude to which a constant is clamped, or None where it fits."""
        tensor = float_constant(value)
        if tensor is None or not self.facts.loss(tensor).overflows:
            return None
        if is_bound(node, index) and value not in masks:
            return self.facts.form.largest
        return mask_limit(self.facts.form)

    def _nodes(self) -> None:
        for node in self.plan.nodes:
            mark(node, RULE)
            self.stats["nodes"] += 1
            attribute = TYPE_ATTRIBUTES.get(node.op_type)
            if attribute is None or not self.facts.positions(node).outputs:
                continue
            if attribute == "value":
                node.attributes[attribute] = ir.AttrTensor(attribute, self._filling(node))
            elif attribute in node.attributes:
                node.attributes[attribute] = ir.AttrInt64(attribute, self.facts.form.dtype.value)

    def _filling(self, node: ir.Node) -> ir.TensorProtocol:
        """The value of a ConstantOfShape, which is 0 where it is not given."""
        given = node.attributes.get("value")
        tensor = ir.tensor(np.zeros(1, np.float32)) if given is None else given.as_tensor()
        return convert_constant(tensor, self.facts.form, tensor.name or "")

    def _constant(self, value: ir.Value, limit: float | None) -> ir.Value:
        """The 16-bit copy of a constant, one for all uses; a tensor that several values share is converted once."""
        key = (value, limit)
        if key not in self._constants:
            tensor, graph = float_constant(value), _graph_of(value)
            if tensor is None:
                raise ValueError(f"{value.name} is not a FLOAT constant")
            name = self.names.value(f"{value.name}_{self.facts.form.dtype.name.lower()}")
            shared = (id(tensor), limit)
            if shared not in self._tensors:
                self._tensors[shared] = (tensor, convert_constant(tensor, self.facts.form, name, limit))
            self._constants[key] = ir.add_initializer(graph, name, self._tensors[shared][1])
            self.stats["constants"] += 1
            self.stats["clamped"] += limit is not None
        return self._constants[key]

    def _cast(self, value: ir.Value, *, narrow: bool, clamp: bool = False) -> ir.Value:
        """A value in the other type: one Cast behind its definition, shared by all who need it."""
        dtype = self.facts.form.dtype if narrow else ir.DataType.FLOAT
        key = (value, dtype)
        if key not in self._casts:
            source = _before_cast(value, dtype)
            if source is None:
                source = self._clamp(value) if clamp and narrow else value
                attributes = [ir.AttrInt64("to", dtype.value)]
                source = self._insert("Cast", [source], dtype, attributes)
                self.stats["casts"] += 1
            self._casts[key] = source
        return self._casts[key]

    def _clamp(self, value: ir.Value) -> ir.Value:
        limit = mask_limit(self.facts.form)
        graph = _graph_of(value)
        bounds = [
            ir.add_initializer(graph, self.names.value(f"{value.name}_{end}"), np.float32(bound))
            for end, bound in (("low", -limit), ("high", limit))
        ]
        self.stats["clamped"] += 1
        return self._insert("Clip", [value, *bounds], ir.DataType.FLOAT, [])

    def _insert(self, op_type: str, inputs: list[ir.Value], dtype: ir.DataType, attributes: list[ir.Attr]) -> ir.Value:
        """Adds a node right behind the definition of its first input."""
        value = inputs[0]
        name = self.names.node(f"{value.name}_{op_type}_{dtype.name}")
        node = ir.Node("", op_type, inputs, attributes, name=name)
        output = node.outputs[0]
        output.name = self.names.value(f"{value.name}_{op_type.lower()}_{dtype.name.lower()}")
        output.type, output.shape = ir.TensorType(dtype), value.shape
        mark(node, RULE, value.name)
        graph, producer = _graph_of(value), value.producer()
        if producer is not None:
            graph.insert_after(producer, node)
        elif len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        return output

    def _return(self, graph: ir.Graph, index: int, value: ir.Value, *, narrow: bool, defined: bool) -> None:
        """Gives a graph's output the type it shall have, under the name it had."""
        if float_constant(value) is not None:
            defined = False
        if narrow is defined:
            return
        cast = self._cast(value, narrow=narrow)
        if cast.is_graph_input() or cast.is_graph_output() or _graph_of(cast) is not graph:
            cast = self._insert("Identity", [cast], cast.dtype or ir.DataType.FLOAT, [])
        graph.outputs[index] = cast
        if not value.is_graph_input() and not value.is_initializer():
            name = value.name or ""
            value.name = self.names.value(f"{name}_{(value.dtype or ir.DataType.FLOAT).name.lower()}")
            cast.name = name

    def _drop_idle_casts(self) -> None:
        """Removes Casts to the type their input has, which conversion left without effect."""
        casts = [n for g in self.facts.graphs for n in g if n in self.plan.nodes and n.op_type == "Cast"]
        for node in casts:
            source = node.inputs[0]
            output = node.outputs[0]
            if source is None or source.dtype != output.dtype or output.is_graph_output() or node.graph is None:
                continue
            ir.replace_all_uses_with(output, source)
            node.graph.remove(node, safe=True)
            self.stats["idle-casts"] += 1

    def _drop_unused_constants(self, values: Mapping[ir.Value, object]) -> None:
        for value in values:
            if float_constant(value) is None or value.uses() or value.is_graph_output():
                continue
            producer = value.producer()
            if producer is not None and producer.graph is not None:
                producer.graph.remove(producer, safe=True)
            elif value.name is not None and isinstance(value.graph, ir.Graph):
                value.graph.initializers.pop(value.name)


def _graph_of(value: ir.Value) -> ir.Graph:
    producer = value.producer()
    graph = value.graph if producer is None else producer.graph
    if not isinstance(graph, ir.Graph):
        raise TypeError(f"{value.name} belongs to no graph")
    return graph


def _before_cast(value: ir.Value, dtype: ir.DataType) -> ir.Value | None:
    """The value that a widening Cast was made from, where that already has the type wanted."""
    producer = value.producer()
    if producer is None or producer.op_type != "Cast" or producer.domain:
        return None
    source = producer.inputs[0]
    return source if source is not None and source.dtype == dtype and value.dtype == ir.DataType.FLOAT else None
