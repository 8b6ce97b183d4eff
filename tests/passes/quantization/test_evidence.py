"""What rounding costs, beside what it costs when computed element by element."""

import math

import numpy as np
import pytest

from sardonyx import ir
from sardonyx.passes.quantization.calibration import Histogram
from sardonyx.passes.quantization.evidence import MOST_ELEMENTS, WORST_WEIGHTS, rounding_evidence, sqnr_db
from sardonyx.passes.quantization.plan import PointKind, QuantPoint

RNG = np.random.default_rng(5)


def activation(low: float, high: float, **options: object) -> QuantPoint:
    scale = (high - low) / 255
    values = {"scale": (scale,), "zero_point": (round(-low / scale),), "low": low, "high": high} | options
    return QuantPoint("x", PointKind.ACTIVATION, "UINT8", **values)  # type: ignore[arg-type]


def test_the_error_of_an_activation_is_that_of_its_elements() -> None:
    values = RNG.normal(size=20_000).astype(np.float32)
    values[:5000] = 0.0
    histogram = Histogram()
    histogram.observe(values, 0)
    point = activation(-2.0, 2.0)
    (entry,) = rounding_evidence([point], {"x": histogram.distribution().rebinned(2048)}, {}, {})["activations"]
    integers = np.clip(np.rint(values / point.scale[0]) + point.zero_point[0], 0, 255)
    error = (integers - point.zero_point[0]) * point.scale[0] - values
    assert entry["sqnr_db"] == pytest.approx(10 * math.log10((values**2).sum() / (error**2).sum()), abs=0.2)
    assert sum(entry["counts"]) == pytest.approx(20_000, abs=64)
    assert entry["edges"] == pytest.approx([values.min(), values.max()], rel=0.01)  # edges of bins, 1/256 wide
    zero = np.searchsorted(np.linspace(*entry["edges"], 65), 0.0) - 1
    assert entry["counts"][zero] > 5000


def test_values_that_share_a_range_are_told_once() -> None:
    histogram = Histogram()
    histogram.observe(np.ones(4, np.float32), 0)
    points = [activation(0.0, 1.0), activation(0.0, 1.0, shared_with="other")]
    assert len(rounding_evidence(points, {"x": histogram.distribution()}, {}, {})["activations"]) == 1


@pytest.mark.parametrize("columns", [8, 2 * MOST_ELEMENTS // 16])
def test_the_error_of_a_weight_is_that_of_its_elements(columns: int) -> None:
    weight = RNG.normal(size=(16, columns)).astype(np.float32) * np.arange(1, 17, dtype=np.float32)[:, None]
    scale = np.abs(weight).max(axis=1) / 127
    point = QuantPoint("w", PointKind.WEIGHT, "INT8", tuple(scale.tolist()), (0,) * 16, axis=0)
    tensors = {"w": ir.tensor(weight)}
    (entry,) = rounding_evidence([point], {}, tensors, tensors)["weights"]
    error = np.rint(weight / scale[:, None]) * scale[:, None] - weight
    expected = 10 * math.log10((weight.astype(float) ** 2).sum() / (error**2).sum())
    assert entry["sqnr_db"] == pytest.approx(expected, abs=0.01 if columns == 8 else 0.3)  # of a sample where large
    assert entry["max_abs"] <= np.abs(error).max() * 1.001
    assert entry["channels"] == 16
    assert entry["scale_ratio"] == pytest.approx(scale.max() / scale.min())


def test_only_the_worst_weights_are_kept_the_worst_first() -> None:
    tensors = {f"w{i}": ir.tensor(np.full(4, 1.0 + 0.1 * i, np.float32)) for i in range(WORST_WEIGHTS + 5)}
    points = [QuantPoint(name, PointKind.WEIGHT, "INT8", (1.0,), (0,)) for name in tensors]
    weights = rounding_evidence(points, {}, tensors, tensors)["weights"]
    assert len(weights) == WORST_WEIGHTS
    known = [entry["sqnr_db"] for entry in weights if entry["sqnr_db"] is not None]
    assert known == sorted(known)


def test_no_noise_or_no_signal_has_no_ratio() -> None:
    assert sqnr_db(1.0, 0.0) is None
    assert sqnr_db(0.0, 1.0) is None
    assert sqnr_db(100.0, 1.0) == 20.0
