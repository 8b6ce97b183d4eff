"""`sardonyx inspect`: what is in a model, what it costs, what the target would do with it."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from sardonyx.cli.console import say, say_json
from sardonyx.cli.options import Json, Model, Target

if TYPE_CHECKING:
    from sardonyx.driver.inspection import Inspection

HELP = """Show a model's operators, parameters, MACs, inputs and outputs, and what the target would run as integers."""


def command(model: Model, target: Target = "onnxruntime", json: Json = False) -> None:
    """Prints the inspection."""
    from sardonyx.driver.inspection import inspect_model

    found = inspect_model(model, target)
    if json:
        say_json(asdict(found))
    else:
        _print(found)


def _print(found: "Inspection") -> None:
    say(f"{found.path}: {found.nodes} nodes, {found.parameters:,} parameters, {found.nbytes / 1e6:.2f} MB")
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    say(f"  opsets     {opsets}")
    say(f"  inputs     {'; '.join(found.inputs)}")
    say(f"  outputs    {'; '.join(found.outputs)}")
    unknown = f" and {found.unknown_macs} nodes of unknown shape" if found.unknown_macs else ""
    say(f"  MACs       {found.macs:,}{unknown} (symbolic dimensions at 1)")
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
