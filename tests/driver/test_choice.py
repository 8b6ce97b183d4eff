"""What is written: the fastest that keeps the budget, else the best exact model."""

import pytest

from sardonyx.driver.choice import choose, overtaken, to_repair
from sardonyx.pipeline import Accuracy, Candidate, Latency, Recipe

EXACT = {"name": "y", "ok": True, "reason": "", "sqnr_db": 120.0}
WRONG = {"name": "y", "ok": True, "reason": "", "sqnr_db": 20.0}
BROKEN = {"name": "y", "ok": False, "reason": "NaN", "sqnr_db": 0.0}


def candidate(
    name: str, speedup: float | None = 1.0, drop: float | None = 0.0, output: dict[str, object] | None = None
) -> Candidate:
    latency = None
    if speedup is not None:
        ends = {"low": speedup - 0.01, "high": speedup + 0.005}
        latency = Latency(speedup=speedup, pairs=9, original_ms=1, candidate_ms=1 / speedup, threads=1, **ends)
    accuracy = None if drop is None else Accuracy(metric="m", original=1, candidate=1 - drop, drop=drop)
    return Candidate(name=name, nbytes=1, accuracy=accuracy, latency=latency, outputs=[output or EXACT])


@pytest.mark.parametrize(
    ("optimized", "quantized", "chosen", "met"),
    [
        ((1.1, 0.0), (2.0, 0.005), "quantized", True),
        ((1.1, 0.0), (2.0, 0.02), "optimized", False),
        ((1.1, 0.0), (2.0, float("nan")), "optimized", False),
        ((1.1, 0.0), (1.05, 0.0), "optimized", True),
        ((1.1, 0.0), (0.8, 0.0), "optimized", True),
        ((0.8, 0.0), (0.7, 0.0), "original", True),
        ((0.8, 0.0), (2.0, 0.02), "original", False),
        ((1.1, 0.0), (1.11, 0.02), "optimized", True),
        ((1.1, 0.0), (0.8, 0.02), "optimized", True),
        ((0.8, 0.0), (0.9, 0.02), "original", True),
        ((1.1, 0.0), (None, 0.02), "optimized", False),
        ((0.999, 0.0), None, "optimized", True),
        ((None, None), None, "optimized", True),
        ((1.0, 1e-9), (2.0, 0.01), "quantized", True),
    ],
)
def test_choice(
    optimized: tuple[float | None, float | None],
    quantized: tuple[float | None, float] | None,
    chosen: str,
    met: bool,
) -> None:
    candidates = [candidate("optimized", *optimized)]
    if quantized is not None:
        candidates.append(candidate("quantized", *quantized))
    choice = choose(candidates, Recipe(max_drop=0.01))
    assert (choice.name, choice.met_budget) == (chosen, met)
    assert choice.reason


@pytest.mark.parametrize("output", [WRONG, BROKEN])
def test_an_exact_pass_that_was_not_exact_takes_the_quantized_model_with_it(output: dict[str, object]) -> None:
    candidates = [candidate("optimized", 1.5, 0.0, output), candidate("quantized", 2.0, 0.0, WRONG)]
    choice = choose(candidates, Recipe())
    assert choice.name == "original"
    assert "the exact passes changed the result" in str(candidates[0].rejected)
    assert "made from the optimized model" in str(candidates[1].rejected)


def test_a_candidate_that_does_not_load_is_not_written() -> None:
    broken = candidate("quantized", None, None)
    broken.rejected = "the target does not load it: no kernel"
    choice = choose([candidate("optimized"), broken], Recipe())
    assert (choice.name, choice.met_budget) == ("optimized", False)
    assert "no kernel" in choice.reason


UNTIMED = "latency was not measured, because there is no such device"


@pytest.mark.parametrize(
    ("quantized", "chosen"),
    [
        ([("quantized", 5, 40, 0.0), ("quantized-weights", 0, 10, 0.0)], "quantized"),
        ([("quantized", 5, 40, 0.0), ("quantized-more", 6, 50, 0.0)], "quantized-more"),
        ([("quantized", 5, 40, 0.0), ("quantized-small", 5, 30, 0.0)], "quantized-small"),
        ([("quantized", 5, 40, 0.5), ("quantized-weights", 0, 10, 0.0)], "quantized-weights"),
        ([("quantized", 5, 40, 0.5)], "optimized"),
    ],
)
def test_where_speed_is_not_known_integers_decide(quantized: list[tuple[str, int, int, float]], chosen: str) -> None:
    candidates = [candidate("optimized", None)]
    for name, integers, nbytes, drop in quantized:
        made = candidate(name, None, drop)
        candidates.append(made.model_copy(update={"integer_nodes": integers, "nbytes": nbytes}))
    choice = choose(candidates, Recipe(), UNTIMED)
    assert choice.name == chosen
    assert (UNTIMED in choice.reason) == (chosen != "optimized")


def test_where_speed_is_not_known_what_computes_with_integers_is_repaired() -> None:
    lossy = [("quantized", 5, 0.5), ("quantized-weights", 0, 0.0)]
    candidates = [candidate(name, None, drop).model_copy(update={"integer_nodes": n}) for name, n, drop in lossy]
    worst = to_repair(candidates, Recipe(), UNTIMED)
    assert worst is not None
    assert worst.name == "quantized"
    assert to_repair(candidates, Recipe()) is None


@pytest.mark.parametrize(
    ("lossy", "repaired"),
    [
        ([(2.0, 0.5)], "quantized"),
        ([(2.0, 0.0), (3.0, 0.0)], None),
        ([(2.0, 0.5), (3.0, 0.5)], "quantized-1"),
        ([(2.0, 0.0), (3.0, 0.5)], "quantized-1"),
        ([(2.0, 0.0), (2.1, 0.5)], None),
        ([(2.0, 0.0), (1.5, 0.5)], None),
    ],
)
def test_the_fastest_is_repaired_where_that_is_worth_while(
    lossy: list[tuple[float, float]], repaired: str | None
) -> None:
    names = ("quantized", "quantized-1")
    candidates = [candidate(name, *each) for name, each in zip(names, lossy, strict=False)]
    for quantized in candidates:
        quantized.nbytes = len(quantized.name)  # no two of them differ in numbers alone
    found = to_repair(candidates, Recipe())
    assert (None if found is None else found.name) == repaired
    if any(drop == 0.0 for _, drop in lossy):
        assert to_repair(candidates, Recipe(), UNTIMED) is None


def test_a_repaired_model_is_overtaken_by_one_that_keeps_the_budget() -> None:
    others = [candidate("optimized", 3.0), candidate("quantized", 2.5, 0.5), candidate("quantized-dynamic", 1.8)]
    assert overtaken(candidate("mixed", 1.9, 0.5), others, Recipe()) is None
    reason = overtaken(candidate("mixed", 1.7, 0.0), others, Recipe())
    assert reason is not None
    assert "not faster than quantized-dynamic, which keeps the budget (1.70x against 1.80x)" in reason


@pytest.mark.parametrize(
    ("agreements", "sizes", "chosen"),
    [
        ((0.990, 0.995), (1, 1), "quantized-static-gptq"),
        ((0.995, 0.990), (1, 1), "quantized"),
        ((0.990, 0.995), (1, 2), "quantized"),
        ((None, None), (1, 1), "quantized"),
    ],
)
def test_of_quantized_models_that_differ_in_numbers_alone_the_nearest_to_the_original_is_written(
    agreements: tuple[float | None, float | None], sizes: tuple[int, int], chosen: str
) -> None:
    candidates = [candidate("optimized", 1.1), candidate("quantized", 2.0), candidate("quantized-static-gptq", 1.97)]
    for quantized, agreement, size in zip(candidates[1:], agreements, sizes, strict=True):
        quantized.agreement, quantized.nbytes = agreement and {"value": agreement}, size  # type: ignore[assignment]
    choice = choose(candidates, Recipe(max_drop=0.01))
    assert choice.name == chosen
    assert ("nearest to the original" in choice.reason) == (sizes == (1, 1))


def test_where_speed_is_not_known_the_nearest_of_those_that_promise_as_much_is_written() -> None:
    candidates = [candidate("optimized", None), candidate("quantized", None), candidate("quantized-b", None)]
    for quantized, agreement in zip(candidates[1:], (0.99, 0.995), strict=True):
        quantized.integer_nodes, quantized.agreement = 5, {"value": agreement}
    assert choose(candidates, Recipe(), "not timed here").name == "quantized-b"
