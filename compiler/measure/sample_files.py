"""The file formats of samples: an .npz stack, and folders of .npz, .npy or ONNX test data."""

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from sardonyx.errors import DataError
from sardonyx.measure.feeds import Array, Feed

_BAD_FILE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class FileSamples(NamedTuple):
    """What `Samples` is made of: see there."""

    source: Callable[[], Iterator[Feed]]
    what: str
    length: int
    positional: bool


def open_stack(path: Path) -> FileSamples:
    """Opens an .npz of stacked inputs, of which only headers are read now and one sample at a time later.

    Raises:
        DataError: If it cannot be read, or its arrays do not have the same number of samples.
    """
    with _readable(path), zipfile.ZipFile(path) as archive:
        members = [_Member.read_header(archive, name) for name in archive.namelist()]
    lengths = {m.name: m.shape[0] for m in members if m.shape}
    if len(set(lengths.values())) != 1:
        described = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "none"
        raise DataError(
            f"{path}: its arrays do not have the same number of samples on their first axis ({described}).",
            remedy="Stack each input along a new first axis, or write a folder of .npz files, one a sample.",
        )
    length = next(iter(lengths.values()))

    def stream() -> Iterator[Feed]:
        with _readable(path), ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            rows = {m.name: stack.enter_context(m.open(archive)) for m in members}
            for _ in range(length):
                yield {name: next(row) for name, row in rows.items()}

    return FileSamples(stream, str(path), length, positional=False)


def open_folder(path: Path) -> FileSamples:
    """Opens a folder of .npz files, of `test_data_set_*` folders, of input_*.pb or of .npy files.

    Raises:
        DataError: If it holds none of these.
    """
    for pattern, read, positional in _FOLDERS:
        files = sorted(path.glob(pattern), key=_natural)
        if files:
            return _one_a_file(path, files, read, positional)
    if (path / "input_0.pb").exists():
        return _one_a_file(path, [path], _read_test_data_set, positional=True)
    raise DataError(
        f"The folder {path} holds no samples.",
        remedy="It should hold .npz or .npy files, one a sample, or test_data_set_* folders.",
    )


def _one_a_file(folder: Path, files: list[Path], read: Callable[[Path], Feed], positional: bool) -> FileSamples:
    def stream() -> Iterator[Feed]:
        for file in files:
            with _readable(file):
                feed = read(file)
            yield feed

    return FileSamples(stream, str(folder), len(files), positional)


def _read_npz(path: Path) -> Feed:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_npy(path: Path) -> Feed:
    return {"0": np.load(path, allow_pickle=False)}


def _read_test_data_set(folder: Path) -> Feed:
    from sardonyx.ir.tensor_file import read_tensor

    files = sorted(folder.glob("input_*.pb"), key=_natural)
    return {re.findall(r"\d+", file.stem)[-1]: read_tensor(file) for file in files}


_FOLDERS: tuple[tuple[str, Callable[[Path], Feed], bool], ...] = (
    ("*.npz", _read_npz, False),
    ("test_data_set_*", _read_test_data_set, True),
    ("*.npy", _read_npy, True),
)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts input_2 before input_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


@dataclass(frozen=True)
class _Member:
    """One array of an .npz file, read row by row from its stream, compressed or not."""

    name: str
    file: str
    shape: tuple[int, ...]

    @classmethod
    def read_header(cls, archive: zipfile.ZipFile, file: str) -> "_Member":
        with archive.open(file) as stream:
            shape, _, _ = _header(stream)
        return cls(file.removesuffix(".npy"), file, shape)

    @contextmanager
    def open(self, archive: zipfile.ZipFile) -> Iterator[Iterator[Array]]:
        """Yields an iterator over the samples of shape (1, ...); a scalar is repeated for ever."""
        with archive.open(self.file) as stream:
            yield self._rows(stream)

    def _rows(self, stream: IO[bytes]) -> Iterator[Array]:
        shape, fortran, dtype = _header(stream)
        if not shape:
            yield from repeat(np.frombuffer(stream.read(dtype.itemsize), dtype).reshape(()))
        if fortran:  # rows are not contiguous: read it whole
            whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
            yield from (np.ascontiguousarray(whole[i : i + 1]) for i in range(shape[0]))
            return
        size = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        for _ in range(shape[0]):
            data = stream.read(size)
            if len(data) != size:
                raise EOFError(f"{self.file} ends early")
            yield np.frombuffer(data, dtype).reshape((1, *shape[1:]))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    magic = np.lib.format.read_magic(stream)
    if magic not in _HEADERS:
        raise ValueError(f"its format {magic} is not supported")
    shape, fortran, dtype = _HEADERS[magic](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, fortran, dtype


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what reading a broken file raises into a DataError."""
    try:
        yield
    except _BAD_FILE as error:
        raise DataError(
            f"{path} cannot be read: {error}", remedy="Write it again with numpy.savez, as plain arrays."
        ) from error
