"""The smallest parts that still differ, as models and as a folder."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sardonyx import ir
from sardonyx.cli.main import app
from sardonyx.diff.bisect import bisect
from sardonyx.diff.matching import match
from sardonyx.diff.measuring import DriftOptions
from sardonyx.measure import load_samples
from tests.diff.test_drift import by_name, changed_weight, quantized, with_wrong_scale
from tests.models_for_tests import cnn, images, operators, run


def test_a_wrong_weight_leaves_one_node() -> None:
    before, after = ir.load(cnn()).model, changed_weight("w2", 1.5)
    found = bisect(before, after, by_name(before, after), load_samples(images(2)), DriftOptions())
    assert found is not None
    part = found.part
    assert operators(part.before) == operators(part.after) == ["Conv"]
    assert [v.name for v in part.before.graph.inputs] == [v.name for v in part.after.graph.inputs] == ["p1"]
    assert [v.name for v in part.before.graph.outputs] == [v.name for v in part.after.graph.outputs] == ["c2"]
    np.testing.assert_array_equal(run(part.before, part.feed)[0], found.expected)
    assert not np.allclose(run(part.after, part.feed)[0], found.expected)


def test_names_of_the_second_model_do_not_matter() -> None:
    before, after = ir.load(cnn()).model, changed_weight("w2", -2.0)
    values = [v for v in ir.graph_values(after.graph) if v not in (*after.graph.inputs, *after.graph.outputs)]
    for value, name in zip(values, [value.name for value in reversed(values)], strict=True):
        value.name = f"_{name}"
    for value in values:
        value.name = (value.name or "").removeprefix("_")  # each has now the name of another
    matching = match(before, after, provenance=False)
    found = bisect(before, after, matching, load_samples(images(1)), DriftOptions())
    assert found is not None
    assert operators(found.part.after) == ["Conv"]
    assert found.part.after.graph.outputs[0].name == "c2"


def test_a_wrong_grid_takes_the_node_before_it() -> None:
    before = ir.load(cnn(batch_norm=False)).model
    after = quantized(before)
    with_wrong_scale(after, 16)
    found = bisect(before, after, match(before, after), load_samples(images(1)), DriftOptions())
    assert found is not None
    assert "QuantizeLinear" in operators(found.part.after)
    assert len(found.part.after.graph) < len(after.graph) / 2
    assert found.error.relative is not None
    assert found.error.relative > 0.05


def test_equal_models_leave_nothing() -> None:
    one = ir.load(cnn()).model
    assert bisect(one, one, by_name(one, one), load_samples(images(1)), DriftOptions()) is None


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    before, after, data = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "data"
    onnx.save(cnn(), before)
    ir.save(changed_weight("w2", 1.5), after)
    data.mkdir()
    np.savez(data / "0.npz", **images(1)[0])
    return before, after, data


def test_the_folder_can_be_run_again(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before, after, data = map(str, pair)
    out = tmp_path / "part"
    done = CliRunner().invoke(app, ["verify", before, after, "--data", data, "--bisect", "-o", str(out), "--json"])
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert said["bisection"]["place"]["before"] == "w2"
    assert json.loads((out / "bisection.json").read_text())["place"] == said["bisection"]["place"]
    assert "sardonyx verify before.onnx after.onnx" in (out / "README.md").read_text()
    for samples in (out, out / "test_data_set_0"):
        args = ["verify", str(out / "before.onnx"), str(out / "after.onnx"), "--data", str(samples), "--json"]
        again = CliRunner().invoke(app, args)
        assert again.exit_code == 1
        assert [output["name"] for output in json.loads(again.stdout)["outputs"]] == ["c2"]


def test_nothing_is_written_where_nothing_differs(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before, _, data = map(str, pair)
    out = tmp_path / "part"
    done = CliRunner().invoke(app, ["verify", before, before, "--data", data, "--bisect", "-o", str(out)])
    assert done.exit_code == 0
    assert "nothing to bisect" in done.stdout
    assert not out.exists()


def test_bisect_and_its_folder_go_together(pair: tuple[Path, Path, Path]) -> None:
    before, after, _ = map(str, pair)
    done = CliRunner().invoke(app, ["verify", before, after, "--bisect"])
    assert "go together" in str(done.exception)


def test_a_folder_of_the_user_is_not_replaced(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before, after, data = map(str, pair)
    kept = tmp_path / "mine" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("keep")
    args = ["verify", before, after, "--data", data, "--bisect", "-o", str(kept.parent)]
    done = CliRunner().invoke(app, args)
    assert "notes.txt" in str(done.exception)
    assert kept.read_text() == "keep"
