"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from sardonyx.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime within an operator.")]
Target = Annotated[str, typer.Option("--target", "-t", help="Backend; `sardonyx targets` lists them.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        metavar="SAMPLES",
        help="Samples: an .npz of stacked inputs, a folder of .npz, .npy or test_data_set_*, or "
        "package.module:function yielding feeds.",
    ),
]
_PATTERN = "a node name with * as wildcard, op:OPERATOR or region:FROM..TO. May be repeated."
Exclude = Annotated[list[str] | None, typer.Option("--exclude", help=f"Nodes to keep in float: {_PATTERN}")]
Include = Annotated[list[str] | None, typer.Option("--include", help=f"The only nodes to quantize: {_PATTERN}")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Path of an ONNX model.", show_default=False)]


def parse_share(text: str) -> float:
    """Reads `1%` or `0.01` as 0.01.

    Raises:
        UsageError: If it is neither, or outside 0 to 100 %.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"{text!r} is not a share below 100 %.", remedy="Write it as 1% or 0.01.")
    return value
