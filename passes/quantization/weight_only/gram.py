"""Gram matrices X^T X of layers' inputs over the calibration samples, in bounded memory.

One sample is alive at a time, and so many matrices as fit a budget: for more layers the samples are run again. The
model that is run ends where the last of these layers begins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.measure import Array
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.methods.stream import stream
from sardonyx.passes.quantization.weight_only.grid import Float32Array

BUDGET_BYTES = 256 << 20
"""Matrices that are kept at a time may take so much; a single larger one may take more."""


def groups(columns: Mapping[str, int], budget: int = BUDGET_BYTES) -> Iterator[tuple[str, ...]]:
    """Splits values into groups whose matrices fit a budget.

    Args:
        columns: Size of the last axis by name of the value, in graph order.
        budget: Bytes for the float32 matrices of one group.
    """
    group: list[str] = []
    used = 0
    for name, size in columns.items():
        nbytes = 4 * size * size
        if group and used + nbytes > budget:
            yield tuple(group)
            group, used = [], 0
        group.append(name)
        used += nbytes
    if group:
        yield tuple(group)


@dataclass(frozen=True)
class Observed:
    """What the samples said.

    Attributes:
        matrices: X^T X, float32 (K, K), by name of the value.
        samples: Number of samples.
    """

    matrices: dict[str, Float32Array]
    samples: int


def gram_matrices(model: ir.Model, columns: Mapping[str, int], names: Sequence[str], context: PassContext) -> Observed:
    """Sums X^T X over all samples, X being a value with all axes but the last taken together.

    Args:
        model: The float model; it is not changed.
        columns: Size of the last axis by name of the value.
        names: The values to observe: outputs of nodes, or inputs, of the main graph.
        context: Samples, threads and progress.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples, or they do not fit the model.
    """
    if context.samples is None:
        raise PassError("GPTQ needs samples to observe.", remedy="Pass --data, or use method=hqq, which needs none.")
    matrices = {name: np.zeros((columns[name], columns[name]), np.float32) for name in names}

    def add(arrays: Mapping[str, Array]) -> None:
        for name, total in matrices.items():
            rows = np.ascontiguousarray(arrays[name], np.float32).reshape(-1, total.shape[0])
            with np.errstate(over="ignore", invalid="ignore"):  # found when the sum is used
                total += rows.T @ rows

    return Observed(matrices, stream(model, names, add, context))
