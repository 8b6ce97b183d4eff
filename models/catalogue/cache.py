"""Keeps exported models in the user's cache folder."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from sardonyx.errors import SaveError


def folder() -> Path:
    """Returns `$XDG_CACHE_HOME/sardonyx`, or `~/.cache/sardonyx` where that is unset or not absolute."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "sardonyx"


def cached(file_name: str, build: Callable[[Path], None]) -> Path:
    """Returns a file of the cache folder, built first if it is not there.

    The file is written beside its place and then renamed: a broken build leaves nothing, and of two builds at
    once the later one wins.

    Args:
        file_name: Its name, which must change whenever its content would.
        build: Writes the file to the path it is given.

    Raises:
        SaveError: If the folder or the file cannot be written.
    """
    target = folder() / file_name
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            build(Path(scratch) / file_name)
            os.replace(Path(scratch) / file_name, target)
    except OSError as error:
        raise SaveError(
            f"{target}: cannot write the exported model: {error}.",
            remedy="Set XDG_CACHE_HOME to a folder that can be written and has room.",
        ) from error
    return target
