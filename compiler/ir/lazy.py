"""Initializers whose values are computed when they are written, so that editing a large model stays cheap.

A rule that scales a weight of gigabytes must not hold it: it says how to compute the new weight, and saving (or a
digest) computes one weight at a time and lets it go again.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as oir

from sardonyx.ir.graphs import add_initializer
from sardonyx.ir.tensors import read_chunks

Array = npt.NDArray[Any]

LAZY_BYTES = 1 << 20
"""Initializers above this size are computed when they are read; smaller ones at once."""


def lazy_initializer(
    graph: oir.Graph, name: str, dtype: oir.DataType, shape: tuple[int, ...], compute: Callable[[], Array]
) -> oir.Value:
    """Adds a constant to `graph` that is computed when it is read, and returns its value.

    Up to `LAZY_BYTES` it is computed at once. Nothing is cached: each reading computes it anew, so `compute` must give
    the same bits every time, and must read large sources by `read_array`, which leaves nothing mapped behind.

    Args:
        graph: The graph that gets the initializer.
        name: Its name, which no other value of the model has.
        dtype: The dtype of what `compute` returns.
        shape: The shape of what `compute` returns.
        compute: Computes the values.

    Raises:
        ValueError: If `graph` already has an initializer of that name, or `compute` returns something of another shape
            or dtype (then or later).
    """

    def evaluate() -> oir.TensorProtocol:
        array = compute()
        if array.shape != shape or array.dtype != dtype.numpy():
            given = f"{array.dtype}{list(array.shape)}"
            raise ValueError(f"The computed initializer {name!r} is {given}, not {dtype.numpy()}{list(shape)}.")
        return oir.Tensor(np.asarray(array, order="C"), dtype=dtype, shape=oir.Shape(shape), name=name)

    if dtype.bitwidth * math.prod(shape) <= 8 * LAZY_BYTES:
        return add_initializer(graph, name, evaluate())
    return add_initializer(graph, name, oir.LazyTensor(evaluate, dtype=dtype, shape=oir.Shape(shape), name=name))


def read_array(tensor: oir.TensorProtocol) -> Array:
    """Returns a tensor's values; those of external data are read from their file instead of mapped.

    Pages of a mapping stay resident as long as the model lives, which would add up over all weights that are read.

    Raises:
        LoadError: If external data can no longer be read.
    """
    if isinstance(tensor, oir.LazyTensor):
        return read_array(tensor.raw())
    if not isinstance(tensor, oir.ExternalTensor) or tensor.dtype.bitwidth < 8:
        return tensor.numpy()
    stored = np.dtype(tensor.dtype.numpy()).newbyteorder("<")  # ONNX stores little endian
    buffer, position = np.empty(tensor.nbytes, np.uint8), 0
    for chunk in read_chunks(tensor):
        buffer[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
        position += len(chunk)
    return buffer.view(stored).reshape(tensor.shape.numpy())
