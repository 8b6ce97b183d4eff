"""The smallest parts of two models that still show their difference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.diff.checkpoints import Checkpoint
from sardonyx.diff.drift import Comparison
from sardonyx.diff.drift_schema import Drift, Error, Place
from sardonyx.diff.matching import Matching
from sardonyx.diff.measuring import DriftOptions, compare_arrays, fitting, opened_part
from sardonyx.diff.segments import cut_model
from sardonyx.errors import UsageError
from sardonyx.measure import Array, ErrorAccumulator, Feed, Samples

_SHOWN = 0.5
"""A part shows the difference when it makes this share of the local error at least."""


@dataclass(frozen=True)
class Part:
    """A part of each model with the same inputs and one output.

    Attributes:
        before: Part of the first model.
        after: Part of the second, with the first one's names for inputs and output.
        feed: Arrays by input name: what the first model computes there for one of the samples.
    """

    before: ir.Model
    after: ir.Model
    feed: Feed


@dataclass(frozen=True)
class Bisection:
    """Parts of two models that differ on a sample.

    Attributes:
        part: The parts and their inputs.
        expected: What the first model's part makes of them.
        place: Where the parts end.
        error: How far their outputs are apart.
        drift: The comparison of the whole models.
    """

    part: Part
    expected: Array
    place: Place
    error: Error
    drift: Drift


def bisect(
    before: ir.Model, after: ir.Model, matching: Matching, samples: Samples, options: DriftOptions
) -> Bisection | None:
    """Cuts two models down to the smallest parts between matched values that still show their difference.

    The parts end at the first place where the models part, or, where none does, where the local error is largest.
    They begin at the matched values before it, or further up where the difference takes more nodes to show.

    Args:
        before: The first model, with shapes.
        after: The second model, with shapes.
        matching: Which values carry the same quantity.
        samples: Feeds of the first model.
        options: How to compare.

    Returns:
        The parts; None where the models compute the same.

    Raises:
        UsageError: If nothing between matched values shows the difference, or the second model has an input that the
            first one lacks.
        DataError: If a sample does not fit, or there are none.
        BackendError: If the runtime refuses one of the models.
    """
    comparison = Comparison.of(before, after, matching)
    drift = comparison.drift(samples, options)
    places = [drift.places[drift.first]] if drift.first is not None else list(drift.largest[:1])
    if not places or (places[0].local or places[0].total).equal:
        return None
    cutter = _Cutter(comparison, options)
    for feed in samples:
        for part in cutter.parts(places[0], feed):
            expected, error = cutter.run(part)
            if _shows(error, places[0]):
                return Bisection(part, expected, places[0], error, drift)
    raise UsageError(
        f"No part of the models that ends at {places[0].before!r} shows the difference on any one sample.",
        remedy="Look at the drift of the whole models: sardonyx diff A B --data.",
    )


def _shows(error: Error, place: Place) -> bool:
    if error.nonfinite or (error.relative is None and not error.equal):
        return True
    local = place.local if place.local is not None else place.total
    wanted = _SHOWN * min(local.relative or 0.0, 1.0)
    return not error.equal and (error.relative or 0.0) >= wanted


class _Cutter:
    """Cuts parts that end at a place, from small to large."""

    def __init__(self, comparison: Comparison, options: DriftOptions) -> None:
        self._comparison, self._options = comparison, options
        self._before, self._after = comparison.wiring

    def parts(self, place: Place, feed: Feed) -> Iterator[Part]:
        """Yields parts that end at a place, each with the inputs that the first model gives it for a sample."""
        point = self._point(place)
        pairs = self._comparison.pairs
        old, new = self._before.values[point.before], self._after.values[point.after]
        stops_before, stops_after = set(pairs.before_values), set(pairs.after_values)
        while True:
            part_before = self._before.segment((old,), stops_before)
            part_after = self._after.segment((new,), stops_after)
            given = {v.name or "": (pairs.given.get(v) or v).name or "" for v in part_after.reads}
            if part_before.nodes and point.before not in given.values():
                yield self._part(point, [v.name or "" for v in part_before.reads], given, feed)
            upstream = [v for v in part_after.reads if v.producer() is not None]
            if not upstream:
                return
            stops_after -= set(upstream)
            stops_before -= {pairs.given.get(v) or v for v in upstream} | set(part_before.reads)

    def run(self, part: Part) -> tuple[Array, Error]:
        """Returns what the first model's part computes, and how far the second's is from it."""
        results = []
        for model in (part.before, part.after):
            with opened_part(model, self._options) as session:
                results += session.run(fitting(session, part.feed))
        errors = ErrorAccumulator([part.before.graph.outputs[0].name or ""])
        compare_arrays(errors, *results)
        return results[0], Error.of(errors.result()[0])

    def _point(self, place: Place) -> Checkpoint:
        """The place of comparison, or for a constant that of what its reader computes."""
        points = self._comparison.plan.checkpoints
        if place.kind == "value":
            return next(point for point in points if point.after == place.after)
        reader = place.after_nodes[-1].index
        return next(point for point in points if any(self._after.index(n) == reader for n in point.after_nodes))

    def _part(self, point: Checkpoint, reads: Sequence[str], given: Mapping[str, str], feed: Feed) -> Part:
        names = list(dict.fromkeys((*reads, *given.values())))
        before, inner = cut_model(self._comparison.before, [point.before], names)
        _set_interface(before, {inner[name]: name for name in names if name in inner}, point.before)
        after, inner = cut_model(self._comparison.after, [point.after], list(given))
        _set_interface(after, {inner[name]: given[name] for name in given if name in inner}, point.before)
        for part in (before, after):
            present = {value.name for value in part.graph.inputs}
            for name in names:
                if name not in present:
                    value = self._before.values[name]
                    part.graph.inputs.append(ir.Value(name=name, type=value.type, shape=value.shape))
        return Part(before, after, self._values(names, feed))

    def _values(self, names: Sequence[str], feed: Feed) -> Feed:
        """What the first model computes for a sample."""
        taps = [name for name in names if name not in feed]
        if not taps:
            return {name: feed[name] for name in names}
        part, _ = cut_model(self._comparison.before, taps)
        with opened_part(part, self._options) as session:
            known = dict(zip(taps, session.run(fitting(session, feed), taps), strict=True))
        return {name: known[name] if name in known else feed[name] for name in names}


def _set_interface(part: ir.Model, inputs: Mapping[str, str], output: str) -> None:
    """Renames inputs and the output of a part; inputs that come to have one name become one."""
    renamed = [(value, inputs[value.name or ""]) for value in part.graph.inputs]
    taken = {*inputs.values(), output}
    names = ir.NameAuthority(part)
    for value in tuple(ir.graph_values(part.graph)):
        if value.name in taken:
            value.name = names.value(f"{value.name}_inner")
    kept: dict[str, ir.Value] = {}
    for value, name in renamed:
        first = kept.setdefault(name, value)
        if first is not value:
            ir.replace_all_uses_with(value, first)
    part.graph.inputs[:] = kept.values()
    for name, value in kept.items():
        value.name = name
    part.graph.outputs[0].name = output
