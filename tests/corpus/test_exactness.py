"""The judgement itself: it must be able to say no."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import models_for_tests as build
from tests.exactness import REASSOCIATING, STRICT, compare, judge, relaxation

ONE = np.array([1.0, -2.0, 1e-9], np.float32)


@pytest.mark.parametrize("dtype", STRICT)
def test_rounding_passes_and_more_does_not(dtype: np.dtype[np.floating]) -> None:
    before = np.array([1.0, -2.0, 0.5], dtype)
    assert compare(before, before * (1 + dtype.type(STRICT[dtype] / 2))) == ""
    assert "of the scale 2" in compare(before, before * (1 + dtype.type(STRICT[dtype] * 4)))


def test_a_value_near_zero_is_measured_by_its_output() -> None:
    assert compare(ONE, ONE + np.array([0, 0, 1e-7], np.float32)) == ""
    assert compare(ONE, ONE + np.array([0, 0, 1e-4], np.float32)) != ""


def test_what_is_no_rounding_never_passes() -> None:
    nan = np.array([1.0, np.nan, 1e-9], np.float32)
    assert compare(nan, nan) == ""
    assert "not finite" in compare(ONE, nan)
    assert "not finite" in compare(nan, ONE)
    assert compare(np.array([np.inf], np.float32), np.array([-np.inf], np.float32)) != ""
    assert "float64" in compare(ONE, ONE.astype(np.float64))
    assert compare(ONE, ONE[None]) == "float32[3] against float32[1, 3]"
    assert compare(np.array([1, 2]), np.array([1, 3])) == "1 other values"
    assert compare(np.array(["a"], object), np.array(["b"], object)) == "other objects"
    assert compare([ONE], [ONE, ONE]) == "1 against 2 elements"
    assert compare([ONE, ONE], [ONE, ONE * 2]) != ""


def test_only_stated_rules_relax() -> None:
    assert relaxation({"merge-reshapes": 3, "unheard-of": 1}) == 1.0
    assert relaxation({"merge-reshapes": 3, "fuse-batch-norm": 1}) == pytest.approx(10.0)
    assert all(1e-5 < rtol <= 1e-3 for rtol in REASSOCIATING.values())


def test_verdicts() -> None:
    feed = [build.images(1)[0]]
    outcome = judge(build.cnn(), feed)
    assert (outcome.verdict, outcome.evaluator) == ("equal", "ONNX Runtime")
    assert outcome.rules["fuse-batch-norm"] > 0
    assert outcome.nodes[1] < outcome.nodes[0]
    assert judge(onnx.ModelProto(), feed).verdict == "not loaded"
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    unknown = helper.make_graph([helper.make_node("Unheard", ["x"], ["y"], domain="of")], "g", [info], [])
    unknown.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("of", 1)]
    outcome = judge(helper.make_model(unknown, opset_imports=imports, ir_version=8), [{"x": ONE[:1]}])
    assert outcome.verdict == "original does not run"
    assert "Unheard" in outcome.reason
