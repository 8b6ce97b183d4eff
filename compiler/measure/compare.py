"""How far the outputs of one model are from those of another."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sardonyx.measure.feeds import Array

_CHUNK = 1 << 15  # elements converted to float64 at a time, which stay in the cache


@dataclass(frozen=True)
class OutputError:
    """The error of one output, over all samples compared.

    Strings count as 1 where equal and 0 elsewhere; booleans as 0 and 1. Elements that are NaN or infinite on
    both sides take part in `equal` and `finite` only.

    Attributes:
        name: The output's name.
        ok: Whether the two can be compared at all: same shapes, same dtypes, `finite`.
        reason: Why not `ok`, or the empty string.
        equal: Whether all bits agree (so 0.0 and -0.0 differ).
        finite: Whether NaN and infinities appear only where the reference has the same.
        max_abs: Largest absolute difference.
        max_rel: Largest difference relative to the reference, over the elements where that is not zero.
        mean_abs: Mean absolute difference.
        cosine: Cosine similarity, in [-1, 1]; NaN where float64 squares overflow, beyond about 1e154.
        sqnr_db: Signal to quantization noise ratio, 10 log10(sum r^2 / sum (r - c)^2), in dB; inf when equal.
        top1_agreement: Share of rows of the last axis with the same argmax; None where that axis has one
            element or the output is not floating point.
        reference_shape: Shape of the last reference array seen.
        candidate_shape: Shape of the last candidate array seen.
        reference_dtype: Its dtype.
        candidate_dtype: Its dtype.
        samples: Number of samples compared.
        nonfinite: Number of elements that are NaN or infinite on one side and not the same on the other.
    """

    name: str
    ok: bool
    reason: str
    equal: bool
    finite: bool
    max_abs: float
    max_rel: float
    mean_abs: float
    cosine: float
    sqnr_db: float
    top1_agreement: float | None
    reference_shape: tuple[int, ...]
    candidate_shape: tuple[int, ...]
    reference_dtype: str
    candidate_dtype: str
    samples: int
    nonfinite: int = 0


def compare(reference: Sequence[Array], candidate: Sequence[Array], names: Sequence[str]) -> tuple[OutputError, ...]:
    """Compares the outputs of two models for one sample.

    Args:
        reference: Outputs of the original, any shapes and dtypes.
        candidate: Outputs of the changed model, in the same order.
        names: Their names.

    Returns:
        One `OutputError` an output.

    Raises:
        ValueError: If the three differ in length.
    """
    errors = ErrorAccumulator(names)
    errors.update(reference, candidate)
    return errors.result()


class ErrorAccumulator:
    """Accumulates output errors over samples, whose shapes may vary, in constant memory.

    Args:
        names: The names of the outputs.
        top1: Whether `top1_agreement` is wanted.
    """

    def __init__(self, names: Sequence[str], *, top1: bool = True) -> None:
        self._names = tuple(names)
        self._sums = tuple(_Sums(top1=top1) for _ in self._names)

    def update(self, reference: Sequence[Array], candidate: Sequence[Array]) -> None:
        """Takes in the outputs of one sample.

        Raises:
            ValueError: If there are not as many arrays as names on both sides.
        """
        for sums, r, c in zip(self._sums, reference, candidate, strict=True):
            sums.update(np.asarray(r), np.asarray(c))

    def result(self) -> tuple[OutputError, ...]:
        """Returns the errors so far, one an output."""
        return tuple(sums.result(name) for name, sums in zip(self._names, self._sums, strict=True))


@dataclass
class _Sums:
    """Running sums of one output."""

    top1: bool = True
    samples: int = 0
    equal: bool = True
    nonfinite: int = 0
    reason: str = ""
    count: int = 0
    abs_sum: float = 0.0
    abs_max: float = 0.0
    rel_max: float = 0.0
    rr: float = 0.0
    cc: float = 0.0
    rc: float = 0.0
    dd: float = 0.0
    rows: int = 0
    same_rows: int = 0
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    dtypes: tuple[np.dtype[Any] | str, np.dtype[Any] | str] = ("", "")

    def update(self, reference: Array, candidate: Array) -> None:
        sample, self.samples = self.samples, self.samples + 1
        self.shapes, self.dtypes = (reference.shape, candidate.shape), (reference.dtype, candidate.dtype)
        difference = mismatch(reference, candidate)
        if difference:
            self.equal = False
            self.reason = self.reason or f"sample {sample}: {difference}"
            return
        for r, c in _chunks(reference, candidate):
            self._add(r, c)
        if self.nonfinite:
            self.reason = self.reason or f"sample {sample}: NaN or Inf that the other side does not have"
        if self.top1 and reference.dtype.kind == "f" and reference.ndim and reference.shape[-1] > 1 and reference.size:
            same = reference.argmax(-1) == candidate.argmax(-1)
            self.rows += same.size
            self.same_rows += int(same.sum())

    def _add(self, reference: Array, candidate: Array) -> None:
        if reference.dtype.kind in "OUST":
            same = reference == candidate
            reference, candidate = np.ones(same.shape), same.astype(np.float64)
        self.equal = self.equal and same_bits(reference, candidate)
        r, c = reference.astype(np.float64), candidate.astype(np.float64)
        finite = np.isfinite(r) & np.isfinite(c)
        if not finite.all():
            self.nonfinite += different_specials(r[~finite], c[~finite])
            r, c = r[finite], c[finite]
        if r.size == 0:
            return
        with np.errstate(over="ignore"):  # float64 outputs may overflow their squares
            d = np.abs(r - c)
            self.count += r.size
            self.abs_sum += float(d.sum())
            self.abs_max = max(self.abs_max, float(d.max()))
            self.rel_max = max(self.rel_max, _largest_relative(d, np.abs(r)))
            self.rr += _dot(r, r)
            self.cc += _dot(c, c)
            self.rc += _dot(r, c)
            self.dd += _dot(d, d)

    def result(self, name: str) -> OutputError:
        return OutputError(
            name=name,
            ok=not self.reason,
            reason=self.reason,
            equal=self.equal,
            finite=not self.nonfinite,
            max_abs=self.abs_max,
            max_rel=self.rel_max,
            mean_abs=self.abs_sum / self.count if self.count else 0.0,
            cosine=_cosine(self.rr, self.cc, self.rc),
            sqnr_db=_decibel(self.rr, self.dd),
            top1_agreement=self.same_rows / self.rows if self.rows else None,
            reference_shape=self.shapes[0],
            candidate_shape=self.shapes[1],
            reference_dtype=str(self.dtypes[0]),
            candidate_dtype=str(self.dtypes[1]),
            samples=self.samples,
            nonfinite=self.nonfinite,
        )


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The inner product without BLAS, whose threads wait for each other many times as long where cores are busy."""
    return float(np.einsum("i,i->", a, b))


def _largest_relative(difference: NDArray[np.float64], size: NDArray[np.float64]) -> float:
    """The largest quotient where the size is not zero: by arithmetic, which is ten times as quick as selecting."""
    return float((difference * (size != 0) / np.maximum(size, np.finfo(np.float64).smallest_subnormal)).max())


def same_bits(a: Array, b: Array) -> bool:
    """Returns whether two numeric arrays of one shape and dtype agree in every bit."""
    return bool(np.array_equal(_as_bytes(a), _as_bytes(b)))


def same_specials(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Returns whether NaN and infinities stand at the same places of two float arrays of one shape."""
    return not different_specials(a, b)


def different_specials(a: NDArray[np.float64], b: NDArray[np.float64]) -> int:
    """Returns how many elements differ of two float arrays of one shape, two NaN being the same."""
    return int(((a != b) & ~(np.isnan(a) & np.isnan(b))).sum())


def _as_bytes(array: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def mismatch(reference: Array, candidate: Array) -> str:
    """Returns in what shape or dtype two arrays differ, or the empty string."""
    if reference.shape != candidate.shape:
        return f"shape {candidate.shape}, expected {reference.shape}"
    if reference.dtype != candidate.dtype:
        return f"dtype {candidate.dtype}, expected {reference.dtype}"
    return ""


def _chunks(reference: Array, candidate: Array) -> Iterator[tuple[Array, Array]]:
    r, c = reference.reshape(-1), candidate.reshape(-1)
    for start in range(0, r.size, _CHUNK):
        yield r[start : start + _CHUNK], c[start : start + _CHUNK]


def _cosine(rr: float, cc: float, rc: float) -> float:
    if rr == 0.0 or cc == 0.0:
        return 1.0 if rr == cc else 0.0
    if not math.isfinite(rr + cc):
        return math.nan
    return min(max(rc / math.sqrt(rr) / math.sqrt(cc), -1.0), 1.0)


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf
