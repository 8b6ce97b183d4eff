"""`sardonyx report`: the page of an earlier compile, made anew."""

from pathlib import Path
from typing import Annotated

import typer

from sardonyx.cli.console import progress_bar, say, say_json
from sardonyx.cli.options import Data, Json, Quiet

HELP = """Make the page of an earlier compile anew from its record and models, and say where it is.

With --data the values inside both models are compared, as they are while compiling."""

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="A compile's output folder.", show_default=False)]
Page = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write. Default: OUT/report.html.")
]


def command(folder: Folder, output: Page = None, data: Data = None, json: Json = False, quiet: Quiet = False) -> None:
    """Writes the page and prints its path."""
    from sardonyx.driver.reporting import report_again

    with progress_bar(quiet=quiet or json) as progress:
        path = report_again(folder, data, output, progress)
    if json:
        say_json({"report": str(path)})
    else:
        say(str(path))
