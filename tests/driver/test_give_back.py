"""Regions given back to float: the worst first, until the budget is kept."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import sardonyx
from sardonyx.driver.give_back import Region, fewest, search
from sardonyx.pipeline import Recipe
from tests import models_for_tests as build
from tests.timing_for_tests import decree

node = helper.make_node


def with_an_outlier_channel() -> onnx.ModelProto:
    """Three convolutions; the second reads a channel a thousand times larger than the rest, and weighs it as little."""
    first, second = build.weights(8, 3, 3, 3, seed=1), build.weights(8, 8, 3, 3, seed=2)
    first[0] *= 1000.0
    second[:, 0] /= 1000.0
    nodes = [
        node("Conv", ["image", "first"], ["a"], name="conv_a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["ra"], name="relu_a"),
        node("Conv", ["ra", "second"], ["b"], name="conv_b", pads=[1, 1, 1, 1]),
        node("Relu", ["b"], ["rb"], name="relu_b"),
        node("Conv", ["rb", "third"], ["c"], name="conv_c", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["c"], ["g"], name="pool"),
        node("Flatten", ["g"], ["y"], name="flatten"),
    ]
    constants = {"first": first, "second": second, "third": build.weights(16, 8, 3, 3, seed=3)}
    return build.proto(nodes, {"image": [1, 3, 16, 16]}, {"y": [1, 16]}, constants)


PLAIN = Recipe(timing_seconds=0.1, max_drop=0.02, quantize="quantize-static{methods=[]}")
"""Without the accuracy methods, which would bring the outlier channel to the range of the others."""


def images(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {"image": (rng.standard_normal((1, 3, 16, 16)) + rng.standard_normal()).astype(np.float32)}
        for _ in range(count)
    ]


def test_equalization_leaves_nothing_to_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    decree(monkeypatch, quantized=2.0)
    recipe = Recipe(timing_seconds=0.1, max_drop=0.02)
    result = sardonyx.compile(with_an_outlier_channel(), data=images(24), recipe=recipe)
    assert (result.record.chosen, result.record.met_budget) == ("quantized", True)


def test_the_region_that_costs_most_is_given_back_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decree(monkeypatch, quantized=2.0)
    result = sardonyx.compile(with_an_outlier_channel(), data=images(24), recipe=PLAIN)
    record = result.record
    quantized, mixed = record.candidate("quantized"), record.candidate("mixed")
    assert quantized is not None
    assert "more than the budget" in str(quantized.rejected)
    assert mixed is not None
    assert mixed.accuracy is not None
    assert mixed.accuracy.drop <= 0.02
    assert (record.chosen, record.met_budget) == ("mixed", True)
    given = [d for d in record.decisions if (d.stage, d.choice) == ("give-back", "float")]
    assert "conv_b" in given[0].subjects
    assert "quantized alone it costs" in given[0].reason
    assert len({tuple(d.subjects) for d in given}) == len(given)
    assert "exclude=[" in record.pipeline  # the text makes the model that was written
    kept = [p for p in result.model.graph if p.op_type == "QuantizeLinear"]
    assert kept
    weights = [d.subjects[0] for d in record.decisions if d.stage == "quantize" and d.choice.endswith("weight")]
    assert "third" in weights
    assert "second" not in weights


def test_nodes_that_were_measured_together_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    decree(monkeypatch, quantized=2.0)
    regions = [Region(("conv_a", "conv_b"), 0.5), Region(("conv_c",), 0.0)]
    monkeypatch.setattr("sardonyx.driver.repair.measure_regions", lambda *_: regions)
    record = sardonyx.compile(with_an_outlier_channel(), data=images(24), recipe=PLAIN).record
    (together,) = [d for d in record.decisions if (d.stage, d.choice) == ("give-back", "float")]
    assert tuple(together.subjects) == ("conv_a", "conv_b")
    assert together.reason == (
        "these 2 nodes quantized alone cost 50.00% of agreement; to measure each would have taken longer than "
        "give_back_seconds=60, and with more of them fewer nodes may have to go back"
    )


def test_a_metric_of_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    decree(monkeypatch, quantized=2.0)
    source = with_an_outlier_channel()
    feeds = images(24)
    truth = np.stack([build.run(source, feed)[0] for feed in feeds])

    def metric(run: Callable[..., list[np.ndarray]]) -> float:
        return 1.0 - float(
            np.square(np.stack([run(feed)[0] for feed in feeds]) - truth).sum() / truth.var() / truth.size
        )

    recipe = PLAIN.model_copy(update={"max_drop": 0.002})
    record = sardonyx.compile(source, data=feeds, metric=metric, recipe=recipe).record
    mixed = record.candidate("mixed")
    assert mixed is not None
    assert mixed.accuracy is not None
    assert mixed.accuracy.drop <= 0.002
    assert record.chosen == "mixed"


def test_nothing_is_given_back_where_integers_are_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    decree(monkeypatch, quantized=1.0)
    record = sardonyx.compile(with_an_outlier_channel(), data=images(24), recipe=PLAIN).record
    assert record.candidate("mixed") is None
    assert record.met_budget
    assert [d.reason for d in record.decisions if d.stage == "give-back"] == [
        "even with everything quantized it is not faster than in float (1.00x against 1.00x)"
    ]


@pytest.mark.parametrize(
    ("losses", "total", "budget", "expected"),
    [
        ((0.5, 0.01, 0.01), 0.52, 0.05, 1),
        ((0.5, 0.01, 0.01), 0.52, 1.0, 0),
        ((0.5, 0.3, 0.2), 1.0, 0.0001, 3),
        ((0.0, 0.0), 0.0, 0.01, 0),
        ((0.01, 0.01), 0.4, 0.3, 1),  # together they lose more than alone
    ],
)
def test_as_many_as_the_sum_of_errors_asks(
    losses: tuple[float, ...], total: float, budget: float, expected: int
) -> None:
    assert fewest([Region((str(i),), loss) for i, loss in enumerate(losses)], total, budget) == expected


@given(count=st.integers(1, 400), needed=st.integers(1, 400), guess=st.integers(0, 400))
def test_the_search_ends_at_a_number_that_fits(count: int, needed: int, guess: int) -> None:
    needed, tried = min(needed, count), []

    def fits(k: int) -> bool:
        tried.append(k)
        return k >= needed

    found = search(min(guess, count), count, fits)
    assert needed <= found <= count
    assert found == count or found in tried
    assert len(tried) <= 6
