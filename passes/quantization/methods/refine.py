"""Applying accuracy methods to a model whose placement is known: better ranges, scales, integers and biases."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.passes.base import PassContext, Refusal
from sardonyx.passes.quantization.arithmetic import IntegerRange, integer_range
from sardonyx.passes.quantization.methods.adaround import affordable, round_adaptively
from sardonyx.passes.quantization.methods.bias import bias_input, shift_output
from sardonyx.passes.quantization.methods.channels import FloatArray, observe_channels
from sardonyx.passes.quantization.methods.layers import Layer, linear_layers
from sardonyx.passes.quantization.methods.moments import Moments, observe_moments
from sardonyx.passes.quantization.methods.rounding import Grid, round_compensated
from sardonyx.passes.quantization.methods.selection import Methods
from sardonyx.passes.quantization.methods.weight_scales import search_weight_reach
from sardonyx.passes.quantization.placement import PlacedWeight, Placement
from sardonyx.passes.quantization.plan import PointKind, QuantPoint
from sardonyx.passes.quantization.ranges import model_structure

KEY = "sardonyx.refined"


@dataclass(frozen=True)
class Refined:
    """What refining changed.

    Attributes:
        stats: How often each method was applied.
        refusals: Where one could not be, and why.
        shifts: What was added to the outputs of a node, shape (outputs,), by name.
    """

    stats: Mapping[str, int]
    refusals: tuple[Refusal, ...]
    shifts: Mapping[str, FloatArray] = field(default_factory=dict)

    def joined(self, other: "Refined") -> "Refined":
        """Returns what both changed, each by methods of its own."""
        refusals = (*self.refusals, *other.refusals)
        return Refined({**self.stats, **other.stats}, refusals, {**self.shifts, **other.shifts})


def weight_integers(capabilities: Capabilities) -> IntegerRange:
    """Returns the integers that weights may take on a target."""
    return integer_range(capabilities.weight_dtype, narrow=True, reduce_range=capabilities.reduce_range)


def weight_reaches(
    model: ir.Model, placement: Placement, methods: Methods, context: PassContext
) -> dict[str, FloatArray]:
    """Searches the range of each output channel of the weights that are to have a scale a channel.

    Args:
        model: The float model; it is not changed.
        placement: What is quantized.
        methods: The choice of scales.
        context: The target's table; samples where the choice weighs by inputs.

    Returns:
        Absolute values that the largest integer stands for, shape (outputs,), by name of the node; none for a choice of
        `reach`, and none for weights whose scale is not one a channel.

    Raises:
        PassError: If samples are needed and the context has none.
    """
    if methods.weights == "reach" or context.capabilities is None:
        return {}
    integers = weight_integers(context.capabilities)
    layers = [layer for layer, placed in placed_layers(model, placement) if placed.axis == layer.output_axis]
    importance: Mapping[str, FloatArray] = {}
    if methods.weights == "output-mse":
        importance = _column_squares(model, layers, context)
    reaches = {}
    for layer in layers:
        name = layer.node.name or ""
        reaches[name] = search_weight_reach(layer.matrix(), integers, importance.get(name)).reshape(-1)
    return reaches


def _column_squares(model: ir.Model, layers: list[Layer], context: PassContext) -> dict[str, FloatArray]:
    """Mean squares of each layer's columns, shape (groups, K), by name of the node; all taps of a channel have one."""
    stats = observe_channels(model, {layer.activation.name or "": layer.channel_axis for layer in layers}, context)
    squares = {}
    for layer in layers:
        groups, _, size = layer.matrix_shape
        square = stats[layer.activation.name or ""].square.reshape(groups, -1)
        squares[layer.node.name or ""] = np.repeat(square, size // square.shape[1], axis=1)
    return squares


def placed_layers(model: ir.Model, placement: Placement) -> Iterator[tuple[Layer, PlacedWeight]]:
    """Yields the linear layers of the main graph whose weights are quantized, in order."""
    placed = {weight.node: weight for weight in placement.weights}
    for layer in linear_layers(model.graph):
        if layer.node.name in placed:
            yield layer, placed[layer.node.name]


class Refiner:
    """Rounds weights and corrects biases of a model for which scales are chosen.

    Args:
        model: The float model that is about to be quantized, as it is before biases are added: copies of it share what
            was computed once. Changed in place.
        methods: The choice of rounding and bias.
        context: The target's table, samples and memory.
    """

    def __init__(self, model: ir.Model, methods: Methods, context: PassContext) -> None:
        self._model = model
        self._methods = methods
        self._context = context
        self._stats: dict[str, int] = {}
        self._refusals: list[Refusal] = []
        self._shifts: dict[str, FloatArray] = {}
        structure, parts = model_structure(model)
        _, self._known = context.memory.setdefault((KEY, methods, structure), (parts, {}))

    @property
    def _needs_data(self) -> bool:
        return self._methods.rounding != "nearest" or self._methods.bias == "corrected"

    def refine(self, placement: Placement, points: tuple[QuantPoint, ...]) -> Refined:
        """Replaces weights by weights on their grid, and biases by corrected ones.

        Args:
            placement: What is quantized.
            points: The plan's points; their scales define the grids.

        Raises:
            PassError: If samples are needed and the context has none.
        """
        if self._methods.weights == "reach" and not self._needs_data:
            return Refined({}, ())
        scales = {
            consumer: point.scale
            for point in points
            if point.kind is PointKind.WEIGHT
            for consumer in point.consumers or ()
        }
        work = {layer: scales[placed.node] for layer, placed in placed_layers(self._model, placement)}
        work = {layer: scale for layer, scale in work.items() if self._may_be_rounded(layer)}
        new = [layer for layer, scale in work.items() if (layer.node.name, scale) not in self._known]
        for layer, moments in self._moments(new):
            self._known[layer.node.name, work[layer]] = self._solve(layer, work[layer], moments)
        for layer, scale in work.items():
            self._write(layer, self._known[layer.node.name, scale])
        return Refined(self._stats, tuple(self._refusals), self._shifts)

    def _moments(self, layers: list[Layer]) -> Iterator[tuple[Layer, Moments | None]]:
        if self._needs_data:
            products = self._methods.rounding != "nearest"
            yield from observe_moments(self._model, layers, self._context, products=products)
        else:
            yield from ((layer, None) for layer in layers)

    def _may_be_rounded(self, layer: Layer) -> bool:
        if layer.weight.is_initializer() and len(layer.weight.uses()) == 1:
            return True
        self._refuse(f"the weight {layer.weight.name} of {layer.node.name} has further users or no initializer", layer)
        return False

    def _refuse(self, reason: str, layer: Layer) -> None:
        self._refusals.append(Refusal("refine-weights", reason, (layer.node.name or "",)))

    def _solve(self, layer: Layer, scale: tuple[float, ...], moments: Moments | None) -> "_Solved":
        """Returns the weight on its grid, and the shift of the outputs' mean that its error causes."""
        matrix = layer.matrix()
        capabilities = self._context.capabilities
        if capabilities is None or (moments is not None and not moments.finite):
            return _Solved(None, None, f"the inputs of {layer.node.name} become NaN or infinite on the samples")
        steps = np.asarray(scale).reshape(1, 1) if len(scale) == 1 else np.reshape(scale, matrix.shape[:2])
        grid = Grid(steps, weight_integers(capabilities))
        if moments is None or self._methods.bias != "corrected":
            rounded, reason = self._round(layer, matrix, grid, moments)
            return _Solved(_weight(layer, rounded), None, reason)
        takes_shift = not isinstance(bias_input(layer), str)
        rounded, reason = self._round(layer, matrix, grid, moments.centred() if takes_shift else moments)
        shift = np.matmul(matrix - rounded, moments.mean[..., None]).reshape(-1)
        return _Solved(_weight(layer, rounded), shift, reason)

    def _round(
        self, layer: Layer, matrix: FloatArray, grid: Grid, moments: Moments | None
    ) -> tuple[FloatArray, str | None]:
        if moments is None or moments.second is None:
            return grid.nearest(matrix), None
        adaptively = self._methods.rounding == "adaround"
        if adaptively and affordable(*layer.matrix_shape):
            return round_adaptively(matrix, moments.second, grid), None
        name = layer.node.name
        reason = f"{name} is too large for adaround; its errors are compensated as by gptq" if adaptively else None
        try:
            return round_compensated(matrix, moments.second, grid), reason
        except np.linalg.LinAlgError:
            return grid.nearest(matrix), f"the second moments of the inputs of {name} are not positive definite"

    def _write(self, layer: Layer, solved: "_Solved") -> None:
        if solved.reason is not None:
            self._refuse(solved.reason, layer)
        if solved.weight is None:
            return
        layer.weight.const_value = solved.weight
        self._count(self._methods.rounding if self._methods.rounding != "nearest" else self._methods.weights)
        if solved.shift is None:
            return
        reason = shift_output(layer, solved.shift)
        if reason is None:
            self._count("bias-correction")
            self._shifts[layer.node.name or ""] = solved.shift
        else:
            self._refuse(reason, layer)

    def _count(self, what: str) -> None:
        self._stats[what] = self._stats.get(what, 0) + 1


def _weight(layer: Layer, matrix: FloatArray) -> ir.TensorProtocol:
    return ir.tensor(layer.weight_of(matrix), name=layer.weight.name)


@dataclass(frozen=True)
class _Solved:
    """What was computed for a layer: its weight, None to keep it; the shift of its outputs; what could not be done."""

    weight: ir.TensorProtocol | None
    shift: FloatArray | None
    reason: str | None
