"""The verbs that write pages."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sardonyx.cli.main import app
from tests import models_for_tests as build


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(build.cnn().SerializeToString())
    return path


def test_inspect_writes_a_page_and_takes_sizes(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "m.html"
    code, out = run("inspect", str(model), "--html", str(page), "--dim", "N=3")
    assert code == 0, out
    assert "N at 3, other symbolic dimensions at 1" in out
    assert "<h2>Operators</h2>" in page.read_text(encoding="utf-8")
    with_one = run("inspect", str(model), "--json")[1]
    assert '"peak_bytes"' in with_one


def test_diff_writes_a_page(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "d.html"
    code, out = run("diff", str(model), str(model), "--html", str(page), "--summary")
    assert code == 0, out
    assert "The two models are the same, names included." in page.read_text(encoding="utf-8")


def test_report_makes_the_page_of_a_folder_anew(model: Path, tmp_path: Path) -> None:
    folder, page = tmp_path / "out", tmp_path / "again.html"
    code, out = run("optimize", str(model), "-o", str(folder), "-q")
    assert code == 0, out
    assert (folder / "report.html").is_file()
    assert run("report", str(folder), "-o", str(page), "-q") == (0, f"{page}\n")
    assert "was written for onnxruntime" in page.read_text(encoding="utf-8")
