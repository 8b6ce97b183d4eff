"""`sardonyx optimize`: the compile without its lossy stages."""

from pathlib import Path
from typing import Annotated

import typer

from sardonyx.cli import compile_
from sardonyx.cli.options import Data, Json, Model, Quiet

HELP = """Apply the exact passes only: clean up, fold constants, fuse. The result computes the same within rounding,
which is checked on --data or on synthetic samples, and is not slower."""

Passes = Annotated[
    str | None, typer.Option("--passes", help="Pipeline text; `sardonyx passes` lists names and options.")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")]


def command(
    model: Model,
    output: Output,
    passes: Passes = None,
    data: Data = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Runs the exact stages of a compile and prints the outcome."""
    overrides = {"quantize": "", "optimize": passes}
    request = compile_.Request(model, output, data, metric=None, json=json, quiet=quiet)
    compile_.execute(request, compile_.recipe_from(None, overrides))
