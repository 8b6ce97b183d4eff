"""Calibrators: from what was observed of a value to the range that its integers should cover.

Several share an observer, so that one look at the data serves them all, and the range is computed for the scheme that
the value will have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np

from sardonyx.errors import SpecError
from sardonyx.passes.quantization.arithmetic import Float64Array
from sardonyx.passes.quantization.calibration.extremes import (
    Extremes,
    FiniteExtremes,
    MovingExtremes,
    ObservedRange,
    Observer,
)
from sardonyx.passes.quantization.calibration.histogram import Histogram
from sardonyx.passes.quantization.distribution import MANY_LEVELS, Distribution, products
from sardonyx.passes.quantization.scheme import Parameters, Scheme
from sardonyx.passes.quantization.search import Loss, search_error_range, search_parameters, search_range

OBSERVERS: Mapping[str, type[Observer]] = MappingProxyType(
    {
        "extremes": Extremes,
        "finite-extremes": FiniteExtremes,
        "moving-extremes": MovingExtremes,
        "histogram": Histogram,
    }
)
"""Observer types by the name under which their state is stored."""

ENTROPY_BINS = 2048
"""Bins of equal width over which entropy is computed."""
SMOOTHING = 1e-4
"""Values that an empty bin is taken to hold: the divergence from a bin with none would be infinite."""

_Choose = Callable[[Observer, Scheme, float], ObservedRange]


@dataclass(frozen=True)
class Calibrator:
    """A way to choose the range of a value.

    Attributes:
        name: Its name as an option, in kebab-case.
        summary: One line for listings.
        observer: What it needs to know, a key of `OBSERVERS`.
        choose: Computes the range; called as choose(observer, scheme, percentile).
    """

    name: str
    summary: str
    observer: str
    choose: _Choose

    def range(self, observer: Observer, scheme: Scheme, percentile: float) -> ObservedRange:
        """Returns the range to represent.

        Args:
            observer: One of the kind that `observer` names.
            scheme: Numbers that will represent the value; per-tensor.
            percentile: Share of values to represent, in percent; read by `percentile` alone.

        Returns:
            The range; (0, 0) when nothing but zeros was seen, not finite where a value was not.
        """
        seen = observer.range()
        if not seen.finite or seen.low == seen.high == 0.0:
            return seen
        return self.choose(observer, scheme, percentile)


def calibrator(name: str) -> Calibrator:
    """Returns the calibrator of a name.

    Raises:
        SpecError: If there is none.
    """
    if name not in CALIBRATORS:
        raise SpecError(f"There is no calibrator {name!r}.", remedy=f"Use one of: {', '.join(CALIBRATORS)}.")
    return CALIBRATORS[name]


def _observed(observer: Observer, scheme: Scheme, percentile: float) -> ObservedRange:
    return observer.range()


def _percentile(observer: Observer, scheme: Scheme, percentile: float) -> ObservedRange:
    """Cuts the same share of values off either tail; a tail without values loses nothing."""
    seen, values = observer.range(), _distribution(observer)
    tail = (100.0 - percentile) / 200.0
    if tail == 0.0:
        return seen
    low, high = values.quantile(tail), values.quantile(1.0 - tail)
    return ObservedRange(max(low, seen.low), min(high, seen.high))


def _mean_squared_error(observer: Observer, scheme: Scheme, percentile: float) -> ObservedRange:
    """Minimises the squared error of quantization: rounding within the range and clipping outside of it."""
    return _within(observer, search_error_range(_distribution(observer), scheme))


def _cosine(observer: Observer, scheme: Scheme, percentile: float) -> ObservedRange:
    """Maximises the cosine of the angle between the real and the quantized values.

    The cosine does not see the length: of candidates that differ by rounding alone, the widest is taken.
    """
    values, levels = _distribution(observer), scheme.levels()

    def loss(low: Float64Array, high: Float64Array) -> Float64Array:
        at = scheme.parameters(low, high)
        return -np.round(products(values, levels, at.scale, at.zero_point).cosine, 12)

    return _searched(observer, scheme, loss)


def _entropy(observer: Observer, scheme: Scheme, percentile: float) -> ObservedRange:
    """Minimises the Kullback-Leibler divergence of the quantized distribution from the real one.

    As in TensorRT's calibration (Migacz, "8-bit inference with TensorRT", GTC 2017): over 2048 bins of equal width,
    values outside of the range are counted at its ends in the real distribution and left out of the quantized one,
    which is constant over the bins of a level that are not empty; a level has at least one bin. Zeros, which are exact
    in every candidate, are left out. With more than 256 levels the distributions hardly differ: the whole range is
    kept.
    """
    values, levels = _distribution(observer), scheme.levels()
    if levels.size > MANY_LEVELS or not values.mass.size:
        return observer.range()
    linear = values.rebinned(ENTROPY_BINS)

    def loss(low: Float64Array, high: Float64Array) -> Float64Array:
        return _divergence(linear, levels, scheme.parameters(low, high))

    return _searched(observer, scheme, loss)


def _divergence(values: Distribution, levels: Float64Array, at: Parameters) -> Float64Array:
    """Returns KL(P || Q) for each candidate of shape (candidates,); infinite where a level is narrower than a bin.

    With the mass m and width w of a bin, M and W of its level, T of all and I of those inside: within the range
    P = m / T and Q = (M w / W) / I, so that the sum over the bins of P log(P / Q) is
    (sum m log(m / w) - sum M log(M / W)) / T + I / T log(I / T); outliers are then added to P at one bin of the
    outermost levels, which has the mean mass of its level, but at least `SMOOTHING`.
    """
    reals = at.scale[:, None] * (levels - at.zero_point[:, None])
    half = at.scale[:, None] / 2
    middle = (reals[:, 1:] + reals[:, :-1]) / 2
    moments = values.between(np.concatenate([reals[:, :1] - half, middle, reals[:, -1:] + half], axis=1))
    mass, width, total = moments.mass[:, 1:-1], moments.width[:, 1:-1], float(values.mass.sum())
    inside = mass.sum(axis=1)
    shape = moments.spread[:, 1:-1] - _times_log(mass, mass / np.where(width > 0, width, 1.0))
    divergence: Float64Array = (shape.sum(axis=1) + _times_log(inside, inside / total)) / total
    bin_width = (values.high - values.low) / ENTROPY_BINS
    for end in (0, -1):
        share = bin_width / np.maximum(width[:, end], bin_width)
        level, outliers = np.maximum(mass[:, end] * share, SMOOTHING), moments.mass[:, end]
        both = level + outliers
        divergence += (_times_log(both, both / level * inside / total) - _times_log(level, inside / total)) / total
    return np.where((reals[:, -1] - reals[:, 0]) < levels.size * bin_width, np.inf, divergence)


def _times_log(factor: Float64Array, argument: Float64Array) -> Float64Array:
    """Returns factor log(argument), and 0 where either is 0."""
    result: Float64Array = factor * np.log(np.where((factor > 0) & (argument > 0), argument, 1.0))
    return result


def _joint(observer: Observer, scheme: Scheme, percentile: float) -> ObservedRange:
    """Minimises the squared error over scale and zero point themselves; see `search_parameters`."""
    if scheme.is_float8:
        return _mean_squared_error(observer, scheme, percentile)
    found, integers = search_parameters(_distribution(observer), scheme), scheme.integers
    if scheme.symmetric:
        return ObservedRange(-found.scale * integers.reach, found.scale * integers.reach)
    low, high = integers.low - found.zero_point, integers.high - found.zero_point
    return ObservedRange(found.scale * low, found.scale * high)


def _distribution(observer: Observer) -> Distribution:
    return cast("Histogram", observer).distribution()


def _searched(observer: Observer, scheme: Scheme, loss: Loss) -> ObservedRange:
    values = _distribution(observer)
    symmetric = scheme.symmetric or scheme.is_float8
    return _within(observer, search_range(values.low, values.high, loss, symmetric=symmetric))


def _within(observer: Observer, found: tuple[float, float]) -> ObservedRange:
    """Cuts a range to what was observed, widened to include 0."""
    seen = observer.range()
    return ObservedRange(max(found[0], min(seen.low, 0.0)), min(found[1], max(seen.high, 0.0)))


CALIBRATORS: Mapping[str, Calibrator] = MappingProxyType(
    {
        known.name: known
        for known in (
            Calibrator("finite-minmax", "the smallest and the largest finite value", "finite-extremes", _observed),
            Calibrator("minmax", "the smallest and largest value", "extremes", _observed),
            Calibrator("moving-average", "each sample's extremes, averaged", "moving-extremes", _observed),
            Calibrator("percentile", "all but a share of the values", "histogram", _percentile),
            Calibrator("entropy", "least information lost (KL divergence)", "histogram", _entropy),
            Calibrator("mse", "least squared error", "histogram", _mean_squared_error),
            Calibrator("cosine", "least angle between real and quantized values", "histogram", _cosine),
            Calibrator("joint", "least squared error over scale and zero point together", "histogram", _joint),
        )
    }
)
"""The calibrators by name."""
