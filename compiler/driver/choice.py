"""The choice: among the candidates that load and keep the budget, the fastest; else the best exact model."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sardonyx.driver.judge import ROUNDING, inexact_output
from sardonyx.pipeline import Accuracy, Candidate, Recipe

ORIGINAL, OPTIMIZED, QUANTIZED, MIXED = "original", "optimized", "quantized", "mixed"
FASTER = 1.02
"""A quantized model is worth repairing from this speed-up over the optimized one on."""
WORTHWHILE = 1.1
"""Where a model keeps the budget, a faster one that does not is worth repairing from this ratio of their speeds on."""
SLOWER = 0.99
"""A speed-up below this is slower: two sessions of one model differ by up to 0.3 % for where their memory lies."""

PROMISING = "the one with the most products as integers"

REWRITTEN = (
    "The target {} takes the model only rewritten, which changes its results beyond rounding; the record says where. "
    "If another tool quantized it, compile the float model that it was made from."
)
"""Warning about a model whose own quantization is not what the target takes, by the target's name."""


def is_lossy(name: str) -> bool:
    """Whether a candidate trades accuracy for speed: quantized by one scheme or another, or with nodes given back."""
    return name == MIXED or name.startswith(QUANTIZED)


@dataclass(frozen=True)
class Choice:
    """What is written.

    Attributes:
        name: The chosen candidate.
        reason: Why, as a sentence.
        met_budget: False where the accuracy budget costs speed: quantized models were made, none of them keeps it,
            and one that does not is faster than the chosen model, or its speed is not known. Also where the target
            takes the model only rewritten, and that loses more than the budget.
    """

    name: str
    reason: str
    met_budget: bool


def reject(candidate: Candidate, recipe: Recipe) -> None:
    """Writes into a candidate why it may not be written, if so: accuracy first, then speed."""
    if candidate.rejected is not None:
        return
    accuracy, latency = candidate.accuracy, candidate.latency
    inexact = _inexact(candidate) if candidate.name == OPTIMIZED else None
    if inexact is not None:
        candidate.rejected = f"the exact passes changed the result: {inexact}"
    elif accuracy is not None and not _keeps(accuracy, recipe):
        candidate.rejected = (
            f"it loses {accuracy.drop:.2%} of {accuracy.metric}, more than the budget of {recipe.max_drop:.2%}"
        )
    elif latency is not None and latency.high < SLOWER:
        candidate.rejected = (
            f"it is slower than the original: {latency.speedup:.2f}x ({latency.low:.2f} to {latency.high:.2f})"
        )


def choose(candidates: list[Candidate], recipe: Recipe, untimed: str = "") -> Choice:
    """Picks the fastest candidate that was not rejected; the original where all were.

    A candidate that was not timed, because there was no sample to time it with, counts as fast as the original; later
    candidates win ties, so that an exact optimization is preferred to the original. Of quantized models
    that differ in numbers alone, that one is picked which agrees best with the original on held-out samples.

    Args:
        candidates: What was measured; gets the reasons for which some are rejected.
        recipe: The budget.
        untimed: Why speed is not known on the target; the most promising is picked then instead of the fastest.
    """
    for candidate in candidates:
        reject(candidate, recipe)
    optimized = next((c for c in candidates if c.name == OPTIMIZED), None)
    for candidate in candidates:
        if is_lossy(candidate.name) and optimized is not None and _inexact(optimized) is not None:
            candidate.rejected = candidate.rejected or f"it was made from the optimized model, and {optimized.rejected}"
    usable = [c for c in candidates if c.rejected is None]
    if not usable:
        reasons = "; ".join(f"{c.name}: {c.rejected}" for c in candidates)
        return Choice(ORIGINAL, f"no candidate may be written ({reasons})", _is_budget_met(candidates, None, recipe))
    twins = _twins(max(reversed(usable), key=_merit(untimed)), usable)
    best = _nearest(twins)
    met_budget = _is_budget_met(candidates, best, recipe)
    fastest = f"{PROMISING} that keeps the budget; {untimed}" if untimed else "the fastest that keeps the budget"
    if len(twins) > 1:
        fastest = f"{fastest}: of {len(twins)} of the same operators and size the nearest to the original"
    why = "the only candidate that may be written" if len(usable) == 1 else fastest
    rejected = "; ".join(f"{c.name}: {c.rejected}" for c in candidates if c.rejected)
    return Choice(best.name, f"{why} ({rejected})" if rejected else why, met_budget)


def _inexact(optimized: Candidate) -> str | None:
    """Why exact passes were not exact, or None; what the target had rewritten is judged by the budget."""
    return None if optimized.legalized else inexact_output(optimized)


def _twins(candidate: Candidate, usable: list[Candidate]) -> list[Candidate]:
    """The quantized models of the same operators and bytes, which differ in numbers alone and are as fast; itself too.

    An exact model is the only one of its kind.
    """
    if not is_lossy(candidate.name):
        return [candidate]
    made = (candidate.operators, candidate.nbytes, candidate.integer_nodes)
    return [c for c in usable if is_lossy(c.name) and (c.operators, c.nbytes, c.integer_nodes) == made]


def _nearest(candidates: list[Candidate]) -> Candidate:
    """The one that agrees best with the original on held-out samples; the first of several."""
    return max(candidates, key=lambda candidate: (candidate.agreement or {}).get("value", 0.0))


def _is_budget_met(candidates: list[Candidate], best: Candidate | None, recipe: Recipe) -> bool:
    """Whether a quantized model keeps the budget, or none that does not would have been faster than the best."""
    if best is None and any(c.legalized and _lost_accuracy(c, recipe) for c in candidates):
        return False  # the original is rewritten for the target as they were
    lossy = [c for c in candidates if is_lossy(c.name)]
    if not all(_lost_accuracy(c, recipe) for c in lossy):
        return True
    least = FASTER * (1.0 if best is None else _speedup(best))
    return all(c.latency is not None and c.latency.speedup < least for c in lossy)


def to_repair(candidates: list[Candidate], recipe: Recipe, untimed: str = "") -> Candidate | None:
    """Returns the fastest quantized candidate that loses too much; None where there is nothing to repair.

    Where another quantized one keeps the budget, the fastest must be `WORTHWHILE`: some of its lead is given back, too.
    Where speed is not known, those that compute with integers count, and the most promising of them is returned if
    none keeps the budget.
    """
    quantized = [c for c in candidates if is_lossy(c.name) and c.accuracy is not None]
    if untimed:
        quantized = [c for c in quantized if c.integer_nodes]
    kept = [c for c in quantized if c.accuracy is not None and _keeps(c.accuracy, recipe)]
    if untimed and kept:
        return None
    lossy = [c for c in quantized if c not in kept]
    fastest = max(lossy, key=_merit(untimed), default=None)
    if fastest is None or (kept and _speedup(fastest) < WORTHWHILE * max(map(_speedup, kept))):
        return None
    return _nearest(_twins(fastest, lossy))


def overtaken(repaired: Candidate, candidates: list[Candidate], recipe: Recipe) -> str | None:
    """Why giving back more nodes would gain nothing, or None: a model that keeps the budget is as fast already."""
    for other in candidates:
        kept = is_lossy(other.name) and other.name != repaired.name and keeps_budget(other, recipe)
        if kept and other.latency and repaired.latency and _speedup(repaired) <= _speedup(other):
            faster = f"{_speedup(repaired):.2f}x against {_speedup(other):.2f}x"
            return f"with these nodes in float it is not faster than {other.name}, which keeps the budget ({faster})"
    return None


def vain_repair(quantized: Candidate, candidates: list[Candidate]) -> str | None:
    """Why giving nodes of a quantized model back to float would gain nothing, or None."""
    exact = next((_speedup(c) for c in candidates if c.name == OPTIMIZED), 1.0)
    if _speedup(quantized) >= FASTER * exact:
        return None
    faster = f"{_speedup(quantized):.2f}x against {exact:.2f}x"
    return f"even with everything quantized it is not faster than in float ({faster})"


def _merit(untimed: str) -> Callable[[Candidate], tuple[float, ...]]:
    """What candidates are compared by: the speed-up; or, where that is not known, what promises one."""
    if untimed:
        return lambda c: (is_lossy(c.name), c.integer_nodes, -c.nbytes)
    return lambda c: (_speedup(c),)


def _speedup(candidate: Candidate) -> float:
    return candidate.latency.speedup if candidate.latency else 1.0


def keeps_budget(candidate: Candidate, recipe: Recipe) -> bool:
    """Whether a candidate ran and keeps the accuracy budget."""
    return candidate.rejected is None and candidate.accuracy is not None and _keeps(candidate.accuracy, recipe)


def lost_by(candidate: Candidate) -> float:
    """Returns what a candidate loses on held-out samples: all where it does not run."""
    return math.inf if candidate.accuracy is None else candidate.accuracy.drop


def _lost_accuracy(candidate: Candidate, recipe: Recipe) -> bool:
    accuracy = candidate.accuracy
    return candidate.rejected is not None and (accuracy is None or not _keeps(accuracy, recipe))


def _keeps(accuracy: Accuracy, recipe: Recipe) -> bool:
    """Whether the budget is kept; a drop that is not a number does not keep it."""
    return accuracy.drop <= recipe.max_drop + ROUNDING
