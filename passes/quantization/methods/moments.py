"""Second moments of what linear layers multiply: all that rounding and bias correction need to know of the data.

The squared error of a layer with weight error E is tr(E H E^T) with H the mean of column column^T (see `layers`),
however many samples there were. Depthwise convolutions have one small H a channel.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.methods.channels import FloatArray
from sardonyx.passes.quantization.methods.layers import Layer
from sardonyx.passes.quantization.methods.stream import stream

ROWS = 128
"""Columns taken of one sample; where there are more, evenly spaced ones are."""
ROUNDING = 1e-4
"""Share of a mean square that a sum of some thousand products in float32 may lose: a variance may be 0 below that."""
BYTES = 512 << 20
"""Moments that are gathered in one run over the samples."""


@dataclass(frozen=True)
class Moments:
    """Moments of a layer's columns.

    Attributes:
        mean: Means, shape (groups, K).
        second: Means of products, H, shape (groups, K, K); None where they were not asked for.
    """

    mean: FloatArray
    second: FloatArray | None

    @property
    def finite(self) -> bool:
        """Whether all numbers are finite."""
        return bool(np.isfinite(self.mean).all() and (self.second is None or np.isfinite(self.second).all()))

    def centred(self) -> "Moments":
        """Returns the moments about the mean: all that counts where a bias takes the error of the mean back."""
        if self.second is None:
            return self
        second = self.second - self.mean[:, :, None] * self.mean[:, None, :]
        places = np.arange(second.shape[1])
        second[:, places, places] += ROUNDING * self.second[:, places, places]
        return Moments(np.zeros_like(self.mean), second)


def observe_moments(
    model: ir.Model, layers: Sequence[Layer], context: PassContext, *, products: bool = True
) -> Iterator[tuple[Layer, Moments]]:
    """Streams samples past linear layers and yields each with its moments.

    Layers whose moments together fit into `BYTES` share a run over the samples, so that memory is bounded.

    Args:
        model: The float model; it is not changed.
        layers: Layers of its main graph.
        context: Samples, threads and progress.
        products: Whether second moments are wanted, too.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples.
    """
    for group in _groups(layers):
        sums = {layer: _Sums(layer, products) for layer in group}
        names = [layer.activation.name or "" for layer in group]

        def look(arrays: Mapping[str, npt.NDArray[np.floating]], sums: Mapping[Layer, _Sums] = sums) -> None:
            for layer, each in sums.items():
                each.add(arrays[layer.activation.name or ""])

        stream(model, names, look, context)
        yield from ((layer, each.moments()) for layer, each in sums.items())


class _Sums:
    """Sums of a layer's columns and of their products; columns wait until they are as many as H has, for one product.

    Of each group, those that wait take no more than `ROWS` columns beyond half the memory of H.
    """

    def __init__(self, layer: Layer, products: bool) -> None:
        self._layer = layer
        groups, _, self._size = layer.matrix_shape
        self._count = 0
        self._sum = np.zeros((groups, self._size))
        self._products = np.zeros((groups, self._size, self._size)) if products else None
        self._waiting: list[npt.NDArray[np.float32]] = []

    def add(self, activation: npt.NDArray[np.floating]) -> None:
        columns = self._layer.columns(activation, ROWS)
        self._count += columns.shape[1]
        self._sum += columns.sum(axis=1, dtype=np.float64)
        if self._products is not None:
            self._waiting.append(columns)
            if sum(each.shape[1] for each in self._waiting) >= self._size:
                self._multiply(self._products)

    def _multiply(self, products: FloatArray) -> None:
        if self._waiting:
            columns = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
            products += np.matmul(columns.transpose(0, 2, 1), columns)
            self._waiting = []

    def moments(self) -> Moments:
        if self._products is not None:
            self._multiply(self._products)
        count = max(self._count, 1)
        return Moments(self._sum / count, None if self._products is None else self._products / count)


def _groups(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    group: list[Layer] = []
    used = 0
    for layer in layers:
        groups, _, size = layer.matrix_shape
        nbytes = groups * size * (size * 8 + (size + ROWS) * 4)
        if group and used + nbytes > BYTES:
            yield group
            group, used = [], 0
        group.append(layer)
        used += nbytes
    if group:
        yield group
