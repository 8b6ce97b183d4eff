"""From measured errors to a verdict: which places part, and which is the first."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from sardonyx import ir
from sardonyx.diff.checkpoints import Checkpoint, ConstantPair, Noise, Plan
from sardonyx.diff.drift_schema import ChannelFactors, Drift, Error, Place
from sardonyx.diff.expectation import constant_bounds, mixed_error, root_mean_square, rounding_error, step_error
from sardonyx.diff.matching import NodeRef
from sardonyx.diff.quantities import is_dequantize
from sardonyx.diff.rescaling import Settled
from sardonyx.diff.schema import NodeEntry
from sardonyx.diff.segments import Wiring
from sardonyx.measure import Array, ErrorAccumulator

_JUMP = 10.0
"""Growth of the error over that of what a value is computed from, which counts where no local error is known."""


class Judge:
    """Turns what was measured into places.

    Args:
        plan: The places of comparison.
        settled: What was measured, rescaling accounted for.
        wiring: Of both main graphs.
        ranges: Why the range of a quantizer is no fault, by the name of the rounded value.
    """

    def __init__(self, plan: Plan, settled: Settled, wiring: tuple[Wiring, Wiring], ranges: Mapping[str, str]) -> None:
        self._plan, self._settled, self._measured = plan, settled, settled.measured
        self._constants = {(pair.reader_after, pair.after): pair for pair in plan.constants}
        self._before, self._after = wiring
        self._ranges = ranges
        self._totals = {p.after: Error.of(self._measured[p.after].total.result()[0]) for p in plan.checkpoints}
        self._locals = {p.after: self._local(p) for p in plan.checkpoints}
        mixed = (self._locals[p.after] for p in plan.checkpoints if p.noise is Noise.MIXED)
        self._mixed = mixed_error([e.relative for e in mixed if e is not None and e.relative is not None])

    def verdict(self, samples: int, what: str) -> Drift:
        """Returns the drift over a number of samples from some source."""
        placed = [(self._position(p), self._place(p)) for p in self._plan.checkpoints if self._comparable(p)]
        placed += [(self._after.index(pair.reader_after) - 0.5, self._constant(pair)) for pair in self._plan.constants]
        places = tuple(place for _, place in sorted(placed, key=lambda item: item[0]))
        first = next((index for index, place in enumerate(places) if place.parts), None)
        skipped = {p.before: self._totals[p.after].reason for p in self._plan.checkpoints if not self._comparable(p)}
        return Drift(samples=samples, what=what, places=places, first=first, not_compared=skipped)

    def _comparable(self, point: Checkpoint) -> bool:
        error = self._totals[point.after]
        return not error.reason or bool(error.nonfinite)

    def _position(self, point: Checkpoint) -> float:
        return float(self._after.position(self._after.values[point.after]))

    def _local(self, point: Checkpoint) -> Error | None:
        measured = self._measured[point.after]
        (error,) = measured.local.result()
        return None if measured.failed or not error.samples else Error.of(error)

    def _place(self, point: Checkpoint) -> Place:
        total, local = self._totals[point.after], self._locals[point.after]
        allowed = self._allowed(point)
        earlier = [e.relative for e in (self._totals.get(name) for name in point.after_reads) if e is not None]
        source = max((r for r in earlier if r is not None), default=0.0)
        amplification = total.relative / source if total.relative is not None and source else None
        rescaling = self._settled.rescaled.get(point.after)
        error, bound = (local, allowed) if local is not None else (total, max(_JUMP * source, allowed))
        return Place(
            kind="value",
            before=point.before,
            after=point.after,
            before_nodes=_entries(point.before_nodes, self._before),
            after_nodes=_entries(point.after_nodes, self._after),
            total=total,
            local=local,
            amplification=amplification,
            noise=point.noise,
            allowed=allowed if math.isfinite(allowed) else None,
            parts=point.after not in self._ranges and _exceeds(error, bound),
            rescaled=None if rescaling is None else ChannelFactors.of(rescaling.factors, rescaling.axes),
            why=self._measured[point.after].failed or error.reason or self._ranges.get(point.after, ""),
        )

    def _allowed(self, point: Checkpoint) -> float:
        """What its nodes may add, with what is unknown of the factors that it has to do with."""
        return self._explained(point) + self._settled.uncertainty_at(point)

    def _explained(self, point: Checkpoint) -> float:
        if point.noise is Noise.MIXED:
            return self._mixed
        if point.quantizer is not None:
            return step_error(point.quantizer, self._measured[point.after].extent)
        return rounding_error(point.dtypes)

    def _constant(self, pair: ConstantPair) -> Place:
        old, new = ir.read_array(pair.before_tensor), ir.read_array(pair.after_tensor)
        factors, place = self._settled.constants.get(pair.after, (None, None))
        if factors is not None:
            old = (old * factors).astype(old.dtype)
        errors = ErrorAccumulator([pair.after.name or ""])
        errors.update([old], [new])
        error = Error.of(errors.result()[0])
        restorer = pair.after.producer()
        bound, largest = constant_bounds(restorer if is_dequantize(restorer) else None, old, pair.before.dtype)
        shift, rms = self._largest_shift(pair), root_mean_square(old)
        bound, largest = bound + (shift / rms if rms else 0.0), largest + shift
        if place is not None:
            unknown = self._settled.uncertainty_at(place)
            bound, largest = bound + unknown, largest + unknown * float(np.abs(old).max(initial=0.0))
            if old.ndim == 1:  # what reads it answers for it
                bound, largest = math.inf, np.asarray(math.inf)
        nodes = [node for node in (restorer, pair.reader_after) if node is not None]
        far = _far_off(old, new, largest)
        return Place(
            kind="constant",
            before=pair.before.name or "",
            after=pair.after.name or "",
            before_nodes=_entries([pair.reader_before], self._before),
            after_nodes=_entries(nodes, self._after),
            total=error,
            local=error,
            amplification=None,
            noise=Noise.STEP if is_dequantize(restorer) else Noise.ROUNDING,
            allowed=bound if math.isfinite(bound) else None,
            parts=_exceeds(error, bound) or bool(far),
            rescaled=None if factors is None else ChannelFactors.of(factors),
            why=far or error.reason,
        )

    def _largest_shift(self, pair: ConstantPair) -> float:
        """By how much bias correction may have moved a bias, which takes away what rounded weights add on average.

        That is sum_k dW[o, k] E[x[k]], at most |dW[o]| sqrt(K) rms(x) by Cauchy and Schwarz.
        """
        activation, weight = [*pair.reader_after.inputs, None, None][:2]
        weights = None if weight is None else self._constants.get((pair.reader_after, weight))
        seen = None if activation is None else self._measured.get(activation.name or "")
        if weights is None or weights is pair or seen is None or len(pair.after_tensor.shape) != 1:
            return 0.0
        old, new = ir.read_array(weights.before_tensor), ir.read_array(weights.after_tensor)
        squares = np.square(new.astype(np.float64) - old)
        sums = [
            old.size / size * squares.sum(tuple(other for other in range(old.ndim) if other != axis)).max(initial=0.0)
            for axis, size in enumerate(old.shape)
            if size == pair.after_tensor.size and size
        ]
        return math.sqrt(max(sums, default=0.0)) * seen.extent.rms


def _far_off(old: Array, new: Array, largest: Array) -> str:
    """Says which element of a constant is further off than it may be; empty where none is."""
    excess = np.subtract(new, old)
    np.abs(excess, out=excess)
    excess -= largest.astype(excess.dtype)
    if not excess.size or not excess.max() > 0:
        return ""
    index = np.unravel_index(int(excess.argmax()), excess.shape)
    place, allowed = ", ".join(map(str, index)), np.broadcast_to(largest, old.shape)[index]
    return f"element [{place}] is {abs(new[index] - old[index]):.3g} off, more than {allowed:.3g}"


def _exceeds(error: Error, bound: float) -> bool:
    if error.nonfinite:
        return True
    return not error.equal and (error.relative is None or error.relative > bound)


def _entries(nodes: Iterable[ir.Node], wiring: Wiring) -> tuple[NodeEntry, ...]:
    return tuple(
        NodeEntry.of(NodeRef((), node.name or "", node.op_type, node.domain, wiring.index(node))) for node in nodes
    )
