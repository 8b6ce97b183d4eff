"""Constant folding: nodes whose inputs are all constant are replaced by their value.

Exact by construction: nodes are evaluated by numpy kernels that agree with ONNX's own reference implementation, or by
that. Q/DQ is never folded, because it tells the runtime what runs as integers. Budgets in bytes keep the file and the
memory from growing. Sizes are evaluated symbolically in the same sweep, so that shape arithmetic goes as far as it can
be known: see `sardonyx.passes.folding.shape_arithmetic`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import SardonyxError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.folding.shape_arithmetic import ShapeArithmetic

Array = npt.NDArray[Any]

KEEP = frozenset(
    ("", op)
    for op in (
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Multinomial", "Bernoulli", "Dropout"),
    )
)
"""Never evaluated: Q/DQ, which says what runs as integers, and operators whose result is random."""

_GRAPHS = frozenset((ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS))


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluates nodes with constant inputs and shape arithmetic, in the main graph and in subgraphs.

    Attributes:
        max_input_bytes: Nodes whose constant inputs together are larger are left alone.
        max_growth_bytes: How much larger a result may be than the constants that it makes dead.
    """

    name = "fold-constants"
    summary = (
        "replace nodes whose inputs are constant by their value, within byte budgets, and simplify shape arithmetic"
    )

    max_input_bytes: int = 64 << 20
    max_growth_bytes: int = 4 << 10

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Folds in one sweep in graph order; what was foldable and was not folded leaves a refusal."""
        symbolic = _reads_sizes(model.graph)
        if symbolic:
            ir.ensure_shapes(model)
        sizes = ShapeArithmetic(model.graph, ir.NameAuthority(model)) if symbolic else None
        folder = _Folder(self, model.opset_imports, sizes)
        folder.sweep(model.graph)  # functions hold no initializers; cleanup inlines them
        stats = folder.stats + (sizes.stats if sizes is not None else Counter())
        refusals = (*folder.refusals, *(sizes.refusals if sizes is not None else ()))
        return PassResult(model, bool(stats), dict(stats), refusals)


def _reads_sizes(graph: ir.Graph) -> bool:
    """Whether a graph or a graph inside it computes with sizes; if not, no shape needs to be known."""
    return any(node.op_type in ("Shape", "Size") for g in (graph, *graph.subgraphs()) for node in g)


class _Folder:
    def __init__(self, budget: FoldConstants, opsets: Mapping[str, int], sizes: ShapeArithmetic | None) -> None:
        self.budget = budget
        self.opsets = opsets
        self.sizes = sizes
        self.stats: Counter[str] = Counter()
        self.refusals: list[Refusal] = []

    def sweep(self, graph: ir.Graph) -> None:
        """Folds the nodes of a graph in order, those of a subgraph when it comes to the node that owns it."""
        if self.sizes is not None:
            self.sizes.enter(graph)
        for node in graph:
            for subgraph in ir.node_subgraphs(node):
                self.sweep(subgraph)
            results = self._results(node)
            if results is not None and self._within_growth(node, results):
                replace_by_constants(graph, node, results)
                self.stats[node.op_type] += 1
            elif self.sizes is not None:
                self.sizes.simplify(graph, node)
        if self.sizes is not None:
            self.sizes.leave()

    def _results(self, node: ir.Node) -> Sequence[Array] | None:
        if (node.domain, node.op_type) in KEEP:
            return None
        inputs = _constant_inputs(node)
        if inputs is None or any(output.is_graph_output() for output in node.outputs):
            return None
        size = sum(t.nbytes for t in inputs if t is not None)
        if size > self.budget.max_input_bytes:
            self._refuse("budget", f"its constant inputs take {size} bytes, above the budget", node)
            return None
        if any(t is not None and t.dtype is ir.DataType.STRING for t in inputs):
            self._refuse("strings", "it works on strings, which are left to the runtime", node)
            return None
        return self._evaluate(node, [None if t is None else ir.read_array(t) for t in inputs])

    def _evaluate(self, node: ir.Node, inputs: Sequence[Array | None]) -> Sequence[Array] | None:
        try:
            results = ir.evaluate_node(node, inputs, opset_imports=self.opsets)
        except SardonyxError as error:
            self._refuse("not-evaluated", error.message, node)
            return None
        if all(result.dtype.kind not in "OUS" for result in results):
            return results
        self._refuse("strings", "it makes strings, which are left to the runtime", node)
        return None

    def _within_growth(self, node: ir.Node, results: Sequence[Array]) -> bool:
        freed = sum(_bytes_only_for(value) for value in set(node.inputs))
        growth = sum(r.nbytes for r in results) - freed
        if growth <= self.budget.max_growth_bytes:
            return True
        self._refuse("growth", f"its value would make the model {growth} bytes larger", node)
        return False

    def _refuse(self, rule: str, reason: str, node: ir.Node) -> None:
        self.refusals.append(Refusal(rule, f"{node.op_type} was not folded: {reason}", (node.name or "",)))


def _constant_inputs(node: ir.Node) -> list[ir.TensorProtocol | None] | None:
    """The node's inputs, absent ones as None; or None where one is not constant or the node has a body."""
    tensors = []
    for value in node.inputs:
        tensor = None if value is None else ir.constant_tensor(value)
        if value is not None and tensor is None:
            return None
        tensors.append(tensor)
    if not tensors or any(a.is_ref() or a.type in _GRAPHS for a in node.attributes.values()):
        return None
    return tensors


def _bytes_only_for(value: ir.Value | None) -> int:
    """Bytes of a constant that dies with its only consumer."""
    if value is None or value.is_graph_output() or len({use.node for use in value.uses()}) != 1:
        return 0
    tensor = ir.constant_tensor(value)
    return 0 if tensor is None else tensor.nbytes


def replace_by_constants(graph: ir.Graph, node: ir.Node, results: Sequence[Array]) -> None:
    """Replaces the node's outputs by initializers of the same names, and drops the constants that only it used."""
    for output, array in zip((o for o in node.outputs if o.name), results, strict=True):
        name = output.name
        if output.uses() and name is not None:
            output.name = None
            ir.replace_all_uses_with(output, ir.add_initializer(graph, name, np.ascontiguousarray(array)))
    ir.remove_unused([node])
