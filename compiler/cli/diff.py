"""`sardonyx diff` and `sardonyx text`: what differs between two models, and a model as lines that git can compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sardonyx.cli.console import say, say_json, say_lines
from sardonyx.cli.options import Data, Json, Model, Quiet

if TYPE_CHECKING:
    from sardonyx.diff import Diff, Matching
    from sardonyx.diff.drift_schema import Drift
    from sardonyx.diff.timing import Times
    from sardonyx.ir import Model as Graph

HELP = """Say what differs between two models, although nodes were renamed, reordered, fused or quantized.

Exits with 0 when they are the same but for names and metadata, 1 when they differ, 2 when one cannot be read."""

TEXT_HELP = """Print a model as canonical text for comparison line by line, as textconv of git.

It holds no names, and of weights their hashes and statistics."""

SAME, DIFFERENT = 0, 1

First = Annotated[Path, typer.Argument(metavar="A", help="The model before.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B", help="The model after.", show_default=False)]
Everything = Annotated[bool, typer.Option("--all", help="List all weights and values that differ, not the first few.")]
Summary = Annotated[bool, typer.Option("--summary", help="The summary alone, without the changed regions.")]
NoProvenance = Annotated[
    bool, typer.Option("--no-provenance", help="Do not believe what a compile noted in the nodes that it made.")
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the diff as a page.")]
Names = Annotated[bool, typer.Option("--names", help="End each line with the name of its node.")]


def command(  # noqa: PLR0913 - one parameter an option is how typer reads a command line
    a: First,
    b: Second,
    everything: Everything = False,
    summary: Summary = False,
    no_provenance: NoProvenance = False,
    data: Data = None,
    html: Html = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Matches the models and prints what differs, and what that does to samples."""
    from sardonyx import ir
    from sardonyx.cli.drift import measured, print_drift, print_times
    from sardonyx.diff import MeasuredDiff, compare, match

    before, after = ir.load(a, opset=None).model, ir.load(b, opset=None).model
    matching = match(before, after, provenance=not no_provenance)
    diff = compare(before, after, matching)
    run = None if data is None else measured((a, b), (before, after), matching, data, quiet=quiet or json)
    if html is not None:
        _write_page((before, after), (matching, diff), (str(a), str(b)), run, html)
    if json:
        document = diff if run is None else MeasuredDiff(**dict(diff), drift=run[0], times=run[1])
        say_json(document.model_dump(mode="json"))
    else:
        _print((before, after), diff, (str(a), str(b)), everything=everything, summary=summary)
        if run is not None:
            print_drift(run[0])
            print_times(run[1])
    raise typer.Exit(SAME if diff.same else DIFFERENT)


def _write_page(
    models: "tuple[Graph, Graph]",
    found: "tuple[Matching, Diff]",
    titles: tuple[str, str],
    run: "tuple[Drift, Times] | None",
    path: Path,
) -> None:
    from sardonyx.report import Comparison, diff_report, drift_section, times_section, write

    compared = Comparison(*models, *found, titles)
    sections = () if run is None else (drift_section(run[0]), times_section(run[1], titles))
    write(diff_report(compared, " and ".join(titles), sections), path)


def _print(
    models: "tuple[Graph, Graph]", diff: "Diff", titles: tuple[str, str], *, everything: bool, summary: bool
) -> None:
    from sardonyx.diff.unified import summary_lines, unified_lines

    for line in summary_lines(diff):
        say(line)
    if not summary:
        say_lines(unified_lines(*models, diff, titles, everything=everything))


def text(model: Model, names: Names = False) -> None:
    """Prints a model as canonical text."""
    from sardonyx import ir
    from sardonyx.diff.text import model_text

    for line in model_text(ir.load(model, opset=None).model, names=names):
        say(line)
