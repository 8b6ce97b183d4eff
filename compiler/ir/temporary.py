"""Folders of temporary files that do not outlive their process for long, however that ended.

A process that is killed cannot clean up. So each folder holds a file that its process keeps locked: the system releases
the lock with the process, and whoever makes the next folder in the same place removes those whose lock is free.
"""

import os
import shutil
import stat
import sys
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from sardonyx.errors import SaveError

if sys.platform != "win32":
    import fcntl

PREFIX = "sardonyx-"
"""How the names of the folders begin."""

LOCK = ".lock"
"""Name of the file in a folder that its process keeps locked."""


class TemporaryFolder:
    """A folder that is removed with all it holds when it is closed, or when nobody holds this object any more.

    As a context manager it gives the folder's path, and closes it at the end.

    Args:
        parent: Where to make it; None for the system's folder of temporary files.

    Raises:
        SaveError: If it cannot be made.
    """

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        where = Path(tempfile.gettempdir() if parent is None else parent)
        remove_abandoned(where)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
            lock = _locked(self.path)
        except OSError as error:
            raise unwritable(where, error) from error
        self._close = weakref.finalize(self, _remove, self.path, lock)

    def close(self) -> None:
        """Removes the folder; a second time does nothing."""
        self._close()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_abandoned(parent: Path) -> None:
    """Removes the folders of processes that ended without doing so, as far as that can be told; not other users'."""
    found: list[Path] = []
    with suppress(OSError), os.scandir(parent) as entries:
        found += (Path(entry.path) for entry in entries if entry.name.startswith(PREFIX))
    for folder in found:
        with suppress(OSError):  # another process removed it, or holds its lock
            _remove_unlocked(folder)


if sys.platform == "win32":

    def _locked(folder: Path) -> int | None:
        return None

    def _remove_unlocked(folder: Path) -> None: ...

else:

    def _locked(folder: Path) -> int | None:
        """Locks the file in a folder, which takes its name only then, and returns its descriptor.

        None where the file system has no locks: such a folder is nobody's to remove.
        """
        staged = folder / f"{LOCK}.new"
        lock = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        staged.rename(folder / LOCK)
        return lock

    def _remove_unlocked(folder: Path) -> None:
        """Removes a folder of ours whose lock is free; raises OSError where it is not, or there is none."""
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def unwritable(path: str | os.PathLike[str], error: OSError) -> SaveError:
    """Returns the error that temporary files cannot be written somewhere."""
    return SaveError(
        f"Temporary files cannot be written to {os.fspath(path)}: {error.strerror or error}.",
        remedy="Free some disk space there, or set TMPDIR to a folder with more.",
    )
