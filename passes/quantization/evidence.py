"""What rounding costs, tensor by tensor: evidence for those who read the record, in few numbers.

Kept of each quantized model: of activations, the histograms of calibration with the range chosen; of weights, the error
of their integers. Only the worst of both, so that a record stays small.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.quantization.arithmetic import dequantize, integer_range, quantize
from sardonyx.passes.quantization.distribution import Distribution, products
from sardonyx.passes.quantization.plan import PointKind, QuantPoint

EVIDENCE = "rounding"
"""Key of a pass's details under which `rounding_evidence` stands."""
WORST_ACTIVATIONS = 12
WORST_WEIGHTS = 50
BINS = 64
"""Bins of a histogram."""
MOST_ELEMENTS = 1 << 16
"""Elements of a weight of which the error is computed; of larger ones, as many at random places, the same each time."""


def rounding_evidence(
    points: Sequence[QuantPoint],
    seen: Mapping[str, Distribution],
    floats: Mapping[str, ir.TensorProtocol],
    rounded: Mapping[str, ir.TensorProtocol],
) -> dict[str, Any]:
    """Returns what rounding costs, as data for JSON.

    Args:
        points: The points of a plan.
        seen: Distribution of each observed activation, by name.
        floats: Weights as they were, by name.
        rounded: The same after methods that choose integers; rounding these to the nearest gives the integers stored.

    Returns:
        `activations`: the worst, each with `value`, `low` and `high` of its range, `sqnr_db`, the `edges` of the
        histogram (first and last) and its `counts`; `weights`: the worst, each with `weight`, `dtype`, `channels`
        (number of scales), `sqnr_db`, `max_abs` and `scale_ratio` (largest over smallest). `sqnr_db` is
        10 log10(sum r^2 / sum (r - q)^2); None where nothing is lost.
    """
    activations = [_activation(point, seen[point.value]) for point in _own_ranges(points) if point.value in seen]
    weights = [
        _weight(point, floats[point.value], rounded[point.value])
        for point in points
        if point.kind is PointKind.WEIGHT and point.value in floats and point.value in rounded
    ]
    return {
        "activations": sorted(activations, key=_loss)[:WORST_ACTIVATIONS],
        "weights": sorted(weights, key=_loss)[:WORST_WEIGHTS],
    }


def _own_ranges(points: Iterable[QuantPoint]) -> Iterator[QuantPoint]:
    """Activations whose range was chosen for them."""
    return (p for p in points if p.kind is PointKind.ACTIVATION and p.shared_with is None and p.low is not None)


def _loss(entry: Mapping[str, Any]) -> float:
    return math.inf if entry["sqnr_db"] is None else float(entry["sqnr_db"])


def _activation(point: QuantPoint, seen: Distribution) -> dict[str, Any]:
    integers = integer_range(ir.DataType[point.dtype])
    levels = np.arange(integers.low, integers.high + 1, dtype=np.float64)
    error = products(seen, levels, np.asarray(point.scale[:1]), np.asarray(point.zero_point[:1], np.int64))
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    counts = seen.between(edges[1:-1]).mass if seen.mass.size else np.zeros(BINS)
    return {
        "value": point.value,
        "low": point.low,
        "high": point.high,
        "sqnr_db": sqnr_db(seen.energy, float(error.squared_error[0])),
        "edges": [seen.low, seen.high],
        "counts": [round(float(count)) for count in _with_zeros(counts, edges, seen.zeros)],
    }


def _with_zeros(counts: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], zeros: float) -> Iterable[float]:
    bin_ = min(max(int(np.searchsorted(edges, 0.0, side="right")) - 1, 0), BINS - 1)
    return [float(count) + (zeros if index == bin_ else 0.0) for index, count in enumerate(counts)]


def _weight(point: QuantPoint, tensor: ir.TensorProtocol, rounded: ir.TensorProtocol) -> dict[str, Any]:
    values, chosen = tensor.numpy(), rounded.numpy()
    places = _places(values.size)
    channel = 0 if point.axis is None else np.unravel_index(places, values.shape)[point.axis]
    scale, zero_point = np.asarray(point.scale)[channel], np.asarray(point.zero_point, np.int64)[channel]
    real = values.reshape(-1)[places].astype(np.float64)
    dtype = ir.DataType[point.dtype]
    integers = quantize(chosen.reshape(-1)[places], scale, zero_point, integer_range(dtype, narrow=True))
    difference = dequantize(integers, scale, zero_point).astype(np.float64) - real
    return {
        "weight": point.value,
        "dtype": point.dtype,
        "channels": len(point.scale),
        "sqnr_db": sqnr_db(float(real @ real), float(difference @ difference)),
        "max_abs": float(np.abs(difference).max(initial=0.0)),
        "scale_ratio": max(point.scale) / min(point.scale),
    }


def _places(size: int) -> npt.NDArray[np.int64]:
    """Positions in a flat tensor at which to look."""
    if size <= MOST_ELEMENTS:
        return np.arange(size)
    return np.random.default_rng(size).integers(0, size, MOST_ELEMENTS)


def sqnr_db(signal: float, noise: float) -> float | None:
    """Returns 10 log10(signal / noise) in dB; None where there is no noise or no signal."""
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None
