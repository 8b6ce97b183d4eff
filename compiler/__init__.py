"""Sardonyx: a graph compiler for ONNX models.

The public face is small: `compile` for the whole job, and the rooms for its parts: `sardonyx.ir`,
`sardonyx.pipeline`, `sardonyx.measure`, `sardonyx.passes`, `sardonyx.backends`, `sardonyx.models`.
"""

import os
from typing import TYPE_CHECKING, Any

from sardonyx._version import __version__

if TYPE_CHECKING:
    from sardonyx.driver import CompileResult
    from sardonyx.measure import Metric, SampleSpec
    from sardonyx.pipeline import Recipe

__all__ = ["__version__", "compile"]


def compile(  # noqa: PLR0913 - the public face: what a compile depends on, by name
    source: Any,
    *,
    target: str | None = None,
    data: "SampleSpec | None" = None,
    metric: "str | Metric | None" = None,
    max_drop: float | None = None,
    output: str | os.PathLike[str] | None = None,
    recipe: "Recipe | None" = None,
) -> "CompileResult":
    """Compiles a model: optimize, quantize, judge, and keep what is proven.

    Args:
        source: Path, bytes, `onnx.ModelProto`, `onnx_ir.Model` or `torch.onnx.ONNXProgram`.
        target: Name of a backend; default: the recipe's, which is `onnxruntime`.
        data: Samples to calibrate and judge with: a list of feeds (arrays by input name), a function that yields
            them, or what `--data` takes. Without samples there is no INT8.
        metric: Function of `run`, where `run(feed)` returns a list of outputs; higher is better. Default: agreement
            with the original on held-out samples.
        max_drop: Largest relative loss of the metric; default: the recipe's, which is 0.01.
        output: Folder to write `model.onnx` and `record.json` into; None writes nothing.
        recipe: Everything else that decides a compile.

    Returns:
        The chosen model and the record of how it came about; `record.met_budget` tells whether the budget was met.

    Raises:
        UsageError: If the model, the samples, the metric, the recipe or the output folder cannot be used.
        BackendError: If the target's runtime fails.
    """
    from sardonyx.driver import CompileJob, run_compile
    from sardonyx.pipeline import Recipe

    given = {"target": target, "max_drop": max_drop}
    base = (recipe or Recipe()).model_dump()
    chosen = Recipe.from_data({**base, **{key: value for key, value in given.items() if value is not None}})
    return run_compile(CompileJob(source, data, metric, chosen, output))
