"""The output folder: the old one or the new one, never half of either."""

import errno
import os
from pathlib import Path

import pytest

from sardonyx.driver.output import replaced_folder, require_writable
from sardonyx.errors import SaveError


def write(folder: Path, text: str) -> None:
    with replaced_folder(folder) as fresh:
        (fresh / "record.json").write_text(text)
        (fresh / "model.onnx").write_text(text)


def test_new_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    require_writable(out, None)
    write(out, "first")
    require_writable(out, None)
    write(out, "second")
    assert (out / "model.onnx").read_text() == "second"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_old_folder_survives_a_failure(error: type[BaseException], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")

    def fail() -> None:
        with replaced_folder(out) as fresh:
            (fresh / "model.onnx").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert (out / "model.onnx").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_files_that_are_not_ours_are_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SaveError, match=r"notes\.txt"):
        require_writable(out, None)


def test_a_model_without_a_record_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("the only copy")
    with pytest.raises(SaveError, match=r"model\.onnx"):
        require_writable(tmp_path, None)


def test_the_folder_of_the_source_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(SaveError, match="the model to compile"):
        require_writable(out, out / "model.onnx")


def test_files_and_unwritable_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "model.onnx"):
        with pytest.raises(SaveError):
            require_writable(path, None)


def test_a_link_stays_and_its_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "disk" / "real")
    require_writable(link, None)
    write(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real" / "model.onnx").read_text() == "new"
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["real"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "out"]


def test_the_mode_of_the_old_folder_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    out.chmod(0o750)
    write(out, "new")
    assert out.stat().st_mode & 0o777 == 0o750


def test_a_file_put_there_meanwhile_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(SaveError, match=r"out holds notes\.txt"), replaced_folder(out):
        (out / "notes.txt").write_text("mine")
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "model.onnx").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_ctrl_c_between_the_renames_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, "old")
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(out, "new")
    assert (out / "model.onnx").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_told_and_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(SaveError, match="No space left") as caught, replaced_folder(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free space" in caught.value.remedy
    assert (out / "model.onnx").read_text() == "old"


def test_the_check_creates_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "deep" / "er" / "out", None)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_renamed_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, message in ((Path("/"), "mount point"), (Path(), "current folder")):
        with pytest.raises(SaveError, match=message):
            require_writable(path, None)


def test_the_link_that_names_the_source_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    (out / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (out / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(SaveError, match="the model to compile"):
        require_writable(out, out / "model.onnx")
