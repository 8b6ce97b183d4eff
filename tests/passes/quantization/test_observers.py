"""Observers keep constant state, lose no count, merge exactly, and survive being stored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sardonyx.passes.quantization.calibration import OBSERVERS, Extremes, Histogram, MovingExtremes, ObservedRange
from sardonyx.passes.quantization.calibration import extremes as extremes_module
from sardonyx.passes.quantization.calibration.histogram import OCTAVE_BINS, SIDE

any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)
some_float = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([0.0, -0.0, 1e-45, -1e-38, 3e38, 1.0, -1.0]))
samples = st.lists(
    st.one_of(
        hnp.arrays(np.float32, st.integers(0, 30), elements=some_float),
        hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 5)), elements=any_float),
    ),
    min_size=1,
    max_size=6,
)
kinds = pytest.mark.parametrize("kind", sorted(OBSERVERS))


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name


@kinds
@given(parts=samples, order=st.randoms(use_true_random=False), owners=st.lists(st.integers(0, 3), min_size=6))
def test_merged_equals_single_whatever_the_order(kind: str, parts: list, order, owners: list[int]) -> None:
    whole, split = OBSERVERS[kind](), [OBSERVERS[kind]() for _ in range(4)]
    for index, part in enumerate(parts):
        whole.observe(part, index)
    for index in order.sample(range(len(parts)), len(parts)):
        split[owners[index]].observe(parts[index], index)
    order.shuffle(split)
    merged = split[0]
    for other in split[1:]:
        merged.merge(type(other).restore(other.state()))
    assert_same(merged.state(), whole.state())
    assert repr(merged.range()) == repr(whole.range())


@given(parts=samples)
def test_no_count_is_lost_when_the_range_grows(parts: list[np.ndarray]) -> None:
    histogram = Histogram()
    for index, part in enumerate(parts):
        histogram.observe(part, index)
    finite = all(np.isfinite(part).all() for part in parts)
    assert histogram.state()["counts"].sum() == (sum(part.size for part in parts) if finite else 0)
    values = histogram.distribution()
    assert values.mass.sum() + values.zeros == histogram.state()["counts"].sum()


@given(tensor=hnp.arrays(np.float32, st.integers(1, 200), elements=some_float))
def test_each_value_lies_in_its_bin(tensor: np.ndarray) -> None:
    histogram = Histogram()
    histogram.observe(tensor, 0)
    values = histogram.distribution()
    assert np.all(values.left <= values.right)
    assert np.all(values.right[:-1] <= values.left[1:])
    normal = np.abs(tensor) >= np.finfo(np.float32).tiny
    assert values.zeros == np.count_nonzero(~normal)
    for value in tensor[normal]:
        index = np.searchsorted(values.left, value, side="right") - 1
        inside = values.left[index] <= value <= values.right[index]
        # A negative value on an edge belongs to the bin above it, whose upper edge it is.
        assert inside or values.right[index - 1] == value
    assert np.all(values.right - values.left <= np.maximum(np.abs(values.left), np.abs(values.right)) / OCTAVE_BINS)


def test_large_and_small_samples_count_the_same() -> None:
    tensor = np.random.default_rng(0).standard_normal(200_001).astype(np.float32) ** 3
    whole, parts, transposed = Histogram(), Histogram(), Histogram()
    whole.observe(tensor, 0)
    for index, part in enumerate(np.array_split(tensor, 333)):
        parts.observe(part, index)
    transposed.observe(tensor.reshape(3, -1).T, 0)
    assert_same(whole.state(), parts.state())
    assert_same(whole.state(), transposed.state())


def test_outliers_leave_the_rest_its_bins() -> None:
    histogram, tensor = Histogram(), np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    histogram.observe(tensor, 0)
    histogram.observe(np.array([3000.0], np.float32), 1)
    assert histogram.distribution().quantile(0.9) == pytest.approx(np.quantile(tensor, 0.9), rel=0.01)


def test_all_magnitudes_of_float32_have_bins() -> None:
    histogram, finite = Histogram(), np.finfo(np.float32)
    histogram.observe(np.array([finite.tiny, -finite.tiny, 1e-45, 0.0, 1.0, finite.max, finite.min], np.float32), 0)
    values = histogram.distribution()
    assert values.zeros == 2
    assert values.mass.tolist() == [1.0] * 5
    assert (values.low, values.high) == (finite.min, finite.max)


def test_more_counts_than_32_bits_hold() -> None:
    histogram, other = Histogram(), Histogram()
    for each in (histogram, other):
        each.observe(np.full(40_000, 1.5, np.float32), 0)
    stored = histogram.state()
    stored["counts"] = stored["counts"] + 2**32 - 40_000 - 8
    histogram = Histogram.restore(stored)
    histogram.observe(np.full(9, 1.5, np.float32), 1)
    assert histogram.state()["counts"].tolist() == [2**32 + 1]
    histogram.merge(other)
    other.merge(Histogram.restore(stored))
    assert histogram.state()["counts"].tolist() == [2**32 + 40_001]
    assert other.state()["counts"].tolist() == [2**32 + 40_000 - 8]


def test_the_state_does_not_grow() -> None:
    histogram, moving, generator = Histogram(), MovingExtremes(), np.random.default_rng(0)
    for index in range(extremes_module.WINDOW + 50):
        sample = generator.standard_normal(20).astype(np.float32)
        histogram.observe(sample, index)
        moving.observe(sample, index)
    assert histogram.state()["bins"].max() < 2 * SIDE
    assert moving.state()["indices"].size == extremes_module.WINDOW


def test_the_moving_average_follows_the_samples_indices() -> None:
    extremes = [(-1.0, 1.0), (-3.0, 5.0), (0.0, 2.0)]
    observer = MovingExtremes()
    for index in (2, 0, 1):
        observer.observe(np.array(extremes[index], np.float32), index)
    momentum = extremes_module.MOMENTUM
    low, high = extremes[0]
    for newest in extremes[1:]:
        low, high = low + momentum * (newest[0] - low), high + momentum * (newest[1] - high)
    assert observer.range() == ObservedRange(low, high)


def test_what_the_moving_average_forgets_would_not_show() -> None:
    weight_of_the_rest = (1 - extremes_module.MOMENTUM) ** (extremes_module.WINDOW - 1)
    assert weight_of_the_rest < 2.0**-24


@kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_hidden(kind: str, bad: float) -> None:
    observer = OBSERVERS[kind]()
    observer.observe(np.array([1.0, bad], np.float32), 0)
    for index in range(1, 5):
        observer.observe(np.array([2.0], np.float32), index)
    assert observer.range().finite == (kind == "finite-extremes")


def test_what_is_not_finite_is_the_same_in_any_order() -> None:
    """Samples of several chunks: each one's NaN counts, even behind an infinity that was seen before."""
    late = np.ones(100_000, np.float32)
    late[-1] = np.nan
    early = np.full(70_000, np.inf, np.float32)
    whole, parts = Histogram(), (Histogram(), Histogram())
    for index, sample in enumerate((early, late)):
        whole.observe(sample, index)
        parts[index].observe(sample, index)
    parts[1].merge(parts[0])
    assert_same(whole.state(), parts[1].state())
    assert repr(whole.range()) == "ObservedRange(low=nan, high=nan)"


@kinds
def test_nothing_and_only_zeros(kind: str) -> None:
    observer = OBSERVERS[kind]()
    assert observer.range() == ObservedRange(0.0, 0.0)
    observer.observe(np.zeros((0, 3), np.float32), 0)
    observer.observe(np.array([0.0, -0.0], np.float32), 1)
    assert observer.range() == ObservedRange(0.0, 0.0)


@kinds
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_taken_as_float32(kind: str, dtype: type) -> None:
    tensor = np.random.default_rng(0).standard_normal((7, 3000)).astype(dtype)
    first, second = OBSERVERS[kind](), OBSERVERS[kind]()
    first.observe(tensor, 0)
    second.observe(tensor.astype(np.float32), 0)
    assert_same(first.state(), second.state())


def test_float64_beyond_float32_is_infinite() -> None:
    observer = Extremes()
    observer.observe(np.array([1e300]), 0)
    assert observer.range().high == np.inf
