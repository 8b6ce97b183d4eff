"""The output folder: written beside and renamed into place, so that a reader sees the old one or the new one."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from sardonyx import ir
from sardonyx.backends import backends
from sardonyx.errors import SaveError, UsageError
from sardonyx.pipeline import CompileRecord, FileEntry
from sardonyx.pipeline.record import PLAN_NAME, RECORD_NAME, REPORT_NAME


def _is_ours(name: str) -> bool:
    """Whether a compile, for whichever target, writes a file of that name."""
    own = (RECORD_NAME, PLAN_NAME, REPORT_NAME)
    patterns = (*own, *(pattern for each in backends().values() for pattern in each.files))
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def original_file(record: CompileRecord, folder: Path) -> Path:
    """Returns the file that an output folder was compiled from.

    Raises:
        UsageError: If it was not compiled from a file, or the file is gone or has changed since.
    """
    if record.source.path is None:
        raise UsageError(f"{folder} was not compiled from a file.", remedy="Name the original model's file.")
    path = Path(record.source.path)
    if not path.is_file():
        raise UsageError(
            f"{folder} was compiled from {path}, which is not there.",
            remedy="Run from the folder where it was compiled, or put the model back.",
        )
    if ir.file_sha256(path) != record.source.sha256:
        raise UsageError(f"{path} has changed since {folder} was compiled from it.", remedy="Compile it again.")
    return path


def require_writable(folder: Path, source: Path | None) -> None:
    """Checks before the work begins that the output folder can be created or replaced. Nothing is created.

    Raises:
        SaveError: If it is a file, holds files that are not ours or the model being compiled, cannot be renamed, or
            lies where nothing can be written.
    """
    with _told_as_save_error(folder):
        if folder.suffix == ".onnx" or folder.is_file():
            raise SaveError(f"{folder} is not a folder.", remedy="-o names a folder; the model in it is model.onnx.")
        real = _real(folder)
        if real.is_dir():
            _require_renamable(real, folder)
            _require_ours(real, folder)
            _require_elsewhere(real, folder, source)
        existing = next(parent for parent in real.parents if parent.exists())
        with tempfile.TemporaryDirectory(dir=existing, prefix=f".{real.name}.", suffix=".tmp"):
            pass


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder` and renames it into place at the end.

    On any exception, Ctrl-C included, the new folder is removed and the old one is left as it was. Where `folder` is a
    link, the folder that it leads to is replaced.

    Raises:
        SaveError: If the folder cannot be written, or has meanwhile come to hold files that are not ours.
    """
    real = _real(folder)
    fresh = real.with_name(f".{real.name}.{secrets.token_hex(4)}.tmp")
    with _told_as_save_error(folder):
        try:
            real.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir()
            yield fresh
            _swap(fresh, real, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def file_entry(file: Path) -> FileEntry:
    """Returns what the record says of a file in the output folder."""
    return FileEntry(path=file.name, sha256=ir.file_sha256(file), nbytes=file.stat().st_size)


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


@contextmanager
def _told_as_save_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"{folder} cannot be written: {error.strerror or error}.",
            remedy="Choose a folder that you may write to, on a disk with free space.",
        ) from error


def _require_renamable(real: Path, named: Path) -> None:
    """Neither a mounted volume nor the folder that the caller stands in can be replaced by another."""
    if os.path.ismount(real):
        raise SaveError(f"{named} is a mount point.", remedy=f"Name a folder in it, such as {named / 'compiled'}.")
    if os.path.samefile(real, os.curdir):
        raise SaveError(f"{named} is the current folder.", remedy="Name a folder in it, such as compiled.")


def _require_ours(present: Path, named: Path) -> None:
    """Refuses a folder that holds anything but an earlier compile; messages call it `named`."""
    names = {entry.name for entry in present.iterdir()}
    foreign = sorted(name for name in names if not _is_ours(name))
    if foreign or (names and RECORD_NAME not in names):
        first = foreign[0] if foreign else sorted(names)[0]
        raise SaveError(
            f"{named} holds {first}, which is not from an earlier compile; replacing the folder would lose it.",
            remedy="Choose another output folder, or empty this one.",
        )


def _require_elsewhere(real: Path, named: Path, source: Path | None) -> None:
    """Refuses a folder that holds the model to compile, or the link that the model was named by."""
    if source is not None and real in {_real(source).parent, _real(source.parent)}:
        raise SaveError(f"{named} holds {source.name}, the model to compile.", remedy="Choose another output folder.")


def _swap(fresh: Path, folder: Path, named: Path) -> None:
    """Renames `fresh` to `folder`; an old `folder` steps aside first and comes back if anything fails."""
    old = fresh.with_suffix(".old")
    try:
        if folder.is_dir():
            shutil.copymode(folder, fresh)
            os.rename(folder, old)
            _require_ours(old, named)  # again: much may have been put there since the work began
        os.rename(fresh, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
