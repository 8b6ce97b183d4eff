"""The output folder: written beside and renamed into place, so that a reader sees the old one or the new one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sardonyx.errors import SaveError
from sardonyx.pipeline.record import PLAN_NAME, RECORD_NAME

OWN_FILES = frozenset({RECORD_NAME, "model.onnx", "model.onnx.data", PLAN_NAME})
"""What a compile writes; a folder that holds anything else is not replaced."""


def require_writable(folder: Path, source: Path | None) -> None:
    """Checks before the work begins that the output folder can be created or replaced.

    Raises:
        SaveError: If it is a file, holds files that are not ours or the model being compiled, or its parent cannot
            be written.
    """
    if folder.suffix == ".onnx" or folder.is_file():
        raise SaveError(f"{folder} is not a folder.", remedy="-o names a folder; the model in it is model.onnx.")
    if folder.is_dir():
        _require_ours(folder)
        if source is not None and source.resolve().parent == folder.resolve():
            raise SaveError(
                f"{folder} holds {source.name}, the model to compile.", remedy="Choose another output folder."
            )
    parent = folder.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}."):
            pass
    except OSError as error:
        raise SaveError(
            f"{folder} cannot be written: {error.strerror}.", remedy="Choose a folder that you may write to."
        ) from error


def _require_ours(folder: Path) -> None:
    present = {entry.name for entry in folder.iterdir()}
    foreign = sorted(present - OWN_FILES)
    if foreign or (present and RECORD_NAME not in present):
        first = foreign[0] if foreign else sorted(present)[0]
        raise SaveError(
            f"{folder} holds {first}, which is not from an earlier compile; replacing the folder would lose it.",
            remedy="Choose another output folder, or empty this one.",
        )


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder` and renames it into place at the end.

    On any exception, Ctrl-C included, the new folder is removed and the old one is left as it was.

    Raises:
        SaveError: If the folder cannot be written.
    """
    try:
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise SaveError(f"{folder} cannot be written: {error.strerror}.") from error
    try:
        yield fresh
        fresh.chmod(0o777 & ~_umask())
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, folder: Path) -> None:
    """Renames `fresh` to `folder`; an old `folder` steps aside first and comes back if that fails."""
    old = fresh.with_name(fresh.name + ".old")
    try:
        had_old = folder.exists()
        if had_old:
            os.rename(folder, old)
        try:
            os.rename(fresh, folder)
        except BaseException:
            if had_old:
                os.rename(old, folder)
            raise
    except OSError as error:
        raise SaveError(f"{folder} cannot be replaced: {error.strerror}.") from error
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    """The process's umask; there is no way to read it without setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
