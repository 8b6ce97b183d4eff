"""`sardonyx explain`: what became of a node, and why not more."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sardonyx.cli.console import say, say_json
from sardonyx.cli.options import Json

HELP = """Say what became of a node: which pass rewrote or removed it, which fusion rule nearly matched and what was
missing, and whether the target runs it as integers."""

Source = Annotated[
    Path, typer.Argument(metavar="MODEL|OUT", help="A model file, or a compile's output folder.", show_default=False)
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node of the original.", show_default=False)]


def command(source: Source, node: NodeName, json: Json = False) -> None:
    """Prints the explanation."""
    from sardonyx.driver.explanation import explain

    found = explain(source, node)
    if json:
        say_json(asdict(found))
        return
    say(f"{found.node} ({found.op_type})")
    for line in found.fate or ("no pass changed it",):
        say(f"  fate      {line}")
    for rule, reason in found.rules:
        say(f"  rule      {rule}: {reason}")
    say(f"  integers  {found.integers}")
