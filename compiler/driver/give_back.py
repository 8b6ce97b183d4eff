"""Giving back to float: which parts of a quantized model to give up so that the rest keeps the accuracy budget.

Every region is quantized alone, and what that does to the model's outputs is measured. The errors of regions are nearly
independent, so that they add up: the worst are given back until the sum fits, and the model is measured again.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sardonyx import ir
from sardonyx.measure import Agreement, Feed, Session
from sardonyx.passes.base import Pass, PassContext
from sardonyx.passes.quantization.plan import PointKind, QuantPlan
from sardonyx.pipeline import PassManager, PassRecord, Status

SAMPLES = 8
"""Samples on which regions are compared."""
TRIES = 6
"""How often an assembled model is measured in search of the fewest regions to give back."""
MARGIN = 0.8
"""Share of the budget that the sum of errors may take: it is an estimate, and other data will judge."""


@dataclass(frozen=True)
class Region:
    """Nodes that are quantized or left in float together.

    Attributes:
        nodes: Names of the nodes, in graph order.
        loss: What is lost when the region alone is quantized: 1 - agreement with the original.
    """

    nodes: tuple[str, ...]
    loss: float


@dataclass(frozen=True)
class Variant:
    """A quantized model and how it was made."""

    model: ir.Model
    records: tuple[PassRecord, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed the model."""
        return any(record.status is Status.APPLIED for record in self.records)

    @property
    def plan(self) -> dict[str, Any] | None:
        """The quantization plan, if passes made one; several passes' plans are joined."""
        return joined_plan(self.records)

    @property
    def compute_nodes(self) -> tuple[str, ...]:
        """Names of the nodes whose products are computed with integers, in graph order."""
        return tuple((self.plan or {}).get("compute_nodes", ()))

    @property
    def integer_nodes(self) -> tuple[str, ...]:
        """Those of them whose activations are integers too; none where only weights are."""
        points = (self.plan or {}).get("points", ())
        return self.compute_nodes if any(p["kind"] == PointKind.ACTIVATION for p in points) else ()


def joined_plan(records: Sequence[PassRecord]) -> dict[str, Any] | None:
    """Returns the quantization plans of passes that ran one after the other as one, or None where there are none."""
    plans = [QuantPlan.from_dict(record.details["plan"]) for record in records if "plan" in record.details]
    return QuantPlan.joined(plans).to_dict() if plans else None


class Quantizer:
    """Quantizes variants of one float model: the same passes, with nodes excluded.

    Args:
        model: The float model; it is not changed.
        passes: The passes that quantize; those with an option `exclude` are given nodes to exclude.
        context: Their context, the same for all variants, so that ranges are observed once.
    """

    def __init__(self, model: ir.Model, passes: Sequence[Pass], context: PassContext) -> None:
        self._model = model
        self._passes = tuple(passes)
        self._context = context

    def variant(self, exclude: Sequence[str] = ()) -> Variant:
        """Returns a quantized model."""
        passes = [_excluding(each, exclude) for each in self._passes]
        result = PassManager(passes, context=self._context).run(ir.clone(self._model))
        return Variant(result.model, result.records)


def _excluding(instance: Pass, names: Sequence[str]) -> Pass:
    options = {f.name for f in dataclasses.fields(instance)}  # type: ignore[arg-type]
    if "exclude" not in options or not names:
        return instance
    return dataclasses.replace(instance, exclude=(*instance.exclude, *names))  # type: ignore[type-var, attr-defined]


@dataclass(frozen=True)
class Comparison:
    """Compares variants with the original on a few samples.

    Attributes:
        feeds: The samples.
        reference: The original's outputs on them.
        names: The outputs' names.
        load: Writes and loads a model in the target.
    """

    feeds: Sequence[Feed]
    reference: Sequence[Sequence[Any]]
    names: Sequence[str]
    load: Callable[[ir.Model], Session]

    def loss(self, model: ir.Model) -> float:
        """Returns 1 - agreement with the original."""
        agreement = Agreement(self.names)
        with self.load(model) as session:
            for feed, reference in zip(self.feeds, self.reference, strict=True):
                agreement.update(reference, session.run(feed))
        return 1.0 - agreement.result().value


def measure_regions(
    quantizer: Quantizer,
    nodes: Sequence[str],
    comparison: Comparison,
    seconds: float,
    progress: Callable[[int, int], None],
) -> list[Region]:
    """Quantizes each region alone and measures the loss.

    Args:
        quantizer: Makes the variants.
        nodes: Names of all nodes that may be quantized, in graph order.
        comparison: Measures the variants.
        seconds: How long it may take; with too many nodes for that, neighbours form regions.
        progress: Called as progress(done, total).

    Returns:
        The regions, the largest loss first.
    """
    regions: list[Region] = []
    start, size, done = time.monotonic(), 1, 0
    while done < len(nodes):
        group = tuple(nodes[done : done + size])
        others = [name for name in nodes if name not in group]
        regions.append(Region(group, comparison.loss(quantizer.variant(others).model)))
        done += len(group)
        progress(done, len(nodes))
        each = (time.monotonic() - start) / len(regions)
        left = max(seconds - (time.monotonic() - start), each)
        size = max(1, -(-(len(nodes) - done) // max(1, int(left / each))))
    return sorted(regions, key=lambda region: -region.loss)


def fewest(regions: Sequence[Region], total: float, budget: float) -> int:
    """Returns how many of the worst regions to give back so that the rest's errors probably sum to less than a budget.

    Args:
        regions: The largest loss first.
        total: The measured loss with all regions quantized, to which the sum of losses is scaled.
        budget: The loss allowed.
    """
    remaining = sum(region.loss for region in regions)
    scale = total / remaining if remaining else 0.0
    for count, region in enumerate(regions):
        if remaining * scale <= MARGIN * budget:
            return count
        remaining -= region.loss
    return len(regions)


def search(start: int, count: int, fits: Callable[[int], bool]) -> int:
    """Returns a small number of regions to give back with which a model fits, by bisection around a first guess.

    Args:
        start: The guess.
        count: The number of regions, with all of which given back the model fits because it is the float model.
        fits: Whether the model keeps the budget with so many regions given back; called at most `TRIES` times.
    """
    low, high, guess = 0, count, max(1, start)
    for _ in range(TRIES):
        if high - low <= max(1, count // 20) or guess >= high:
            break
        if fits(guess):
            high = guess
            guess = max(low + 1, (low + high) // 2)
        else:
            low = guess
            guess = min(max(2 * guess, low + 1), (low + high + 1) // 2) if high == count else (low + high) // 2
    return high
