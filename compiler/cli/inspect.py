"""`sardonyx inspect`: what is in a model, what it costs, what the target would do with it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sardonyx.cli.console import say, say_json
from sardonyx.cli.options import Json, Model, Target
from sardonyx.errors import UsageError

if TYPE_CHECKING:
    from sardonyx.driver.inspection import Inspection

HELP = """Show a model's operators, parameters, MACs, memory, inputs and outputs, and what the target would run as
integers."""

Dim = Annotated[
    list[str] | None, typer.Option("--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension. May be repeated.")
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the inspection as a page.")]


def command(
    model: Model, target: Target = "onnxruntime", dim: Dim = None, html: Html = None, json: Json = False
) -> None:
    """Prints the inspection."""
    from sardonyx.driver.inspection import inspect_model

    found, loaded = inspect_model(model, target, dict(map(_size, dim or ())))
    if html is not None:
        from sardonyx.driver.inspection_report import inspection_report
        from sardonyx.report import write

        write(inspection_report(found, loaded), html)
    if json:
        say_json(asdict(found))
    else:
        _print(found)


def _size(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdecimal() or int(size) < 1:
        raise UsageError(f"{text!r} is not the size of a dimension.", remedy="Write it as --dim batch=8.")
    return name, int(size)


def _print(found: "Inspection") -> None:
    say(f"{found.path}: {found.nodes} nodes, {found.parameters:,} parameters, {found.nbytes / 1e6:.2f} MB")
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    say(f"  opsets     {opsets}")
    say(f"  inputs     {'; '.join(found.inputs)}")
    say(f"  outputs    {'; '.join(found.outputs)}")
    unknown = f" and {found.unknown_macs} nodes of unknown shape" if found.unknown_macs else ""
    say(f"  MACs       {found.macs:,}{unknown} ({found.assumption})")
    left_out = f", {found.unknown_values} values of unknown shape left out" if found.unknown_values else ""
    where = found.peak_node or "the inputs"
    say(f"  memory     {found.peak_bytes:,} bytes of activations at most, at {where}{left_out}")
    say(f"  types      {', '.join(f'{dtype} {n}' for dtype, n in found.dtypes.items())}")
    if found.dynamic_axes:
        say(f"  dynamic    {', '.join(found.dynamic_axes)}")
    say(f"  operators  {', '.join(f'{op} {n}' for op, n in sorted(found.operators.items()))}")
    for repair in found.repairs:
        say(f"  repaired   {repair}")
    on = found.target
    say(f"on {on['name']}, after the exact passes ({on['nodes_after_exact_passes']} nodes):")
    say(f"  as integers {on['integer_weights']} weights, {on['quantized_values']} activations")
    if on["not_in_table"]:
        say(f"  float only  {', '.join(f'{op} {n}' for op, n in sorted(on['not_in_table'].items()))}")
    for node, reason in on["float_nodes"].items():
        say(f"  in float    {node}: {reason}")
    for line in on["preflight"]:
        say(f"  pre-flight  {line}")
    for note in (*on["refusals"], *on["warnings"]):
        say(f"  note        {note}")
