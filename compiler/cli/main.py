"""The `sardonyx` command: its verbs, and how errors become exit codes.

Exit codes: 0 done; 1 the compile ran but could not meet the budget (the best safe model is written), or two models
differ; 2 bad usage or input; 3 a tool or runtime failed; 130 interrupted; 143 terminated.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from sardonyx._version import __version__
from sardonyx.cli import bench, compile_, diff, explain, inspect, listing, optimize, quantize, report, verify
from sardonyx.cli.console import SIGNALLED, TOOL_FAILED
from sardonyx.errors import SardonyxError

app = typer.Typer(
    name="sardonyx",
    help="A graph compiler for ONNX models: optimize, quantize, prove, explain.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("compile", help=compile_.HELP)(compile_.command)
app.command("optimize", help=optimize.HELP)(optimize.command)
app.command("quantize", help=quantize.HELP)(quantize.command)
app.command("inspect", help=inspect.HELP)(inspect.command)
app.command("verify", help=verify.HELP)(verify.command)
app.command("diff", help=diff.HELP)(diff.command)
app.command("text", help=diff.TEXT_HELP)(diff.text)
app.command("bench", help=bench.HELP)(bench.command)
app.command("explain", help=explain.HELP)(explain.command)
app.command("report", help=report.HELP)(report.command)
app.command("passes", help=listing.PASSES_HELP)(listing.passes)
app.command("targets", help=listing.TARGETS_HELP)(listing.targets)


def _version(show: bool) -> None:
    if show:
        sys.stdout.write(f"sardonyx {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Takes the options before the verb."""


@contextmanager
def _unwound_when_terminated() -> Iterator[None]:
    """Lets SIGTERM unwind the stack as Ctrl-C does, so that nothing half-written stays; a second one ends at once."""

    def unwind(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        sys.exit(SIGNALLED + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Runs the command line and exits with its code; a user's mistake prints one line, no traceback."""
    try:
        with _unwound_when_terminated():
            app()
    except SardonyxError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
    except MemoryError:
        sys.stderr.write("error: out of memory. Give fewer or smaller samples, or use a larger machine.\n")
        sys.exit(TOOL_FAILED)


if __name__ == "__main__":
    main()
