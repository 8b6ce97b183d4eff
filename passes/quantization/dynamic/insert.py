"""Writing the dynamically quantized forms of a plan's nodes."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.quantization.dynamic.forms import FORMS, FormWriter
from sardonyx.passes.quantization.plan import PointKind, QuantPlan, QuantPoint
from sardonyx.passes.quantization.scopes import nodes_in_order


@dataclass(frozen=True)
class InsertDynamic(Pass):
    """Replaces the nodes that take the dynamic weights of a plan.

    Attributes:
        plan: What to quantize, with scales and zero points.
    """

    name = "insert-dynamic"
    summary = "write dynamically quantized products from a quantization plan"

    plan: QuantPlan

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Replaces the nodes.

        Raises:
            SpecError: If the plan quantizes some weights of a node and not the others, or a node that has no such form.
        """
        by_node: dict[str, dict[str, QuantPoint]] = {}
        for point in self.plan.points:
            if point.kind is PointKind.DYNAMIC_WEIGHT:
                for name in point.consumers or ():
                    by_node.setdefault(name, {})[point.value] = point
        writer = FormWriter(model)
        for node in list(nodes_in_order(model.graph)):
            points = by_node.get(node.name or "")
            if points:
                writer.write(node, _by_index(node, points))
        return PassResult(model, bool(writer.stats), writer.stats)


def _by_index(node: ir.Node, points: dict[str, QuantPoint]) -> dict[int, QuantPoint]:
    form = FORMS.get(node.op_type) if not node.domain else None
    if form is None:
        raise SpecError(
            f"The plan quantizes the weights {sorted(points)} of {node.name!r} dynamically, a {node.op_type}.",
            remedy=f"Operators that can be: {', '.join(FORMS)}.",
        )
    found = {}
    for index in form.weights:
        value = node.inputs[index]
        name = "" if value is None else value.name or ""
        if name not in points:
            raise SpecError(
                f"The plan quantizes the weights {sorted(points)} of {node.name!r} but not {name!r}.",
                remedy=f"{node.op_type} takes all its weights as integers or none: add or remove both points.",
            )
        found[index] = points[name]
    return found
