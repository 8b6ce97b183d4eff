"""Which values a pass rescaled by channel, and took up again in what reads them: the function is the same.

Factors alone prove nothing: a wrong scale of one channel has them as well. What tells them apart are the readers of
such values. Given the first model's value times its factors, a reader that takes them up again computes what the first
model computes; a reader that knows nothing of them does so when it is given the first model's value itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from networkx.utils import UnionFind

from sardonyx import ir
from sardonyx.diff.channel_factors import Rescaling, Sums, constant_factors
from sardonyx.diff.checkpoints import Checkpoint, Plan
from sardonyx.diff.measuring import Measured

_BETTER = 0.5
"""A reader says that a value is rescaled, or that it is not, where its error falls to this share or rises as much."""
_TELLING = 1e-4
"""Relative error beyond that of rounding, from which on a reader says something."""
_MARGIN = 2.0
"""Factors of a value, and those of a constant that it is made with, are each known as exactly as the value agrees."""

Rescalings = Mapping[str, Rescaling]
"""By the name of the second model's value."""

Remeasure = Callable[[Sequence[Checkpoint], Rescalings, bool], Mapping[str, Measured]]
"""Measures at some places with given factors; if the last is true, only the errors that their own nodes make."""


@dataclass(frozen=True)
class Settled:
    """What was measured when rescaling is accounted for.

    Attributes:
        measured: By the name of the second model's value.
        rescaled: The values that are rescaled.
        constants: By the second model's constant: what it was multiplied by, broadcasting over it, and the place at
            which it is read.
    """

    measured: Mapping[str, Measured]
    rescaled: Rescalings = field(default_factory=dict)
    constants: Mapping[ir.Value, tuple[Sums, Checkpoint]] = field(default_factory=dict)

    def uncertainty_at(self, point: Checkpoint) -> float:
        """Returns what is unknown of the factors of what a place computes and reads."""
        return self._uncertainty((point.after, *point.after_reads))

    def _uncertainty(self, names: Iterable[str]) -> float:
        """Sum of relative errors; 0 where none is rescaled."""
        return _MARGIN * sum(self.rescaled[name].error for name in dict.fromkeys(names) if name in self.rescaled)


def settle(plan: Plan, measured: Mapping[str, Measured], outputs: Iterable[str], again: Remeasure) -> Settled:
    """Finds the rescaled values, and measures anew at the places that compute or read them.

    Args:
        plan: All places.
        measured: What was measured at each.
        outputs: Names of the second model's outputs, which are never rescaled.
        again: Measures anew.
    """
    strict = frozenset(outputs)
    found = {p.after: measured[p.after].channels.rescaling() for p in plan.checkpoints if p.after not in strict}
    supposed = {name: one for name, one in found.items() if one is not None}
    if not supposed:
        return Settled(measured)
    kept = _confirmed(plan, supposed, again)
    if not kept:
        return Settled(measured)
    constants: dict[ir.Value, tuple[Sums, Checkpoint]] = {}
    points = [_rescaled_constants(p, kept, constants) for p in plan.checkpoints if _touched(p, kept)]
    return Settled({**measured, **again(points, kept, False)}, kept, constants)


def _touched(point: Checkpoint, supposed: Rescalings) -> list[str]:
    """The values that a place computes or reads and that are supposed to be rescaled."""
    return [name for name in dict.fromkeys((point.after, *point.after_reads)) if name in supposed]


def _rescaled_constants(
    point: Checkpoint, supposed: Rescalings, constants: dict[ir.Value, tuple[Sums, Checkpoint]]
) -> Checkpoint:
    """Rescales the first model's constants of a place as well, where factors explain what they are in the second.

    A vector has one element a channel, which tells nothing of its factor: the nodes read their own, and answer for it.
    """
    read = [supposed[name] for name in point.after_reads if name in supposed]
    exchanged = []
    for pair, replacement in zip(point.constants, point.replacements, strict=True):
        before = ir.read_array(pair.before_tensor)
        factors = constant_factors(before, ir.read_array(pair.after_tensor), supposed.get(point.after), read)
        if factors is not None:
            constants[pair.after] = factors, point
        if factors is not None and before.ndim > 1:
            exchanged.append(replace(replacement, tensor=ir.tensor((before * factors).astype(before.dtype))))
    return replace(point, replacements=tuple(exchanged))


def _confirmed(plan: Plan, supposed: Rescalings, again: Remeasure) -> Rescalings:
    """Returns the values whose readers take up the factors again, by runs of connected values as a whole.

    All nodes read their own constants here: those may be what takes the factors up.
    """
    runs = UnionFind(supposed)
    for point in plan.checkpoints:
        runs.union(*_touched(point, supposed))
    readers = {
        point.after: (replace(point, constants=(), replacements=()), read[0])
        for point in plan.checkpoints
        if point.after not in supposed and (read := [name for name in point.after_reads if name in supposed])
    }
    points = [point for point, _ in readers.values()]
    plain, given = again(points, {}, True), again(points, supposed, True)
    votes: dict[str, list[bool]] = defaultdict(list)
    for name, (_, read_value) in readers.items():
        errors = local_error(plain[name]), local_error(given[name])
        if min(errors) < _BETTER * max(errors) and max(errors) > _TELLING:
            votes[runs[read_value]].append(errors[1] < errors[0])
    return {name: one for name, one in supposed.items() if votes[runs[name]] and all(votes[runs[name]])}


def local_error(measured: Measured) -> float:
    """Returns the relative error that a place's own nodes make; 0 where equal, infinite where it was not measured."""
    (error,) = measured.local.result()
    return float("inf") if measured.failed or not error.samples else float(np.power(10.0, -error.sqnr_db / 20))
