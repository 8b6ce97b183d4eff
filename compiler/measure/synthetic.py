"""Synthetic samples: inputs that a model accepts, for when the user brings none.

They show whether two models compute the same function and how fast; they say nothing about accuracy.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sardonyx.errors import DataError
from sardonyx.measure.feeds import Array, Feed, TensorSpec
from sardonyx.measure.samples import Samples, SampleSpec, load_samples
from sardonyx.measure.session import Session

SYNTHETIC_SAMPLES = 4


def synthetic_samples(specs: Sequence[TensorSpec], *, seed: int = 0) -> Samples:
    """Returns samples drawn at random for a model's inputs.

    Floating-point inputs are standard normal; integers are 0 or 1, which are valid indices, masks and flags almost
    everywhere; symbolic dimensions are 1.

    Args:
        specs: The model's inputs.
        seed: Seed of the generator; the same seed gives the same samples.

    Raises:
        DataError: While iterating, if an input has a type that cannot be drawn, such as string.
    """

    def draw() -> Iterator[Feed]:
        generator = np.random.default_rng(seed)
        for _ in range(SYNTHETIC_SAMPLES):
            yield {spec.name: _array(spec, generator) for spec in specs}

    return Samples(draw, "synthetic samples (random inputs)", SYNTHETIC_SAMPLES)


def samples_for(spec: SampleSpec | None, session: Session) -> Samples:
    """Returns the user's samples, named and checked for a model, or synthetic ones where there are none."""
    if spec is None:
        return synthetic_samples(session.inputs)
    return load_samples(spec).named_for(session.inputs).checked(session.inputs)


def _array(spec: TensorSpec, generator: np.random.Generator) -> Array:
    shape = tuple(d if isinstance(d, int) else 1 for d in spec.shape)
    if spec.dtype is None or spec.dtype.kind not in "fiub":
        raise DataError(
            f"No synthetic sample can be made for the input {spec.name!r} of type {spec.dtype}.",
            remedy="Pass --data with real samples.",
        )
    if spec.dtype.kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)
