"""Choosing numbers: from a placement and observed ranges to a plan with scales and zero points."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import PassError
from sardonyx.passes.quantization.arithmetic import affine_parameters, integer_range
from sardonyx.passes.quantization.calibration import ObservedRange
from sardonyx.passes.quantization.placement import PlacedValue, PlacedWeight, Placement
from sardonyx.passes.quantization.plan import PointKind, QuantPoint
from sardonyx.passes.quantization.scopes import named_values

BIAS_LIMIT = 2.0**30
"""INT32 biases stay below this, so that adding the accumulated products cannot overflow."""
BIAS_STEPS = 2.0**16
"""A bias is represented at least this finely relative to itself, also where the channel's weights are zero."""


@dataclass(frozen=True)
class ChosenPoints:
    """The points of a plan, and how many weight scales were raised for the sake of a bias."""

    points: tuple[QuantPoint, ...]
    raised_scales: int


NO_REACHES: Mapping[str, npt.NDArray[np.float64]] = {}


def choose(
    model: ir.Model,
    placement: Placement,
    ranges: Mapping[str, ObservedRange],
    capabilities: Capabilities,
    reaches: Mapping[str, npt.NDArray[np.float64]] = NO_REACHES,
) -> ChosenPoints:
    """Computes scale and zero point of every placed value, weight and bias.

    Args:
        model: The float model, for the weights; it is not changed.
        placement: What is quantized.
        ranges: Observed range by value name, for every name of `placement.observed()`.
        capabilities: The target's types and symmetry.
        reaches: Absolute value to represent in each output channel of a weight, shape (outputs,), by name of the node;
            where there is none, that of the largest weight.

    Raises:
        PassError: If a value shares the parameters of one that is not quantized.
    """
    activations = _activation_points(placement.values, ranges, capabilities)
    scales = {point.value: point.scale[0] for point in activations}
    chooser = _WeightChooser(model.graph, capabilities, scales, reaches)
    weights = [point for placed in placement.weights for point in chooser.points(placed)]
    return ChosenPoints((*activations, *_shared(weights)), chooser.raised)


def _activation_points(
    values: tuple[PlacedValue, ...], ranges: Mapping[str, ObservedRange], capabilities: Capabilities
) -> list[QuantPoint]:
    scheme = capabilities.activation
    integers = integer_range(scheme.dtype, narrow=scheme.symmetric)
    by_name = {placed.value: placed for placed in values}
    points = []
    for placed in values:
        root = _root(placed, by_name)
        observed = ObservedRange(*root.fixed_range) if root.fixed_range else ranges[root.value]
        scale, zero_point = affine_parameters(observed.low, observed.high, integers, symmetric=scheme.symmetric)
        points.append(
            QuantPoint(
                value=placed.value,
                kind=PointKind.ACTIVATION,
                dtype=scheme.dtype.name,
                scale=(float(scale),),
                zero_point=(int(zero_point),),
                consumers=placed.consumers,
                shared_with=placed.shared_with,
                absorbs=placed.absorbs,
                low=observed.low,
                high=observed.high,
                reason=placed.reason,
            )
        )
    return points


def _root(placed: PlacedValue, values: Mapping[str, PlacedValue]) -> PlacedValue:
    """The value whose parameters a value has: itself, or the one at the end of what it shares them with."""
    while placed.shared_with is not None:
        if placed.shared_with not in values:
            raise PassError(f"{placed.value} shares the scale of {placed.shared_with}, which is not quantized.")
        placed = values[placed.shared_with]
    return placed


class _WeightChooser:
    def __init__(
        self,
        graph: ir.Graph,
        capabilities: Capabilities,
        scales: Mapping[str, float],
        reaches: Mapping[str, npt.NDArray[np.float64]],
    ) -> None:
        self.initializers = constants(graph)
        self.dtype = capabilities.weight_dtype
        self.integers = integer_range(self.dtype, narrow=True, reduce_range=capabilities.reduce_range)
        self.activation_scales = scales
        self.reaches = reaches
        self.raised = 0

    def points(self, placed: PlacedWeight) -> Iterator[QuantPoint]:
        weight = self.initializers[placed.weight].numpy()
        reach = self.reaches.get(placed.node)
        low, high = _extremes(weight, placed.axis) if reach is None else (-reach, reach)
        scale, zero_point = affine_parameters(low, high, self.integers, symmetric=True)
        if placed.bias is not None:
            scale = self._fit_bias(scale, placed, both_zero=(low == 0) & (high == 0))
        per = "per-channel" if placed.axis is not None else "per-tensor"
        yield QuantPoint(
            value=placed.weight,
            kind=PointKind.WEIGHT,
            dtype=self.dtype.name,
            scale=tuple(np.atleast_1d(scale).tolist()),
            zero_point=tuple(np.atleast_1d(zero_point).tolist()),
            axis=placed.axis,
            consumers=(placed.node,),
            reason=f"weight, symmetric, {per}",
        )
        if placed.bias is not None:
            derived = (scale * self.activation_scales[placed.activation]).astype(np.float32).astype(np.float64)
            yield QuantPoint(
                value=placed.bias,
                kind=PointKind.BIAS,
                dtype=ir.DataType.INT32.name,
                scale=tuple(np.atleast_1d(derived).tolist()),
                zero_point=(0,) * np.atleast_1d(derived).size,
                axis=0 if placed.axis is not None else None,
                consumers=(placed.node,),
                reason=f"bias, scale of {placed.activation} times scale of {placed.weight}",
            )

    def _fit_bias(
        self, scale: npt.NDArray[np.float64], placed: PlacedWeight, both_zero: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """Raises weight scales until the INT32 bias S_x * S_w cannot overflow.

        A channel whose weights are all zero has no scale of its own: it takes one that represents its bias well.
        """
        bias = np.abs(self.initializers[placed.bias or ""].numpy().astype(np.float64)).ravel()
        if scale.ndim == 0:
            bias = bias.max(initial=0.0)
        per_unit = np.asarray(bias / self.activation_scales[placed.activation])
        smallest = per_unit / BIAS_LIMIT
        own = np.where(both_zero & (per_unit > 0), per_unit / BIAS_STEPS, scale)
        needed = np.maximum(own, smallest)
        self.raised += int((smallest > own).sum())
        return np.maximum(needed.astype(np.float32), np.finfo(np.float32).tiny).astype(np.float64)


def _shared(points: list[QuantPoint]) -> list[QuantPoint]:
    """Joins points that quantize one constant in the same way, so that nodes which share a weight still do."""
    joined: dict[tuple[str, tuple[float, ...], int | None], QuantPoint] = {}
    for point in points:
        key = (point.value, point.scale, point.axis)
        consumers = (joined[key].consumers or ()) if key in joined else ()
        joined[key] = replace(point, consumers=(*consumers, *(point.consumers or ())))
    return list(joined.values())


def _extremes(
    weight: npt.NDArray[np.floating], axis: int | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Smallest and largest weight, per channel along an axis or of the whole tensor."""
    axes = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    low = weight.min(axis=axes, initial=0.0).astype(np.float64)
    high = weight.max(axis=axes, initial=0.0).astype(np.float64)
    return np.asarray(low), np.asarray(high)


def constants(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Returns the constants of a graph and of all bodies in it by name."""
    tensors = {name: ir.constant_tensor(value) for name, value in named_values(graph).items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
