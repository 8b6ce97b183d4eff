"""The real parser and builder, row by row, and what the rules say of each row before."""

from pathlib import Path

import onnx
import onnx_ir
import pytest

from sardonyx import ir
from sardonyx.backends.tensorrt.build import BuildJob, BuildResult, build, build_all
from sardonyx.backends.tensorrt.child import Stage
from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.layers import Layer
from sardonyx.backends.tensorrt.legalization import legalize
from sardonyx.backends.tensorrt.preflight import preflight
from sardonyx.backends.tensorrt.proof import prove
from sardonyx.backends.tensorrt.rules import RULES
from sardonyx.backends.tensorrt.settings import BuildSettings
from tests.backends.tensorrt.nets import packed_projection
from tests.backends.tensorrt.rows import CRASHES, ROWS, Outcome, Row

SEVERITIES = {rule.name: rule.severity for rule in RULES}


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """The graph as it is written: loading would repair names and raise opsets."""
    return onnx_ir.from_proto(proto)


def is_int8(layer: Layer) -> bool:
    """Whether a layer multiplies in INT8: a `runtime_fusion` dequantizes what it stores and multiplies in float."""
    return layer.kind in ("correlation", "gemm") and all(each.dtype == "Int8" for each in layer.inputs)


def check_outcome(result: BuildResult, outcome: Outcome) -> None:
    if outcome is Outcome.REFUSED:
        assert result.stage in (Stage.PARSE, Stage.BUILD), result
        return
    assert result.done, result.why()
    products = [layer for layer in result.layers if layer.computes_products]
    integers = [layer for layer in products if is_int8(layer)]
    if outcome is Outcome.INT8:
        assert products
        assert integers == products
    elif outcome is Outcome.FLOAT:
        assert products
        assert not integers


def _jobs(row: Row, folder: Path) -> dict[str, BuildJob]:
    """The row as it is and, where legalization changes it, legalized."""
    settings = BuildSettings(compute_capabilities=(row.sm,))
    proto = row.make()
    model = from_proto(proto)
    jobs = {row.name: BuildJob(folder / f"{row.name}.onnx", settings)}
    jobs[row.name].model.write_bytes(proto.SerializeToString())
    if row.legal is not None and legalize(model).changes:
        path = folder / f"{row.name}.legal.onnx"
        ir.save(model, path)
        jobs[f"{row.name}.legal"] = BuildJob(path, settings)
    return jobs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuildResult]:
    """All rows given to the real builder, one after the other."""
    folder = tmp_path_factory.mktemp("rows")
    jobs = {name: job for row in ROWS for name, job in _jobs(row, folder).items()}
    return dict(zip(jobs, build_all(list(jobs.values())), strict=True))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_builder_does_what_the_row_says(row: Row, built: dict[str, BuildResult]) -> None:
    check_outcome(built[row.name], row.outcome)
    if row.legal is not None:
        check_outcome(built.get(f"{row.name}.legal", built[row.name]), row.legal)


@pytest.mark.parametrize("row", [*ROWS, *CRASHES], ids=lambda row: row.name)
def test_preflight_tells_of_the_row_before(row: Row) -> None:
    model = from_proto(row.make())
    found = preflight(model, compute_capabilities=(row.sm,), legalizes=False)
    named = {finding.rule for finding in found}
    if row.rule is None:
        assert all(finding.severity is Severity.NOTE for finding in found), found
        return
    assert row.rule in named
    finding = next(finding for finding in found if finding.rule == row.rule)
    assert finding.severity is SEVERITIES[row.rule]
    assert finding.remedy.endswith(".")
    assert finding.node in finding.message
    assert finding.tensor in finding.message
    fatal = row.outcome in (Outcome.REFUSED, Outcome.CRASH)
    assert any(finding.severity is Severity.REFUSED for finding in found) == fatal
    silent = row.outcome is Outcome.FLOAT and row.rule is not None
    assert any(finding.severity is Severity.SILENT_FLOAT for finding in found) >= silent


@pytest.mark.parametrize("row", [*ROWS, *CRASHES], ids=lambda row: row.name)
def test_legalization_refuses_what_it_cannot_put_right(row: Row) -> None:
    model = from_proto(row.make())
    result = legalize(model, compute_capabilities=(row.sm,))
    assert (not result.refusals) == (row.legal is not None), result.refusals
    found = preflight(from_proto(row.make()), compute_capabilities=(row.sm,))
    fatal = {finding.rule for finding in found if finding.severity.is_fatal}
    if row.legal is None:
        assert row.rule in fatal
        assert any(f"[{row.rule}]" in refusal for refusal in result.refusals)
    else:
        assert not fatal
    if row.outcome is Outcome.REFUSED and row.legal is not None:
        assert next(finding for finding in found if finding.rule == row.rule).severity is Severity.REWRITTEN


@pytest.mark.parametrize("row", [*ROWS, *CRASHES], ids=lambda row: row.name)
def test_legalization_is_idempotent(row: Row) -> None:
    model = from_proto(row.make())
    legalize(model)
    once = ir.to_proto(model).SerializeToString()
    assert legalize(model).changes == ()
    assert ir.to_proto(model).SerializeToString() == once


@pytest.mark.parametrize("row", CRASHES, ids=lambda row: row.name)
def test_a_builder_that_dies_takes_nothing_along(row: Row, tmp_path: Path) -> None:
    path = tmp_path / "row.onnx"
    path.write_bytes(row.make().SerializeToString())
    result = build(path, BuildSettings(compute_capabilities=(row.sm,)))
    assert result.stage is Stage.CRASH
    assert "SIGSEGV" in result.why()


@pytest.mark.parametrize("how", ["split", "slice", "gather", "rows", "gemm"])
def test_projections_into_attention_run_in_int8_once_they_are_legalized(how: str, tmp_path: Path) -> None:
    path, settings = tmp_path / "row.onnx", BuildSettings(compute_capabilities=("8.6",))
    model = from_proto(packed_projection(how, attention=True))
    shares = []
    for _ in range(2):
        ir.save(model, path)
        proof = prove(model, build(path, settings).layers)
        shares.append((proof.integer, proof.planned))
        legalize(model)
    assert shares == [(0, 1), (3, 3)]
