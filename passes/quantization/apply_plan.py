"""Applying a quantization plan from a file, written by an earlier run and perhaps edited by hand."""

import json
from dataclasses import dataclass
from pathlib import Path

from sardonyx import ir
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.quantization.check_plan import checked_plan, require_model
from sardonyx.passes.quantization.dynamic.insert import InsertDynamic
from sardonyx.passes.quantization.insert import InsertQdq
from sardonyx.passes.quantization.methods.bias import repeat_shifts
from sardonyx.passes.quantization.methods.chosen_integers import repeat_integers
from sardonyx.passes.quantization.methods.move_scales import repeat_moves
from sardonyx.passes.quantization.methods.outliers import repeat_splits
from sardonyx.passes.quantization.plan import QuantPlan
from sardonyx.passes.quantization.scopes import name_inner_values, restore_names


@dataclass(frozen=True)
class ApplyPlan(Pass):
    """Quantizes as a plan says. Needs no samples.

    Attributes:
        file: Path of the plan, as `sardonyx quantize --plan-out` writes it.
    """

    name = "apply-plan"
    summary = "quantize as a plan.json says, which may have been edited by hand; no samples"

    file: str = ""

    def __post_init__(self) -> None:
        if not self.file:
            raise SpecError("apply-plan needs the path of a plan.", remedy='Write apply-plan{file="plan.json"}.')

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Reads the plan, checks that it fits the model, and writes the nodes.

        Scales that were moved, products that were split, biases that were corrected and integers that were chosen for
        the plan are so again.

        Raises:
            PassError: If the context has no target.
            SpecError: If the file cannot be read, was made from another model, or has a point that the model or the
                target's table does not allow.
        """
        plan = read_plan(Path(self.file))
        require_model(plan, model)
        if context.capabilities is None:
            raise PassError("A plan is applied for a target's table.", remedy="Name one with --target.")
        ir.ensure_shapes(model)
        moved = repeat_moves(model, plan)
        split = repeat_splits(model, plan, context.capabilities)
        former = name_inner_values(model)
        repeat_shifts(model, plan, context.capabilities)
        plan = checked_plan(plan, model, context.capabilities)
        repeat_integers(model, plan, context.capabilities)
        static = InsertQdq(plan).apply(model, context)
        dynamic = InsertDynamic(plan).apply(model, context)
        modified = static.modified or dynamic.modified
        modified |= bool(moved or split or plan.bias_shifts or plan.chosen_integers)
        if not modified:
            restore_names(former)
        return PassResult(
            model,
            modified,
            {**static.stats, **dynamic.stats},
            (*static.refusals, *dynamic.refusals),
            details={"plan": plan.to_dict()},
        )


def read_plan(path: Path) -> QuantPlan:
    """Reads a plan from a JSON file.

    Raises:
        SpecError: If the file is missing, is not JSON, or does not hold a plan.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"The plan {path} does not exist.", remedy="Check the path.") from error
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise SpecError(
            f"The plan {path} cannot be read: {why}.", remedy="It is JSON, as --plan-out writes it."
        ) from error
    if not isinstance(data, dict):
        raise SpecError(f"The plan {path} is not a JSON object.", remedy="Write it anew with --plan-out.")
    return QuantPlan.from_dict(data)
