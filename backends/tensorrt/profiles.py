"""Optimization profiles: the ranges of shapes that an engine takes at its dynamic inputs."""

from collections.abc import Mapping, Sequence

from sardonyx import ir
from sardonyx.backends.tensorrt.settings import ShapeRange
from sardonyx.errors import UsageError
from sardonyx.measure import Samples

Dims = tuple[int, ...]


def make_profile(model: ir.Model, given: Sequence[ShapeRange], samples: Samples | None) -> tuple[ShapeRange, ...]:
    """Returns a range for every dynamic input: the given one, else that of the samples.

    Raises:
        UsageError: If a given range does not fit its input, with the dimension; or if an input has neither a range nor
            samples.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    ranges = {each.name: each for each in given}
    for each in given:
        _require_fit(each, inputs)
    missing = [name for name, value in inputs.items() if is_dynamic(value) and name not in ranges]
    if missing and samples is None:
        raise UsageError(
            f"The shape of {_described(inputs[missing[0]])} is dynamic: an engine is built for a range of shapes.",
            remedy=f"Pass --shape {missing[0]}=MIN:OPT:MAX, or --data whose samples have the usual shapes.",
        )
    seen = _observed(missing, samples) if missing and samples is not None else {}
    ranges |= {name: _spanned(name, shapes) for name, shapes in seen.items()}
    return tuple(ranges[name] for name in inputs if name in ranges and is_dynamic(inputs[name]))


def is_dynamic(value: ir.Value) -> bool:
    """Whether an input has a dimension that is not known before the model runs."""
    return value.shape is None or not all(isinstance(dim, int) for dim in value.shape)


def _require_fit(given: ShapeRange, inputs: Mapping[str, ir.Value]) -> None:
    value = inputs.get(given.name)
    if value is None:
        raise UsageError(
            f"The model has no input {given.name!r} to give shapes for.", remedy=f"Its inputs: {', '.join(inputs)}."
        )
    if value.shape is None:
        return
    if len(value.shape) != len(given.best):
        raise UsageError(
            f"{given} has {len(given.best)} dimensions, and {_described(value)} has {len(value.shape)}.",
            remedy="Give a size for each dimension.",
        )
    for axis, dim in enumerate(value.shape):
        sizes = {given.least[axis], given.best[axis], given.most[axis]}
        if isinstance(dim, int) and sizes != {dim}:
            raise UsageError(
                f"Dimension {axis} of {_described(value)} is {dim}; the range {given} has "
                f"{':'.join(str(size) for size in sorted(sizes))} there.",
                remedy=f"Give {dim} in all three shapes, or export the model with this dimension dynamic.",
            )


def _observed(names: Sequence[str], samples: Samples) -> dict[str, list[Dims]]:
    """The shapes of some inputs in all samples."""
    seen: dict[str, list[Dims]] = {name: [] for name in names}
    for feed in samples:
        for name in names:
            if name in feed:
                seen[name].append(feed[name].shape)
    return {name: shapes for name, shapes in seen.items() if shapes}


def _spanned(name: str, shapes: Sequence[Dims]) -> ShapeRange:
    """The range that holds all shapes, optimized for the middle one of each dimension."""
    columns = [sorted(sizes) for sizes in zip(*shapes, strict=True)]
    return ShapeRange(
        name,
        tuple(column[0] for column in columns),
        tuple(column[len(column) // 2] for column in columns),
        tuple(column[-1] for column in columns),
    )


def _described(value: ir.Value) -> str:
    shape = "?" if value.shape is None else "x".join(str(dim) for dim in value.shape)
    return f"the input {value.name} ({shape})"
