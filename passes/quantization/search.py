"""Searching ranges, scales and zero points that suit a distribution better than its extremes do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sardonyx.passes.quantization.arithmetic import Float64Array, Int64Array, as_scale
from sardonyx.passes.quantization.distribution import MANY_LEVELS, Distribution, products
from sardonyx.passes.quantization.scheme import Scheme

Loss = Callable[[Float64Array, Float64Array], Float64Array]
"""Called as loss(lows, highs) with arrays of one a candidate; smaller is better."""

_COARSE = 2.0 ** (-np.arange(65) / 8)  # eight octaves, in steps of 9 %
_FINE = np.linspace(-1.0, 1.0, 17)[1:-1] / 8  # then between the neighbours of the best, in octaves
_ROUNDS = 2  # of shrinking each end in turn
_DESCENTS = 3  # best starts from which the alternating updates descend
_MOST_ITERATIONS = 50
_FEW_STEPS = 15  # with so few, every zero point is tried


@dataclass(frozen=True)
class SearchedParameters:
    """The result of `search_parameters`.

    Attributes:
        scale: Real units a step; exactly representable as float32.
        zero_point: The integer that means 0.
        squared_error: Sum of (r - S (q - Z))^2 over all values.
    """

    scale: float
    zero_point: int
    squared_error: float


def search_range(low: float, high: float, loss: Loss, *, symmetric: bool) -> tuple[float, float]:
    """Returns the range within [low, high] with the smallest loss.

    Both ends shrink together if symmetric, else in turns, down to 1/256 of what they were: first on a grid of powers
    of 2^(1/8), then more finely around the best. Where nothing is better than the whole range, that is returned.

    Args:
        low: Smallest value, at most 0.
        high: Largest value, at least 0.
        loss: What to minimise.
        symmetric: Whether the range is to be [-t, t].
    """
    if symmetric:
        reach = max(-low, high)
        best = reach * _best_ratio(lambda ratio: loss(-ratio * reach, ratio * reach))
        return -best, best
    lower = upper = 1.0
    for _ in range(_ROUNDS if low < 0 < high else 1):
        before = (lower, upper)
        if high > 0:
            fixed = low * lower
            upper = _best_ratio(partial(lambda low, ratio: loss(np.full(ratio.shape, low), ratio * high), fixed))
        if low < 0:
            fixed = high * upper
            lower = _best_ratio(partial(lambda high, ratio: loss(ratio * low, np.full(ratio.shape, high)), fixed))
        if before == (lower, upper):
            break
    return low * lower, high * upper


def _best_ratio(loss: Callable[[Float64Array], Float64Array]) -> float:
    coarse = loss(_COARSE)
    best = float(_COARSE[np.argmin(coarse)])
    fine = np.minimum(best * 2.0**-_FINE, 1.0)
    finer = loss(fine)
    return float(fine[np.argmin(finer)]) if finer.min() < coarse.min() else best


def search_error_range(values: Distribution, scheme: Scheme) -> tuple[float, float]:
    """Returns the range whose quantization has the least squared error: rounding inside, clipping outside."""
    levels = scheme.levels()

    def loss(low: Float64Array, high: Float64Array) -> Float64Array:
        at = scheme.parameters(low, high)
        return products(values, levels, at.scale, at.zero_point).squared_error

    return search_range(values.low, values.high, loss, symmetric=scheme.symmetric or scheme.is_float8)


def search_parameters(values: Distribution, scheme: Scheme) -> SearchedParameters:
    """Minimises sum of (r - S (q - Z))^2 over the integers q and Z and the scale S together.

    From several starts, the updates alternate: q is the nearest level; S = sum r (q - Z) / sum (q - Z)^2 in closed
    form; Z = mean q - (mean r) / S, of which both neighbouring integers are tried, because only an integer can be
    stored. No step raises the error, so it ends. (The first two are Lloyd's iteration for uniform levels.) The result
    is never worse than that of `search_error_range`, which is one of the starts; with more than 256 levels, where
    rounding errors are taken as uniform, it is the result.

    Args:
        values: The real values, exact or binned.
        scheme: Integers to use; with a symmetric one Z is fixed.

    Raises:
        PassError: If the scheme has no integers.
    """
    integers, levels = scheme.integers, scheme.levels()
    if not values.mass.size:
        zero_point = integers.middle if scheme.symmetric else int(np.clip(0, integers.low, integers.high))
        return SearchedParameters(1.0, zero_point, 0.0)
    searched = scheme.parameters(*search_error_range(values, scheme))
    scales, zero_points = searched.scale.reshape(1), searched.zero_point.reshape(1)
    if levels.size <= MANY_LEVELS:
        more_scales, more_zero_points = _starts(values, scheme)
        scales, zero_points = np.append(scales, more_scales), np.append(zero_points, more_zero_points)
    errors = products(values, levels, scales, zero_points).squared_error
    order = dict.fromkeys([0, *np.argsort(errors, kind="stable")[:_DESCENTS].tolist()])
    found = [SearchedParameters(float(scales[i]), int(zero_points[i]), float(errors[i])) for i in order]
    if levels.size <= MANY_LEVELS:
        found = [_descend(values, scheme, start) for start in found]
    return min(found, key=lambda one: one.squared_error)


def _starts(values: Distribution, scheme: Scheme) -> tuple[Float64Array, Int64Array]:
    """Scales and zero points to start from: shrunken ranges, and all zero points where there are few."""
    ratio = _COARSE[:41]
    at = scheme.parameters(values.low * ratio, values.high * ratio)
    if scheme.symmetric or scheme.integers.steps > _FEW_STEPS:
        return at.scale, at.zero_point
    zero_points = np.arange(scheme.integers.low, scheme.integers.high + 1)
    return np.tile(at.scale, zero_points.size), np.repeat(zero_points, at.scale.size)


def _descend(values: Distribution, scheme: Scheme, start: SearchedParameters) -> SearchedParameters:
    """Alternates the closed-form updates from one start until the error no longer falls."""
    levels, best = scheme.levels(), start
    for _ in range(_MOST_ITERATIONS):
        scales, zero_points = _updates(values, scheme, best)
        errors = products(values, levels, scales, zero_points).squared_error
        least = int(np.argmin(errors))
        if not errors[least] < best.squared_error:
            break
        best = SearchedParameters(float(scales[least]), int(zero_points[least]), float(errors[least]))
    return best


def _updates(values: Distribution, scheme: Scheme, at: SearchedParameters) -> tuple[Float64Array, Int64Array]:
    """The closed-form scales for the zero points worth trying, with each value kept at its present level."""
    levels, integers = scheme.levels(), scheme.integers
    reals = at.scale * (levels - at.zero_point)
    moments = values.between((reals[1:] + reals[:-1]) / 2)
    zero_points = np.array([at.zero_point])
    if not scheme.symmetric:
        ideal = (moments.mass @ levels - moments.first.sum() / at.scale) / moments.mass.sum()
        near = np.clip([np.floor(ideal), np.ceil(ideal)], integers.low, integers.high)
        zero_points = np.union1d(zero_points, near.astype(np.int64))
    steps = levels - zero_points[:, None]
    across, along = steps @ moments.first, steps**2 @ moments.mass
    usable = (across > 0) & (along > 0)
    scales = np.divide(across, along, out=np.full(along.shape, at.scale), where=usable)
    return as_scale(scales), zero_points
