"""Models that other tools quantized: legalized they parse, build in INT8, and keep their numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import quantization
from onnxruntime.quantization import QuantFormat, QuantType

from sardonyx import ir
from sardonyx.backends.tensorrt.build import BuildJob, build_all
from sardonyx.backends.tensorrt.legalization import legalize
from sardonyx.backends.tensorrt.preflight import preflight
from tests.models_for_tests import cnn, images, run


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds for calibration."""

    def __init__(self) -> None:
        self.feeds = iter(images(8))

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self.feeds, None)


@dataclass(frozen=True)
class Case:
    """One way of quantizing.

    Attributes:
        name: Its id.
        options: Options of quantize_static.
        dynamic: Whether quantize_dynamic makes it instead.
        tolerance: Largest difference from the foreign model, relative to the largest score. Asymmetric ranges become
            up to twice as wide, so that steps of 1/255 of the range become steps of 1/127; several layers add up.
        int8: Number of products in INT8 afterwards.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dynamic: bool = False
    tolerance: float = 0.02
    int8: int = 3


SYMMETRIC = {"extra_options": {"ActivationSymmetric": True}}

CASES = (
    Case("qdq"),
    Case("qdq-per-channel", {"per_channel": True}),
    Case("qdq-uint8-activations", {"activation_type": QuantType.QUInt8}),
    Case("qdq-uint8", {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}),
    Case("qoperator", {"quant_format": QuantFormat.QOperator}),
    Case("qoperator-per-channel", {"quant_format": QuantFormat.QOperator, "per_channel": True}),
    # Shifted by 128 or not at all: nothing but the rounding of float sums differs, which can tip single integers.
    Case("qdq-symmetric", SYMMETRIC, tolerance=0.01),
    Case("qdq-symmetric-uint8", SYMMETRIC | {"activation_type": QuantType.QUInt8}, tolerance=0.01),
    Case("qoperator-symmetric", SYMMETRIC | {"quant_format": QuantFormat.QOperator}, tolerance=0.01),
    # 16 bits are 256 times as fine as the float they become.
    Case("qdq-uint16", {"activation_type": QuantType.QUInt16}, tolerance=1e-4, int8=0),
    # Activations are no longer rounded to 8 bits.
    Case("dynamic", dynamic=True, tolerance=0.01, int8=0),
)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small CNN, quantized in each way."""
    folder = tmp_path_factory.mktemp("foreign")
    original = folder / "float.onnx"
    onnx.save(cnn(batch=1), original)
    paths = {}
    for case in CASES:
        paths[case.name] = folder / f"{case.name}.onnx"
        if case.dynamic:
            quantization.quantize_dynamic(original, paths[case.name])
        else:
            quantization.quantize_static(original, paths[case.name], Reader(), **case.options)
    return paths


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_numbers_stay(case: Case, foreign: dict[str, Path]) -> None:
    model = ir.load(foreign[case.name]).model
    result = legalize(model)
    assert result.changes
    assert result.refusals == ()
    assert result.exact is case.name.startswith("qdq-symmetric")
    for feed in images(4, seed=5):
        expected, given = run(onnx.load(foreign[case.name]), feed)[0], run(model, feed)[0]
        np.testing.assert_allclose(given, expected, rtol=0, atol=case.tolerance * np.abs(expected).max())


def test_all_of_them_build_only_when_legalized(foreign: dict[str, Path], tmp_path: Path) -> None:
    jobs = []
    for case in CASES:
        model = ir.load(foreign[case.name]).model
        legalize(model)
        ir.save(model, tmp_path / f"{case.name}.onnx")
        jobs += [BuildJob(foreign[case.name]), BuildJob(tmp_path / f"{case.name}.onnx")]
    results = build_all(jobs)
    for case, before, after in zip(CASES, results[::2], results[1::2], strict=True):
        assert not before.done, case.name
        assert after.done, f"{case.name}: {after.why()}"
        integers = [
            layer for layer in after.layers if layer.kind in ("correlation", "gemm") and layer.precision == "Int8"
        ]
        assert len(integers) == case.int8, case.name


def test_preflight_says_that_it_is_put_right(foreign: dict[str, Path]) -> None:
    found = preflight(ir.load(foreign["qdq-uint8"]).model)
    rewritten = {finding.rule for finding in found if finding.severity == "rewritten"}
    assert rewritten == {"uint8-activation", "uint8-weights", "zero-point", "int32-dequantized"}
    assert not any(finding.severity.is_fatal for finding in found)
