"""Opening the two models that `verify` and `bench` take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sardonyx.errors import BackendError, LoadError

if TYPE_CHECKING:
    from sardonyx.measure import Session


@contextmanager
def opened(a: Path, b: Path, *, threads: int) -> Iterator[tuple["Session", "Session"]]:
    """Yields both models, loaded in the runtime as they are.

    Raises:
        LoadError: If a file is missing or is no usable ONNX model.
        BackendError: If the runtime refuses a model that is one.
    """
    with _open(a, threads) as first, _open(b, threads) as second:
        yield first, second


def _open(path: Path, threads: int) -> "Session":
    from sardonyx import ir
    from sardonyx.measure import Session, SessionOptions

    try:
        return Session(path, options=SessionOptions(threads=threads))
    except (BackendError, LoadError):
        ir.load(path)  # raises what is wrong with the file, of which the runtime says little
        raise
