"""What a model of the zoo is: a file, inputs to feed it, and where labels exist, how good it is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]
"""One sample: arrays by input name."""

Run = Callable[[Feed], Sequence[NDArray[Any]]]
"""Runs a model on one feed and returns its outputs in order."""

Metric = Callable[[Run], float]
"""Rates a model by running it on labelled data; higher is better."""


@dataclass(frozen=True)
class Entry:
    """A model and how to use it.

    Attributes:
        name: Its name in the zoo.
        path: The ONNX file.
        samples: Feeds of batch 1 for calibration, none of which the metric uses; can be iterated again.
        metric: Rates a model with the same inputs and outputs; None where no labelled data come with it.
        metric_name: What the metric is, or empty.
        description: Task, inputs and where the samples come from.
        licence: Licences of weights and data.
    """

    name: str
    path: Path
    samples: Iterable[Feed]
    metric: Metric | None
    metric_name: str
    description: str
    licence: str
