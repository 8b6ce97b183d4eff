"""Whether a plan fits a model and a target: plans are edited by hand, and a slip must not become a wrong model."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import Capabilities, OpSupport, Role
from sardonyx.errors import SpecError
from sardonyx.passes.quantization.arithmetic import integer_range
from sardonyx.passes.quantization.conditions import weight_axis
from sardonyx.passes.quantization.dynamic.conditions import why_not
from sardonyx.passes.quantization.dynamic.weights import scales_needed
from sardonyx.passes.quantization.plan import PointKind, QuantPlan, QuantPoint
from sardonyx.passes.quantization.scopes import named_values, nodes_in_order

DTYPES: Mapping[PointKind, tuple[str, ...]] = {
    PointKind.ACTIVATION: ("UINT8", "INT8"),
    PointKind.WEIGHT: ("INT8", "UINT8"),
    PointKind.BIAS: ("INT32",),
    PointKind.DYNAMIC_WEIGHT: ("INT8", "UINT8"),
}
"""Integer types that a point of each kind may have."""

Check = Callable[["_Plan", QuantPoint, ir.Value], str | None]


def require_model(plan: QuantPlan, model: ir.Model) -> None:
    """Refuses a plan that was made from another model.

    Raises:
        SpecError: If the plan names the model it was made from, and this is not it.
    """
    if plan.model and plan.model != ir.digest(model):
        raise SpecError(
            "The plan was made from another model, or from this one optimized by other passes.",
            remedy="Apply it to the model file it was made from with the same optimize passes and the same release, "
            "or make a plan of this model with --plan-out.",
        )


def checked_plan(plan: QuantPlan, model: ir.Model, capabilities: Capabilities | None) -> QuantPlan:
    """Checks every point against the model, and derives again what follows from other points.

    A value that shares the parameters of another takes those that one has now, and a bias the product of the scales of
    its activation and its weight, so that only the scales that count have to be edited.

    Args:
        plan: A plan, perhaps edited.
        model: The model to quantize, whose values have names of their own.
        capabilities: The target's table; None to check nothing that depends on the target.

    Raises:
        SpecError: At the first point that does not fit, with the value's name and what is wrong.
    """
    checker = _Plan(plan, model, capabilities)
    for point in plan.points:
        checker.check(point)
    for point in plan.points:
        checker.check_operands(point)
    return replace(
        plan,
        points=tuple(checker.derived(point) for point in plan.points),
        compute_nodes=tuple(name for name in plan.compute_nodes if checker.takes_integers(name)),
    )


class _Plan:
    def __init__(self, plan: QuantPlan, model: ir.Model, capabilities: Capabilities | None) -> None:
        self.model = model
        self.capabilities = capabilities
        self.values = named_values(model.graph)
        self.nodes = {node.name or "": node for node in nodes_in_order(model.graph)}
        self.activations = {p.value: p for p in plan.points if p.kind is PointKind.ACTIVATION}
        self.weights = {
            (p.value, node): p for p in plan.points if p.kind is PointKind.WEIGHT for node in p.consumers or ()
        }
        self.taken: set[tuple[str, str | None]] = set()

    def check(self, point: QuantPoint) -> None:
        value = self.values.get(point.value)
        if value is None:
            raise _error(point, "the model has no value of that name")
        for check in _CHECKS:
            problem = check(self, point, value)
            if problem is not None:
                raise _error(point, problem)

    def dtype(self, point: QuantPoint, value: ir.Value) -> str | None:
        if point.dtype not in DTYPES[point.kind]:
            return f"its dtype {point.dtype!r} is none that a {point.kind} may have: {', '.join(DTYPES[point.kind])}"
        if value.dtype is not None and value.dtype is not ir.DataType.FLOAT:
            return f"it is {value.dtype.name} in the model, not FLOAT"
        if point.kind is not PointKind.ACTIVATION and ir.constant_tensor(value) is None:
            return f"it is quantized as a {point.kind}, but is not a constant of the model"
        return None

    def numbers(self, point: QuantPoint, value: ir.Value) -> str | None:
        integers = integer_range(ir.DataType[point.dtype])
        bad_scale = next((s for s in point.scale if not (math.isfinite(s) and s > 0)), None)
        if bad_scale is not None:
            return f"its scale {bad_scale} is not a positive number"
        bad_zero = next((z for z in point.zero_point if not integers.low <= z <= integers.high), None)
        if bad_zero is not None:
            return f"its zero point {bad_zero} is outside {point.dtype} ({integers.low} to {integers.high})"
        needed = self._scales(point, value)
        if isinstance(needed, str):
            return needed
        if len(point.scale) != needed or len(point.zero_point) != needed:
            given = f"{len(point.scale)} scales and {len(point.zero_point)} zero points"
            return f"it has {given}, but needs {needed} of each"
        return None

    def _scales(self, point: QuantPoint, value: ir.Value) -> int | str:
        """How many scales a point needs, or what is wrong with its axis."""
        tensor = ir.constant_tensor(value)
        if point.axis is None and point.kind is not PointKind.DYNAMIC_WEIGHT:
            return 1
        if tensor is None or point.axis is None:
            return f"it has axis {point.axis}, which does not go with its kind, {point.kind}"
        rank = len(tensor.shape)
        if not 0 <= point.axis < rank:
            return f"its axis {point.axis} is outside 0 to {rank - 1}"
        shape = tensor.shape.numpy()
        if point.kind is PointKind.DYNAMIC_WEIGHT:
            return scales_needed(tensor, point.axis)
        return math.prod(shape) if point.kind is PointKind.BIAS else shape[point.axis]

    def consumers(self, point: QuantPoint, value: ir.Value) -> str | None:
        users = {use.node.name for use in value.uses()}
        for name in point.consumers or ():
            if name not in users:
                what = "the model has no node of that name" if name not in self.nodes else "that node does not take it"
                return f"it names the consumer {name!r}, but {what}"
        for consumer in point.consumers if point.consumers is not None else (None,):
            if (point.value, consumer) in self.taken or (point.value, None) in self.taken:
                return f"two points quantize it for {consumer or 'all nodes that take it'}"
            self.taken.add((point.value, consumer))
        return None

    def relations(self, point: QuantPoint, value: ir.Value) -> str | None:
        if point.shared_with is not None and point.shared_with not in self.activations:
            return f"it shares the scale of {point.shared_with!r}, which the plan does not quantize"
        if point.shared_with == point.value:
            return "it shares its scale with itself"
        producer = value.producer()
        if point.absorbs is not None and (producer is None or producer.name != point.absorbs):
            return f"it absorbs {point.absorbs!r}, which is not the node that makes it"
        return None

    def target(self, point: QuantPoint, value: ir.Value) -> str | None:
        """What the target's table says of types, zero points and axes."""
        table = self.capabilities
        if table is None:
            return None
        scheme = table.activation
        if point.kind is PointKind.ACTIVATION:
            if ir.DataType[point.dtype] not in scheme.accepted:
                return f"{table.target} takes {' or '.join(d.name for d in scheme.accepted)}, not {point.dtype}"
            if scheme.symmetric and any(point.zero_point):
                return f"its zero point is {point.zero_point[0]}, and {table.target} takes 0 only"
        for node, row in self._products(point):
            if point.kind is PointKind.BIAS and row.bias_dtype is ir.DataType.FLOAT:
                return f"{table.target} takes the bias of {node.op_type} {node.name!r} in FLOAT"
            axis = weight_axis(node, row)
            if point.kind is PointKind.WEIGHT and point.axis not in (None, axis):
                return f"{table.target} takes scales along axis {axis} for {node.name!r}, not along {point.axis}"
        return None

    def _products(self, point: QuantPoint) -> Iterator[tuple[ir.Node, OpSupport]]:
        """The nodes in role COMPUTE that take a point, with their rows."""
        users = [use.node.name or "" for use in self.values[point.value].uses()]
        for name in users if point.consumers is None else point.consumers:
            node = self.nodes[name]
            row = self.capabilities.support(node.domain, node.op_type) if self.capabilities is not None else None
            if row is not None and row.role is Role.COMPUTE:
                yield node, row

    def check_operands(self, point: QuantPoint) -> None:
        """Refuses a product of which the plan quantizes one operand alone, where the target runs that in float."""
        if self.capabilities is None or not self.capabilities.needs_both_operands:
            return
        for node, row in self._products(point):
            indices = dict.fromkeys((*(row.inputs or ()), *(() if row.weight is None else (row.weight,))))
            operands = [value.name or "" for i in indices if (value := node.inputs[i]) is not None]
            missing = [name for name in operands if not self.taken & {(name, node.name), (name, None)}]
            if missing and point.value in operands:
                raise _error(
                    point,
                    f"{self.capabilities.target} multiplies integers where both operands are quantized, and "
                    f"{missing[0]!r}, which {node.name!r} takes too, is not",
                )

    def dynamic(self, point: QuantPoint, value: ir.Value) -> str | None:
        if point.kind is not PointKind.DYNAMIC_WEIGHT or self.capabilities is None:
            return None
        opset = self.model.graph.opset_imports.get("", 0)
        for name in point.consumers or ():
            node = self.nodes[name]
            row = self.capabilities.dynamic.get((node.domain, node.op_type))
            reason = f"the target has no such {node.op_type}" if row is None else why_not(node, row, opset)
            if reason is not None:
                return f"{name!r} cannot quantize its activation while it runs: {reason}"
        return None

    def takes_integers(self, name: str) -> bool:
        """Whether a point quantizes an input of a node: what was edited out computes nothing any more."""
        inputs = [value.name for value in self.nodes[name].inputs if value is not None] if name in self.nodes else []
        return any((value, user) in self.taken for value in inputs for user in (name, None))

    def derived(self, point: QuantPoint) -> QuantPoint:
        """The point with what follows from others computed again."""
        if point.kind is PointKind.BIAS:
            return self._bias(point)
        seen = {point.value}
        root = point
        while root.shared_with is not None:
            root = self.activations[root.shared_with]
            if root.value in seen:
                raise _error(point, f"it shares the scale of {root.value!r}, which shares its own in a circle")
            seen.add(root.value)
        if root is point:
            return point
        return replace(point, dtype=root.dtype, scale=root.scale, zero_point=root.zero_point)

    def _bias(self, point: QuantPoint) -> QuantPoint:
        scales: list[float] = []
        for name in point.consumers or ():
            inputs = [value.name or "" for value in self.nodes[name].inputs if value is not None]
            activation = next((self.activations[i] for i in inputs if i in self.activations), None)
            weight = next((self.weights[i, name] for i in inputs if (i, name) in self.weights), None)
            if activation is None or weight is None:
                raise _error(point, f"{name!r} takes it as INT32, which needs its activation and weight quantized too")
            step = self.derived(activation).scale[0]
            product = (np.asarray(weight.scale) * step).astype(np.float32).astype(np.float64)
            if scales and scales != product.tolist():
                raise _error(point, "its consumers have activations and weights of different scales")
            scales = product.tolist()
        if scales and len(scales) != len(point.scale):
            raise _error(point, f"it has {len(point.scale)} scales and its weight {len(scales)}")
        self._require_no_overflow(point, scales)
        return replace(point, scale=tuple(scales or point.scale))

    def _require_no_overflow(self, point: QuantPoint, scales: list[float]) -> None:
        tensor = ir.constant_tensor(self.values[point.value])
        assert tensor is not None, "checked before"
        largest = np.abs(tensor.numpy().astype(np.float64).ravel()) / np.asarray(scales or point.scale)
        if largest.max(initial=0.0) >= 2.0**31:
            raise _error(point, "it overflows INT32 in the scales of its activation and weight, which are too small")


_CHECKS: tuple[Check, ...] = (_Plan.dtype, _Plan.consumers, _Plan.numbers, _Plan.relations, _Plan.target, _Plan.dynamic)


def _error(point: QuantPoint, problem: str) -> SpecError:
    return SpecError(
        f"The plan's point for {point.value!r} ({point.kind}) is unusable: {problem}.",
        remedy="Mend or remove the point, or make the plan anew with --plan-out.",
    )
