"""How far two tensors are apart, in bounded memory."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir

Array = npt.NDArray[Any]

STEP = 1 << 18
"""Elements compared at a time."""

_NUMBERS = "fiub"


@dataclass(frozen=True)
class Distance:
    """How far the values of two tensors are apart.

    Attributes:
        max_abs: Largest absolute difference; infinite where only one value is not finite.
        max_rel: Largest difference over the absolute value of the first, of elements that are not 0 there.
        sqnr_db: Power of the first over that of the difference, in dB; None without difference or without signal.
        elements: Number of elements that differ.
    """

    max_abs: float
    max_rel: float
    sqnr_db: float | None
    elements: int


def elements(tensor: ir.TensorProtocol) -> Iterator[Array]:
    """Yields the elements of a tensor in order, `STEP` at a time (the last fewer), read from its file in pieces.

    Raises:
        LoadError: If external data can no longer be read.
    """
    if tensor.dtype.bitwidth < 8 or tensor.dtype == ir.DataType.STRING:
        flat = ir.read_array(tensor).reshape(-1)
        yield from (flat[start : start + STEP] for start in range(0, flat.size, STEP))
        return
    stored = np.dtype(tensor.dtype.numpy()).newbyteorder("<")  # ONNX stores little endian
    size, buffer = STEP * stored.itemsize, bytearray()
    for chunk in ir.read_chunks(tensor):
        buffer += chunk
        start = 0
        while len(buffer) - start >= size:
            yield np.frombuffer(bytes(memoryview(buffer)[start : start + size]), stored)
            start += size
        del buffer[:start]
    if buffer:
        yield np.frombuffer(bytes(buffer), stored)


def distance(first: Iterable[Array], second: Iterable[Array]) -> Distance | None:
    """Compares elements in order.

    Args:
        first: Pieces of the one tensor, as from `elements`.
        second: Pieces of the other, of the same lengths.

    Returns:
        The distance; None where elements are no numbers.
    """
    signal = noise = max_abs = max_rel = 0.0
    count = 0
    for a, b in zip(first, second, strict=True):
        if np.issubdtype(a.dtype, np.object_) or not (_is_number(a) and _is_number(b)):
            return None
        x, y = a.astype(np.float64), b.astype(np.float64)
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(equal, 0.0, np.abs(x - y))
        apart[np.isnan(apart)] = math.inf
        count += int(np.count_nonzero(~equal))
        nonzero = (x != 0) & np.isfinite(x)
        max_abs = max(max_abs, float(apart.max(initial=0.0)))
        max_rel = max(max_rel, float((apart[nonzero] / np.abs(x[nonzero])).max(initial=0.0)))
        signal += float(np.square(x[np.isfinite(x)]).sum())
        noise += float(np.square(apart).sum())
    sqnr = 10 * math.log10(signal / noise) if 0 < noise < math.inf and signal > 0 else None
    return Distance(max_abs, max_rel, sqnr, count)


def _is_number(array: Array) -> bool:
    # ml_dtypes' bfloat16 and 8-bit floats are of kind "V" or "f", depending on its version; they convert to float64.
    return array.dtype.kind in _NUMBERS or (array.dtype.kind == "V" and array.dtype.names is None)


def dequantized(tensor: ir.TensorProtocol, scale: Array, zero_point: Array | None, axis: int) -> Array | None:
    """Returns what DequantizeLinear makes of integers, in float64.

    Args:
        tensor: Integers of any shape.
        scale: Scalar, one for each index of `axis`, or of the rank of `tensor` in blocks along `axis`.
        zero_point: Of the shape of `scale`, or None for 0.
        axis: The axis of `scale`; may be negative.

    Returns:
        An array of the shape of `tensor`; None where the shapes do not fit.
    """
    values = ir.read_array(tensor).astype(np.float64)
    steps = [_along(part, values.shape, axis) for part in (scale, zero_point) if part is not None]
    if any(step is None for step in steps):
        return None
    shifted = values if len(steps) < 2 else values - steps[1].astype(np.float64)  # type: ignore[union-attr]
    return np.asarray(shifted * steps[0].astype(np.float64))  # type: ignore[union-attr]


def _along(part: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """Spreads scales or zero points over a shape."""
    if part.size == 1:
        return part.reshape(())
    axis %= len(shape)
    if part.ndim == 1 and part.size == shape[axis]:
        return part.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    if part.ndim == len(shape):
        block = -(-shape[axis] // part.shape[axis])
        spread = np.repeat(part, block, axis)[tuple(slice(size) for size in shape)]
        return spread if spread.shape == shape else None
    return None
