"""Ranges of activations, chosen by the error that their users see.

For a value with histogram n(v) and elementwise response f (see `responses`), the range [low, high] is searched for the
least sum over v of n(v) |f(Q(v)) - f(v)|^2, each end of f counted relative to its power. For a value that linear layers
take as it is, f is the identity and this is the range of least squared error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import ActivationScheme
from sardonyx.errors import PassError
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.arithmetic import IntegerRange, affine_parameters, integer_range
from sardonyx.passes.quantization.calibration import Histogram, ObservedRange
from sardonyx.passes.quantization.methods.channels import FloatArray, observe_channels
from sardonyx.passes.quantization.methods.responses import Response, response, scaled_gate
from sardonyx.passes.quantization.ranges import model_structure

KEY = "sardonyx.searched-ranges"
SHARES = np.geomspace(1.0, 0.02, 40)
"""Shares of the observed range that are tried for either end; for both at once where the zero point is fixed."""
PROBES = np.linspace(-10.0, 10.0, 41)
"""Values whose results show whether anything elementwise is done to a value."""
ROUNDS = 3
"""How often both ends are searched in turn."""


def search_range(
    observer: Histogram, value: ir.Value, scheme: ActivationScheme, least: float = -np.inf
) -> ObservedRange:
    """Returns the range whose integers disturb the users of a value least.

    Args:
        observer: What was seen of the value.
        value: The value in the float model.
        scheme: How activations are quantized.
        least: Value below which nobody makes anything of it.
    """
    extremes = observer.range()
    extremes = replace(extremes, low=max(extremes.low, least))
    if not extremes.finite or extremes.low >= extremes.high:
        return extremes
    seen = observer.distribution()
    centres = (seen.left + seen.right) / 2
    zero = int(np.searchsorted(centres, 0.0))
    centres = np.clip(np.insert(centres, zero, 0.0), extremes.low, extremes.high)
    error = _Error(centres, np.insert(seen.mass, zero, seen.zeros), response(value, centres), scheme)
    low, high = extremes.low, extremes.high
    if scheme.symmetric:
        reach = max(-low, high)
        end = min((reach * share for share in SHARES), key=lambda end: error.of(-end, end))
        return ObservedRange(max(low, -end), min(high, end))
    for _ in range(ROUNDS):
        before = (low, high)
        low = min((extremes.low * share for share in SHARES), key=lambda end: error.of(end, high))
        high = min((extremes.high * share for share in SHARES), key=lambda end: error.of(low, end))
        if (low, high) == before:
            break
    return ObservedRange(low, high)


class _Error:
    """The error of a range."""

    def __init__(self, centres: FloatArray, counts: FloatArray, wanted: Response, scheme: ActivationScheme) -> None:
        self._centres = centres
        self._response = wanted
        self._scheme = scheme
        self._integers: IntegerRange = integer_range(scheme.dtype, narrow=scheme.symmetric)
        power = np.square(wanted.results) @ counts
        self._weights = counts / np.where(power > 0, power, 1.0)[:, None]
        self._known: dict[tuple[float, float], float] = {}

    def of(self, low: float, high: float) -> float:
        """Returns the squared error relative to the power, summed over ends."""
        key = (low, high)
        if key not in self._known:
            self._known[key] = self._compute(low, high)
        return self._known[key]

    def _compute(self, low: float, high: float) -> float:
        scale, zero_point = affine_parameters(low, high, self._integers, symmetric=self._scheme.symmetric)
        levels = np.arange(self._integers.low, self._integers.high + 1)
        index = np.clip(np.rint(self._centres / scale) + zero_point, levels[0], levels[-1]).astype(np.int64) - levels[0]
        quantized = self._response.at((levels - zero_point) * scale)[:, index]
        return float((np.square(quantized - self._response.results) * self._weights).sum())


@dataclass(frozen=True)
class _Searched:
    """A range, and the observer that it was searched with."""

    observed: Histogram
    range: ObservedRange


def searched_ranges(
    model: ir.Model, observed: Mapping[str, Histogram], context: PassContext, *, plain: bool
) -> dict[str, ObservedRange]:
    """Returns the searched range of values; those that are known from an earlier variant are not searched again.

    Args:
        model: The float model; it is not changed.
        observed: What was seen of the values to be quantized, by name; all finite.
        context: The target's table, samples, threads, progress and memory.
        plain: Whether values that their users take as they are get a range here, too.

    Raises:
        PassError: If the context has no target, or samples are needed and it has none.
        DataError: If there are zero samples.
    """
    if context.capabilities is None:
        raise PassError("Ranges are searched for a target's integers.", remedy="Name one with --target.")
    structure, parts = model_structure(model)
    known: dict[str, _Searched]
    _, known = context.memory.setdefault((KEY, structure), (parts, {}))
    values = {value.name or "": value for value in ir.graph_values(model.graph)}
    names = [name for name in observed if name in values]  # those of bodies keep the calibrator's range
    if not plain:
        names = [name for name in names if not _is_taken_as_it_is(values[name])]
    new = [name for name in names if name not in known or known[name].observed is not observed[name]]
    least = _least_heeded(model, {name: values[name] for name in new}, context)
    for name in new:
        scheme = context.capabilities.activation
        found = search_range(observed[name], values[name], scheme, least.get(name, -np.inf))
        known[name] = _Searched(observed[name], found)
    return {name: known[name].range for name in names}


def _is_taken_as_it_is(value: ir.Value) -> bool:
    """Whether no user applies a function to a value."""
    return scaled_gate(value) is None and response(value, PROBES).is_identity


def _least_heeded(model: ir.Model, values: Mapping[str, ir.Value], context: PassContext) -> dict[str, float]:
    """Of values that go into gates with a scale a channel, the number below which no channel makes anything of them."""
    gates = {name: gate for name, value in values.items() if (gate := scaled_gate(value)) is not None}
    if not gates:
        return {}
    channels = observe_channels(model, {name: gate.axis for name, gate in gates.items()}, context)
    return {name: gate.low(channels[name].low) for name, gate in gates.items()}
