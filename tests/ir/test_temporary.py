"""Temporary folders: removed when they are closed, and by the next process where theirs was killed."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sardonyx import ir
from sardonyx.errors import SaveError
from sardonyx.ir.temporary import LOCK

MAKER = """
import sys, time
from sardonyx.ir.temporary import TemporaryFolder
folder = TemporaryFolder(sys.argv[1])
(folder.path / "model.onnx").write_bytes(b"weights")
print(folder.path, flush=True)
time.sleep(600)
"""


@contextmanager
def process(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has made a folder and lives on."""
    with subprocess.Popen([sys.executable, "-c", MAKER, str(parent)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child, Path(child.stdout.readline().strip())
        finally:
            child.kill()


def test_it_goes_when_it_is_closed_or_forgotten(tmp_path: Path) -> None:
    with ir.TemporaryFolder(tmp_path) as path:
        (path / "inner").mkdir()
        (path / "inner" / "file").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []
    folder = ir.TemporaryFolder(tmp_path)
    assert list(tmp_path.iterdir()) == [folder.path]
    del folder
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with process(tmp_path) as (child, left):
        with ir.TemporaryFolder(tmp_path):
            assert (left / "model.onnx").read_bytes() == b"weights", "its process is alive"
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert left.is_dir()
        with ir.TemporaryFolder(tmp_path) as path:
            assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_known_to_be_abandoned_stays(tmp_path: Path) -> None:
    (tmp_path / "sardonyx-file").write_text("a file")
    (tmp_path / "sardonyx-unlocked").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    (tmp_path / "sardonyx-link").symlink_to(elsewhere)
    (tmp_path / "sardonyx-linked-lock").mkdir()
    (tmp_path / "sardonyx-linked-lock" / LOCK).symlink_to(elsewhere / LOCK)
    before = {path.name for path in tmp_path.iterdir()}
    with ir.TemporaryFolder(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_folders_of_other_users_stay(tmp_path: Path) -> None:
    foreign = tmp_path / "sardonyx-foreign"
    foreign.mkdir()
    (foreign / LOCK).touch()
    os.chown(foreign, 12345, -1)
    with ir.TemporaryFolder(tmp_path):
        assert foreign.is_dir()


def test_a_parent_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"Temporary files cannot be written to .*absent"):
        ir.TemporaryFolder(tmp_path / "absent")
