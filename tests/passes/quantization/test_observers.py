"""Observers keep constant state, lose no count, and merge exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sardonyx.passes.quantization.observers import BINS, MinMaxObserver, ObservedRange, PercentileObserver

samples = st.lists(
    hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6
)


@given(parts=samples, cut=st.integers(0, 6))
def test_merged_equals_single(parts: list[np.ndarray], cut: int) -> None:
    whole, first, second = PercentileObserver(99.0), PercentileObserver(99.0), PercentileObserver(99.0)
    for index, part in enumerate(parts):
        whole.observe(part)
        (first if index < cut else second).observe(part)
    first.merge(second)
    np.testing.assert_array_equal(first.counts, whole.counts)
    assert first.exponent == whole.exponent
    assert first.range() == whole.range()


@given(parts=samples)
def test_no_count_is_lost_when_the_range_grows(parts: list[np.ndarray]) -> None:
    observer = PercentileObserver()
    for part in parts:
        observer.observe(part)
    assert observer.counts.sum() == sum(part.size for part in parts)
    assert observer.counts.size == 2 * BINS


@given(parts=samples)
def test_the_whole_share_is_the_extremes(parts: list[np.ndarray]) -> None:
    percentile, extremes = PercentileObserver(100.0), MinMaxObserver()
    for part in parts:
        percentile.observe(part)
        extremes.observe(part)
    assert percentile.range() == extremes.range()


def test_percentile_is_near_the_quantile() -> None:
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    observer = PercentileObserver(99.0)
    for part in np.array_split(values, 7):
        observer.observe(part)
    low, high = np.quantile(values, [0.005, 0.995])
    bin_width = 2.0**observer.exponent / BINS if observer.exponent is not None else 0.0
    assert observer.range().low == pytest.approx(low, abs=2 * bin_width)
    assert observer.range().high == pytest.approx(high, abs=2 * bin_width)


def test_one_sided_values_keep_zero_as_their_end() -> None:
    observer = PercentileObserver(90.0)
    observer.observe(np.concatenate([np.zeros(1000), np.linspace(0, 1, 1000)]).astype(np.float32))
    assert observer.range().low == 0.0


def test_nothing_and_only_zeros() -> None:
    assert PercentileObserver().range() == ObservedRange(0.0, 0.0)
    observer = PercentileObserver()
    observer.observe(np.zeros(5, np.float32))
    assert observer.range() == ObservedRange(0.0, 0.0)
    observer.observe(np.array([4.0], np.float32))
    assert observer.counts.sum() == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [MinMaxObserver, PercentileObserver])
def test_values_that_are_not_finite_are_not_hidden(kind: type, bad: float) -> None:
    observer = kind()
    observer.observe(np.array([1.0, bad], np.float32))
    observer.observe(np.array([2.0], np.float32))
    assert not observer.range().finite
