"""Quantizers whose range leaves out what is not needed: told from a wrong scale by what becomes of the rounded value.

A grid over all that was seen of a value is not the best one where the nodes behind it bend: SiLU makes nothing of
numbers far below zero, ReLU of all of them, and Sigmoid hardly tells large ones apart. So more error than such a grid
makes is no fault by itself. The nodes behind are run twice, once with the quantizer as it is and once with the grid
over all that was seen in its place, everything else taken from the first model: the range is explained where none of
them is much further off with it than with that grid.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sardonyx.diff.checkpoints import Checkpoint, Plan
from sardonyx.diff.expectation import STEP_MARGIN, grid_over, step_error
from sardonyx.diff.rescaling import Remeasure, Settled, local_error
from sardonyx.diff.segments import Replacement, Wiring

_BRANCHES = 4
"""Places on the branches of a function such as z * sigmoid(z), in operators and quantizers of their own, at most."""

Readers = Mapping[str, Sequence[Checkpoint]]
"""Places by the name of a value that they read."""


@dataclass(frozen=True)
class _Probe:
    """What is run to find out whether the range of a quantizer matters.

    Attributes:
        point: The place that answers for the quantizer alone.
        computed: Names of the values that are not taken from the first model, although they are places.
        ends: Places behind, which answer for the quantizer as well.
        whole: The same with a grid over all that was seen.
    """

    point: Checkpoint
    computed: frozenset[str]
    ends: tuple[Checkpoint, ...]
    whole: tuple[Checkpoint, ...]

    def disturbs(self, other: "_Probe") -> bool:
        """Whether one of both takes from the first model what the other one computes."""
        return any(
            not one.computed.isdisjoint(name for end in two.ends for name in end.after_reads)
            for one, two in ((self, other), (other, self))
        )


def explained_ranges(plan: Plan, settled: Settled, after: Wiring, again: Remeasure) -> dict[str, str]:
    """Returns why quantizers are no fault that make more error than a grid over all that was seen.

    Args:
        plan: All places.
        settled: What was measured at each.
        after: Wiring of the second model's main graph.
        again: Measures anew.

    Returns:
        A phrase by the name of the rounded value, for those quantizers whose range is explained.
    """
    readers: dict[str, list[Checkpoint]] = defaultdict(list)
    for point in plan.checkpoints:
        for name in point.after_reads:
            readers[name].append(point)
    probes = [probe for point in plan.checkpoints if (probe := _probe(point, settled, after, readers)) is not None]
    found: dict[str, str] = {}
    while probes:
        now, probes = _apart(probes)
        errors = [
            {name: local_error(measured) for name, measured in again(points, settled.rescaled, True).items()}
            for points in ([p for probe in now for p in probe.ends], [p for probe in now for p in probe.whole])
        ]
        for probe in now:
            pairs = [(errors[0][end.after], errors[1][end.after]) for end in probe.ends]
            if all(math.isfinite(wide) and own <= math.sqrt(STEP_MARGIN) * wide for own, wide in pairs):
                own, wide = max(pairs)
                found[probe.point.after] = (
                    f"relative error {own:.3g} behind it, and {wide:.3g} with a grid over all that was seen"
                )
    return found


def _probe(point: Checkpoint, settled: Settled, after: Wiring, readers: Readers) -> _Probe | None:
    """What to run where a quantizer makes too much error; None where it does not, or where that cannot be run."""
    if point.quantizer is None:
        return None
    measured = settled.measured[point.after]
    bound = step_error(point.quantizer, measured.extent) + settled.uncertainty_at(point)
    grid = grid_over(point.quantizer, measured.extent)
    if not grid or not bound < local_error(measured) < math.inf or after.values[point.after].is_graph_output():
        return None
    inside, ends = _behind(point, after, readers)
    exchanged = [
        Replacement(after.index(node), place, tensor) for node in point.after_nodes for place, tensor in grid.items()
    ]
    ends = [_joined(end, inside) for end in ends]
    whole = [replace(end, replacements=(*end.replacements, *exchanged)) for end in ends]
    return _Probe(point, frozenset(p.after for p in inside), tuple(ends), tuple(whole)) if ends else None


def _behind(point: Checkpoint, after: Wiring, readers: Readers) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Where branches behind a quantizer meet soon, the places up to there and that one; else its readers."""
    inside = [point]
    for _ in range(_BRANCHES + 1):
        names = [p.after for p in inside]
        ends = list({p.after: p for name in names for p in readers.get(name, ()) if p.after not in names}.values())
        if len(ends) == 1:
            return inside, ends
        branch = [p for p in ends if set(p.after_reads) <= set(names) and not after.values[p.after].is_graph_output()]
        if not branch:
            break
        inside.append(branch[0])
    return [point], list(readers.get(point.after, ()))


def _joined(end: Checkpoint, inside: Iterable[Checkpoint]) -> Checkpoint:
    """A place together with some before it, which it reads."""
    parts = (end, *inside)
    names = {p.after for p in inside}
    reads = {
        new: old for p in parts for new, old in zip(p.after_reads, p.before_reads, strict=True) if new not in names
    }
    replacements = tuple(r for p in parts for r in p.replacements)
    return replace(end, after_reads=tuple(reads), before_reads=tuple(reads.values()), replacements=replacements)


def _apart(probes: Sequence[_Probe]) -> tuple[list[_Probe], list[_Probe]]:
    """Takes as many as can be run at once, and leaves the others."""
    now: list[_Probe] = []
    later: list[_Probe] = []
    for probe in probes:
        (later if any(probe.disturbs(other) for other in now) else now).append(probe)
    return now, later
