"""Scales through Clip and ReLU6, in channels that are proven to stay between the bounds.

A Clip holds all channels to the same two numbers, so that a scale does not pass in a channel that reaches one of them.
Where the values in front of the layer are bounded, as behind another ReLU6, each of the layer's channels is bounded as
well, by the interval arithmetic of its row of weights:

    high[c] = b[c] + sum_k max(w[c, k], 0) * max(top, 0) + max(-w[c, k], 0) * max(-bottom, 0)

which includes padding with zeros, and low[c] likewise. A channel that stays below the upper bound t of the Clip keeps
its values when it is divided by s[c], as long as high[c] / s[c] <= t. A bound of zero is none: a scale passes it as it
passes Relu. Depthwise convolutions have few weights a channel, so that this proves something of them; it seldom does of
others. Nagel et al. (2019, arXiv:1906.04721) make ReLU6 a Relu instead, which is another function.
"""

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.bounds import bounds, known_range
from sardonyx.passes.quantization.methods.channels import FloatArray
from sardonyx.passes.quantization.methods.layers import Layer

SLACK = 2.0**-9
"""What rounding may add to a channel, in parts of the sum of the absolute products; enough for 16-bit products."""


def least_scales(clip: ir.Node, layer: Layer) -> FloatArray | str:
    """Returns the least scale that each channel between a layer and a Clip may be divided by, or why there is none.

    Args:
        clip: The Clip; the layer's output is its input.
        layer: The layer, its bias a constant of one number a channel.

    Returns:
        Shape (outputs,): at most 1; infinity where the channel may reach a bound and must keep its scale of 1.
    """
    held = bounds(clip)
    if isinstance(held, str):
        return held
    bottom, top = held
    if not bottom <= 0 <= top or bottom == top:
        return f"Clip ({clip.name}) holds its values between {bottom:g} and {top:g}, without zero"
    if not np.isfinite(known_range(layer.activation)).all():
        return f"Clip ({clip.name}) bends at a fixed value, and {layer.activation.name} has no known bounds"
    with np.errstate(invalid="ignore"):  # a channel whose weights are not finite is not proven
        low, high = _reach(layer)
    least = np.zeros(layer.outputs)
    for extreme, bound in ((low, bottom), (high, top)):
        if bound:
            least = np.maximum(least, extreme / bound)
    proven = least <= 1
    if not proven.any():
        return f"Clip ({clip.name}) bends at a fixed value, which each of its channels may reach"
    return np.where(proven, least, np.inf)


def _reach(layer: Layer) -> tuple[FloatArray, FloatArray]:
    """The least and the greatest number that each output channel can hold, shapes (outputs,)."""
    bottom, top = known_range(layer.activation)
    bias = None if layer.bias is None else ir.constant_tensor(layer.bias)
    offset = np.zeros(layer.outputs) if bias is None else bias.numpy().reshape(-1).astype(np.float64)
    matrix = layer.matrix().reshape(layer.outputs, -1)
    rises, falls = np.maximum(matrix, 0).sum(axis=1), np.maximum(-matrix, 0).sum(axis=1)
    above, below = max(top, 0.0), max(-bottom, 0.0)
    slack = SLACK * ((rises + falls) * max(above, below) + np.abs(offset))
    return offset - rises * below - falls * above - slack, offset + rises * above + falls * below + slack
