"""The choice: among the candidates that load and keep the budget, the fastest; else the best exact model."""

from dataclasses import dataclass

from sardonyx.driver.judge import inexact_output
from sardonyx.pipeline import Accuracy, Candidate, Recipe

ORIGINAL, OPTIMIZED, QUANTIZED = "original", "optimized", "quantized"
SLOWER = 0.99
"""A speed-up below this is slower: two sessions of one model differ by up to 0.3 % for where their memory lies."""
ROUNDING = 1e-6
"""What rounding alone may cost: with a budget of 0, a model that only reassociates sums is still within it."""


@dataclass(frozen=True)
class Choice:
    """What is written.

    Attributes:
        name: The chosen candidate.
        reason: Why, as a sentence.
        met_budget: False where a quantized model was made and could not keep the accuracy budget.
    """

    name: str
    reason: str
    met_budget: bool


def reject(candidate: Candidate, recipe: Recipe) -> None:
    """Writes into a candidate why it may not be written, if so: accuracy first, then speed."""
    if candidate.rejected is not None:
        return
    accuracy, latency = candidate.accuracy, candidate.latency
    inexact = inexact_output(candidate) if candidate.name == OPTIMIZED else None
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


def choose(candidates: list[Candidate], recipe: Recipe) -> Choice:
    """Picks the fastest candidate that was not rejected; the original where all were.

    A candidate that was not timed, because there was no sample to time it with, counts as fast as the original; later
    candidates win ties, so that an exact optimization is preferred to the original.
    """
    for candidate in candidates:
        reject(candidate, recipe)
    by_name = {candidate.name: candidate for candidate in candidates}
    optimized, quantized = by_name.get(OPTIMIZED), by_name.get(QUANTIZED)
    if quantized is not None and optimized is not None and inexact_output(optimized) is not None:
        quantized.rejected = quantized.rejected or f"it was made from the optimized model, and {optimized.rejected}"
    usable = [c for c in candidates if c.rejected is None]
    over_budget = [c for c in candidates if _lost_accuracy(c, recipe)]
    if not usable:
        reasons = "; ".join(f"{c.name}: {c.rejected}" for c in candidates)
        return Choice(ORIGINAL, f"no candidate may be written ({reasons})", met_budget=not over_budget)
    best = max(reversed(usable), key=lambda c: c.latency.speedup if c.latency else 1.0)
    why = "the only candidate that may be written" if len(usable) == 1 else "the fastest that keeps the budget"
    rejected = "; ".join(f"{c.name}: {c.rejected}" for c in candidates if c.rejected)
    return Choice(best.name, f"{why} ({rejected})" if rejected else why, met_budget=not over_budget)


def _lost_accuracy(candidate: Candidate, recipe: Recipe) -> bool:
    accuracy = candidate.accuracy
    if candidate.name != QUANTIZED:
        return False
    return candidate.rejected is not None and (accuracy is None or not _keeps(accuracy, recipe))


def _keeps(accuracy: Accuracy, recipe: Recipe) -> bool:
    """Whether the budget is kept; a drop that is not a number does not keep it."""
    return accuracy.drop <= recipe.max_drop + ROUNDING
