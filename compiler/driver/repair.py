"""Repairing a quantized model that loses too much: regions are given back to float, the worst first, until it fits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from sardonyx import ir
from sardonyx.driver.give_back import (
    SAMPLES,
    Comparison,
    Quantizer,
    Region,
    Variant,
    fewest,
    measure_regions,
    search,
)
from sardonyx.driver.judge import Judge, relative_drop
from sardonyx.measure import Samples, Session
from sardonyx.pipeline import CompileRecord, Recipe

ATTEMPTS = 5
"""How many repaired models are judged on held-out samples before giving up."""


@dataclass(frozen=True)
class Repair:
    """Everything that giving back needs.

    Attributes:
        quantizer: Makes variants of the optimized model.
        quantized: The fully quantized variant, which loses too much.
        judge: Measures candidates on held-out samples.
        samples: Calibration samples, on which regions are compared.
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

    def variants(self) -> Iterator[Variant]:
        """Yields models with ever more given back: the caller judges each and stops at the first that fits."""
        nodes = self.quantized.compute_nodes
        comparison = self._comparison()
        regions = measure_regions(
            self.quantizer,
            nodes,
            comparison,
            self._recipe.give_back_seconds,
            lambda done, total: self.judge.progress(done, total, "measure regions"),
        )
        total = comparison.loss(self.quantized.model)
        guess = fewest(regions, total, self._recipe.max_drop)
        count = search(guess, len(regions), lambda k: self._fits(regions[:k], comparison))
        told = 0
        for _ in range(ATTEMPTS):
            if count >= len(regions):
                break
            for region in regions[told:count]:
                self.record.decide("give-back", "float", self._reason(region), region.nodes)
            yield self.quantizer.variant(_names(regions[:count]))
            told, count = count, count + max(1, count // 2)
        self.record.decide("give-back", "nothing", f"no model with some of {len(regions)} regions quantized fitted")

    def _reason(self, region: Region) -> str:
        if len(region.nodes) == 1:
            return f"quantized alone it costs {region.loss:.2%} of agreement"
        return (
            f"these {len(region.nodes)} nodes quantized alone cost {region.loss:.2%} of agreement; to measure each "
            f"would have taken longer than give_back_seconds={self._recipe.give_back_seconds:g}, and with more of them "
            "fewer nodes may have to go back"
        )

    def _comparison(self) -> Comparison:
        original = self.judge.original
        feeds = list(islice(self.samples, SAMPLES))
        names = [output.name for output in original.outputs]
        return Comparison(feeds, [original.run(feed) for feed in feeds], names, self.load)

    def _fits(self, given_back: list[Region], comparison: Comparison) -> bool:
        """Whether a model keeps the budget: by the user's metric where there is one, else by agreement."""
        variant = self.quantizer.variant(_names(given_back))
        if self.judge.metric is None:
            return comparison.loss(variant.model) <= self._recipe.max_drop
        with self.load(variant.model) as session:
            drop = relative_drop(self.judge.original_metric, self.judge.metric(session.run))
        return drop <= self._recipe.max_drop


def _names(regions: list[Region]) -> tuple[str, ...]:
    return tuple(name for region in regions for name in region.nodes)
