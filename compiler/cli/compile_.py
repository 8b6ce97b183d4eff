"""`sardonyx compile`: the whole job."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sardonyx.cli.console import DONE, INTERRUPTED, OVER_BUDGET, count, progress_bar, say, say_json, warn
from sardonyx.cli.options import Data, Exclude, Include, Json, Model, Quiet, parse_share

MISSES = 10
"""So many nodes that do not run as INT8 are printed; the record has all."""

if TYPE_CHECKING:
    from sardonyx.backends import EngineReport
    from sardonyx.driver import CompileResult
    from sardonyx.pipeline import Candidate, CompileRecord, Recipe

HELP = """Compile a model for a target: optimize, quantize, judge, and write what may be deployed.

Writes OUT/model.onnx, OUT/record.json and OUT/report.html; for TensorRT OUT/model.trt.onnx and the engine built of it.
Exits with 1 when no quantized model keeps the budget although one would have been faster, when --require-int8 could not
be met, or when the builder failed; the best safe model is written all the same."""

Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        "-m",
        help="package.module:function taking run(feed) -> outputs and returning a float, higher is better. "
        "Default: agreement with the original on held-out samples.",
    ),
]
MaxDrop = Annotated[str | None, typer.Option("--max-drop", help="Largest loss of the metric, as 1% or 0.01.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", "-r", help="YAML, TOML or JSON recipe; options here win over it.")
]
OptionalTarget = Annotated[str | None, typer.Option("--target", "-t", help="Backend; `sardonyx targets` lists them.")]
OptionalThreads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of the runtime within an operator.")
]
OptionalScheme = Annotated[
    str | None, typer.Option("--scheme", "-s", help="Scheme of quantization; `sardonyx quantize --list-schemes`.")
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Do not write OUT/report.html.")]
Sm = Annotated[
    str | None,
    typer.Option(
        "--sm",
        metavar="LIST",
        help="Engines: compute capabilities to build for without their GPUs, as 8.6,8.9.",
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=MIN:OPT:MAX",
        help="Engines: shapes of a dynamic input, as x=1x3x224x224:8x3x224x224:16x3x224x224. May be repeated. "
        "Default: those of the samples.",
    ),
]
Workspace = Annotated[
    str | None, typer.Option("--workspace", metavar="BYTES", help="Engines: most scratch memory of a layer, as 2GiB.")
]
TimingCache = Annotated[
    Path | None, typer.Option("--timing-cache", help="Engines: file of tactic timings to read and update.")
]
RequireInt8 = Annotated[
    str | None,
    typer.Option("--require-int8", help="Engines: least share of the planned products that must run as INT8, as 95%."),
]
BuildTimeout = Annotated[
    float | None, typer.Option("--build-timeout", help="Engines: seconds after which the builder is stopped.")
]
Fallback = Annotated[
    str | None,
    typer.Option(
        "--fallback", help="What runs what stays in float: fp32, or fp16 where ranges on the samples allow it."
    ),
]


def command(  # noqa: PLR0913 - one parameter an option is how typer reads a command line
    model: Model,
    output: Output,
    target: OptionalTarget = None,
    data: Data = None,
    metric: Metric = None,
    max_drop: MaxDrop = None,
    recipe: RecipeFile = None,
    threads: OptionalThreads = None,
    scheme: OptionalScheme = None,
    exclude: Exclude = None,
    include: Include = None,
    no_report: NoReport = False,
    fallback: Fallback = None,
    sm: Sm = None,
    shape: Shape = None,
    workspace: Workspace = None,
    timing_cache: TimingCache = None,
    require_int8: RequireInt8 = None,
    build_timeout: BuildTimeout = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Runs the compile and prints its outcome."""
    from sardonyx.pipeline import AUTO, scheme_named

    overrides = {
        "target": target,
        "max_drop": None if max_drop is None else parse_share(max_drop),
        "threads": threads,
        "quantize": scheme if scheme in (None, AUTO) else scheme_named(scheme).name,
        "fallback": fallback,
        "exclude": exclude,
        "include": include,
        "report": False if no_report else None,
    }
    target_options = {
        "sm": None if sm is None else tuple(sm.split(",")),
        "shapes": None if shape is None else tuple(shape),
        "workspace": workspace,
        "timing_cache": None if timing_cache is None else str(timing_cache),
        "require_int8": None if require_int8 is None else parse_share(require_int8),
        "timeout": build_timeout,
    }
    execute(Request(model, output, data, metric, json, quiet), recipe_from(recipe, overrides, target_options))


@dataclass(frozen=True)
class Request:
    """What the user asked for, besides the recipe."""

    model: Path
    output: Path
    data: str | None
    metric: str | None
    json: bool
    quiet: bool


def execute(request: Request, recipe: "Recipe") -> None:
    """Runs a compile, prints its outcome and exits with its code."""
    from sardonyx.driver import CompileJob, run_compile

    with progress_bar(quiet=request.quiet or request.json) as progress:
        job = CompileJob(request.model, request.data, request.metric, recipe, request.output, progress)
        try:
            result = run_compile(job)
        except KeyboardInterrupt:
            warn("interrupted; nothing was written")
            raise typer.Exit(INTERRUPTED) from None
    if request.json:
        say_json(result.record.model_dump(mode="json"))
    else:
        _print(result, request.output, quiet=request.quiet)
    raise typer.Exit(DONE if result.record.met_budget else OVER_BUDGET)


def recipe_from(path: Path | None, overrides: dict[str, Any], target_options: dict[str, Any] | None = None) -> "Recipe":
    """Reads a recipe, or takes the default, and puts the given options over it; None is not given."""
    from sardonyx.pipeline import Recipe

    base = Recipe() if path is None else Recipe.from_file(path)
    options = {**base.target_options, **_given(target_options or {})}
    return Recipe.from_data({**base.model_dump(), **_given(overrides), "target_options": options})


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _print(result: "CompileResult", output: Path, *, quiet: bool) -> None:
    record = result.record
    if not quiet:
        for line in (*record.repairs, *record.warnings):
            warn(line)
    for line in summary_lines(record):
        say(line)
    say(f"  written    {result.path}")
    say(f"  record     {output / 'record.json'}")
    if (output / "report.html").is_file():
        say(f"  report     {output / 'report.html'}")


def summary_lines(record: "CompileRecord") -> list[str]:
    """The outcome of a compile in a few lines, without the files."""
    lines = [f"{record.source.path or 'model'} -> {record.recipe.target}: {record.chosen}"]
    decision = next((d for d in reversed(record.decisions) if d.stage == "choose"), None)
    if decision is not None:
        lines.append(f"  because    {decision.reason}")
    chosen = record.candidate(record.chosen)
    if chosen is not None:
        lines.extend(_measured(chosen, record))
    integer = sum(1 for d in record.decisions if d.stage == "quantize" and d.choice.endswith("weight"))
    if record.chosen.startswith(("quantized", "mixed")):
        lines.append(
            f"  integers   {integer} weights; {_kept_in_float(record)} nodes of the target's table kept in float"
        )
    if record.engine is not None:
        lines.extend(_engine_lines(record.engine))
    lines.extend(f"  undone     {p.spec}: {p.reason}" for p in record.passes if p.status == "undone")
    return lines


def _engine_lines(engine: "EngineReport") -> list[str]:
    if not engine.built:
        return [f"  engine     none: {'; '.join(engine.problems)}", *_command_lines(engine)]
    made = f"{engine.builder} {engine.version}, {engine.seconds:.1f} s, peak {engine.peak_rss_bytes / 1e6:.0f} MB"
    lines = [f"  engine     {engine.file}: {engine.nbytes / 1e6:.2f} MB ({made})"]
    lines.extend(f"  shapes     {shapes}" for shapes in engine.shapes)
    proof = engine.proof
    if proof is not None:
        nodes = ", ".join(f"{precision} {n}" for precision, n in sorted(proof.nodes.items()))
        lines.append(f"  proof      {proof.integer} of {proof.planned} planned products run as INT8; in all: {nodes}")
        weights = ", ".join(f"{dtype} {n / 1e6:.2f} MB" for dtype, n in sorted(proof.weight_bytes.items()) if n)
        lines.append(f"  weights    {weights}")
        lines.extend(f"  not INT8   {m.node} ({m.op_type}): {m.reason}" for m in proof.misses[:MISSES])
        if len(proof.misses) > MISSES:
            lines.append(f"  not INT8   and {len(proof.misses) - MISSES} more: see record.json")
    if engine.unmet:
        lines.append(f"  not met    {engine.unmet}")
    return lines


def _command_lines(engine: "EngineReport") -> list[str]:
    return [f"  build      {command}  # {tool}" for tool, command in engine.commands.items()]


def _kept_in_float(record: "CompileRecord") -> int:
    return sum(1 for d in record.decisions if d.choice == "not stay-in-float")


def _measured(chosen: "Candidate", record: "CompileRecord") -> list[str]:
    lines = []
    accuracy, latency = chosen.accuracy, chosen.latency
    if accuracy is not None:
        held = f", {count(accuracy.samples, 'sample')}" if accuracy.samples else ""
        lines.append(
            f"  accuracy   {accuracy.original:.4f} -> {accuracy.candidate:.4f} (drop {accuracy.drop:+.2%}, "
            f"budget {record.recipe.max_drop:.2%}; {accuracy.metric}{held})"
        )
    if latency is not None:
        lines.append(
            f"  speed      {latency.speedup:.2f}x, 95 % interval {latency.low:.2f} to {latency.high:.2f} "
            f"({latency.original_ms:.3f} -> {latency.candidate_ms:.3f} ms, {count(latency.threads, 'thread')}, "
            f"{latency.pairs} pairs)"
        )
    before, after = record.source.nbytes or 0, chosen.nbytes
    ratio = f" ({before / after:.2f}x smaller)" if after and after < before else ""
    lines.append(f"  size       {before / 1e6:.2f} -> {after / 1e6:.2f} MB of tensors{ratio}")
    return lines
