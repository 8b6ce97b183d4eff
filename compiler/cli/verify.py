"""`sardonyx verify`: do two models compute the same function?"""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sardonyx.cli.console import progress_bar, say, say_json, say_table
from sardonyx.cli.options import Data, Json, Quiet, Threads
from sardonyx.cli.sessions import opened

if TYPE_CHECKING:
    from sardonyx.diff.bisect import Bisection
    from sardonyx.measure import OutputError, Samples

HELP = """Run two models on the same samples and compare their outputs. Exits with 0 when they agree, 1 when not.

NaN and infinities that only one model has, and other shapes or types, are always differences.

With --bisect, the smallest parts of both models that still show a difference are written to a folder, with their
input and how to run them."""

MinSqnr = Annotated[
    float,
    typer.Option("--min-sqnr", help="Agreement means at least this signal-to-noise ratio, in dB, of every output."),
]
Bisect = Annotated[bool, typer.Option("--bisect", help="Write the smallest parts that still differ; needs -o.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for --bisect to write.")]
First = Annotated[Path, typer.Argument(metavar="A", help="The reference model.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B", help="The model compared with it.", show_default=False)]


def command(  # noqa: PLR0913 - one parameter an option is how typer reads a command line
    a: First,
    b: Second,
    data: Data = None,
    min_sqnr: MinSqnr = 60.0,
    threads: Threads = 1,
    bisect: Bisect = False,
    output: Output = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compares all outputs, by name, over all samples (synthetic ones where none are given)."""
    from sardonyx.errors import UsageError
    from sardonyx.measure import ErrorAccumulator, samples_for

    if bisect != (output is not None):
        raise UsageError("--bisect and -o DIR go together.", remedy="Pass both, or neither.")
    with opened(a, b, threads=threads) as (first, second):
        names = [output.name for output in first.outputs]
        missing = [name for name in names if name not in {output.name for output in second.outputs}]
        if missing:
            raise UsageError(f"{b} has no output {missing[0]!r}, which {a} has.", remedy="Compare like with like.")
        errors = ErrorAccumulator(names)
        samples = samples_for(data, first)
        with progress_bar(quiet=quiet or json) as progress:
            for done, feed in enumerate(samples, start=1):
                second.check(feed)
                errors.update(first.run(feed, names), second.run(feed, names))
                progress(done, samples.len_hint, "verify")
    found = None if output is None else _bisect(a, b, samples, output, threads=threads, quiet=quiet or json)
    results = errors.result()
    same = all(_same(error, min_sqnr) for error in results)
    if json:
        outputs = [asdict(error) | {"same": _same(error, min_sqnr)} for error in results]
        part = None if found is None else {"folder": str(output), "place": found.place.model_dump(mode="json")}
        say_json({"same": same, "samples": samples.what, "outputs": outputs, "bisection": part})
    else:
        _print(results, min_sqnr, samples.what)
        if output is not None:
            _print_bisection(found, output)
    raise typer.Exit(0 if same else 1)


def _bisect(a: Path, b: Path, samples: "Samples", output: Path, *, threads: int, quiet: bool) -> "Bisection | None":
    from sardonyx.diff.measuring import DriftOptions
    from sardonyx.driver.bisection import BisectJob, run_bisect

    with progress_bar(quiet=quiet) as progress:
        return run_bisect(BisectJob(a, b, samples, output, DriftOptions(threads=threads, progress=progress)))


def _print_bisection(found: "Bisection | None", output: Path) -> None:
    from sardonyx.cli.drift import names_text, nodes_text
    from sardonyx.ir import num_nodes

    if found is None:
        say("All that corresponds in the two models is equal: there is nothing to bisect.")
        return
    say(f"parts at   {names_text(found.place)}")
    say(f"nodes      {nodes_text(found.place.before_nodes)} -> {nodes_text(found.place.after_nodes)}")
    say(f"written    {output}: {num_nodes(found.part.before)} and {num_nodes(found.part.after)} nodes")
    say(f"rerun      cd {shlex.quote(str(output))} && sardonyx verify before.onnx after.onnx --data .")


def _same(error: "OutputError", min_sqnr: float) -> bool:
    return error.ok and (error.equal or error.sqnr_db >= min_sqnr)


def _print(results: "tuple[OutputError, ...]", min_sqnr: float, what: str) -> None:
    from rich.table import Table

    table = Table(title=f"on {what}", title_justify="left", box=None)
    for column in ("output", "same", "max abs", "max rel", "cosine", "SQNR dB", "top-1", "note"):
        table.add_column(column)
    for error in results:
        top1 = "" if error.top1_agreement is None else f"{error.top1_agreement:.2%}"
        note = error.reason or ("bitwise equal" if error.equal else "")
        numbers = (f"{error.max_abs:.3g}", f"{error.max_rel:.3g}", f"{error.cosine:.6f}", f"{error.sqnr_db:.1f}")
        table.add_row(error.name, "yes" if _same(error, min_sqnr) else "NO", *numbers, top1, note)
    say_table(table)
