"""Static INT8 quantization: place, calibrate, choose, insert."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.quantization.calibrate import CALIBRATORS, CalibrationResult
from sardonyx.passes.quantization.choose import choose
from sardonyx.passes.quantization.insert import InsertQdq
from sardonyx.passes.quantization.methods.activations import searched_ranges
from sardonyx.passes.quantization.methods.bias import give_biases
from sardonyx.passes.quantization.methods.presets import PRESETS, model_kind
from sardonyx.passes.quantization.methods.refine import Refined, Refiner, weight_reaches
from sardonyx.passes.quantization.methods.selection import AUTO, select_methods
from sardonyx.passes.quantization.placement import Placement, place
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.ranges import observed_ranges
from sardonyx.passes.quantization.selection import select


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantizes activations and weights where the target's table has integer kernels.

    Attributes:
        calibrator: How ranges are observed: `minmax` or `percentile`.
        percentile: Share of values to represent, in percent, for `percentile`.
        exclude: Patterns of nodes to keep in float, as `sardonyx.passes.quantization.selection` describes them.
        include: Patterns of the only nodes to quantize; empty for all.
        methods: Accuracy methods by name, see `sardonyx.passes.quantization.methods.selection`; `auto` alone for those
            that suit the kind of model.
    """

    name = "quantize-static"
    summary = "static INT8: Q/DQ placed by the target's table, ranges from calibration samples"

    calibrator: str = "percentile"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    methods: tuple[str, ...] = (AUTO,)

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise SpecError(
                f"There is no calibrator {self.calibrator!r}.", remedy=f"Use one of: {', '.join(CALIBRATORS)}."
            )
        if not 50 < self.percentile <= 100:
            raise SpecError(f"A percentile of {self.percentile} is outside (50, 100].", remedy="99.9 to 100 are usual.")
        if self.methods != (AUTO,):
            select_methods(self.methods)

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Plans and writes the Q/DQ nodes.

        Raises:
            PassError: If the context has no target or no samples.
            DataError: If the samples do not fit the model.
        """
        plan, refined = self._plan(model, context)
        refusals = tuple(Refusal("stay-in-float", why, (node,)) for node, why in plan.float_nodes.items())
        if not plan.points:
            return PassResult(model, modified=False, refusals=refusals, details={"plan": plan.to_dict()})
        result = InsertQdq(plan).apply(model, context)
        return PassResult(
            model,
            True,
            {**result.stats, **refined.stats},
            (*refusals, *refined.refusals, *result.refusals),
            details={"plan": plan.to_dict()},
        )

    def plan(self, model: ir.Model, context: PassContext) -> QuantPlan:
        """Returns the plan for a model without changing it. See `apply` for the errors raised."""
        return self._plan(ir.clone(model), context)[0]

    def _plan(self, model: ir.Model, context: PassContext) -> tuple[QuantPlan, Refined]:
        """Plans, and gives the float model the weights and biases that the accuracy methods want."""
        if context.capabilities is None:
            raise PassError("Static quantization needs a target's table.", remedy="Name one with --target.")
        ir.ensure_shapes(model)
        names = self._method_names(model)
        methods = select_methods(names)
        placement, observed = self._observe(model, context, context.capabilities)
        ranges = dict(observed.ranges)
        if methods.ranges != "calibrated":
            ranges |= searched_ranges(model, placement.observed(), context, plain=methods.ranges == "mse")
        if methods.bias == "corrected":
            placement = give_biases(model, placement, context.capabilities)
        reaches = weight_reaches(model, placement, methods, context)
        chosen = choose(model, placement, ranges, context.capabilities, reaches)
        refined = Refiner(model, placement, methods, context).refine(chosen.points)
        plan = QuantPlan(
            target=context.capabilities.target,
            points=chosen.points,
            compute_nodes=placement.compute_nodes,
            float_nodes=placement.float_nodes,
            calibration={
                "method": self.calibrator,
                "percentile": self.percentile if self.calibrator == "percentile" else None,
                "samples": observed.samples,
                "weight_scales_raised_for_bias": chosen.raised_scales,
                "methods": list(names),
            },
        )
        return plan, refined

    def _method_names(self, model: ir.Model) -> tuple[str, ...]:
        return PRESETS[model_kind(model)] if self.methods == (AUTO,) else self.methods

    def _observe(
        self, model: ir.Model, context: PassContext, capabilities: Capabilities
    ) -> tuple[Placement, CalibrationResult]:
        """Places and calibrates; values that turn out to have no finite range stay in float, and it starts over."""
        unusable: frozenset[str] = frozenset()
        kept_float = self._kept_float(model)
        while True:
            placement = place(model, capabilities, unusable, kept_float)
            values = placement.observed()
            if not values:
                return placement, CalibrationResult({}, 0)
            method = f"{self.calibrator}/{self.percentile}"
            observed = observed_ranges(
                model, values, method, lambda: CALIBRATORS[self.calibrator](self.percentile), context
            )
            infinite = {name for name, seen in observed.ranges.items() if not seen.finite}
            if not infinite:
                return placement, observed
            unusable |= infinite

    def _kept_float(self, model: ir.Model) -> dict[str, str]:
        """Reason by name of each node that the options keep in float."""
        reasons = {name: f"excluded by {pattern!r}" for name, pattern in select(model, self.exclude).items()}
        if self.include:
            included = select(model, self.include)
            for graph in ir.all_graphs(model):
                for node in graph:
                    if node.name not in included:
                        reasons.setdefault(node.name or "", "it is not among the included nodes")
        return reasons
