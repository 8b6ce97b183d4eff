"""Looking at inner values of the float model, one sample at a time."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import DataError, PassError
from sardonyx.measure import Session, SessionOptions
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibration.taps import tapped_model

Look = Callable[[Mapping[str, npt.NDArray[Any]]], None]

PREPACKED_BYTES = 256 << 20
"""Weights of more stay mapped from their file instead of being copied into the layout of the kernels: runs take longer,
and a model may be larger than memory."""


def stream(model: ir.Model, values: Sequence[str], look: Look, context: PassContext, limit: int | None = None) -> int:
    """Runs samples and shows the named values of each to `look`; no sample is kept.

    Args:
        model: A model; it is not changed.
        values: Names of values of its main graph: inputs or outputs of nodes.
        look: Called once a sample with the arrays by name.
        context: Samples, threads and progress.
        limit: Samples to run at most; None for all.

    Returns:
        The number of samples.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples.
        BackendError: If the runtime refuses the model.
    """
    if context.samples is None:
        raise PassError("This accuracy method needs samples to observe.", remedy="Pass --data, or data=samples.")
    inputs = {value.name for value in model.graph.inputs}
    tapped = [name for name in dict.fromkeys(values) if name not in inputs]
    total = context.samples.len_hint if limit is None else limit
    done = 0
    with ir.TemporaryFolder() as folder:
        path = folder / "tapped.onnx"
        tap = tapped_model(model, tapped)
        ir.save(tap, path, external_data=True)  # weights inside the file would be in memory twice
        weights = sum(value.const_value.nbytes for value in tap.graph.initializers.values() if value.const_value)
        options = SessionOptions(threads=context.threads, arena=False, prepack=weights <= PREPACKED_BYTES)
        with Session(path, options=options) as session:
            for feed in islice(context.samples, limit):
                fetched = dict(zip(tapped, session.run(feed, tapped), strict=True)) if tapped else {}
                look({name: fetched[name] if name in fetched else np.asarray(feed[name]) for name in values})
                done += 1
                context.progress(done, total, "observe")
    if not done:
        raise DataError("There are zero calibration samples.", remedy="Give at least one; 30 to 300 are usual.")
    return done
