import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sardonyx.errors import DataError
from sardonyx.measure import PairedLatency, Session, median_interval, paired_latency, paired_timing
from tests.measure.measure_models import matmul_chain, scale_model

FEED = {"x": np.ones((64, 64), np.float32)}


def test_the_model_with_twenty_times_the_work_is_slower():
    a, b = Session(matmul_chain(40)), Session(matmul_chain(2))
    forth = paired_latency(a, b, FEED, seconds=0.1)
    assert forth.faster
    assert not forth.slower
    assert forth.low <= forth.ratio <= forth.high
    assert forth.a_seconds > forth.b_seconds > 0
    assert paired_latency(b, a, FEED, seconds=0.1).slower


def test_runs_alternate_in_order_and_go_on_until_the_least_number_of_pairs():
    calls = []

    def run(name):
        calls.append(name)
        time.sleep(0.001)

    result = paired_timing(lambda: run("a"), lambda: run("b"), seconds=0.0, min_pairs=4)
    assert result.pairs == 4
    assert "".join(calls[-8:]) == "abbaabba"


def test_very_short_runs_are_grouped_and_their_seconds_are_those_of_one_run():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    result = paired_timing(lambda: count("a"), lambda: count("b"), seconds=0.02, min_pairs=3)
    assert calls["a"] > 10 * result.pairs
    assert 0 < result.a_seconds < 1e-4


def test_one_very_short_function_does_not_multiply_the_other():
    calls = []

    def slow():
        calls.append(1)
        time.sleep(0.005)

    result = paired_timing(int, slow, seconds=0.0, min_pairs=3)
    assert len(calls) < 10
    assert result.slower


def test_reports_progress_in_milliseconds():
    seen = []
    paired_timing(
        lambda: time.sleep(0.01),
        lambda: time.sleep(0.01),
        seconds=0.4,
        progress=lambda *step: seen.append(step),
    )
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert {step[1:] for step in seen} == {(400, "timing")}


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_the_interval_holds_the_median_and_repeats_with_its_seed(values):
    array = np.array(values)
    low, high = median_interval(array, seed=3)
    assert min(values) <= low <= high <= max(values)
    assert low <= np.median(array) * (1 + 1e-12)
    assert high >= np.median(array) * (1 - 1e-12)
    assert (low, high) == median_interval(array, seed=3)


def test_many_pairs_give_a_narrow_interval_in_bounded_memory():
    low, high = median_interval(np.random.default_rng(0).normal(1.0, 0.1, 20_000))
    assert 0.99 < low < high < 1.01


def test_faster_and_slower_need_the_whole_interval():
    unsure = PairedLatency(1.1, 0.9, 1.3, 15, 1.0, 1.0)
    assert (unsure.faster, unsure.slower) == (False, False)


def test_a_feed_that_does_not_fit_is_a_data_error():
    session = Session(scale_model())
    with pytest.raises(DataError, match="rank 1"):
        paired_latency(session, session, {"x": np.ones(3, np.float32)})
