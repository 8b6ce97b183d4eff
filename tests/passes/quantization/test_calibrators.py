"""Each calibrator chooses the range that its criterion asks for."""

import numpy as np
import pytest

from sardonyx.errors import SpecError
from sardonyx.passes.quantization.calibration import CALIBRATORS, OBSERVERS, ObservedRange, calibrator
from sardonyx.passes.quantization.scheme import Scheme

methods = pytest.mark.parametrize("method", sorted(CALIBRATORS))
GENERATOR = np.random.default_rng(0)
NORMAL = GENERATOR.standard_normal(100_000).astype(np.float32)
SHAPES = {
    "normal": NORMAL,
    "relu": np.maximum(NORMAL, 0),
    "heavy tails": GENERATOR.standard_t(3, 100_000).astype(np.float32),
    "two humps": np.concatenate([NORMAL + 20, NORMAL / 2]),
}
tensors = pytest.mark.parametrize("tensor", SHAPES.values(), ids=SHAPES)
schemes = pytest.mark.parametrize("text", ["uint8", "int8/symmetric/narrow", "uint4", "int4/symmetric", "float8e4m3fn"])


def range_of(method: str, tensor: np.ndarray, text: str = "uint8", percentile: float = 99.99) -> ObservedRange:
    chosen = calibrator(method)
    observer = OBSERVERS[chosen.observer]()
    for index, part in enumerate(np.array_split(tensor, 7)):
        observer.observe(part, index)
    return chosen.range(observer, Scheme.parse(text), percentile)


def restored(tensor: np.ndarray, found: ObservedRange, text: str) -> np.ndarray:
    scheme = Scheme.parse(text)
    parameters = scheme.parameters(found.low, found.high)
    return scheme.dequantize(scheme.quantize(tensor, parameters), parameters).astype(np.float64)


def error(tensor: np.ndarray, found: ObservedRange, text: str) -> float:
    return float(((restored(tensor, found, text) - tensor) ** 2).mean())


def grid(tensor: np.ndarray) -> list[ObservedRange]:
    """Shrunken ranges, both ends by themselves."""
    ratios = np.linspace(0.05, 1, 20)
    low, high = min(float(tensor.min()), 0.0), float(tensor.max())
    return [ObservedRange(low * a, high * b) for a in (ratios if low else [1.0]) for b in ratios]


@schemes
@tensors
@pytest.mark.parametrize("method", ["mse", "joint"])
def test_least_squared_error(method: str, tensor: np.ndarray, text: str) -> None:
    some = tensor[::25]
    best = min(error(some, candidate, text) for candidate in grid(some))
    # What is uniform within a bin and what is not differ by some percent at few values; the ends are alternated.
    assert error(some, range_of(method, some, text), text) <= 1.06 * best


@schemes
@tensors
def test_least_angle(tensor: np.ndarray, text: str) -> None:
    def cosine(found: ObservedRange) -> float:
        other = restored(tensor[::25], found, text)
        return float(tensor[::25] @ other / max(np.linalg.norm(tensor[::25]) * np.linalg.norm(other), 1e-30))

    best = max(cosine(candidate) for candidate in grid(tensor[::25]))
    assert 1 - cosine(range_of("cosine", tensor[::25], text)) <= 1.06 * (1 - best)


@pytest.mark.parametrize(("share", "low", "high"), [(99.0, 0.005, 0.995), (90.0, 0.05, 0.95), (99.9, 0.0005, 0.9995)])
def test_percentile_is_near_the_quantile(share: float, low: float, high: float) -> None:
    found = range_of("percentile", NORMAL, percentile=share)
    assert [found.low, found.high] == pytest.approx(
        np.quantile(NORMAL, [low, high]).tolist(), rel=3e-3
    )  # bins of 1/512


def test_percentile_keeps_zero_as_the_end_of_one_sided_values() -> None:
    tensor = np.concatenate([np.zeros(1000), np.linspace(0, 1, 1000)]).astype(np.float32)
    assert range_of("percentile", tensor, percentile=90.0).low == 0.0


def test_the_whole_share_is_the_extremes() -> None:
    assert range_of("percentile", NORMAL, percentile=100.0) == range_of("minmax", NORMAL)


def test_entropy_clips_rare_outliers_and_keeps_what_is_common() -> None:
    tensor = np.append(NORMAL, np.float32([40.0, -35.0]))
    found = range_of("entropy", tensor, "int8/symmetric")
    assert 3.0 < found.high < 8.0
    humps = range_of("entropy", SHAPES["two humps"], "uint8")
    assert humps.high > 21.0


def test_entropy_keeps_the_whole_range_of_many_levels() -> None:
    assert range_of("entropy", NORMAL, "int16") == range_of("minmax", NORMAL)


def test_entropy_is_zero_where_each_bin_has_a_level() -> None:
    """Constant steps within each level lose nothing: the whole range has no divergence at all."""
    tensor = np.repeat(np.arange(1, 256, dtype=np.float32), 10)
    found = range_of("entropy", tensor, "uint8")
    assert (found.low, found.high) == (0.0, 255.0)


@methods
@schemes
def test_nothing_and_zeros_have_an_empty_range(method: str, text: str) -> None:
    assert range_of(method, np.zeros(0, np.float32), text) == ObservedRange(0.0, 0.0)
    assert range_of(method, np.zeros(20, np.float32), text) == ObservedRange(0.0, 0.0)


@methods
@schemes
@pytest.mark.parametrize("constant", [6.0, -0.37, 1e-30, 3e38, 1e-44])
def test_constants_are_represented(method: str, text: str, constant: float) -> None:
    tensor = np.full(100, constant, np.float32)
    found = range_of(method, tensor, text)
    assert found.finite
    if abs(constant) > 1e-30:  # smaller ones are below the smallest scale
        assert restored(tensor, found, text) == pytest.approx(tensor.astype(np.float64), rel=0.04)


@methods
@schemes
def test_half_precision_values(method: str, text: str) -> None:
    half = range_of(method, NORMAL.astype(np.float16), text)
    assert half == range_of(method, NORMAL.astype(np.float16).astype(np.float32), text)
    assert half.low <= 0 < half.high


@methods
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_reported(method: str, bad: float) -> None:
    found = range_of(method, np.array([1.0, bad, 2.0], np.float32))
    if method == "finite-minmax":
        assert (found.low, found.high) == (1.0, 2.0)
    else:
        assert not found.finite


@methods
@tensors
def test_ranges_stay_within_what_was_observed(method: str, tensor: np.ndarray) -> None:
    found = range_of(method, tensor)
    step = (found.high - found.low) / 255
    slack = step if method == "joint" else 0.0  # its scale may round the ends outwards
    assert found.low >= min(float(tensor.min()), 0.0) - slack
    assert found.high <= float(tensor.max()) + slack


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SpecError, match="no calibrator 'best'"):
        calibrator("best")
