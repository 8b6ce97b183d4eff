"""Engines by the real builder, without a GPU: what runs in which type, shapes, targets, and the same bytes again."""

import hashlib
import json
from pathlib import Path

import pytest

from sardonyx import ir
from sardonyx.backends import EngineReport, EngineRequest
from sardonyx.backends.tensorrt import TensorRTBackend
from sardonyx.backends.tensorrt.build import BuildJob, BuildResult, build, build_all
from sardonyx.backends.tensorrt.child import Stage
from sardonyx.backends.tensorrt.layers import weight_bytes
from sardonyx.backends.tensorrt.proof import prove
from sardonyx.backends.tensorrt.settings import AHEAD_OF_TIME, BuildSettings, ShapeRange
from sardonyx.passes.base import no_progress
from tests.backends.tensorrt.graphs import convolutions
from tests.backends.tensorrt.nets import conv, matmul

pytest.importorskip(AHEAD_OF_TIME, reason="the ahead-of-time builder has no wheels for this system")

REQUEST = EngineRequest(planned=("conv0", "conv1"), progress=no_progress)


def saved(folder: Path, batch: int | str = 1, *, weight_only: bool = False) -> Path:
    path = folder / "model.trt.onnx"
    path.write_bytes(convolutions(batch, weight_only=weight_only).SerializeToString())
    return path


def built(path: Path, shapes: str = "", *targets: str) -> BuildResult:
    profile = (ShapeRange.parse(shapes),) if shapes else ()
    return build(path, BuildSettings(profile=profile, compute_capabilities=targets))


def reported(path: Path, **options: float) -> EngineReport:
    backend = TensorRTBackend(**options)  # type: ignore[arg-type]
    return backend.build_engine(ir.load(path).model, path, REQUEST)


def test_quantized_convolutions_run_as_int8(tmp_path: Path) -> None:
    path = saved(tmp_path)
    result = built(path)
    assert (result.stage, result.errors) == (Stage.DONE, ())
    products = {layer.nodes[0]: layer.precision for layer in result.layers if layer.computes_products}
    assert products == {"conv0": "Int8", "conv1": "Int8"}
    weights = 16 * 8 * 9
    assert weight_bytes(result.layers)["Int8"] == 2 * weights
    assert 2 * weights < result.weights_bytes < 2 * weights + 4096
    proof = prove(ir.load(path).model, result.layers)
    assert (proof.planned, proof.integer, proof.share, proof.misses) == (2, 2, 1.0, ())


def test_what_falls_back_to_float_is_told_with_the_rule(tmp_path: Path) -> None:
    report = reported(saved(tmp_path, weight_only=True), require_int8=0.95)
    assert report.proof is not None
    (miss,) = report.proof.misses
    assert (miss.node, miss.op_type, miss.precision) == ("conv1", "Conv", "Float")
    assert "weight-only" in miss.reason
    assert report.proof.nodes == {"Int8": 1, "Float": 1}
    assert report.unmet.startswith("1 of 2 products that were meant to run as INT8 do in the engine, and 95% are")


def test_a_requirement_that_is_met_is_not_mentioned(tmp_path: Path) -> None:
    assert reported(saved(tmp_path), require_int8=1.0).unmet == ""
    assert reported(saved(tmp_path, weight_only=True), require_int8=0.5).unmet == ""


def test_the_batch_may_be_dynamic(tmp_path: Path) -> None:
    path = saved(tmp_path, "N")
    result = built(path, "x=1x8x16x16:4x8x16x16:8x8x16x16")
    assert result.done
    convolutions = [layer for layer in result.layers if layer.computes_products]
    assert [(layer.precision, layer.inputs[0].dims[0]) for layer in convolutions] == [("Int8", -1)] * 2
    without = built(path)
    assert without.stage is Stage.PROFILE
    assert without.why() == "The input x is ?x8x16x16, and no shapes are given for it."


def test_targets_are_named_by_compute_capability(tmp_path: Path) -> None:
    path = saved(tmp_path)
    default, one, two = (built(path, "", *targets) for targets in ((), ("8.6",), ("8.9", "8.6")))
    assert all(result.done for result in (default, one, two))
    assert two.engine_bytes > one.engine_bytes
    turing = built(path, "", "7.5")
    assert [layer.precision for layer in turing.layers if layer.computes_products] == ["Float", "Float"]


def test_products_scaled_along_what_they_sum_over_do_not_count_as_int8(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(matmul(axis=0).SerializeToString())
    proof = prove(ir.load(path).model, build(path).layers)
    assert (proof.planned, proof.integer, proof.nodes) == (1, 0, {"Float": 1})


@pytest.mark.parametrize(("inputs", "grows"), [(1, True), (2, True), (4, False), (16, False)])
def test_narrow_groups_take_more_bytes_in_int8_than_in_fp32(tmp_path: Path, inputs: int, grows: bool) -> None:
    path = tmp_path / "model.onnx"
    proto = conv(shape=(64, inputs, 3, 3), size=(1, 64, 16, 16), group=64 // inputs)
    path.write_bytes(proto.SerializeToString())
    integers, elements = weight_bytes(build(path).layers)["Int8"], 64 * inputs * 9
    assert integers > 4 * elements if grows else integers == elements


def test_a_refused_build_for_turing_costs_the_next_nothing(tmp_path: Path) -> None:
    product = tmp_path / "product.onnx"
    product.write_bytes(matmul().SerializeToString())
    turing, ampere = (BuildSettings(compute_capabilities=(each,)) for each in ("7.5", "8.6"))
    refused, taken = build_all([BuildJob(product, turing), BuildJob(saved(tmp_path), ampere)])
    assert refused.stage is Stage.BUILD
    assert [layer.precision for layer in taken.layers if layer.computes_products] == ["Int8", "Int8"]


def test_too_little_workspace_is_the_builders_own_words(tmp_path: Path) -> None:
    result = build(saved(tmp_path), BuildSettings(workspace_bytes=1024))
    assert result.stage is Stage.BUILD
    assert "workspace" in result.why()


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    jobs = [BuildJob(saved(tmp_path), engine=tmp_path / name) for name in ("a.engine", "b.engine")]
    assert all(result.done for result in build_all(jobs[:1]) + build_all(jobs[1:]))
    first, second = (job.engine.read_bytes() for job in jobs if job.engine is not None)
    assert first == second


def test_the_engine_lies_beside_its_model_with_hashes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    report = reported(path, sm=("8.6",))  # type: ignore[arg-type]
    assert report.file.startswith("model.tensorrt_rtx-")
    assert report.file.endswith("-sm86.engine")
    sidecar = json.loads((tmp_path / f"{report.file}.json").read_text())
    for key, file in (("engine", tmp_path / report.file), ("model", path)):
        assert sidecar[key] == {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert sidecar["targets"] == ["8.6"]
    assert {p.name for p in tmp_path.iterdir()} == {path.name, report.file, f"{report.file}.json"}


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08\x12" + bytes(40)], ids=["empty", "text", "garbage"])
def test_files_that_are_no_models_are_results_too(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    result = build(path)
    assert result.stage in (Stage.PARSE, Stage.BUILD)
    assert result.why()


def test_parser_errors_name_node_and_operator(tmp_path: Path) -> None:
    model = convolutions()
    relu = next(node for node in model.graph.node if node.name == "relu0")
    relu.op_type = "NoSuchOperator"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (error, *_) = build(path).errors
    assert (error.node, error.operator) == ("relu0", "NoSuchOperator")
    assert "Plugin not found" in str(error)
