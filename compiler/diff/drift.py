"""Where two models part on samples, and which nodes make the difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from sardonyx import ir
from sardonyx.diff.checkpoints import Checkpoint, Plan, Planner
from sardonyx.diff.drift_schema import Drift
from sardonyx.diff.judging import Judge
from sardonyx.diff.matching import Matching
from sardonyx.diff.measuring import DriftOptions, Measured, Measuring
from sardonyx.diff.quantities import Pairs, pairs_of, without_misread
from sardonyx.diff.ranges import explained_ranges
from sardonyx.diff.rescaling import Rescalings, settle
from sardonyx.diff.segments import Wiring
from sardonyx.diff.text import typed
from sardonyx.errors import UsageError
from sardonyx.measure import Samples

_DEFAULTS = DriftOptions()


def drift(
    before: ir.Model, after: ir.Model, matching: Matching, samples: Samples, options: DriftOptions = _DEFAULTS
) -> Drift:
    """Runs two models on the same samples and compares every matched value.

    Each value is compared twice: as both models compute it from the samples, and as the second model's nodes compute it
    when they are given the first model's values. The second error is the one that these nodes make; the first holds all
    errors before them as well. A value that a pass rescaled by channel, and that its readers take up again, is compared
    without its factors; outputs never are. Both run without the runtime's graph optimizations, one loaded at a time.
    What is in the body of an If, Loop or Scan is compared at the outputs of that node.

    Args:
        before: The first model, with shapes.
        after: The second model, with shapes.
        matching: Which values of their main graphs carry the same quantity.
        samples: Feeds of the first model; shapes may vary.
        options: How.

    Raises:
        UsageError: If the second model has an input that the first one lacks.
        DataError: If there are no samples, or one does not fit.
        BackendError: If the runtime refuses one of the models.
    """
    comparison = Comparison.of(before, after, matching)
    return comparison.drift(samples, options)


@dataclass(frozen=True)
class Comparison:
    """Two models and the places where they are compared.

    Attributes:
        before: The first model.
        after: The second model.
        inputs: Name of the second model's input by that of the first's.
        wiring: Of both main graphs.
        pairs: Values that carry the same quantity.
        plan: The places.
    """

    before: ir.Model
    after: ir.Model
    inputs: Mapping[str, str]
    wiring: tuple[Wiring, Wiring]
    pairs: Pairs
    plan: Plan

    @classmethod
    def of(cls, before: ir.Model, after: ir.Model, matching: Matching) -> Self:
        """Finds the places.

        Raises:
            UsageError: If the second model has an input that the first one lacks.
        """
        wiring = Wiring(before.graph), Wiring(after.graph)
        inputs = input_names(before, after, matching)
        values = {
            wiring[0].values[old]: wiring[1].values[new]
            for old, new in {**matching.values, **inputs}.items()
            if old in wiring[0].values and new in wiring[1].values
        }
        pairs = without_misread(pairs_of(before.graph, after.graph, values), *wiring)
        return cls(before, after, inputs, wiring, pairs, Planner(*wiring, pairs).plan())

    def drift(self, samples: Samples, options: DriftOptions = _DEFAULTS) -> Drift:
        """Does what the function `drift` does."""
        measuring = Measuring(self.before, self.after, self.inputs, options)
        measured, count = measuring.measure(self.plan.checkpoints, samples)

        def again(points: Sequence[Checkpoint], rescaled: Rescalings, local_only: bool) -> Mapping[str, Measured]:
            return measuring.measure(points, samples, rescaled, local_only=local_only)[0]

        outputs = [value.name or "" for value in self.after.graph.outputs]
        settled = settle(self.plan, measured, outputs, again)
        ranges = explained_ranges(self.plan, settled, self.wiring[1], again)
        return Judge(self.plan, settled, self.wiring, ranges).verdict(count, samples.what)


def input_names(before: ir.Model, after: ir.Model, matching: Matching) -> dict[str, str]:
    """Returns the name of the second model's input by that of the first's.

    Raises:
        UsageError: If the second model has an input that corresponds to none of the first.
    """
    names, wanted = ([value.name or "" for value in _given(model)] for model in (before, after))
    by_name = {name: matching.values.get(name, name) for name in names}
    missing = sorted(set(wanted) - set(by_name.values()))
    if not missing:
        return by_name
    in_order = list(zip(_given(before), _given(after), strict=False))
    if len(names) == len(wanted) and all(_alike(ours, theirs) for ours, theirs in in_order):
        return dict(zip(names, wanted, strict=True))
    theirs = next(value for value in _given(after) if value.name == missing[0])
    raise UsageError(
        f"The second model has an input {missing[0]!r}, {typed(theirs)}, that corresponds to none of the first, which "
        f"has {', '.join(f'{value.name!r}, {typed(value)}' for value in _given(before)) or 'none'}.",
        remedy="Compare models with the same inputs; without samples, what differs is shown all the same.",
    )


def _given(model: ir.Model) -> list[ir.Value]:
    """Inputs that have no default."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _alike(ours: ir.Value, theirs: ir.Value) -> bool:
    """Whether an input may take what another one takes: its type, and its rank where both are known."""
    ranks = [len(value.shape) for value in (ours, theirs) if value.shape is not None]
    return ours.dtype == theirs.dtype and len(set(ranks)) < 2
