"""The output folder: the old one or the new one, never half of either."""

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
