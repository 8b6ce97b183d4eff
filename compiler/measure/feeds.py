"""What a model takes and gives, and whether a feed fits it."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sardonyx.errors import DataError

Array = NDArray[Any]
Feed = Mapping[str, Array]
"""One sample: arrays by input name."""


@dataclass(frozen=True)
class TensorSpec:
    """The declared type of one input or output of a model.

    Attributes:
        name: Name of the graph input or output.
        dtype: Element type of the arrays that go in or come out, or None where it is no tensor. Types that
            numpy lacks travel in the next wider one: bfloat16 and float8 as float32, int4 as int8, uint4 as
            uint8. Strings are `object`.
        shape: Dimensions: an int where fixed, a name where symbolic, None where unknown. Empty for a scalar
            and for an undeclared shape, which the runtime does not tell apart.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype or 'not a tensor'}[{dims}]"


def check_feed(feed: Feed, specs: Sequence[TensorSpec], *, where: str) -> None:
    """Checks that a feed has exactly the inputs of a model, of the right dtype and shape, and finite.

    Args:
        feed: Arrays by input name.
        specs: The model's inputs.
        where: What the feed is, to begin the message with: "Sample 3".

    Raises:
        DataError: If it does not fit; the message names the input, the remedy says what to change.
    """
    expected = [spec.name for spec in specs]
    for name in feed:
        if name not in expected:
            close = difflib.get_close_matches(name, expected, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Its inputs are: {', '.join(expected)}."
            raise DataError(f"{where}: the model has no input {name!r}.", remedy=hint)
    for spec in specs:
        if spec.name not in feed:
            raise DataError(f"{where}: input {spec.name!r} is missing.", remedy=f"Provide an array for {spec}.")
        _check_array(feed[spec.name], spec, f"{where}: input {spec.name!r}")


def _check_array(value: object, spec: TensorSpec, where: str) -> None:
    if spec.dtype is None:
        return
    if not isinstance(value, np.ndarray | np.generic):
        raise DataError(
            f"{where} is of type {type(value).__name__}, not a numpy array.",
            remedy=f"Wrap it: np.asarray(value, dtype={spec.dtype.name!r}).",
        )
    _check_dtype(value.dtype, spec.dtype, where)
    _check_shape(value.shape, spec, where)
    if value.dtype.kind in "fc" and not np.isfinite(value).all():
        count = int(value.size - np.isfinite(value).sum())
        raise DataError(
            f"{where} has {count} NaN or infinite element(s).",
            remedy="Remove the sample, or repair its preprocessing (a division by zero is the usual cause).",
        )


def _check_dtype(actual: np.dtype[Any], expected: np.dtype[Any], where: str) -> None:
    strings = expected.kind == "O" and actual.kind in "OUS"
    if actual != expected and not strings:
        raise DataError(
            f"{where} is {actual}, expected {expected}.",
            remedy=f"Cast it: array.astype({expected.name!r}).",
        )


def _check_shape(actual: tuple[int, ...], spec: TensorSpec, where: str) -> None:
    if not spec.shape:  # a scalar, or an input without a declared shape
        return
    if len(actual) != len(spec.shape):
        raise DataError(
            f"{where} has rank {len(actual)} (shape {actual}), expected rank {len(spec.shape)}.",
            remedy=f"Reshape it to fit {spec}; a missing batch axis is the usual cause.",
        )
    for axis, (have, want) in enumerate(zip(actual, spec.shape, strict=True)):
        if isinstance(want, int) and have != want:
            raise DataError(
                f"{where} has {have} on axis {axis} (shape {actual}), expected {want}.",
                remedy=f"Give every sample the shape of {spec}, one sample at a time.",
            )
