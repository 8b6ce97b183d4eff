"""Nodes given back to float: those that add the most noise first, until the budget is kept."""

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import sardonyx
from sardonyx.driver.give_back import Budget, fewest, search, taken_back
from sardonyx.driver.noise import Noise
from sardonyx.driver.repair import Repair
from sardonyx.pipeline import CompileRecord, Recipe, available_schemes
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
    assert result.record.chosen.startswith("quantized")
    assert result.record.met_budget


def test_the_node_that_adds_most_noise_is_given_back_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert given[0].reason.startswith(
        "number 1 of 3 by the noise that each adds at the outputs: quantized alone it leaves"
    )
    assert "its own error is at" in given[0].reason
    assert len({tuple(d.subjects) for d in given}) == len(given)
    assert "exclude=[" in record.pipeline  # the text makes the model that was written
    kept = [p for p in result.model.graph if p.op_type == "QuantizeLinear"]
    assert kept
    weights = [d.subjects[0] for d in record.decisions if d.stage == "quantize" and d.choice.endswith("weight")]
    assert "third" in weights
    assert "second" not in weights


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (
            Noise("conv_b", 0.1, 0.01, neighbours=3),
            "number 1 of 3 by the noise that each adds at the outputs: 20 dB there is its share of what 3 neighbours "
            "leave; its own error is at 10 dB; to measure each would have taken longer than give_back_seconds=60",
        ),
        (
            Noise("conv_b", None, 0.01),
            "taken for number 1 of 3 by the noise that each adds at the outputs: inside a body, what it adds could not "
            "be measured",
        ),
    ],
)
def test_what_was_estimated_says_so(monkeypatch: pytest.MonkeyPatch, noise: Noise, reason: str) -> None:
    decree(monkeypatch, quantized=2.0)
    found = [noise, Noise("conv_a", 0.0, 0.0), Noise("conv_c", 0.0, 0.0)]
    monkeypatch.setattr("sardonyx.driver.repair.measure_noise", lambda *_: found)
    record = sardonyx.compile(with_an_outlier_channel(), data=images(24), recipe=PLAIN).record
    given = {d.subjects[0]: d.reason for d in record.decisions if (d.stage, d.choice) == ("give-back", "float")}
    assert given["conv_b"] == reason


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


@pytest.mark.parametrize(("mixed", "chosen"), [(1.8, "mixed"), (1.4, "quantized-equalized")])
def test_a_fast_model_is_repaired_though_a_slower_one_keeps_the_budget(
    mixed: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    static = available_schemes()["static"]
    plain = dataclasses.replace(static, name="plain", pipeline=PLAIN.quantize)
    equalized = dataclasses.replace(static, name="equalized")
    monkeypatch.setattr("sardonyx.driver.compile.recipe_schemes", lambda *_, **__: (plain, equalized))
    decree(monkeypatch, speeds={"mixed": mixed, "quantized-equalized": 1.5, "quantized": 2.0})
    recipe = PLAIN.model_copy(update={"quantize": "auto"})
    record = sardonyx.compile(with_an_outlier_channel(), data=images(24), recipe=recipe).record
    assert (record.chosen, record.met_budget) == (chosen, True)
    given = [d.choice for d in record.decisions if d.stage == "give-back"]
    assert given[-1] == ("float" if chosen == "mixed" else "nothing")


def ranked(*powers: float) -> list[Noise]:
    return [Noise(str(number), power, power) for number, power in enumerate(powers)]


@pytest.mark.parametrize(
    ("powers", "loss", "given_back", "budget", "expected"),
    [
        ((0.5, 0.01, 0.01), 0.52, 0, 0.05, 1),
        ((0.5, 0.01, 0.01), 0.52, 0, 1.0, 0),
        ((0.5, 0.3, 0.2), 1.0, 0, 0.0001, 3),
        ((0.0, 0.0), 0.0, 0, 0.01, 0),
        ((0.01, 0.01), 0.4, 0, 0.3, 1),
        ((0.5, 0.3, 0.2), 0.02, 2, 0.07, 1),  # 0.2 lose 0.02, so 0.3 more lose 0.05 in all
    ],
)
def test_as_many_as_the_sum_of_noise_asks(
    powers: tuple[float, ...], loss: float, given_back: int, budget: float, expected: int
) -> None:
    assert fewest(ranked(*powers), loss, given_back, budget) == expected


@given(powers=st.lists(st.floats(0, 1), min_size=1, max_size=300), needed=st.integers(1, 300), shape=st.floats(0.1, 9))
def test_the_search_ends_at_a_number_that_fits(powers: list[float], needed: int, shape: float) -> None:
    noises, tried = ranked(*sorted(powers, reverse=True)), []
    needed = min(needed, len(noises))

    def lost(count: int) -> float:
        tried.append(count)
        return 0.01 if count >= needed else 0.02 + shape * (needed - count)

    found = search(noises, lost(0), Budget(0.01), lost)
    assert needed <= found <= len(noises)
    assert found == len(noises) or found in tried
    assert len(tried) <= 9
    assert found - needed < max(2, len(noises) // 40) or len(tried) == 9


def test_the_search_is_short_where_noise_adds_up() -> None:
    noises = ranked(*(2.0**-number for number in range(40)))
    tried: list[int] = []

    def lost(count: int) -> float:
        tried.append(count)
        return 0.1 * sum(noise.output for noise in noises[count:])

    assert search(noises, lost(0), Budget(0.001), lost) == 8
    assert len(tried) <= 5


def test_the_search_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    noises = ranked(*([1.0] * 64))
    clock = [0.0]
    monkeypatch.setattr("sardonyx.driver.give_back.time.monotonic", lambda: clock[0])
    tried: list[int] = []

    def slow(needed: int) -> Callable[[int], float]:
        def lost(count: int) -> float:
            clock[0] += 10.0
            tried.append(count)
            return 0.0 if count >= needed else 1.0

        return lost

    fits = search(noises, 1.0, Budget(0.4, seconds=25.0), slow(20))
    assert len(tried) == 2
    assert fits in tried
    assert fits >= 20
    tried.clear()
    unknown = search(noises, 1.0, Budget(0.4, seconds=25.0), slow(64))
    assert len(tried) == 2
    assert max(tried) < unknown <= 64


@given(count=st.integers(1, 60), needless=st.sets(st.integers(0, 59)))
def test_all_that_fits_without_is_taken_back(count: int, needless: set[int]) -> None:
    given_back = ranked(*([1.0] * count))
    needed = [noise for noise in given_back if int(noise.node) not in needless]
    kept = taken_back(given_back, 60.0, lambda some: all(noise in some for noise in needed))
    assert kept == (needed if count > 1 else given_back)


def test_nothing_is_taken_back_without_time() -> None:
    given_back = ranked(1.0, 1.0)
    assert taken_back(given_back, 0.0, lambda _: True) == given_back


class TestRepair:
    """Giving back by what held-out samples lose, where calibration samples tell too little."""

    NOISES = tuple(Noise(f"n{number}", None, 1.0) for number in range(10))

    def given(self, monkeypatch: pytest.MonkeyPatch, at_first: int, lost: float, drops: list[float]) -> list[int]:
        """How many of ten nodes of equal noise are given back in each attempt, of which the last one fits."""
        monkeypatch.setattr(Repair, "_noises", lambda *_: list(self.NOISES))
        monkeypatch.setattr(Repair, "_given_at_first", lambda *_: list(self.NOISES[:at_first]))
        monkeypatch.setattr(Repair, "_comparison", lambda *_: None)
        monkeypatch.setattr(Repair, "_without", lambda _, noises: len(noises))
        judge = SimpleNamespace(recipe=Recipe(max_drop=0.01))
        record = CompileRecord(recipe=judge.recipe)
        left, counts = iter(drops), []

        def attempt(count: int) -> float | None:
            counts.append(count)
            return next(left, None)

        Repair(None, None, judge, (), None, record).run(lost, attempt)  # type: ignore[arg-type]
        named = [decision.subjects for decision in record.decisions if decision.choice == "float"]
        assert named == [[noise.node] for noise in self.NOISES[: counts[-1] if counts else 0]]
        return counts

    def test_the_first_models_are_those_that_calibration_samples_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.given(monkeypatch, 3, 0.04, []) == [3]

    def test_where_those_tell_nothing_the_held_out_loss_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.given(monkeypatch, 0, 0.016, []) == [5]
        assert self.given(monkeypatch, 0, 0.0101, []) == [3]

    def test_what_an_attempt_loses_tells_how_many_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.given(monkeypatch, 2, 0.5, [0.016]) == [2, 6]

    def test_there_are_always_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.given(monkeypatch, 4, 0.5, [0.0]) == [4, 6]

    def test_nothing_is_left_where_all_of_the_noise_is_too_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.given(monkeypatch, 0, math.inf, []) == []

    @pytest.mark.parametrize(("seconds", "nbytes", "count"), [(60.0, 1 << 20, 64), (0.0, 1 << 20, 8), (60.0, 0, 8)])
    def test_models_are_compared_on_as_many_samples_as_time_and_memory_allow(
        self, monkeypatch: pytest.MonkeyPatch, seconds: float, nbytes: int, count: int
    ) -> None:
        monkeypatch.setattr("sardonyx.driver.repair.BYTES", nbytes)
        original = SimpleNamespace(run=lambda feed: [feed["x"]], outputs=(SimpleNamespace(name="y"),))
        judge = SimpleNamespace(recipe=Recipe(give_back_seconds=seconds), original=original)
        samples = [{"x": np.full(4, number, np.float32)} for number in range(100)]
        comparison = Repair(None, None, judge, samples, None, None)._comparison()  # type: ignore[arg-type]
        assert (len(comparison.feeds), comparison.names) == (count, ["y"])
        assert all(
            outputs[0] is feed["x"] for feed, outputs in zip(comparison.feeds, comparison.reference, strict=True)
        )
