"""Dynamic INT8 quantization: integer weights, activations quantized while the model runs. It needs no samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sardonyx import ir
from sardonyx.capabilities import Capabilities, DynamicSupport
from sardonyx.errors import PassError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.quantization.dynamic.conditions import RECURRENT, WITHOUT_KERNEL, why_not
from sardonyx.passes.quantization.dynamic.insert import InsertDynamic
from sardonyx.passes.quantization.dynamic.weights import weight_axis, weight_point
from sardonyx.passes.quantization.plan import QuantPlan, QuantPoint
from sardonyx.passes.quantization.scopes import left_in_functions, name_inner_values, nodes_in_order, restore_names
from sardonyx.passes.quantization.selection import kept_float


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Quantizes the weights of MatMul, Gemm and LSTM per channel; their activations are quantized while they run.

    Nodes whose weights an earlier pass made integers are left alone, so that after `quantize-static` it takes what that
    left in float: the LSTM of a recurrent model, for instance.

    Attributes:
        exclude: Patterns of nodes to keep in float, as `sardonyx.passes.quantization.selection` describes them.
        include: Patterns of the only nodes to quantize; empty for all.
    """

    name = "quantize-dynamic"
    summary = "dynamic INT8: integer weights of MatMul, Gemm and LSTM, activations quantized while running; no samples"

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Plans and writes the dynamically quantized forms.

        Raises:
            PassError: If the context has no target.
            SpecError: If a pattern matches no node.
        """
        former = name_inner_values(model)
        plan = self.plan(model, context)
        refusals = tuple(Refusal("stay-in-float", why, (node,)) for node, why in plan.float_nodes.items())
        written = InsertDynamic(plan).apply(model, context)
        if not written.modified:
            restore_names(former)
        return PassResult(model, written.modified, written.stats, refusals, details={"plan": plan.to_dict()})

    def plan(self, model: ir.Model, context: PassContext) -> QuantPlan:
        """Returns the plan for a model, whose values have names of their own, without changing it."""
        if context.capabilities is None:
            raise PassError("Dynamic quantization needs a target's table.", remedy="Name one with --target.")
        search = _Search(model, context.capabilities, kept_float(model, self.exclude, self.include))
        return search.plan()


@dataclass
class _Search:
    """Finds the nodes to quantize.

    Attributes:
        nodes: Weights by name of each node that is quantized: (input, axis).
        float_nodes: Reason by name of each node that stays in float.
    """

    model: ir.Model
    capabilities: Capabilities
    kept: Mapping[str, str]
    nodes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    float_nodes: dict[str, str] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)

    def plan(self) -> QuantPlan:
        opset = self.model.graph.opset_imports.get("", 0)
        for node in nodes_in_order(self.model.graph):
            row = self.capabilities.dynamic.get((node.domain, node.op_type))
            if row is not None:
                self._consider(node, row, opset)
            elif not node.domain and node.op_type in WITHOUT_KERNEL and _is_omission(node):
                name = node.name or ""
                self.float_nodes[name] = self.kept.get(name) or WITHOUT_KERNEL[node.op_type]
        self.float_nodes |= left_in_functions(self.model, self.capabilities.dynamic)
        points = self._points()
        return QuantPlan(self.capabilities.target, points, tuple(self.nodes), self.float_nodes)

    def _consider(self, node: ir.Node, row: DynamicSupport, opset: int) -> None:
        name = node.name or ""
        reason = self.kept.get(name) or why_not(node, row, opset)
        if reason is None:
            axis = weight_axis(node, row)
            weights = [value for value in (node.inputs[index] for index in row.weights) if value is not None]
            self.values |= {weight.name or "": weight for weight in weights}
            self.nodes[name] = [(weight.name or "", axis) for weight in weights]
        elif _is_omission(node):
            self.float_nodes[name] = reason

    def _points(self) -> tuple[QuantPoint, ...]:
        """One point a weight and axis, with all nodes that take it; nodes of unusable weights stay in float."""
        consumers: dict[tuple[str, int], list[str]] = {}
        for node, weights in self.nodes.items():
            for key in dict.fromkeys(weights):
                consumers.setdefault(key, []).append(node)
        points: list[QuantPoint] = []
        for (name, axis), nodes in consumers.items():
            point = weight_point(self.values[name], axis, tuple(nodes), self.capabilities)
            if point is not None:
                points.append(point)
                continue
            for node in nodes:
                self.nodes.pop(node, None)
                self.float_nodes[node] = f"its weight {name} holds NaN or infinities"
        taken = (replace(p, consumers=tuple(n for n in p.consumers or () if n in self.nodes)) for p in points)
        return tuple(point for point in taken if point.consumers)


def _is_omission(node: ir.Node) -> bool:
    """Whether a node that stays in float is worth a reason: not a product of two activations, nor one of integers."""
    operands = [value for value in node.inputs[:2] if value is not None]
    constants = [tensor for tensor in map(ir.constant_tensor, operands) if tensor is not None]
    return node.op_type in RECURRENT or any(tensor.dtype.is_floating_point() for tensor in constants)
