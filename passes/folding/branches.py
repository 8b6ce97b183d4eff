"""Choosing branches at compile time: an If whose condition is constant becomes the branch that it takes."""

from collections import Counter
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.folding.constants import FoldConstants
from sardonyx.passes.folding.inlining import replace_outputs, splice


@dataclass(frozen=True)
class ChooseBranches(Pass):
    """Replaces each If with a constant condition by the nodes of the branch it takes."""

    name = "choose-branches"
    summary = "replace an If whose condition is constant by the branch it takes"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Inlines branches, in subgraphs too; folds and goes on where that settles the condition of another If.

        Raises:
            PassError: If types or shapes that an If had hidden turn out to contradict one another: runtimes that
                check them would refuse the result.
        """
        stats: Counter[str] = Counter()
        while settled := [node for node in _conditionals(model) if _taken(node) is not None]:
            known = set(ir.ensure_shapes(model).failures)
            names = ir.NameAuthority(model)
            for node in settled:
                branch = _taken(node)
                if node.graph is not None and branch is not None:  # its own If may be gone by now
                    replace_outputs(node, splice(node, branch, (), names, self.name), names)
                    stats[self.name] += 1
            exposed = [failure for failure in ir.infer_shapes(model).failures if failure not in known]
            if exposed:
                raise PassError(f"Without its If the model contradicts itself: {exposed[0]}")
            if _conditionals(model):
                stats.update(FoldConstants().apply(model, context).stats)
        return PassResult(model, bool(stats), dict(stats))


def _conditionals(model: ir.Model) -> list[ir.Node]:
    """The Ifs of a model, outer before inner."""
    return [node for graph in ir.all_graphs(model) for node in graph if node.op_type == "If" and not node.domain]


def _taken(node: ir.Node) -> ir.Graph | None:
    """The branch that an If takes, or None where its condition is not constant."""
    condition = node.inputs[0] if node.inputs else None
    tensor = ir.constant_tensor(condition) if condition is not None else None
    if tensor is None or tensor.size != 1:
        return None
    attribute = node.attributes.get("then_branch" if tensor.numpy().item() else "else_branch")
    return None if attribute is None or attribute.is_ref() else attribute.as_graph()
