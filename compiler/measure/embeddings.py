"""Embeddings: outputs that are judged by what they are for, the similarities of their rows."""

import numpy as np
from numpy.typing import NDArray

from sardonyx.measure.feeds import Array

_MAX_ROWS = 256  # of embeddings kept: 32,640 pairs
_MIN_ROWS = 8
_MIN_WIDTH = 16
_UNIT = 1e-3  # how far the length of an embedding may be from 1


class EmbeddingRows:
    """Keeps the first rows of an output, as long as all have length 1."""

    def __init__(self) -> None:
        self._usable = True
        self._count = 0
        self._reference: list[NDArray[np.float64]] = []
        self._candidate: list[NDArray[np.float64]] = []

    def add(self, reference: Array, candidate: Array) -> None:
        """Takes in outputs of shape (rows, width)."""
        if not self._usable or self._count >= _MAX_ROWS:
            return
        if reference.ndim != 2 or reference.shape[1] < _MIN_WIDTH or not np.isfinite(candidate).all():
            self._usable = False
            return
        rows = reference[: _MAX_ROWS - self._count].astype(np.float64)
        if (np.abs(np.linalg.norm(rows, axis=1) - 1.0) > _UNIT).any():
            self._usable = False
            return
        self._reference.append(rows)
        self._candidate.append(candidate[: len(rows)].astype(np.float64))
        self._count += len(rows)

    def are_embeddings(self) -> bool:
        """Whether all rows seen have length 1, and there are enough of them for similarities to vary."""
        return self._usable and self._count >= _MIN_ROWS and float(np.std(_similarities(self._reference))) > _UNIT

    def loss(self) -> float:
        """Returns 1 - the correlation of pairwise cosine similarities, in [0, 2]."""
        expected, actual = _similarities(self._reference), _similarities(self._candidate)
        deviation = float(np.std(actual))
        return 1.0 - float(np.corrcoef(expected, actual)[0, 1]) if deviation > 0 else 1.0


def _similarities(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Cosine similarities of all pairs of different rows."""
    matrix = np.concatenate(rows)
    matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    similarities: NDArray[np.float64] = (matrix @ matrix.T)[np.triu_indices(len(matrix), k=1)]
    return similarities
