"""Moving scales from activations into weights, where the estimated error of the integers falls.

An activation x has one scale for all its channels, so that channels with small values get few integers. A weight W has
one scale an output channel. Dividing channel c of x by s[c] and multiplying the weights that read it by s[c] keeps the
product; cross-layer equalization (Nagel et al., 2019, arXiv:1906.04721) and SmoothQuant (Xiao et al., 2022,
arXiv:2211.10438) are choices of s. Here s is searched among

    s[c] = reach(x[c])^alpha / reach(W[:, c])^beta      beta = 1 - alpha or 0

for the least estimated squared error of the layers' outputs, with uniform rounding noise of step^2 / 12:

    step_x^2 / 12 * sum_c s[c]^2 |W[:, c]|^2  +  sum_o step_w[o]^2 / 12 * sum_c E[x[c]^2] / s[c]^2

A SiLU before x adds the rounding of its own input z to the first term, which is cut where SiLU makes nothing of it.

Scales are powers of two: the float model computes the very same numbers, except where they leave the range of float32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx.passes.quantization.methods.channels import ChannelStats, FloatArray
from sardonyx.passes.quantization.methods.layers import Layer
from sardonyx.passes.quantization.methods.responses import SILU_IGNORES

ALPHAS = tuple(np.linspace(0.0, 1.0, 21).tolist())
"""Exponents that are tried."""
MOST_DOUBLINGS = 12
"""Scales lie between 2^-12 and 2^12, so that nothing comes near the ends of float32."""
STEPS = 255.0
"""Steps of an 8-bit activation."""
WEIGHT_STEPS = 127.0
"""Steps of a symmetric 8-bit weight on either side of zero."""


@dataclass(frozen=True)
class Migration:
    """Scales for the channels of a value.

    Attributes:
        scales: s, shape (channels,), powers of two.
        alpha: The exponent that gave them; None where they are all 1.
        gain: Estimated error without them divided by the one with them; at least 1.
    """

    scales: FloatArray
    alpha: float | None
    gain: float


def search_migration(
    stats: ChannelStats,
    layers: Sequence[Layer],
    gated: ChannelStats | None = None,
    least: FloatArray | None = None,
) -> Migration:
    """Searches the scales that let the layers which take a value lose least.

    Args:
        stats: What was seen of the value's channels.
        layers: The layers; all have as many input channels.
        gated: What was seen of z where the value is SiLU(z).
        least: The least scale of each channel, infinity for one that must keep 1; None where any will do.
    """
    limits = np.zeros(stats.low.size) if least is None else least
    estimate = _Estimate(stats, layers, gated)
    best = Migration(np.ones(stats.low.size), None, 1.0)
    without = estimate.error(best.scales)
    for reach in (stats.reach,) if gated is None else (stats.reach, gated.reach):
        for alpha, scales in _candidates(reach, estimate.weight_reach, limits):
            error = estimate.error(scales)
            if error > 0 and without / error > best.gain:
                best = Migration(scales, alpha, without / error)
    return best


def _candidates(reach: FloatArray, weight_reach: FloatArray, least: FloatArray) -> Iterator[tuple[float, FloatArray]]:
    """Yields exponents and scales; channels that must keep 1 are what the others are brought to."""
    live = (reach > 0) & (weight_reach > 0)
    kept = np.isinf(least)
    standard = live & kept if (live & kept).any() else live
    reaches = np.log2(reach, out=np.zeros(live.size), where=live)
    weights = np.log2(weight_reach, out=np.zeros(live.size), where=live)
    lowest = np.ceil(np.log2(np.maximum(np.where(kept, 1.0, least), 2.0**-MOST_DOUBLINGS)))
    for alpha in ALPHAS:
        for beta in (1.0 - alpha, 0.0):
            doublings = alpha * reaches - beta * weights
            if live.any():
                doublings -= np.median(doublings[standard])
            doublings = np.maximum(np.clip(np.rint(doublings), -MOST_DOUBLINGS, MOST_DOUBLINGS), lowest)
            yield alpha, np.where(live & ~kept, np.exp2(doublings), 1.0)


class _Estimate:
    """The error of layers' outputs as a function of the scales."""

    def __init__(self, stats: ChannelStats, layers: Sequence[Layer], gated: ChannelStats | None) -> None:
        self._stats = stats
        self._gated = gated
        self._norms = np.sum([layer.channel_norms() for layer in layers], axis=0)
        self._weights = [_WeightReach(layer) for layer in layers]
        self.weight_reach = np.max([weight.of_channels() for weight in self._weights], axis=0)

    def error(self, scales: FloatArray) -> float:
        """Returns the estimated squared error an output position."""
        ranges = [(self._stats.low, self._stats.high)]
        if self._gated is not None:
            ranges.append((np.maximum(self._gated.low, SILU_IGNORES), self._gated.high))
        steps = [((high / scales).max(initial=0.0) - (low / scales).min(initial=0.0)) / STEPS for low, high in ranges]
        rounding = float(np.square(steps).sum() / 12 * np.sum(scales**2 * self._norms))
        power = self._stats.square / scales**2
        return rounding + sum((weight.error(scales, power) for weight in self._weights), 0.0)


class _WeightReach:
    """The largest absolute weights, shape (groups, outputs / groups, channels / groups)."""

    def __init__(self, layer: Layer) -> None:
        matrix = np.abs(layer.matrix())
        taps = int(matrix.shape[2]) * layer.groups // layer.channels
        self._taps = taps
        self._groups = layer.groups
        self._reach = matrix.reshape(*matrix.shape[:2], -1, taps).max(axis=3)

    def of_channels(self) -> FloatArray:
        """Returns the largest of each input channel, shape (channels,)."""
        largest: FloatArray = self._reach.max(axis=1).reshape(-1)
        return largest

    def error(self, scales: FloatArray, power: FloatArray) -> float:
        """Returns the squared error that rounding the scaled weights makes, for the power of each scaled channel."""
        steps = (self._reach * scales.reshape(self._groups, 1, -1)).max(axis=2) / WEIGHT_STEPS
        errors = (steps**2).sum(axis=1) / 12 * power.reshape(self._groups, -1).sum(axis=1)
        return float(errors.sum() * self._taps)
