"""Observed ranges, remembered between passes: variants of one model are planned without calibrating each anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibration import (
    CalibrationOptions,
    CalibrationResult,
    Histogram,
    ObservedRange,
    calibrate,
)
from sardonyx.passes.quantization.distribution import Distribution
from sardonyx.passes.quantization.scheme import Scheme

KEY = "sardonyx.ranges"
REMEMBERED_BINS = 2048
"""Bins of the histograms that are remembered, of equal width: enough to tell what a range costs."""
SEARCHED = "mse"
"""A calibrator that looks at what searches of ranges look at, the histogram."""


@dataclass(frozen=True)
class RangeRequest:
    """How ranges are chosen.

    Attributes:
        calibrator: Name of the calibrator.
        scheme: The integers that the ranges are for.
        percentile: Share of values to represent, in percent, for the calibrator `percentile`.
        options: How the samples are run.
        histograms: Whether histograms are observed and remembered, whatever the calibrator needs, for a search.
    """

    calibrator: str
    scheme: Scheme
    percentile: float
    options: CalibrationOptions
    histograms: bool = False

    @property
    def calibrators(self) -> tuple[str, ...]:
        """The calibrators whose observers are to run."""
        return (self.calibrator, SEARCHED) if self.histograms else (self.calibrator,)


@dataclass
class _Remembered:
    """What was observed of one model; its parts are held, so that their identities stay theirs."""

    parts: tuple[object, ...]
    ranges: dict[str, ObservedRange] = field(default_factory=dict)
    distributions: dict[str, Distribution] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    samples: int = 0


def observed_ranges(
    model: ir.Model, values: Sequence[str], request: RangeRequest, context: PassContext
) -> tuple[Mapping[str, ObservedRange], int]:
    """Returns the ranges of values, and the number of samples, calibrating only for what was not observed before.

    Args:
        model: The float model; it is not changed.
        values: Names of float values of the main graph and of bodies.
        request: How ranges are chosen; those chosen otherwise are not taken.
        context: Samples, threads, progress, and the memory in which ranges are kept.

    Raises:
        PassError: If there is something to observe and the context has no samples.
        DataError: If there are zero samples, or they do not fit the model.
    """
    known = _remembered(model, request, context)
    missing = [name for name in values if name not in known.ranges]
    if missing:
        result = calibrate(model, missing, request.calibrators, context, request.options)
        known.ranges |= result.ranges(request.calibrator, request.scheme, request.percentile)
        histograms = _histograms(result)
        known.distributions |= {
            name: seen.distribution().rebinned(REMEMBERED_BINS) for name, seen in histograms.items()
        }
        known.histograms |= histograms if request.histograms else {}
        known.samples = result.samples
    return {name: known.ranges[name] for name in values}, known.samples


def observed_distributions(model: ir.Model, request: RangeRequest, context: PassContext) -> Mapping[str, Distribution]:
    """Returns the distributions of values whose ranges were observed, where the calibrator looks at distributions."""
    return _remembered(model, request, context).distributions


def observed_histograms(model: ir.Model, request: RangeRequest, context: PassContext) -> Mapping[str, Histogram]:
    """Returns the histograms of values whose ranges were observed and are finite, where the request wants them kept."""
    return _remembered(model, request, context).histograms


def _remembered(model: ir.Model, request: RangeRequest, context: PassContext) -> _Remembered:
    structure, parts = model_structure(model)
    method = (request.calibrator, str(request.scheme), request.percentile, request.options.thinning, request.histograms)
    known: _Remembered = context.memory.setdefault((KEY, method, structure), _Remembered(parts))
    return known


def _histograms(result: CalibrationResult) -> dict[str, Histogram]:
    return {
        name: observer
        for name, observers in result.observers.items()
        for observer in observers.values()
        if isinstance(observer, Histogram) and observer.range().finite
    }


def model_structure(model: ir.Model) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """What copies of a model share as long as they have the same nodes and the very same weights and attributes.

    Returns:
        A key made of names and identities, and the objects whose identities it holds.
    """
    parts: list[object] = [value.const_value for value in model.graph.initializers.values()]
    key: list[object] = list(model.graph.initializers)
    for graph in ir.all_graphs(model):
        for node in graph:
            parts += node.attributes.values()
            inputs = tuple(None if value is None else value.name for value in node.inputs)
            key.append((node.op_type, inputs, tuple(value.name for value in node.outputs)))
    return (*key, *map(id, parts)), tuple(parts)
