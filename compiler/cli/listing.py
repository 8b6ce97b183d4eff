"""`sardonyx passes` and `sardonyx targets`: what there is."""

import dataclasses

from sardonyx.cli.console import say, say_json
from sardonyx.cli.options import Json

PASSES_HELP = "List the passes, their options and defaults."
TARGETS_HELP = "List the targets and what they run as integers on this machine."


def passes(json: Json = False) -> None:
    """Lists passes with options."""
    from sardonyx.passes.base import options
    from sardonyx.pipeline import available_passes
    from sardonyx.pipeline.recipe import OPTIMIZE, QUANTIZE

    found = available_passes()
    if json:
        rows = {name: {"summary": kind.summary, "options": options(kind)} for name, kind in sorted(found.items())}
        say_json({"passes": rows, "default": {"optimize": OPTIMIZE, "quantize": QUANTIZE}})
        return
    for name, pass_type in sorted(found.items()):
        say(f"{name}: {pass_type.summary}")
        for option, default in options(pass_type).items():
            say(f"    {option} = {default!r}")
    say(f"\ndefault recipe:\n    optimize: {OPTIMIZE}\n    quantize: {QUANTIZE}")


def targets(json: Json = False) -> None:
    """Lists targets with their tables."""
    from sardonyx.backends import backends
    from sardonyx.measure import describe_machine

    machine = describe_machine()
    rows = {}
    for name, backend_type in backends().items():
        table = backend_type().capabilities(machine)
        by_role: dict[str, list[str]] = {}
        for row in table.operators.values():
            by_role.setdefault(row.role.value, []).append(row.op_type)
        if table.dynamic:
            by_role["dynamic"] = [row.op_type for row in table.dynamic.values()]
        rows[name] = {
            "summary": backend_type.summary,
            "activations": table.activation.dtype.name,
            "weights": table.weight_dtype.name,
            "reduce_range": table.reduce_range,
            "operators": by_role,
            "status": list(backend_type().status()),
            "warnings": list(table.warnings),
        }
    if json:
        say_json({"machine": dataclasses.asdict(machine), "targets": rows})
        return
    for name, info in rows.items():
        say(f"{name}: {info['summary']}")
        say(f"    on this machine: {info['activations']} activations, {info['weights']} weights")
        operators: dict[str, list[str]] = info["operators"]  # type: ignore[assignment]
        for role, names in operators.items():
            say(f"    {role}: {', '.join(names)}")
        for line in info["status"]:  # type: ignore[attr-defined]
            say(f"    {line}")
        for warning in info["warnings"]:  # type: ignore[attr-defined]
            say(f"    warning: {warning}")
