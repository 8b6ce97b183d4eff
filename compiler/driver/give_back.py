"""Giving back to float: which nodes of a quantized model to give up so that the rest keeps the accuracy budget.

`sardonyx.driver.noise` ranks the nodes by the noise that each adds at the outputs. Errors of nodes are nearly
independent, so that their powers add up, and what a model loses grows with their sum: that tells how many of the worst
to give back, and a few measurements of models made that way tell it exactly. A rank is an estimate, so that parts of
what was given back are then tried as integers again.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sardonyx import ir
from sardonyx.driver.noise import Noise, Pair
from sardonyx.errors import PassError
from sardonyx.measure import Agreement, Feed, Session
from sardonyx.passes.base import Pass, PassContext
from sardonyx.passes.quantization.plan import PointKind, QuantPlan
from sardonyx.pipeline import PassManager, PassRecord, Status, available_passes, parse_pipeline

SAMPLES = 8
"""Samples on which noise is measured, and on which models are compared at least."""
TRIES = 8
"""How often a model is made and measured in search of the fewest nodes to give back: bisection of 256 at most."""
RESOLUTION = 40
"""One node in so many may be given back in vain: parts of all that was given back are tried as integers afterwards."""
MARGIN = 0.8
"""Share of the budget that a model may be estimated to lose: other data will judge."""


@dataclass(frozen=True)
class Variant:
    """A quantized model and how it was made."""

    model: ir.Model
    records: tuple[PassRecord, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed the model."""
        return any(record.status is Status.APPLIED for record in self.records)

    @property
    def plan(self) -> dict[str, Any] | None:
        """The quantization plan, if passes made one; several passes' plans are joined."""
        return joined_plan(self.records)

    @property
    def compute_nodes(self) -> tuple[str, ...]:
        """Names of the nodes whose products are computed with integers, in graph order."""
        return tuple((self.plan or {}).get("compute_nodes", ()))

    @property
    def integer_nodes(self) -> tuple[str, ...]:
        """Those of them whose activations are integers too; none where only weights are."""
        points = (self.plan or {}).get("points", ())
        return self.compute_nodes if any(p["kind"] == PointKind.ACTIVATION for p in points) else ()


def joined_plan(records: Sequence[PassRecord]) -> dict[str, Any] | None:
    """Returns the quantization plans of passes that ran one after the other as one, or None where there are none."""
    plans = [QuantPlan.from_dict(record.details["plan"]) for record in records if "plan" in record.details]
    return QuantPlan.joined(plans).to_dict() if plans else None


def written_plan(model: ir.Model, records: Sequence[PassRecord], context: PassContext) -> dict[str, Any] | None:
    """Returns the plan of passes as a file holds it: with the passes before and behind, and what the former made.

    Args:
        model: The float model that the passes were given; it is not changed.
        records: What they did.
        context: Their context.
    """
    plan = joined_plan(records)
    if plan is None:
        return None
    planning = [index for index, record in enumerate(records) if "plan" in record.details]
    prepared, finished = (
        ", ".join(record.spec for record in part if record.status is Status.APPLIED)
        for part in (records[: planning[0]], records[planning[-1] + 1 :])
    )
    passes = parse_pipeline(prepared, available_passes())
    done = PassManager(passes, context=context).run(ir.clone(model)).model if passes else model
    return {**plan, "prepared": prepared, "finished": finished, "model": ir.digest(done)}


class Quantizer:
    """Quantizes variants of one float model: the same passes, with nodes excluded.

    Args:
        model: The float model; it is not changed.
        passes: The passes that quantize; those with an option `exclude` are given nodes to exclude.
        context: Their context, the same for all variants, so that ranges are observed once.
    """

    def __init__(self, model: ir.Model, passes: Sequence[Pass], context: PassContext) -> None:
        self._model = model
        self._passes = tuple(passes)
        self._context = context

    def variant(self, exclude: Sequence[str] = ()) -> Variant:
        """Returns a quantized model."""
        passes = [_excluding(each, exclude) for each in self._passes]
        result = PassManager(passes, context=self._context).run(ir.clone(self._model))
        return Variant(result.model, result.records)

    def written_plan(self, variant: Variant) -> dict[str, Any] | None:
        """Returns the plan of a variant as a file holds it, or None where no pass made one."""
        return written_plan(self._model, variant.records, self._context)

    def pair(self, quantized: Variant) -> Pair:
        """Returns a variant beside the float model that went through all passes but those that quantized.

        Raises:
            PassError: If there is no target's table.
        """
        if self._context.capabilities is None:
            raise PassError("Noise is measured by a target's table.", remedy="Name one with --target.")
        planning = [bool(record.details.get("plan", {}).get("points")) for record in quantized.records]
        passes = [each for each, plans in zip(self._passes, planning, strict=True) if not plans]
        floats = PassManager(passes, context=self._context).run(ir.clone(self._model)).model
        return Pair(floats, quantized.model, self._context.capabilities)


def _excluding(instance: Pass, names: Sequence[str]) -> Pass:
    options = {f.name for f in dataclasses.fields(instance)}  # type: ignore[arg-type]
    if "exclude" not in options or not names:
        return instance
    return dataclasses.replace(instance, exclude=(*instance.exclude, *names))  # type: ignore[type-var, attr-defined]


@dataclass(frozen=True)
class Comparison:
    """Compares variants with the original on a few samples.

    Attributes:
        feeds: The samples.
        reference: The original's outputs on them.
        names: The outputs' names.
        load: Writes and loads a model in the target.
    """

    feeds: Sequence[Feed]
    reference: Sequence[Sequence[Any]]
    names: Sequence[str]
    load: Callable[[ir.Model], Session]

    def loss(self, model: ir.Model) -> float:
        """Returns 1 - agreement with the original."""
        agreement = Agreement(self.names)
        with self.load(model) as session:
            for feed, reference in zip(self.feeds, self.reference, strict=True):
                agreement.update(reference, session.run(feed))
        return 1.0 - agreement.result().value


def fewest(noises: Sequence[Noise], loss: float, given_back: int, budget: float) -> int:
    """Returns how many of the worst nodes to give back so that the rest probably keeps the budget.

    Args:
        noises: The worst first.
        loss: What a model loses with `given_back` of them given back; taken as proportional to the noise of the rest.
        given_back: Number of nodes.
        budget: The loss allowed.
    """
    rest = [0.0]
    for noise in reversed(noises):
        rest.append(rest[-1] + noise.output)
    rest.reverse()
    if rest[given_back] == 0.0 or loss <= 0.0:
        return given_back
    allowed = MARGIN * budget / loss * rest[given_back]
    return next((count for count, sum_ in enumerate(rest) if sum_ <= allowed), len(noises))


class Stopwatch:
    """Tells whether there is time for one more of several tries of like length.

    Args:
        seconds: Wall time for all of them, from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start = time.monotonic()

    def has_time(self, tries: int) -> bool:
        """Whether one more is likely to end in time, by what that many have taken on average."""
        elapsed = time.monotonic() - self._start
        return elapsed + elapsed / max(1, tries) < self._seconds


@dataclass(frozen=True)
class Budget:
    """What a model with nodes given back may lose, and how long to look for it.

    Attributes:
        loss: The loss allowed.
        seconds: Wall time of a search.
    """

    loss: float
    seconds: float = math.inf


def search(noises: Sequence[Noise], total: float, budget: Budget, lost: Callable[[int], float]) -> int:
    """Returns a small number of the worst nodes with which given back a model keeps the budget.

    The interval is cut where the sum of noise says, as long as that is inside it and not at its edge; else in half.

    Args:
        noises: The worst first.
        total: What is lost with none given back.
        budget: The loss and the time allowed.
        lost: What is lost with so many given back; called at most `TRIES` times, and not when the time of earlier calls
            says that one more would end too late.

    Returns:
        A number for which `lost` was within the budget. Where there was none, that of all nodes, or the next guess if
        time ran out.
    """
    low, high = 0, len(noises)
    guess = fewest(noises, total, 0, budget.loss)
    watch = Stopwatch(budget.seconds)
    for attempt in range(TRIES):
        if high - low <= max(1, len(noises) // RESOLUTION):
            break
        if not watch.has_time(attempt):
            return high if high < len(noises) else max(guess, low + 1)
        margin = (high - low) // 8 if attempt else 0
        if not low + margin < guess < high - margin:
            guess = (low + high) // 2
        loss = lost(guess)
        tried, guess = guess, fewest(noises, loss, guess, budget.loss)
        if loss <= budget.loss:
            high = tried
        else:
            low = tried
    return high


def taken_back(given: Sequence[Noise], seconds: float, fits: Callable[[Sequence[Noise]], bool]) -> list[Noise]:
    """Takes as much of what was given back as possible, by halves, quarters and so on, the least noise first.

    Args:
        given: What was given back, the worst first; with it the model fits.
        seconds: Wall time; nothing is tried of which the time of earlier tries says that it would take longer.
        fits: Whether the model keeps the budget with only these given back.

    Returns:
        What stays given back.
    """
    kept = list(given)
    watch, tries, size = Stopwatch(seconds), 0, len(kept) // 2
    while size:
        for end in range(len(kept), 0, -size):
            if not watch.has_time(tries):
                return kept
            less = kept[: max(0, end - size)] + kept[end:]
            tries += 1
            if fits(less):
                kept = less
        size //= 2
    return kept
