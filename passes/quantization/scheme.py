"""Quantization schemes: which numbers, and how parameters spread over a tensor.

A scheme is data with a text, so that it can stand in an option, a plan or a table:

    uint8                           asymmetric, one scale a tensor
    int8/symmetric/narrow/channel=0 -127..127, one scale for each slice of axis 0
    int4/symmetric/block=32@1       one scale for each 32 neighbours along axis 1, the last block may be shorter
    uint8/reduced                   7 bits
    float8e4m3fn                    8-bit float; symmetric by nature

Parameters have the shapes of ONNX QuantizeLinear (opset 21): () per tensor, (C,) per channel, and the tensor's shape
with ceil(n / block_size) on the axis of the blocks.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sardonyx.errors import PassError, SpecError
from sardonyx.ir import DataType
from sardonyx.passes.quantization.arithmetic import (
    FLOAT8_TYPES,
    INTEGER_TYPES,
    Float64Array,
    Int64Array,
    IntegerRange,
    affine_parameters,
    dequantize,
    float8_levels,
    float8_parameters,
    integer_range,
    quantize,
    quantize_float8,
)

_TYPES = {dtype.name.lower(): dtype for dtype in (*INTEGER_TYPES, *FLOAT8_TYPES)}
_BLOCK = re.compile(r"(\d+)@(-?\d+)")


@dataclass(frozen=True)
class Granularity:
    """How many parameters a tensor has.

    Attributes:
        axis: The axis along which parameters differ; None for one scale a tensor. Negative counts from the end.
        block_size: Number of neighbours along `axis` that share parameters, and no others do; 0 for a whole slice.
    """

    axis: int | None = None
    block_size: int = 0

    def __post_init__(self) -> None:
        if self.block_size < 0 or (self.block_size and self.axis is None):
            raise SpecError(
                f"A block size of {self.block_size} along axis {self.axis} has no meaning.",
                remedy="Give a positive block size and an axis, such as block=32@0.",
            )

    def __str__(self) -> str:
        if self.axis is None:
            return ""
        return f"block={self.block_size}@{self.axis}" if self.block_size else f"channel={self.axis}"


PER_TENSOR = Granularity()
"""One scale and zero point for a whole tensor."""


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point of a tensor.

    Attributes:
        scale: Real units a step, float64 values that float32 represents; shape as the module says.
        zero_point: The integer that means 0, int64, same shape; 0 for 8-bit floats.
    """

    scale: Float64Array
    zero_point: Int64Array


@dataclass(frozen=True)
class Scheme:
    """Which numbers a tensor is quantized to, and with how many parameters.

    Attributes:
        dtype: A type of `INTEGER_TYPES` or `FLOAT8_TYPES`.
        symmetric: Whether the zero point is fixed: 0 for signed types, the middle for unsigned ones.
        narrow: Whether the most negative integer of a signed type is left out.
        reduce_range: Whether one bit less is used.
        granularity: How many parameters a tensor has.
    """

    dtype: DataType
    symmetric: bool = False
    narrow: bool = False
    reduce_range: bool = False
    granularity: Granularity = PER_TENSOR

    def __post_init__(self) -> None:
        if self.dtype not in INTEGER_TYPES | FLOAT8_TYPES:
            raise SpecError(f"Nothing can be quantized to {self.dtype.name}.", remedy=f"Use one of: {_known()}.")
        if self.is_float8 and (self.narrow or self.reduce_range):
            raise SpecError(
                f"{self.dtype.name} has no integers to leave out.", remedy="Drop narrow and reduced from the scheme."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a scheme from its text; see the module for examples.

        Raises:
            SpecError: If the type or a part is unknown.
        """
        name, *parts = text.strip().lower().split("/")
        if name not in _TYPES:
            raise SpecError(f"The scheme {text!r} names the type {name!r}.", remedy=f"Use one of: {_known()}.")
        values: dict[str, Any] = {}
        for part in parts:
            key, _, argument = part.partition("=")
            read = _PARTS.get(key)
            found = read(argument) if read is not None else None
            if found is None or found.keys() & values.keys():
                raise SpecError(
                    f"The part {part!r} of the scheme {text!r} is unknown, malformed or there twice.",
                    remedy="Parts are symmetric, narrow, reduced, channel=AXIS and block=SIZE@AXIS.",
                )
            values |= found
        return cls(_TYPES[name], **values)

    def __str__(self) -> str:
        flags = {"symmetric": self.symmetric, "narrow": self.narrow, "reduced": self.reduce_range}
        parts = [self.dtype.name.lower(), *(flag for flag, on in flags.items() if on), str(self.granularity)]
        return "/".join(part for part in parts if part)

    @property
    def is_float8(self) -> bool:
        """Whether the numbers are 8-bit floats."""
        return self.dtype in FLOAT8_TYPES

    @property
    def integers(self) -> IntegerRange:
        """The integers in use.

        Raises:
            PassError: For 8-bit floats.
        """
        if self.is_float8:
            raise PassError(f"{self.dtype.name} has no integers.", remedy="Use Scheme.levels.")
        return integer_range(self.dtype, narrow=self.narrow, reduce_range=self.reduce_range)

    def levels(self) -> Float64Array:
        """Returns the numbers in use in ascending order, in units of the scale and before the zero point."""
        if self.is_float8:
            return float8_levels(self.dtype)
        return np.arange(self.integers.low, self.integers.high + 1, dtype=np.float64)

    def parameters(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Parameters:
        """Returns parameters that cover [low, high], widened to include 0.

        Args:
            low: Smallest real values, of the shape that the parameters are to have.
            high: Largest real values, same shape.

        Raises:
            PassError: If an end is NaN.
        """
        if self.is_float8:
            scale = float8_parameters(low, high, self.dtype)
            return Parameters(scale, np.zeros(scale.shape, np.int64))
        return Parameters(*affine_parameters(low, high, self.integers, symmetric=self.symmetric))

    def extremes(self, tensor: npt.NDArray[np.floating]) -> tuple[Float64Array, Float64Array]:
        """Returns the smallest and largest value, at most and at least 0, for each parameter of a tensor.

        Raises:
            SpecError: If the tensor does not have the scheme's axis.
        """
        axis, size = self._axis(tensor.shape), self.granularity.block_size
        if axis is None:
            low, high = tensor.min(initial=0.0), tensor.max(initial=0.0)
        elif not size:
            others = tuple(i for i in range(tensor.ndim) if i != axis)
            low, high = tensor.min(axis=others, initial=0.0), tensor.max(axis=others, initial=0.0)
        else:
            padding = [(0, -tensor.shape[i] % size if i == axis else 0) for i in range(tensor.ndim)]
            shape = (*tensor.shape[:axis], -1, size, *tensor.shape[axis + 1 :])
            shape = (*shape[:axis], -(-tensor.shape[axis] // size), *shape[axis + 1 :])
            blocks = np.pad(tensor, padding).reshape(shape)
            low, high = blocks.min(axis=axis + 1, initial=0.0), blocks.max(axis=axis + 1, initial=0.0)
        return np.asarray(low, np.float64), np.asarray(high, np.float64)

    def fit(self, tensor: npt.NDArray[np.floating]) -> Parameters:
        """Returns parameters that cover a tensor's values.

        Raises:
            SpecError: If the tensor does not have the scheme's axis.
            PassError: If the tensor holds NaN.
        """
        return self.parameters(*self.extremes(tensor))

    def spread(self, parameter: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Returns scales or zero points in a shape that broadcasts against a tensor of `shape`.

        Raises:
            SpecError: If the tensor does not have the scheme's axis.
        """
        axis, size = self._axis(shape), self.granularity.block_size
        if axis is None:
            return parameter
        if not size:
            return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.take(parameter, np.arange(shape[axis]) // size, axis=axis)

    def quantize(self, tensor: npt.NDArray[np.floating], parameters: Parameters) -> npt.NDArray[Any]:
        """Quantizes a tensor.

        Args:
            tensor: Real values; infinities saturate.
            parameters: As `fit` or `parameters` gave them.

        Returns:
            An array of the tensor's shape and numpy's dtype for `dtype`.

        Raises:
            PassError: If the tensor holds NaN, which no integer stands for.
            SpecError: If the tensor does not have the scheme's axis.
        """
        if np.isnan(tensor).any():
            raise PassError("A tensor to quantize holds NaN.", remedy="Leave it in float.")
        scale = self.spread(parameters.scale, tensor.shape)
        if self.is_float8:
            return quantize_float8(tensor, scale, self.dtype)
        zero_point = self.spread(parameters.zero_point, tensor.shape)
        return quantize(tensor, scale, zero_point, self.integers).astype(self.dtype.numpy())

    def dequantize(self, values: npt.NDArray[Any], parameters: Parameters) -> npt.NDArray[np.float32]:
        """Returns the real values, float32, that quantized ones stand for.

        Raises:
            SpecError: If the tensor does not have the scheme's axis.
        """
        scale = self.spread(parameters.scale, values.shape)
        if self.is_float8:
            real: npt.NDArray[np.float32] = (values.astype(np.float64) * scale).astype(np.float32)
            return real
        return dequantize(values.astype(np.int64), scale, self.spread(parameters.zero_point, values.shape))

    def _axis(self, shape: tuple[int, ...]) -> int | None:
        axis = self.granularity.axis
        if axis is None:
            return None
        if not -len(shape) <= axis < len(shape):
            raise SpecError(
                f"The scheme {self} has parameters along axis {axis}, but the tensor's shape is {shape}.",
                remedy="Name an axis that the tensor has.",
            )
        return axis % len(shape)


def _channel(argument: str) -> dict[str, Any] | None:
    return {"granularity": Granularity(int(argument))} if re.fullmatch(r"-?\d+", argument) else None


def _block(argument: str) -> dict[str, Any] | None:
    match = _BLOCK.fullmatch(argument)
    if match is None or not int(match[1]):
        return None
    return {"granularity": Granularity(int(match[2]), int(match[1]))}


def _flag(name: str) -> Callable[[str], dict[str, Any] | None]:
    return lambda argument: None if argument else {name: True}


_PARTS: Mapping[str, Callable[[str], dict[str, Any] | None]] = MappingProxyType(
    {
        "symmetric": _flag("symmetric"),
        "narrow": _flag("narrow"),
        "reduced": _flag("reduce_range"),
        "channel": _channel,
        "block": _block,
    }
)


def _known() -> str:
    return ", ".join(sorted(_TYPES))
