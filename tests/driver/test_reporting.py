"""The page of a compile: written with it, made anew from it, and never worth more than the model."""

from pathlib import Path

import pytest

import sardonyx
from sardonyx.driver import reporting
from sardonyx.errors import SaveError
from sardonyx.pipeline import CompileRecord, Recipe
from tests import models_for_tests as build

QUICK = {"timing_seconds": 0.1, "quantize": "quantize-static", "max_drop": 0.5}


def compiled(folder: Path, **options: object) -> CompileRecord:
    path = folder / "model.onnx"
    path.write_bytes(build.cnn().SerializeToString())
    recipe = Recipe.from_data({**QUICK, **options})
    return sardonyx.compile(path, data=build.images(8), recipe=recipe, output=folder / "out").record


def test_a_compile_writes_its_page_with_what_was_measured(tmp_path: Path) -> None:
    record = compiled(tmp_path)
    assert record.outputs[-1].path == "report.html"
    assert record.warnings == []
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for title in ("Error along the depth", "Time by node", "Calibration", "Weights", "How to reproduce"):
        assert f"<h2>{title}</h2>" in text
    assert "values and constants compared on" in text
    assert "ms a run before" in text
    compiled(tmp_path)
    assert (tmp_path / "out" / "report.html").is_file(), "the folder with the page counts as ours"


def test_no_page_where_none_is_wanted(tmp_path: Path) -> None:
    record = compiled(tmp_path, report=False)
    assert "report.html" not in [entry.path for entry in record.outputs]
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_page_that_cannot_be_made_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(reporting, "compile_report", broken)
    record = compiled(tmp_path)
    assert record.warnings == ["The report could not be made: RuntimeError: no ink"]
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert CompileRecord.read(tmp_path / "out" / "record.json").warnings == record.warnings


def test_what_takes_too_long_is_given_up_and_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "DRIFT_SECONDS", -1.0)
    monkeypatch.setattr(reporting, "TIMES_SECONDS", 0.0)
    compiled(tmp_path)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Not measured: it would have taken longer than" in text
    assert "Not measured: a run of both models takes" in text


def test_models_too_large_to_compare_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "COMPARED_NODES", 5)
    compiled(tmp_path)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The models were not compared: together they have" in text
    monkeypatch.undo()
    monkeypatch.setattr(reporting, "DRIFT_BYTES", 5)
    compiled(tmp_path)
    assert "Not measured: the models together have" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_page_is_made_in_python_and_again_from_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(build.cnn().SerializeToString())
    recipe = Recipe.from_data(QUICK)
    result = sardonyx.compile(path, data=build.images(8), recipe=recipe, output=tmp_path / "out")
    page = result.report(tmp_path / "mine.html")
    again = reporting.report_again(tmp_path / "out", None, tmp_path / "again.html", lambda *_: None)
    for made in (page, again):
        assert f"The {result.record.chosen} model was written for onnxruntime" in made.read_text(encoding="utf-8")
    assert "Not measured: there were no samples." in again.read_text(encoding="utf-8")
    with pytest.raises(SaveError, match="cannot be written"):
        result.report(tmp_path / "missing" / "page.html")
