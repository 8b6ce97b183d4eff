"""What observers look at: every element for extremes, all or one in several for histograms; and how it is fetched."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from sardonyx.measure import Session
from sardonyx.passes.quantization.calibration import Histogram
from sardonyx.passes.quantization.calibration.bank import ObserverBank
from sardonyx.passes.quantization.calibration.batch import LEAST_COUNTED, Run, ValueBatch, thinning_stride
from sardonyx.passes.quantization.calibration.taps import observe_samples
from tests import models_for_tests as build
from tests.passes.quantization.test_observers import assert_same

SHAPE = (4, 24, 120)
SAMPLES = build.weights(40, *SHAPE, seed=1)


def histogram(*batches: ValueBatch) -> Histogram:
    seen = Histogram()
    for batch in batches:
        seen.observe_batch(batch)
    return seen


@given(cuts=st.lists(st.integers(0, 12), max_size=4), thinning=st.sampled_from([1, 7, 16]))
def test_what_is_counted_does_not_depend_on_what_is_looked_at_together(cuts: list[int], thinning: int) -> None:
    edges = sorted({0, 12, *cuts})
    parts = [ValueBatch((Run(i, SAMPLES[i:j]),), thinning) for i, j in pairwise(edges)]
    alone = [ValueBatch((Run(i, SAMPLES[i : i + 1]),), thinning) for i in reversed(range(12))]
    assert_same(histogram(*parts).state(), histogram(*alone).state())


def test_thinned_counts_stand_for_all_elements() -> None:
    seen = histogram(ValueBatch((Run(0, SAMPLES),), thinning=16))
    assert seen.state()["counts"].sum() == pytest.approx(SAMPLES.size, rel=1e-3)
    assert (seen.range().low, seen.range().high) == (SAMPLES.min(), SAMPLES.max()), "extremes are of all"
    whole = histogram(ValueBatch((Run(0, SAMPLES),)))
    assert seen.distribution().quantile(0.9) == pytest.approx(whole.distribution().quantile(0.9), rel=0.02)


def test_extremes_that_were_not_counted_are_known_to_be_there() -> None:
    tensor = np.ones((1, 64 * LEAST_COUNTED), np.float32)
    tensor[0, 1:3] = 50.0, -7.0  # between two that are counted
    values = histogram(ValueBatch((Run(0, tensor),), thinning=16)).distribution()
    assert (values.low, values.high) == (-7.0, 50.0)
    assert values.mass.tolist()[::2] == [1.0, 1.0]


@pytest.mark.parametrize("size", [1, 512, 1024, 4096, 8000, 17 * 1024, 2 * 3 * 5 * 7 * 11 * 13 * 17 * 19])
def test_strides_favour_no_dimension(size: int) -> None:
    stride = thinning_stride(size, 16)
    assert np.gcd(stride, size) == 1
    assert size // stride >= min(size, LEAST_COUNTED) // 2
    assert thinning_stride(size, 1) == 1


def test_every_place_is_counted_by_as_many_samples_as_the_stride_is_long() -> None:
    places = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    stride = thinning_stride(places.size, 16)
    batch = ValueBatch((Run(5, np.stack([places] * stride)),), thinning=16)
    counted = np.concatenate([piece.counted for piece in batch.pieces()])
    np.testing.assert_array_equal(np.sort(counted), places.reshape(-1))


def observed(model: object, values: list[str], feeds: list[tuple[int, dict[str, np.ndarray]]]) -> ObserverBank:
    bank = ObserverBank(values, ["histogram", "moving-extremes"])
    done: list[int] = []
    with Session(model.SerializeToString()) as session:  # type: ignore[attr-defined]
        tapped = [name for name in values if name != "x"]
        assert observe_samples(session, bank, tapped, feeds, done.extend, most=5) == len(feeds)
    assert done == [index for index, _ in feeds]
    return bank


def assert_seen(model: object, values: list[str], feeds: list[tuple[int, dict[str, np.ndarray]]]) -> None:
    """The observers know the same as if each sample had been run and shown to them by itself."""
    expected = ObserverBank(values, ["histogram", "moving-extremes"])
    for index, feed in feeds:
        for name, array in zip(values, [feed["x"], *build.run(model, feed)], strict=True):  # type: ignore[arg-type]
            for observer in expected.observers[name].values():
                observer.observe(array, index)
    assert_same(observed(model, values, feeds).state(), expected.state())


class TestFetching:
    relu = build.proto([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", "M"]}, {"y": ["N", "M"]})

    @pytest.mark.parametrize("rows", [[3] * 13, [3, 3, 3, 4, 4, 3, 3, 3, 5, 4, 4], [200_000] * 5], ids=str)
    def test_shapes_that_stay_and_shapes_that_change(self, rows: list[int]) -> None:
        feeds = [(i, {"x": build.weights(count, 7, seed=i)}) for i, count in enumerate(rows)]
        assert_seen(self.relu, ["x", "y"], feeds)

    def test_indices_with_gaps(self) -> None:
        assert_seen(self.relu, ["x", "y"], [(i, {"x": build.weights(3, 7, seed=i)}) for i in (0, 1, 2, 7, 8, 20, 21)])

    def test_values_whose_shape_the_inputs_do_not_tell(self) -> None:
        nodes = [
            helper.make_node("Greater", ["x", "zero"], ["positive"]),
            helper.make_node("Compress", ["x", "positive"], ["y"], axis=0),
        ]
        model = build.proto(nodes, {"x": [9]}, {"y": [None]}, {"zero": np.float32(0)})
        assert_seen(model, ["x", "y"], [(i, {"x": build.weights(9, seed=i)}) for i in range(11)])
