"""`sardonyx quantize`: integers by a scheme or by a plan, without judging."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sardonyx.cli.console import INTERRUPTED, count, progress_bar, say, say_json, warn
from sardonyx.cli.options import Data, Exclude, Include, Json, Model, Quiet, Target, Threads

if TYPE_CHECKING:
    from sardonyx.driver import QuantizeResult

HELP = """Quantize a model by a scheme or by a plan, without judging it: `sardonyx compile` measures and keeps a budget.

Writes OUT/model.onnx, OUT/plan.json and OUT/record.json. With --plan-out alone only the plan is written: edit it, and
apply it with --plan."""


def _list_schemes(show: bool) -> None:
    if show:
        from sardonyx.backends import backends
        from sardonyx.measure import describe_machine
        from sardonyx.pipeline.schemes import DEFAULTS, available_schemes, default_names, preferred_static

        for each in available_schemes().values():
            say(f"{each.name}: {each.summary}")
            say(f"    {each.pipeline}" + ("" if each.samples else " (needs no samples)"))
        say("")
        for name, kind in backends().items():
            table = kind().capabilities(describe_machine())
            say(f"static is {preferred_static(table)} for {name} on this machine")
            suited = (f"{' or '.join(default_names(each, table))} for {each} models" for each in DEFAULTS)
            say(f"auto is {', '.join(suited)}")
        raise typer.Exit


Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")]
Scheme = Annotated[str, typer.Option("--scheme", "-s", help="`--list-schemes` lists them; auto suits the model.")]
Plan = Annotated[Path | None, typer.Option("--plan", help="Apply this plan instead of making one.")]
PlanOut = Annotated[Path | None, typer.Option("--plan-out", help="Also write the plan to this file.")]
ListSchemes = Annotated[
    bool, typer.Option("--list-schemes", callback=_list_schemes, is_eager=True, help="Print the schemes and exit.")
]


def command(  # noqa: PLR0913 - one parameter an option is how typer reads a command line
    model: Model,
    output: Output = None,
    data: Data = None,
    scheme: Scheme = "auto",
    plan: Plan = None,
    plan_out: PlanOut = None,
    exclude: Exclude = None,
    include: Include = None,
    target: Target = "onnxruntime",
    threads: Threads = 1,
    json: Json = False,
    quiet: Quiet = False,
    list_schemes: ListSchemes = False,
) -> None:
    """Quantizes a model and prints what became of it."""
    from sardonyx.driver import QuantizeJob, Selection, run_quantize
    from sardonyx.errors import UsageError
    from sardonyx.pipeline import Recipe

    if output is None and plan_out is None:
        raise UsageError("There is nothing to write.", remedy="Pass -o OUT for the model, --plan-out for the plan.")
    selection = Selection(scheme, plan, tuple(exclude or ()), tuple(include or ()))
    recipe = Recipe.from_data({"target": target, "threads": threads})
    with progress_bar(quiet=quiet or json) as progress:
        job = QuantizeJob(model, data, selection, recipe, output, plan_out, progress)
        try:
            result = run_quantize(job)
        except KeyboardInterrupt:
            warn("interrupted; nothing was written")
            raise typer.Exit(INTERRUPTED) from None
    if json:
        say_json(result.record.model_dump(mode="json"))
    else:
        _print(result, plan_out, quiet=quiet)


def _print(result: "QuantizeResult", plan_out: Path | None, *, quiet: bool) -> None:
    record, plan = result.record, result.plan
    if not quiet:
        for line in (*record.repairs, *record.warnings):
            warn(line)
    say(f"{record.source.path or 'model'} -> {record.recipe.target}: {record.pipeline}")
    weights = sum(point["kind"] in ("weight", "dynamic-weight") for point in plan["points"])
    say(f"  integers   {count(len(plan['compute_nodes']), 'product')}, {count(weights, 'weight')}")
    for node, reason in plan["float_nodes"].items():
        say(f"  in float   {node}: {reason}")
    if result.path is not None:
        say(f"  written    {result.path}")
    if plan_out is not None:
        say(f"  plan       {plan_out}")
