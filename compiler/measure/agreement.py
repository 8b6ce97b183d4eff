"""The default metric: agreement with the original model's outputs, without labels.

What a user wants to know is how much of the real task metric a changed model loses. With a few dozen
unlabelled samples, counting changed decisions is far too coarse: a network that misclassifies 10 % more may
flip none of 13 samples. The squared error of the outputs is continuous and grows with the loss, so agreement
is made of that:

- Discrete outputs (integers, booleans, strings): the share of equal elements.
- Regression, which is every other float output: 1 - E, where E = sum (r - c)^2 / sum (r - mean r)^2 is the
  squared error of the candidate c relative to the variance of the reference r over the held-out set (1 -
  R^2). The mean is that of each position of the last axis where its length is the same in all samples: a network that
  rates four things on four scales is not precise because the scales differ.
- Embeddings, which are rows of length 1: r, the correlation of the cosine similarities of all pairs of rows with those
  of the original. Similarities are what embeddings are for, and noise that is independent in hundreds of dimensions
  changes them far less than it changes each number.
- Class scores: 1 - (B + E / 2) / 2, where B = sum |p - q|^2 / sum |p|^2 is the squared error of the class
  probabilities p and q, which weighs an error by what it does to the decision, and E, as above, sees the
  damage to the scores before any decision changes.

The weights of the last formula are empirical and were fitted on the six classifiers of
`benchmarks/agreement.py`, which quantizes and damages trained models and compares the predicted with the
measured loss of their task metrics. Of expected accuracy under the original's own distribution, Brier,
Hellinger, Jensen-Shannon and Kullback-Leibler distances, E, and some of their means, it had the smallest mean
error, by a margin that is small against E / 2 or the geometric mean with B and clear against expected
accuracy, which saw no loss in networks that lose 10 %. It is an estimate: within
a factor of two of the measured loss for 24 of 35 damaged classifiers, of three for 30. For regression it is a
caution, not a prediction of the metric: it refused harmless changes of a voice activity detector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sardonyx.errors import DataError
from sardonyx.measure.compare import mismatch, same_specials
from sardonyx.measure.embeddings import EmbeddingRows
from sardonyx.measure.feeds import Array

_CHUNK = 1 << 18  # elements converted to float64 at a time
_FEW = 100  # numbers: the mean of as many squared normal errors has a standard error of 14 % (sqrt(2 / n))
_SURE = -1.645  # the normal quantile of 5 %: the chance that a loss is greater than `AgreementResult.least` tells
_CONSTANT = 1e-8  # variance relative to the mean square, under which an output counts as constant

# When scores are taken for unnormalised class scores (see `_ClassSums.are_scores`).
_MIN_PEAK = 0.3
_MIN_SIGNED = 0.9
_CERTAIN = 1 - 1e-6
_MAX_CERTAIN = 0.5


class OutputKind(StrEnum):
    """How an output is judged."""

    CLASS_SCORES = "class scores"
    EMBEDDINGS = "embeddings"
    REGRESSION = "regression"
    DISCRETE = "discrete"


@dataclass(frozen=True)
class OutputAgreement:
    """The agreement of one output.

    Attributes:
        name: The output's name.
        kind: How it was judged.
        value: In [0, 1]; 1 is the original.
        compared: Number of elements that were compared.
    """

    name: str
    kind: OutputKind
    value: float
    compared: int = 0


@dataclass(frozen=True)
class AgreementResult:
    """Agreement over a set of samples.

    Attributes:
        value: The agreement of the worst output, in [0, 1]; 1 is the original.
        per_output: All outputs in order.
        samples: Number of samples.
    """

    value: float
    per_output: tuple[OutputAgreement, ...]
    samples: int

    @property
    def doubtful(self) -> bool:
        """Whether a squared error is the mean over so few numbers that luck decides: one rating a sample, say."""
        return any(map(_is_doubtful, self.per_output))

    @property
    def least(self) -> float:
        """The least agreement that the compared numbers allow with 95 % confidence, where they are few; else `value`.

        n squared errors that are normal and independent have a sum that is distributed as chi-square with n degrees of
        freedom, so that their mean is below its expectation by no more than the 5 % quantile of that over n. It is
        computed by Wilson and Hilferty's approximation (1931).
        """
        return min((_least(output) for output in self.per_output), default=1.0)


def _is_doubtful(output: OutputAgreement) -> bool:
    return output.kind is OutputKind.REGRESSION and output.compared < _FEW


def _least(output: OutputAgreement) -> float:
    loss = 1 - output.value
    if not _is_doubtful(output) or loss <= 0.0:
        return output.value
    spread = 2 / (9 * output.compared)
    share: float = (1 - spread + _SURE * spread**0.5) ** 3
    return 1 - min(1.0, loss / share)


class Agreement:
    """Accumulates the agreement of a candidate with the original, in constant memory.

    A NaN or infinity that the original does not have, or another shape or dtype, makes the agreement 0.

    Args:
        names: The names of the outputs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._outputs = tuple(_Output(name) for name in names)
        self._samples = 0

    def update(self, reference: Sequence[Array], candidate: Sequence[Array]) -> None:
        """Takes in the outputs of one sample; shapes may vary from sample to sample.

        Raises:
            ValueError: If there are not as many arrays as names on both sides.
        """
        for output, r, c in zip(self._outputs, reference, candidate, strict=True):
            output.update(np.asarray(r), np.asarray(c))
        self._samples += 1

    def result(self) -> AgreementResult:
        """Returns the agreement so far.

        Raises:
            DataError: If there was no sample.
        """
        if not self._samples:
            raise DataError("Agreement needs at least one sample.", remedy="Hold out at least one sample.")
        per_output = tuple(output.result() for output in self._outputs)
        return AgreementResult(min((o.value for o in per_output), default=1.0), per_output, self._samples)


class _Output:
    """Running sums of one output."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._broken = False
        self._discrete = False
        self._equal = self._elements = 0
        self._error = _ErrorSums()
        self._columns = _Columns()
        self._classes = _ClassSums()
        self._rows = EmbeddingRows()

    def update(self, reference: Array, candidate: Array) -> None:
        self._discrete = reference.dtype.kind != "f"
        if mismatch(reference, candidate):
            self._broken = True
            return
        self._elements += reference.size
        if self._discrete:
            self._equal += int((reference == candidate).sum())
        else:
            self._rows.add(reference, candidate)
            for r, c in _row_chunks(reference, candidate):
                self._add(r, c)

    def _add(self, reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> None:
        finite = np.isfinite(reference) & np.isfinite(candidate)
        if finite.all():
            self._classes.add(reference, candidate)
            self._columns.add(reference)
            self._error.add(reference.reshape(-1), candidate.reshape(-1))
            return
        self._broken |= not same_specials(reference[~finite], candidate[~finite])
        self._classes.usable = self._columns.usable = False
        self._error.add(reference[finite], candidate[finite])

    def result(self) -> OutputAgreement:
        if self._discrete:
            kind = OutputKind.DISCRETE
            loss = 1 - self._equal / self._elements if self._elements else 0.0
        elif self._classes.are_scores():
            kind = OutputKind.CLASS_SCORES
            loss = (self._classes.relative_error() + self._error.relative_error() / 2) / 2
        elif self._rows.are_embeddings():
            kind, loss = OutputKind.EMBEDDINGS, self._rows.loss()
        else:
            kind, loss = OutputKind.REGRESSION, self._error.relative_to(self._columns)
        return OutputAgreement(self._name, kind, 0.0 if self._broken else max(0.0, 1.0 - loss), self._elements)


class _ErrorSums:
    """Squared error, and the variance of the reference about one mean."""

    def __init__(self) -> None:
        self._error = 0.0
        self._moments = _Moments()

    def add(self, reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> None:
        """Takes in values, of shape (values,)."""
        self._moments.add(reference[:, None])
        self._error += float(np.square(reference - candidate).sum())

    def relative_error(self) -> float:
        """Returns the squared error over the variance, or over the mean square of a constant output."""
        return self._relative(self._moments.deviation)

    def relative_to(self, columns: "_Columns") -> float:
        """Returns the squared error over the variance within columns, where there is such and they were all seen."""
        within = columns.moments.deviation if columns.usable else 0.0
        return self._relative(within if within > _CONSTANT * self._moments.square else self._moments.deviation)

    def _relative(self, deviation: float) -> float:
        if self._error == 0.0:
            return 0.0
        square = self._moments.square
        scale = deviation if deviation > _CONSTANT * square else square
        return self._error / scale if scale else 1.0


class _Columns:
    """The moments of each position of the last axis, as long as all rows are equally long and finite."""

    def __init__(self) -> None:
        self.usable = True
        self.moments = _Moments()

    def add(self, rows: NDArray[np.float64]) -> None:
        """Takes in rows, of shape (rows, width)."""
        self.usable &= np.shape(self.moments.mean) in ((), rows.shape[1:])
        if self.usable:
            self.moments.add(rows)


class _Moments:
    """Means and squared deviations of columns (Chan, Golub and LeVeque's algorithm, 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self.mean: NDArray[np.float64] | float = 0.0
        self.deviation = 0.0

    def add(self, rows: NDArray[np.float64]) -> None:
        """Takes in values, of shape (rows, columns), columns the same at every call."""
        if not rows.size:
            return
        total = self._count + len(rows)
        mean = rows.mean(0)
        shift = mean - self.mean
        self.deviation += float(np.square(rows - mean).sum())
        self.deviation += float(np.square(shift).sum()) * self._count * len(rows) / total
        self.mean = self.mean + shift * (len(rows) / total)
        self._count = total

    @property
    def square(self) -> float:
        """The sum of squares."""
        return self.deviation + self._count * float(np.square(self.mean).sum())


class _ClassSums:
    """What tells class scores from other outputs, and the squared error of the class probabilities."""

    def __init__(self) -> None:
        self.usable = True
        self._rows = self._normalised = self._signed = self._certain = 0
        self._peak = self._error = self._square = 0.0

    def add(self, reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> None:
        """Takes in rows of scores, of shape (rows, classes)."""
        classes = reference.shape[-1]
        if classes < 2:
            self.usable = False
            return
        normalised = (reference >= -1e-6).all(-1) & (np.abs(reference.sum(-1) - 1) < 1e-2)
        p, q = _probabilities(reference, normalised), _probabilities(candidate, normalised)
        top = p.max(-1)
        self._rows += len(reference)
        self._normalised += int(normalised.sum())
        self._signed += int((reference.min(-1) < 0).sum())
        self._certain += int((top > _CERTAIN).sum())
        self._peak += float((top - 1 / classes).sum() / (1 - 1 / classes))
        self._error += float(np.square(p - q).sum())
        self._square += float(np.square(p).sum())

    def are_scores(self) -> bool:
        """Decides, from the reference alone, whether the rows are scores of exclusive classes.

        They are if all are probabilities already (not negative, sum 1); or if after softmax the top class
        stands out (0.3 above an even share, in the mean), nearly every row has a negative score, and most are
        not beyond all doubt: the last two keep out boxes in pixels and features, whose softmax is peaked too.
        In doubt an output is regression, which is the stricter judgement.
        """
        if not self.usable or not self._rows:
            return False
        if self._normalised == self._rows:
            return True
        return (
            self._peak >= _MIN_PEAK * self._rows
            and self._signed >= _MIN_SIGNED * self._rows
            and self._certain <= _MAX_CERTAIN * self._rows
        )

    def relative_error(self) -> float:
        return self._error / self._square


def _probabilities(scores: NDArray[np.float64], normalised: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Applies softmax to the rows that are not probabilities already."""
    if normalised.all():
        return scores
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    softmax = powers / powers.sum(-1, keepdims=True)
    return np.where(normalised[:, None], scores, softmax)


def _row_chunks(reference: Array, candidate: Array) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yields both as float64 of shape (rows, length of the last axis), a few rows at a time."""
    width = reference.shape[-1] if reference.ndim else 1
    if not reference.size:
        return
    r, c = reference.reshape(-1, width), candidate.reshape(-1, width)
    step = max(1, _CHUNK // width)
    for start in range(0, len(r), step):
        yield r[start : start + step].astype(np.float64), c[start : start + step].astype(np.float64)
