"""Where the time goes: the runtime's nodes, by nodes of the models. Only sums and names are tested, not speed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sardonyx import ir
from sardonyx.cli.main import app
from sardonyx.diff.document import MeasuredDiff
from sardonyx.diff.matching import match
from sardonyx.diff.timing import Times, node_times
from sardonyx.errors import BackendError
from sardonyx.measure import Session
from sardonyx.measure.profile import original_name
from tests.diff.test_drift import changed_weight, quantized
from tests.models_for_tests import cnn, images


@pytest.fixture(scope="module")
def times(tmp_path_factory: pytest.TempPathFactory) -> Times:
    folder = tmp_path_factory.mktemp("times")
    before = ir.load(cnn()).model
    after = quantized(before)
    paths = folder / "before.onnx", folder / "after.onnx"
    for model, path in zip((before, after), paths, strict=True):
        ir.save(model, path)
    return node_times(paths, (before, after), match(before, after), images(1)[0], runs=3)


def test_all_time_is_in_regions_or_shown_as_untraced(times: Times) -> None:
    assert times.runs == 3
    for side in ("before", "after"):
        kernels = [k for region in times.regions for k in getattr(region, f"{side}_kernels")]
        loose = getattr(times, f"{side}_untraced")
        assert kernels
        listed = sum(kernel.seconds for kernel in (*kernels, *loose))
        summed = sum(getattr(region, f"{side}_seconds") for region in times.regions) + sum(k.seconds for k in loose)
        assert summed == pytest.approx(listed)
        assert getattr(times, f"{side}_seconds") > 0


def test_convolutions_are_traced_through_fusion_and_quantization(times: Times) -> None:
    regions = [r for r in times.regions if any(node.op_type == "Conv" for node in r.before)]
    assert regions
    assert all(r.before_kernels and r.after_kernels for r in regions)
    assert {n.name for r in regions for n in r.before if n.op_type == "Conv"} == {"conv1", "conv2"}


def test_a_node_is_in_one_region(times: Times) -> None:
    for side in ("before", "after"):
        nodes = [(n.scope, n.index) for region in times.regions for n in getattr(region, side)]
        assert len(nodes) == len(set(nodes))


def test_only_a_profiled_session_has_a_profile() -> None:
    with Session(cnn().SerializeToString()) as session, pytest.raises(BackendError, match="not being profiled"):
        session.end_profile()


def test_diff_with_data_prints_both(tmp_path: Path) -> None:
    before, after, data = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "d"
    onnx.save(cnn(), before)
    ir.save(changed_weight("w2", 1.5), after)
    data.mkdir()
    np.savez(data / "0.npz", **images(1)[0])
    args = ["diff", str(before), str(after), "--data", str(data)]
    done = CliRunner().invoke(app, [*args, "--summary"])
    assert done.exit_code == 1
    assert "first parts at w2" in done.stdout
    assert "conv2 (Conv) -> conv2 (Conv)" in done.stdout
    assert "time of all nodes" in done.stdout
    said = MeasuredDiff.model_validate_json(CliRunner().invoke(app, [*args, "--json"]).stdout)
    assert said.drift.first is not None
    assert said.drift.places[said.drift.first].before == "w2"
    assert said.times.regions
    assert not said.same


@pytest.mark.parametrize(
    ("kernel", "node"),
    [
        ("conv1_nchwc", "conv1"), ("conv1_quant", "conv1"), ("r1_QuantizeLinear_q", "r1_QuantizeLinear"),
        ("conv1_nhwc_dq", "conv1"), ("conv1_token_12", "conv1"), ("down_q_proj", "down_q_proj"), ("seq", "seq"),
    ],
)  # fmt: skip
def test_the_ends_that_the_runtime_appends_are_taken_off(kernel: str, node: str) -> None:
    assert original_name(kernel) == node
