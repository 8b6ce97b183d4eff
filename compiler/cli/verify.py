"""`sardonyx verify`: do two models compute the same function?"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sardonyx.cli.console import progress_bar, say_json, say_table
from sardonyx.cli.options import Data, Json, Quiet, Threads
from sardonyx.cli.sessions import opened

if TYPE_CHECKING:
    from sardonyx.measure import OutputError

HELP = """Run two models on the same samples and compare their outputs. Exits with 0 when they agree, 1 when not.

NaN and infinities that only one model has, and other shapes or types, are always differences."""

MinSqnr = Annotated[
    float,
    typer.Option("--min-sqnr", help="Agreement means at least this signal-to-noise ratio, in dB, of every output."),
]
First = Annotated[Path, typer.Argument(metavar="A", help="The reference model.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B", help="The model compared with it.", show_default=False)]


def command(  # noqa: PLR0913 - one parameter an option is how typer reads a command line
    a: First,
    b: Second,
    data: Data = None,
    min_sqnr: MinSqnr = 60.0,
    threads: Threads = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compares all outputs, by name, over all samples (synthetic ones where none are given)."""
    from sardonyx.errors import UsageError
    from sardonyx.measure import ErrorAccumulator, samples_for

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
    results = errors.result()
    same = all(_same(error, min_sqnr) for error in results)
    if json:
        outputs = [asdict(error) | {"same": _same(error, min_sqnr)} for error in results]
        say_json({"same": same, "samples": samples.what, "outputs": outputs})
    else:
        _print(results, min_sqnr, samples.what)
    raise typer.Exit(0 if same else 1)


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
