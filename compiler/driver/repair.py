"""Repairing a quantized model that loses too much: nodes are given back to float, the worst first, until it fits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sardonyx import ir
from sardonyx.driver.give_back import (
    SAMPLES,
    TRIES,
    Budget,
    Comparison,
    Quantizer,
    Stopwatch,
    Variant,
    fewest,
    search,
    taken_back,
)
from sardonyx.driver.judge import Judge, relative_drop
from sardonyx.driver.noise import Noise, NoiseOptions, decibels, measure_noise
from sardonyx.measure import Feed, Samples, Session
from sardonyx.pipeline import CompileRecord, Recipe

ATTEMPTS = 5
"""How many repaired models are judged on held-out samples before giving up."""
COMPARED = 64
"""Most calibration samples on which models are compared."""
BYTES = 256 << 20
"""Bytes of samples and the original's outputs beyond which no more are held for that."""


@dataclass(frozen=True)
class Repair:
    """Everything that giving back needs.

    Attributes:
        quantizer: Makes variants of the optimized model.
        quantized: The fully quantized variant, which loses too much.
        judge: Measures candidates on held-out samples.
        samples: Calibration samples, on which nodes and models are compared.
        load: Writes and loads a model in the target.
        record: Gets the decisions.
    """

    quantizer: Quantizer
    quantized: Variant
    judge: Judge
    samples: Samples
    load: Callable[[ir.Model], Session]
    record: CompileRecord

    @property
    def _recipe(self) -> Recipe:
        return self.judge.recipe

    def run(self, lost: float, attempt: Callable[[Variant], float | None]) -> None:
        """Makes models with ever more given back, until one is enough or `ATTEMPTS` were made.

        Calibration samples tell how many nodes to give back at first, if any; after that the held-out samples do.

        Args:
            lost: What the fully quantized model loses on held-out samples.
            attempt: Judges a model; returns what it loses on held-out samples, or None where no other is wanted.
        """
        noises = self._noises(list(islice(self.samples, SAMPLES)))
        rank = {noise.node: number for number, noise in enumerate(noises, start=1)}
        given = self._given_at_first(noises, self._comparison())
        kept = [noise for noise in noises if noise not in given]
        loss, told = None if given else lost, 0
        for _ in range(ATTEMPTS):
            if loss is not None:
                more = max(1, len(given) // 2, fewest(kept, loss, 0, self._recipe.max_drop))
                given, kept = given + kept[:more], kept[more:]
            if not kept:
                break
            for noise in given[told:]:
                self.record.decide("give-back", "float", self._reason(noise, rank), (noise.node,))
            told = len(given)
            loss = attempt(self._without(given))
            if loss is None:
                return
        self.record.decide("give-back", "nothing", f"no model with some of {len(noises)} nodes quantized fitted")

    def _given_at_first(self, noises: Sequence[Noise], comparison: Comparison) -> list[Noise]:
        """As few of the worst nodes as make the model fit on calibration samples; none where it fits with all."""
        seconds = self._recipe.give_back_seconds
        total = self._lost(self.quantized, comparison)
        budget = Budget(self._recipe.max_drop, seconds)
        count = search(noises, total, budget, lambda k: self._lost_without(noises[:k], comparison))
        return taken_back(noises[:count], seconds, lambda some: self._fits(some, comparison)) if count else []

    def _noises(self, feeds: list[Feed]) -> list[Noise]:
        options = NoiseOptions(
            self._recipe.give_back_seconds,
            self._recipe.threads,
            progress=lambda done, total: self.judge.progress(done, total, "measure noise"),
        )
        pair = self.quantizer.pair(self.quantized)
        return measure_noise(pair, self.quantized.compute_nodes, feeds, options)

    def _reason(self, noise: Noise, rank: Mapping[str, int]) -> str:
        place = f"{rank[noise.node]} of {len(rank)} by the noise that each adds at the outputs"
        if noise.own is None:
            return f"taken for number {place}: inside a body, what it adds could not be measured"
        own = f"its own error is at {decibels(noise.own)}"
        if noise.neighbours == 1:
            return f"number {place}: quantized alone it leaves {decibels(noise.output)} there; {own}"
        return (
            f"number {place}: {decibels(noise.output)} there is its share of what {noise.neighbours} neighbours leave; "
            f"{own}; to measure each would have taken longer than "
            f"give_back_seconds={self._recipe.give_back_seconds:g}"
        )

    def _comparison(self) -> Comparison:
        """Compares on as many samples as leave time for all that has to be compared, and at least on `SAMPLES`."""
        original, seconds = self.judge.original, self._recipe.give_back_seconds / (2 * TRIES)
        watch, nbytes = Stopwatch(seconds), 0
        feeds: list[Feed] = []
        reference: list[list[Any]] = []
        for feed in islice(self.samples, COMPARED):
            if len(feeds) >= SAMPLES and (nbytes > BYTES or not watch.has_time(len(feeds))):
                break
            outputs = original.run(feed)
            feeds.append(feed)
            reference.append(outputs)
            nbytes += sum(getattr(array, "nbytes", 0) for array in (*feed.values(), *outputs))
        return Comparison(feeds, reference, [output.name for output in original.outputs], self.load)

    def _without(self, given_back: Sequence[Noise]) -> Variant:
        return self.quantizer.variant([noise.node for noise in given_back])

    def _fits(self, given_back: Sequence[Noise], comparison: Comparison) -> bool:
        return self._lost_without(given_back, comparison) <= self._recipe.max_drop

    def _lost_without(self, given_back: Sequence[Noise], comparison: Comparison) -> float:
        return self._lost(self._without(given_back), comparison)

    def _lost(self, variant: Variant, comparison: Comparison) -> float:
        """Returns what a model loses: of the user's metric where there is one, else of agreement."""
        if self.judge.metric is None:
            return comparison.loss(variant.model)
        with self.load(variant.model) as session:
            return relative_drop(self.judge.original_metric, self.judge.metric(session.run))
