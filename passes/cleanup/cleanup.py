"""Cleanup: inline functions, drop what is dead, duplicated or does nothing, mostly with onnx_ir's own passes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.cleanup.constants import LiftConstants
from sardonyx.passes.cleanup.identities import RemoveIdentities

DEDUPLICATE_LIMIT = 1 << 20
"""Initializers up to this many elements are compared; larger ones are rarely equal and cost reading them all."""

_common = ir.common_passes
STEPS: Mapping[str, Callable[[], ir.PassBase]] = {
    "inline-functions": _common.InlinePass,
    "lift-constants": LiftConstants,
    "remove-identities": RemoveIdentities,
    "merge-initializers": lambda: _common.DeduplicateHashedInitializersPass(size_limit=DEDUPLICATE_LIMIT),
    "merge-subexpressions": _common.CommonSubexpressionEliminationPass,
    "remove-unused-nodes": _common.RemoveUnusedNodesPass,
    "remove-unused-functions": _common.RemoveUnusedFunctionsPass,
    "remove-unused-opsets": _common.RemoveUnusedOpsetsPass,
}

NEEDED: Mapping[str, Callable[[ir.Model], bool]] = {
    "inline-functions": lambda model: bool(model.functions),
    "remove-unused-functions": lambda model: bool(model.functions),
    "remove-unused-opsets": lambda model: bool(model.functions) or model.opset_imports.keys() != {""},
}
"""Whether steps may have something to do, where it can be seen without walking through the model."""


@dataclass(frozen=True)
class Cleanup(Pass):
    """Removes dead nodes, identities, duplicate initializers and common subexpressions.

    Attributes:
        disable: Names of steps to leave out.
    """

    name = "cleanup"
    summary = "inline functions; remove dead nodes, identities, duplicate initializers and subexpressions"

    disable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [step for step in self.disable if step not in STEPS]
        if unknown:
            raise SpecError(f"Cleanup has no step {unknown[0]!r}.", remedy=f"Steps: {', '.join(STEPS)}.")

    @ir.paused_gc()
    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Runs every enabled step once, in order; counts by how many nodes and initializers each shrank the model."""
        if model.functions:
            return self._run(model)
        with ir.shapes_kept(model):
            return self._run(model)

    def _run(self, model: ir.Model) -> PassResult:
        stats: dict[str, int] = {}
        size = _size(model)
        for name, make in STEPS.items():
            if name in self.disable or not NEEDED.get(name, _always)(model):
                continue
            if make()(model).modified:
                before, size = size, _size(model)
                stats[name] = max(before - size, 1)
        return PassResult(model, bool(stats), stats)


def _always(model: ir.Model) -> bool:
    return True


def _size(model: ir.Model) -> int:
    """Nodes and initializers of all graphs and functions."""
    return sum(len(graph) + len(graph.initializers) for graph in ir.all_graphs(model))
