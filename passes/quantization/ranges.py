"""Observed ranges, remembered between passes: variants of one model are planned without calibrating each anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibrate import CalibrationResult, calibrate
from sardonyx.passes.quantization.observers import ObservedRange, Observer

KEY = "sardonyx.ranges"


@dataclass
class _Remembered:
    """What was observed of one model; its parts are held, so that their identities stay theirs."""

    parts: tuple[object, ...]
    ranges: dict[str, ObservedRange] = field(default_factory=dict)
    samples: int = 0


def observed_ranges(
    model: ir.Model, values: Sequence[str], method: str, new_observer: Callable[[], Observer], context: PassContext
) -> CalibrationResult:
    """Returns the ranges of values, calibrating only for those that were not observed before.

    Args:
        model: The float model; it is not changed.
        values: Names of float values of the main graph.
        method: What names the observer with its options; ranges of other methods are not taken.
        new_observer: Makes the observer of one value.
        context: Samples, threads, progress, and the memory in which ranges are kept.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples.
    """
    structure, parts = model_structure(model)
    known: _Remembered = context.memory.setdefault((KEY, method, structure), _Remembered(parts))
    missing = [name for name in values if name not in known.ranges]
    if missing:
        result = calibrate(model, missing, new_observer, context)
        known.ranges.update(result.ranges)
        known.samples = result.samples
    return CalibrationResult({name: known.ranges[name] for name in values}, known.samples)


def model_structure(model: ir.Model) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """What copies of a model share as long as they have the same nodes and the very same weights and attributes.

    Returns:
        A key made of names and identities, and the objects whose identities it holds.
    """
    parts: list[object] = [value.const_value for value in model.graph.initializers.values()]
    key: list[object] = list(model.graph.initializers)
    for graph in ir.all_graphs(model):
        for node in graph:
            parts += node.attributes.values()
            inputs = tuple(None if value is None else value.name for value in node.inputs)
            key.append((node.op_type, inputs, tuple(value.name for value in node.outputs)))
    return (*key, *map(id, parts)), tuple(parts)
