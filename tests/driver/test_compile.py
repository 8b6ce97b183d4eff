"""The compile end to end, on a small network."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import sardonyx
from sardonyx import ir
from sardonyx.driver import CompileResult
from sardonyx.errors import DataError
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.pipeline import CompileRecord, Recipe, available_passes
from tests import models_for_tests as build
from tests.timing_for_tests import decree

QUICK = Recipe(timing_seconds=0.1, max_drop=0.2)


def compiled(source: object, output: Path | None = None, **options: object) -> CompileResult:
    options.setdefault("data", build.images(12))
    options.setdefault("recipe", QUICK)
    return sardonyx.compile(source, output=output, **options)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(build.cnn().SerializeToString())
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_record_tells_all(source: Path, tmp_path: Path) -> None:
    result = compiled(source, tmp_path / "out")
    record = CompileRecord.read(tmp_path / "out" / "record.json")
    assert (record.source.path, record.source.sha256) == (str(source), sha256(source))
    assert {e.path: e.sha256 for e in record.outputs} == {
        p.name: sha256(p) for p in (tmp_path / "out").iterdir() if p.name != "record.json"
    }
    assert {c.name for c in record.candidates} == {"optimized", "quantized", "quantized-static-gptq"}
    for candidate in record.candidates:
        assert candidate.accuracy is not None
        assert candidate.latency is not None
        assert candidate.accuracy.samples in (3, 12)  # the held-out ones, or all where these are too few to tell
    assert all(decision.reason for decision in record.decisions)
    assert record.samples["calibration"] + record.samples["held_out"] == 12
    assert len(record.samples["fingerprint"]) == 64
    assert {"onnxruntime", "onnx-ir", "numpy", "python", "sardonyx"} <= set(record.tools)
    assert record.machine["architecture"]
    assert "quantize-static" in record.pipeline
    assert [p.status for p in record.passes if p.status == "undone"] == []
    assert result.record.chosen == record.chosen


def test_every_quantized_value_has_a_reason(source: Path) -> None:
    record = compiled(source).record
    quantized = [d for d in record.decisions if d.stage == "quantize"]
    assert len(quantized) > 10
    assert all(d.reason and d.subjects for d in quantized)


def test_twice_the_same_model(source: Path, tmp_path: Path) -> None:
    results = [compiled(source, tmp_path / name) for name in ("a", "b")]
    assert sha256(tmp_path / "a" / "model.onnx") == sha256(tmp_path / "b" / "model.onnx")
    passes = [[(p.spec, p.stats, p.nodes, p.nbytes) for p in r.record.passes] for r in results]
    assert passes[0] == passes[1]


def test_sources_of_every_kind_give_the_same_model(source: Path) -> None:
    proto = onnx.load(source)
    loaded = ir.load(source).model
    sources = [str(source), source, source.read_bytes(), proto, loaded, SimpleNamespace(model=loaded)]
    digests = {ir.digest(compiled(each, data=None).model) for each in sources}
    assert len(digests) == 1


def test_without_data_only_exact_passes_run(source: Path, tmp_path: Path) -> None:
    result = compiled(source, tmp_path / "out", data=None)
    assert result.record.met_budget
    assert [c.name for c in result.record.candidates] == ["optimized"]
    assert result.record.candidates[0].accuracy is None
    assert result.record.candidates[0].outputs[0]["ok"]
    assert any("pass --data for INT8" in d.reason for d in result.record.decisions)
    before = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    after = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    feed = build.images(1)[0]
    np.testing.assert_allclose(after.run(None, feed)[0], before.run(None, feed)[0], rtol=1e-4, atol=1e-5)


def test_one_sample_is_judged_and_said_so(source: Path) -> None:
    record = compiled(source, data=build.images(1)).record
    assert record.samples["overlap"] is True
    assert any("only one sample" in warning for warning in record.warnings)


@pytest.fixture
def int8_is_twice_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    decree(monkeypatch, quantized=2.0)


@pytest.mark.usefixtures("int8_is_twice_as_fast")
def test_a_metric_decides(source: Path) -> None:
    def likes_floats(run: object) -> float:
        scores = [float(run(feed)[0][0, 0]) for feed in build.images(2, seed=9)]  # type: ignore[operator]
        return 1.0 if scores == exact else 0.5

    session = onnxruntime.InferenceSession(source.read_bytes(), providers=["CPUExecutionProvider"])
    exact = [float(session.run(None, feed)[0][0, 0]) for feed in build.images(2, seed=9)]
    record = compiled(source, metric=likes_floats).record
    quantized = record.candidate("quantized")
    assert quantized is not None
    assert quantized.accuracy is not None
    assert quantized.accuracy.drop == 0.5
    assert "likes_floats" in quantized.accuracy.metric
    assert "more than the budget" in str(quantized.rejected)
    assert not record.met_budget


def test_an_unknown_domain_passes_through_untouched(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Fancy", ["i"], ["f"], domain="my.domain", name="fancy", level=3),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    proto = build.proto(nodes, {"x": [2]}, {"y": [2]})
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    result = compiled(proto, tmp_path / "out", data=None)
    assert not result.record.met_budget
    assert any(w.startswith("Unproven") and "ONNX Runtime" in w for w in result.record.warnings), "the cause is told"
    assert any("fancy" in w and "my.domain" in w for w in result.record.warnings)
    written = onnx.load(tmp_path / "out" / "model.onnx")
    assert [n.op_type for n in written.graph.node] == ["Fancy", "Relu"]
    assert written.graph.node[0].attribute[0].i == 3


def test_a_model_that_the_runtime_refuses_is_repaired_and_then_compared(tmp_path: Path) -> None:
    """Two values of one name: ONNX Runtime refuses the file; the compiled one runs."""
    nodes = [
        helper.make_node("Exp", ["x"], ["embedding"], name="first"),
        helper.make_node("Neg", ["embedding"], ["embedding"], name="second"),
    ]
    path = tmp_path / "model.onnx"
    path.write_bytes(build.proto(nodes, {"x": [2]}, {"embedding": [2]}).SerializeToString())
    with pytest.raises(Exception, match="embedding"):
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result = compiled(path, tmp_path / "out", data=[{"x": np.array([1.0, 2.0], np.float32)}] * 4)
    assert result.record.repairs
    session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": np.zeros(2, np.float32)})[0], [-1, -1])


def test_nothing_is_written_without_an_output_folder(source: Path) -> None:
    before = sorted(os.listdir(source.parent))
    result = compiled(source)
    assert result.path is None
    assert sorted(os.listdir(source.parent)) == before


def test_the_source_is_never_changed(source: Path) -> None:
    model = ir.load(source).model
    digest = ir.digest(model)
    compiled(model)
    assert ir.digest(model) == digest


@pytest.mark.usefixtures("int8_is_twice_as_fast")
def test_a_quantized_model_is_written_with_its_plan_and_always_in_the_same_bytes(source: Path, tmp_path: Path) -> None:
    results = [compiled(source, tmp_path / name) for name in ("a", "b")]
    assert [r.record.chosen for r in results] == ["quantized", "quantized"]
    for name in ("model.onnx", "plan.json"):
        assert sha256(tmp_path / "a" / name) == sha256(tmp_path / "b" / name)
    assert [e.path for e in results[0].record.outputs] == ["model.onnx", "plan.json", "report.html"]
    operators = ir.operator_counts(ir.load(tmp_path / "a" / "model.onnx").model)
    assert operators["QuantizeLinear"] > 0
    session = onnxruntime.InferenceSession(str(results[0].path), providers=["CPUExecutionProvider"])
    feed = build.images(1, seed=5)[0]
    expected = build.run(build.cnn(), feed)[0]
    assert np.abs(session.run(None, feed)[0] - expected).max() < 0.05 * np.ptp(expected)  # INT8 noise


@pytest.mark.usefixtures("int8_is_twice_as_fast")
def test_a_compile_replaces_a_quantized_one_whole(source: Path, tmp_path: Path) -> None:
    compiled(source, tmp_path / "out")
    compiled(source, tmp_path / "out", data=None)
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == ["model.onnx", "record.json", "report.html"], "the old plan is gone"


@pytest.mark.usefixtures("int8_is_twice_as_fast")
def test_no_loss_at_all_forces_the_exact_model(source: Path) -> None:
    record = compiled(source, max_drop=0.0).record
    assert (record.chosen, record.met_budget) == ("optimized", False)


@dataclass(frozen=True)
class FailWhenRun(Pass):
    """Writes a node that loads and cannot run."""

    name = "fail-when-run"
    summary = "for tests"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        graph = model.graph
        last = graph.outputs[0].producer()
        assert last is not None
        output = last.outputs[0]
        shape = ir.add_initializer(graph, "seven", np.array([7, 7], np.int64))
        reshape = ir.node("Reshape", [output, shape])
        graph.insert_after(last, reshape)
        reshape.outputs[0].type = output.type
        graph.outputs[0] = reshape.outputs[0]
        output.name, reshape.outputs[0].name = "unshaped", output.name
        return PassResult(model, modified=True)


@pytest.mark.parametrize("metric", [None, lambda run: float(run(build.images(1)[0])[0].mean())])
def test_a_candidate_that_loads_and_fails_is_rejected_and_the_compile_goes_on(
    metric: object, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = {**available_passes(), "fail-when-run": FailWhenRun}
    monkeypatch.setattr("sardonyx.driver.compile.available_passes", lambda: passes)
    recipe = QUICK.model_copy(update={"quantize": "fail-when-run"})
    result = compiled(source, tmp_path / "out", recipe=recipe, metric=metric)
    quantized = result.record.candidate("quantized")
    assert quantized is not None
    assert "does not run it" in str(quantized.rejected)
    assert "Reshape" in str(quantized.rejected)
    assert (result.record.chosen, result.record.met_budget) == ("optimized", False)


def test_a_failing_metric_is_the_users_and_ends_the_compile(source: Path) -> None:
    with pytest.raises(DataError, match="raised ZeroDivisionError"):
        compiled(source, metric=lambda run: 1 / 0)
