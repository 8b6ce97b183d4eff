"""Static INT8 quantization: place, calibrate, choose, insert."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sardonyx import ir
from sardonyx.capabilities import Capabilities, Role
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.quantization.calibration import CalibrationOptions, Histogram, ObservedRange, calibrator
from sardonyx.passes.quantization.choose import choose, constants
from sardonyx.passes.quantization.distribution import Distribution
from sardonyx.passes.quantization.evidence import EVIDENCE, rounding_evidence
from sardonyx.passes.quantization.insert import InsertQdq
from sardonyx.passes.quantization.methods.activations import searched_ranges
from sardonyx.passes.quantization.methods.bias import give_biases
from sardonyx.passes.quantization.methods.chosen_integers import chosen_integers
from sardonyx.passes.quantization.methods.layers import linear_layers
from sardonyx.passes.quantization.methods.presets import preset
from sardonyx.passes.quantization.methods.refine import Refined, Refiner, placed_layers, weight_reaches
from sardonyx.passes.quantization.methods.selection import AUTO, resolved, select_methods
from sardonyx.passes.quantization.methods.sequential import correct_in_sequence
from sardonyx.passes.quantization.placement import Placement, place
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.ranges import (
    RangeRequest,
    observed_distributions,
    observed_histograms,
    observed_ranges,
)
from sardonyx.passes.quantization.scheme import Scheme
from sardonyx.passes.quantization.scopes import left_in_functions, name_inner_values, restore_names
from sardonyx.passes.quantization.selection import kept_float

ACTIVATIONS: Mapping[str, ir.DataType] = {"uint8": ir.DataType.UINT8, "int8": ir.DataType.INT8}
"""Types of activations, by the name that the option takes."""


@dataclass(frozen=True)
class _Observed:
    """Ranges, distributions and histograms by value name, and the number of samples they come from.

    Histograms are there where ranges are to be searched.
    """

    ranges: Mapping[str, ObservedRange]
    distributions: Mapping[str, Distribution]
    histograms: Mapping[str, Histogram]
    samples: int


@dataclass(frozen=True)
class _Planned:
    """A plan, what refining did to the float model for it, and what its rounding costs."""

    plan: QuantPlan
    refined: Refined
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantizes activations and weights where the target's table has integer kernels.

    Attributes:
        calibrator: How ranges are chosen: `auto` for what suits the kind of model and the target's integers, or one of
            `minmax`, `moving-average`, `percentile`, `entropy`, `mse`, `cosine` and `joint`; see
            `sardonyx.passes.quantization.calibration.calibrators`.
        percentile: Share of values to represent, in percent, for `percentile`.
        exclude: Patterns of nodes to keep in float, as `sardonyx.passes.quantization.selection` describes them.
        include: Patterns of the only nodes to quantize; empty for all.
        activations: Integer type of activations, `uint8` or `int8`; empty for the one that the target prefers.
        workers: Processes to split the samples over; inside `joblib.parallel_config(backend="dask")` or `"ray"` the
            shares run there. The result is the same for any number.
        state: Folder that keeps what was observed, so that an interrupted run goes on; empty to keep nothing.
        thinning: One element in so many goes into the histograms that `percentile`, `entropy`, `mse`, `cosine` and
            `joint` look at; 1 for all. Extremes are of all elements in any case.
        methods: Accuracy methods by name, see `sardonyx.passes.quantization.methods.selection`; `auto` for those
            that suit the kind of model, except where another name chooses the same thing.
    """

    name = "quantize-static"
    summary = "static INT8: Q/DQ placed by the target's table, ranges from calibration samples"

    calibrator: str = AUTO
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    activations: str = ""
    workers: int = 1
    state: str = ""
    thinning: int = 1
    methods: tuple[str, ...] = (AUTO,)

    def __post_init__(self) -> None:
        if self.calibrator != AUTO:
            calibrator(self.calibrator)
        self._options()
        if not 50 < self.percentile <= 100:
            raise SpecError(f"A percentile of {self.percentile} is outside (50, 100].", remedy="99.9 to 100 are usual.")
        if self.activations not in ("", *ACTIVATIONS):
            raise SpecError(
                f"Activations cannot be {self.activations!r}.", remedy=f"Use one of: {', '.join(ACTIVATIONS)}."
            )
        select_methods(resolved(self.methods, ()))

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Plans and writes the Q/DQ nodes.

        Raises:
            PassError: If the context has no target or no samples.
            DataError: If the samples do not fit the model.
        """
        former = name_inner_values(model)
        planned = self._plan(model, context)
        plan, refined = planned.plan, planned.refined
        refusals = tuple(Refusal("stay-in-float", why, (node,)) for node, why in plan.float_nodes.items())
        if not plan.points:
            restore_names(former)
            return PassResult(model, modified=False, refusals=refusals, details={"plan": plan.to_dict()})
        result = InsertQdq(plan).apply(model, context)
        return PassResult(
            model,
            True,
            {**result.stats, **refined.stats},
            (*refusals, *refined.refusals, *result.refusals),
            details={"plan": plan.to_dict(), EVIDENCE: planned.evidence},
        )

    def plan(self, model: ir.Model, context: PassContext) -> QuantPlan:
        """Returns the plan for a model, whose values have names of their own, without changing it.

        See `apply` for the errors raised.
        """
        return self._plan(ir.clone(model), context).plan

    def _plan(self, model: ir.Model, context: PassContext) -> _Planned:
        """Plans, and gives the float model the weights and biases that the accuracy methods want."""
        if context.capabilities is None:
            raise PassError("Static quantization needs a target's table.", remedy="Name one with --target.")
        capabilities = self._table(context.capabilities)
        ir.ensure_shapes(model)
        suited = preset(model, capabilities)
        names = resolved(self.methods, suited.methods)
        method = suited.calibrator if self.calibrator == AUTO else self.calibrator
        methods = select_methods(names)
        searching = methods.ranges != "calibrated"
        looking = replace(context, capabilities=capabilities)
        placement, observed = self._observe(model, looking, method, histograms=searching)
        ranges = dict(observed.ranges)
        if searching:
            ranges |= searched_ranges(model, observed.histograms, looking, plain=methods.ranges == "mse")
        refiner = Refiner(model, methods, context)
        given: tuple[str, ...] = ()
        if methods.bias != "kept":
            placement, given = give_biases(model, placement, capabilities)
        reaches = weight_reaches(model, placement, methods, context)
        chosen = choose(model, placement, ranges, capabilities, reaches)
        floats = constants(model.graph)
        refined = refiner.refine(placement, chosen.points)
        if methods.bias == "sequential":
            layers = [layer for layer, _ in placed_layers(model, placement)]
            points = QuantPlan(capabilities.target, chosen.points)
            refined = refined.joined(correct_in_sequence(model, layers, points, context))
        computing = {key for key, row in capabilities.operators.items() if row.role is Role.COMPUTE}
        plan = QuantPlan(
            target=capabilities.target,
            points=chosen.points,
            compute_nodes=placement.compute_nodes,
            float_nodes=placement.float_nodes | left_in_functions(model, computing),
            calibration={
                "method": method,
                "percentile": self.percentile if method == "percentile" else None,
                "samples": observed.samples,
                "weight_scales_raised_for_bias": chosen.raised_scales,
                "methods": list(names),
            },
            chosen_integers=chosen_integers(chosen.points, floats, constants(model.graph), capabilities),
            bias_shifts=_shifts_of_plan(model, given, refined),
        )
        evidence = rounding_evidence(plan.points, observed.distributions, floats, constants(model.graph))
        return _Planned(plan, refined, evidence)

    def _table(self, capabilities: Capabilities) -> Capabilities:
        """The target's table with the type of activations that was asked for."""
        if not self.activations:
            return capabilities
        dtype, accepted = ACTIVATIONS[self.activations], capabilities.activation.accepted
        if dtype not in accepted:
            raise PassError(
                f"{capabilities.target} does not take {dtype.name} activations.",
                remedy=f"Use one of: {', '.join(each.name.lower() for each in accepted)}.",
            )
        scheme = replace(capabilities.activation, dtype=dtype)
        return replace(capabilities, activation=scheme)

    def _observe(
        self, model: ir.Model, context: PassContext, method: str, *, histograms: bool
    ) -> tuple[Placement, _Observed]:
        """Places and calibrates; values that turn out to have no finite range stay in float, and it starts over.

        What was observed once is not observed again.
        """
        unusable: frozenset[str] = frozenset()
        kept = kept_float(model, self.exclude, self.include)
        capabilities = context.capabilities
        assert capabilities is not None, "checked by the caller"
        activation = capabilities.activation
        scheme = Scheme(activation.dtype, symmetric=activation.symmetric, narrow=activation.symmetric)
        request = RangeRequest(method, scheme, self.percentile, self._options(), histograms)
        while True:
            placement = place(model, capabilities, unusable, kept)
            ranges, samples = observed_ranges(model, placement.observed(), request, context)
            infinite = {name for name, seen in ranges.items() if not seen.finite}
            if not infinite:
                seen = observed_distributions(model, request, context)
                by_name = observed_histograms(model, request, context)
                searchable = {name: by_name[name] for name in ranges if name in by_name}
                return placement, _Observed(ranges, seen, searchable, samples)
            unusable |= infinite

    def _options(self) -> CalibrationOptions:
        return CalibrationOptions(self.workers, Path(self.state) if self.state else None, thinning=self.thinning)


def _shifts_of_plan(model: ir.Model, given: Sequence[str], refined: Refined) -> dict[str, tuple[float, ...]]:
    """The shifts that a plan keeps: nodes that were given a bias in vain are among them, with shifts of zero."""
    layers = {layer.node.name: layer for layer in linear_layers(model.graph) if layer.node.name in given}
    shifts = {name: (0.0,) * layer.outputs for name in given if (layer := layers.get(name)) is not None}
    return shifts | {name: tuple(shift.tolist()) for name, shift in refined.shifts.items()}
