"""The pass that raises the opset where an operator of a later one takes the place of what exporters wrote out."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.fusion.fuse import RULES
from sardonyx.passes.fusion.obstacles import FIRST_OPSET
from sardonyx.passes.rewriting.driver import would_apply

GELU_OPSET = 20
"""LayerNormalization came with opset 17, Mish with 18, Gelu with 20; runtimes have kernels for all of them."""


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Raises the standard opset to the first in which all that could be fused can, and only where something could.

    An exporter of opset 14 writes LayerNormalization as nine nodes, and one of opset 17 Gelu as five. The rules
    for them apply from the opset on that has the operator. Weights are not touched, and a model that ONNX's version
    converter cannot raise stays as it is, with the reason.

    Attributes:
        newest: No model is raised beyond this opset, nor beyond the newest that the target takes.
    """

    name = "raise-opset"
    summary = "raise the opset where that lets rules fuse what exporters wrote out, such as LayerNormalization and Gelu"

    newest: int = GELU_OPSET

    def __post_init__(self) -> None:
        if not 1 <= self.newest <= ir.newest_opset():
            raise SpecError(
                f"There is no opset {self.newest} to raise to.", remedy=f"Use one from 1 to {ir.newest_opset()}."
            )

    @ir.paused_gc()
    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Raises the opset to that of the newest operator that fits; failing that, to those of older ones."""
        refusals: list[Refusal] = []
        for opset, nodes in self._wanted(model, context):
            reason = ir.ensure_opset(model, opset)
            if reason is None:
                return PassResult(model, True, {self.name: 1}, tuple(refusals))
            refusals.append(Refusal(self.name, reason, nodes))
        return PassResult(model, False, {}, tuple(refusals))

    def _wanted(self, model: ir.Model, context: PassContext) -> list[tuple[int, tuple[str, ...]]]:
        """Lists later opsets in which more rules apply, newest first, each with the nodes at which they do."""
        own = model.opset_imports.get("", ir.newest_opset())
        known = None if context.capabilities is None else context.capabilities.newest_opset
        newest = self.newest if known is None else min(self.newest, known)
        rules = [r for r in RULES if not r.candidate and own < FIRST_OPSET.get(r.operator, 0) <= newest]
        wanted: dict[int, list[str]] = {}
        for rule, root in would_apply(model, rules, newest):
            wanted.setdefault(FIRST_OPSET[rule.operator], []).append(root.name or "")
        return [(opset, tuple(wanted[opset])) for opset in sorted(wanted, reverse=True)]
