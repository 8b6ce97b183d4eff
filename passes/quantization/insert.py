"""Writing Q/DQ nodes from a plan, in one pass over the graph and the bodies in it.

An activation becomes QuantizeLinear -> DequantizeLinear, a weight an integer initializer -> DequantizeLinear, a bias an
INT32 initializer -> DequantizeLinear. A Relu or Clip that the quantization makes redundant goes away, but only where
saturation to the integers provably does the same. A value is quantized where it is made and dequantized in every graph
that takes it: runtimes look for a DequantizeLinear beside the node it feeds, not around the body.
"""

from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import PassError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.provenance import mark
from sardonyx.passes.quantization.arithmetic import IntegerRange, integer_range, quantize
from sardonyx.passes.quantization.plan import PointKind, QuantPlan, QuantPoint
from sardonyx.passes.quantization.scopes import named_values, nodes_in_order, remove_unused_constant

CLAMP_SLACK = 1e-3
"""How far, in steps, a dequantized limit may lie outside a Clip: the rounding of the float32 scale."""


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Writes the Q/DQ nodes of a quantization plan into the main graph and its bodies.

    Attributes:
        plan: What to quantize, with scales and zero points.
    """

    name = "insert-qdq"
    summary = "write QuantizeLinear/DequantizeLinear nodes from a quantization plan"

    plan: QuantPlan

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Quantizes the values of the plan.

        Raises:
            PassError: If the plan names a value or node that the model does not have.
        """
        points = [point for point in self.plan.points if point.kind is not PointKind.DYNAMIC_WEIGHT]
        writer = _Writer(model, context.capabilities)
        for point in points:
            writer.write(point)
        writer.lower_to_integers()
        model.graph.sort()
        return PassResult(model, modified=bool(points), stats=writer.stats, refusals=tuple(writer.refusals))


class _Writer:
    def __init__(self, model: ir.Model, capabilities: Capabilities | None) -> None:
        self.graph = model.graph
        self.capabilities = capabilities
        self.names = ir.NameAuthority(model)
        self.values = named_values(model.graph)
        self.nodes = {node.name: node for node in nodes_in_order(model.graph)}
        self.parameters: dict[str, tuple[ir.Value, ir.Value]] = {}
        self.promised: dict[str, tuple[ir.Value, ir.Value]] = {}
        """Those of values that share them with one whose turn comes later."""
        self.stats: dict[str, int] = {}
        self.refusals: list[Refusal] = []

    def write(self, point: QuantPoint) -> None:
        value = self.values.get(point.value)
        if value is None:
            raise PassError(
                f"The plan quantizes {point.value!r}, which the model does not have.",
                remedy="Use the plan with the model it was made from.",
            )
        if point.kind is PointKind.ACTIVATION:
            self._activation(value, point)
        else:
            self._constant(value, point)
        self.stats[point.kind] = self.stats.get(point.kind, 0) + 1

    def _activation(self, value: ir.Value, point: QuantPoint) -> None:
        source = self._absorb(value, point)
        scale, zero_point = self._parameters(point)
        uses = self._uses(value, point)
        graph = value.graph
        assert graph is not None, "values of the model are in a graph"
        quantized = self.node(graph, "QuantizeLinear", [source, scale, zero_point], point.value)
        quantized.dtype, quantized.shape = ir.DataType[point.dtype], value.shape
        restored = _Restored(self, [quantized, scale, zero_point], point, value.shape)
        restored.feed(uses)
        if point.consumers is None and value.is_graph_output():
            self._take_over_outputs(graph, value, restored.within(graph))
        if source is not value:
            self._remove_clamp(value)

    def _absorb(self, value: ir.Value, point: QuantPoint) -> ir.Value:
        """Returns the value to quantize: the clamp's input where the clamp is redundant."""
        clamp = value.producer()
        if point.absorbs is None or clamp is None or clamp.name != point.absorbs or point.consumers is not None:
            return value
        source = clamp.inputs[0]
        if source is None or not _saturation_clamps(clamp, point):
            reason = "the quantized range is wider than the clamp, which therefore stays"
            self.refusals.append(Refusal("absorb-clamp", reason, (point.absorbs,)))
            return value
        self.stats["absorb-clamp"] = self.stats.get("absorb-clamp", 0) + 1
        return source

    def _remove_clamp(self, value: ir.Value) -> None:
        clamp = value.producer()
        if clamp is not None:
            self.nodes.pop(clamp.name, None)
            _graph_of(clamp).remove(clamp, safe=True)

    def _uses(self, value: ir.Value, point: QuantPoint) -> list[tuple[ir.Node, int]]:
        uses = [(use.node, use.idx) for use in value.uses()]
        if point.consumers is None:
            return uses
        unknown = [name for name in point.consumers if name not in self.nodes]
        if unknown:
            raise PassError(
                f"The plan names consumers {unknown} of {point.value!r}, which the model does not have.",
                remedy="Use the plan with the model it was made from.",
            )
        return [(node, index) for node, index in uses if node.name in point.consumers]

    def _parameters(self, point: QuantPoint) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point initializers; values that share them share the initializers too."""
        shared = point.shared_with or ""
        known = self.parameters.get(shared) or self.promised.get(shared) or self.promised.get(point.value)
        if known is not None:
            self.parameters[point.value] = known
        else:
            scale = np.asarray(point.scale, np.float32)
            zero_point = np.asarray(point.zero_point, ir.DataType[point.dtype].numpy())
            per_tensor = point.axis is None
            self.parameters[point.value] = (
                self._initializer(f"{point.value}_scale", scale[0] if per_tensor else scale),
                self._initializer(f"{point.value}_zero_point", zero_point[0] if per_tensor else zero_point),
            )
        if point.shared_with is not None:
            self.promised.setdefault(point.shared_with, self.parameters[point.value])
        return self.parameters[point.value]

    def _constant(self, value: ir.Value, point: QuantPoint) -> None:
        tensor = ir.constant_tensor(value)
        if tensor is None:
            raise PassError(f"The plan quantizes {point.value!r} as a {point.kind}, but it is not a constant.")
        array = tensor.numpy()
        dtype = ir.DataType[point.dtype]
        if point.kind is PointKind.BIAS and array.ndim != 1:
            array = array.reshape(-1)
        integers = integer_range(dtype, narrow=dtype is ir.DataType.INT8)
        shape = [1] * array.ndim
        if point.axis is not None:
            shape[point.axis] = -1
        scale = np.asarray(point.scale, np.float64)
        zero_point = np.asarray(point.zero_point, np.int64)
        if point.axis is not None:
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        else:
            scale, zero_point = scale[:1].reshape(()), zero_point[:1].reshape(())
        stored = quantize(array, scale, zero_point, integers).astype(dtype.numpy())
        quantized = self._initializer(f"{point.value}_quantized", stored)
        scale_value, zero_value = self._parameters(point)
        restored = _Restored(self, [quantized, scale_value, zero_value], point, ir.Shape(array.shape))
        restored.feed(self._uses(value, point))
        remove_unused_constant(value)

    def _initializer(self, name: str, array: np.typing.NDArray[np.generic]) -> ir.Value:
        return ir.add_initializer(self.graph, self.names.value(name), np.asarray(array))

    def node(
        self, graph: ir.Graph, op_type: str, inputs: list[ir.Value], source: str, axis: int | None = None
    ) -> ir.Value:
        """Adds a QuantizeLinear or DequantizeLinear at the end of a graph and returns its output."""
        short = "quantized" if op_type == "QuantizeLinear" else "dequantized"
        node = ir.Node(
            "",
            op_type,
            inputs,
            [ir.AttrInt64("axis", axis)] if axis is not None else [],
            name=self.names.node(f"{source}_{op_type}"),
        )
        mark(node, InsertQdq.name, source)
        node.outputs[0].name = self.names.value(f"{source}_{short}")
        graph.append(node)
        return node.outputs[0]

    def _take_over_outputs(self, graph: ir.Graph, value: ir.Value, restored: ir.Value) -> None:
        """A graph output keeps its name: the dequantized value takes it over."""
        for index, output in enumerate(graph.outputs):
            if output is value:
                name = value.name
                value.name = self.names.value(f"{name}_float")
                restored.name = name
                graph.outputs[index] = restored

    def lower_to_integers(self) -> None:
        """Moves DQ -> op -> Q to op on integers, for operators which the target runs only when written so."""
        if self.capabilities is None:
            return
        for node in list(nodes_in_order(self.graph)):
            row = self.capabilities.support(node.domain, node.op_type)
            if row is not None and row.on_integers and self._lower(node, row.zero_inputs):
                self.stats["on-integers"] = self.stats.get("on-integers", 0) + 1

    def _lower(self, node: ir.Node, zero_inputs: tuple[int, ...]) -> bool:
        dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        uses = list(node.outputs[0].uses())
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or len(uses) != 1:
            return False
        following = uses[0].node
        if following.op_type != "QuantizeLinear" or list(following.inputs[1:]) != list(dequantize.inputs[1:]):
            return False
        if following.graph is not node.graph:
            return False
        node.replace_input_with(0, dequantize.inputs[0])
        for index in zero_inputs:
            if index >= len(node.inputs):
                node.resize_inputs(index + 1)
            node.replace_input_with(index, dequantize.inputs[2])
        node.outputs[0].type = following.outputs[0].type
        ir.replace_all_uses_with(following.outputs[0], node.outputs[0])
        _graph_of(following).remove(following, safe=True)
        return True


class _Restored:
    """A quantized value as float again: one DequantizeLinear in each graph that takes it."""

    def __init__(self, writer: _Writer, operands: list[ir.Value], point: QuantPoint, shape: ir.Shape | None) -> None:
        self._writer = writer
        self._operands = operands
        self._point = point
        self._shape = shape
        self._by_graph: dict[ir.Graph, ir.Value] = {}

    def feed(self, uses: list[tuple[ir.Node, int]]) -> None:
        """Lets nodes take the restored value at an input each."""
        for node, index in uses:
            node.replace_input_with(index, self.within(_graph_of(node)))

    def within(self, graph: ir.Graph) -> ir.Value:
        """Returns the value restored in a graph."""
        if graph not in self._by_graph:
            axis = self._point.axis
            made = self._writer.node(graph, "DequantizeLinear", self._operands, self._point.value, axis)
            made.dtype, made.shape = ir.DataType.FLOAT, self._shape
            self._by_graph[graph] = made
        return self._by_graph[graph]


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert graph is not None, "nodes of the model are in a graph"
    return graph


def _saturation_clamps(clamp: ir.Node, point: QuantPoint) -> bool:
    """Whether the integers of a point lie within the interval that a Relu or Clip lets through."""
    limits = clamp_limits(clamp)
    if limits is None:
        return False
    integers: IntegerRange = integer_range(ir.DataType[point.dtype])
    scale, zero_point = point.scale[0], point.zero_point[0]
    low, high = ((q - zero_point) * scale for q in (integers.low, integers.high))
    slack = CLAMP_SLACK * scale
    return low >= limits[0] - slack and high <= limits[1] + slack


def clamp_limits(clamp: ir.Node) -> tuple[float, float] | None:
    """The interval of a Relu or Clip node, or None where it is not constant."""
    if clamp.op_type == "Relu":
        return 0.0, float("inf")
    limits = [-float("inf"), float("inf")]
    for index in (1, 2):
        value = clamp.inputs[index] if index < len(clamp.inputs) else None
        if value is None:
            continue
        tensor = ir.constant_tensor(value)
        if tensor is None:
            return None
        limits[index - 1] = float(tensor.numpy().item())
    return limits[0], limits[1]
