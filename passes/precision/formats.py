"""The two 16-bit floating-point formats: what they can represent, and constants converted to them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx import ir

LAZY_BYTES = 1 << 20
"""Constants above this size are converted when they are read, so that FP32 and 16-bit copies never both fill memory."""


@dataclass(frozen=True)
class Format:
    """A floating-point format of 16 bits.

    Attributes:
        dtype: Its element type.
        largest: The largest finite value.
        smallest_normal: Below this magnitude the relative precision falls.
        narrow_range: Whether FP32 values within its range are finite but may overflow here.
    """

    dtype: ir.DataType
    largest: float
    smallest_normal: float
    narrow_range: bool


FORMATS: Mapping[str, Format] = {
    # IEEE 754-2019 binary16: 5 exponent bits, 11 significant bits.
    "float16": Format(ir.DataType.FLOAT16, 65504.0, 2.0**-14, narrow_range=True),
    # The upper half of binary32: 8 exponent bits, 8 significant bits.
    "bfloat16": Format(ir.DataType.BFLOAT16, 2.0**127 * (2 - 2.0**-7), 2.0**-126, narrow_range=False),
}


@dataclass(frozen=True)
class ConstantLoss:
    """What becomes of an FP32 constant in a 16-bit format.

    Attributes:
        magnitude: The largest finite magnitude in FP32.
        overflows: Whether a finite element becomes infinite.
        error: The largest absolute error relative to `magnitude`; 0 for a constant of zeros.
    """

    magnitude: float
    overflows: bool
    error: float


def constant_loss(tensor: ir.TensorProtocol, form: Format) -> ConstantLoss:
    """Measures what a FLOAT constant loses, reading it in pieces.

    Raises:
        LoadError: If external data can no longer be read.
    """
    magnitude = error = 0.0
    overflows = False
    for chunk in ir.read_chunks(tensor):
        values = np.frombuffer(chunk, "<f4")
        finite = values[np.isfinite(values)]
        if not finite.size:
            continue
        narrow = narrowed(finite, form).astype(np.float32)
        overflows |= bool(np.isinf(narrow).any())
        wrong = np.abs(np.where(np.isinf(narrow), 0, narrow - finite))
        magnitude = max(magnitude, float(np.abs(finite).max()))
        error = max(error, float(wrong.max()))
    return ConstantLoss(magnitude, overflows, error / magnitude if magnitude else 0.0)


def element_error(tensor: ir.TensorProtocol, form: Format, floor: float = 0.0) -> float:
    """Returns the largest error of a finite element relative to itself and a positive `floor` that is added to it."""
    values = np.asarray(tensor.numpy(), np.float64)
    size = np.abs(values) + floor
    counts = np.isfinite(values) & (size > 0)
    wrong = np.abs(narrowed(values.astype(np.float32), form).astype(np.float64) - values)
    return float(np.divide(wrong, size, out=np.zeros_like(size), where=counts).max(initial=0.0))


def narrowed(values: npt.NDArray[np.float32], form: Format) -> npt.NDArray[np.generic]:
    """Returns values rounded to nearest even; what is too large becomes infinite, NaN stays."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(form.dtype.numpy())


def convert_constant(
    tensor: ir.TensorProtocol, form: Format, name: str, limit: float | None = None
) -> ir.TensorProtocol:
    """Returns a FLOAT constant in the 16-bit format; a large one is converted each time it is read.

    Args:
        tensor: The FLOAT constant.
        form: The format.
        name: Name of the result.
        limit: Finite values beyond +-limit become +-limit; None keeps them.
    """

    def convert() -> ir.TensorProtocol:
        values = np.asarray(tensor.numpy(), np.float32)
        if limit is not None:
            values = np.where(np.isfinite(values), np.clip(values, -limit, limit), values).astype(np.float32)
        return ir.Tensor(narrowed(values, form), dtype=form.dtype, name=name)

    if tensor.nbytes <= LAZY_BYTES:
        return convert()
    return ir.LazyTensor(convert, form.dtype, ir.Shape(tensor.shape.numpy()), name=name)
