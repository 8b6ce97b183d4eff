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

    @ir.paused_gc()
    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Folds in one sweep in graph order; what was foldable and was not folded leaves a refusal."""
        symbolic = _reads_sizes(model.graph)
        if symbolic:
            ir.ensure_shapes(model)
        sizes = ShapeArithmetic(model.graph, ir.NameAuthority(model)) if symbolic else None
        folder = _Folder(self, model.opset_imports, sizes)
        folder.sweep(model.graph)  # functions hold no initializers; cleanup inlines them
        if sizes is not None and sizes.stats:
            ir.complete_shapes(model, sizes.values)  # constant targets say more than computed ones
        stats = folder.stats + (sizes.stats if sizes is not None else Counter())
        refusals = (*folder.refusals, *(sizes.refusals if sizes is not None else ()))
        return PassResult(model, bool(stats), dict(stats), refusals)


def _reads_sizes(graph: ir.Graph) -> bool:
    """Whether a graph or a graph inside it computes with sizes; if not, no shape needs to be known."""
    return any(node.op_type in ("Shape", "Size") for g in (graph, *graph.subgraphs()) for node in g)


class _Folder:
    """Folds node by node.

    A node whose value would take too many bytes is held: it stays, but counts as constant for the nodes behind it, so
    that a weight that is cut and put together again folds as a whole.
    """

    def __init__(self, budget: FoldConstants, opsets: Mapping[str, int], sizes: ShapeArithmetic | None) -> None:
        self.budget = budget
        self.opsets = opsets
        self.sizes = sizes
        self.stats: Counter[str] = Counter()
        self._refused: list[tuple[ir.Node, Refusal]] = []
        self._held: dict[ir.Value, int] = {}

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Why nodes that are still there were not folded."""
        return tuple(refusal for node, refusal in self._refused if node.graph is not None)

    def sweep(self, graph: ir.Graph) -> None:
        """Folds the nodes of a graph in order, those of a subgraph when it comes to the node that owns it."""
        if self.sizes is not None:
            self.sizes.enter(graph)
        for node in graph:
            for subgraph in ir.node_subgraphs(node):
                self.sweep(subgraph)
            if self._is_foldable(node) and self._fold(graph, node):
                self.stats[node.op_type] += 1
            elif self.sizes is not None:
                self.sizes.simplify(graph, node)
        if self.sizes is not None:
            self.sizes.leave()

    def _is_foldable(self, node: ir.Node) -> bool:
        """Whether all inputs are constant, nothing else decides the result, and the budget admits reading them."""
        if (node.domain, node.op_type) in KEEP or not any(value is not None for value in node.inputs):
            return False
        size = 0
        for value in node.inputs:
            if value is None:
                continue
            tensor = ir.constant_tensor(value)
            if tensor is None and value not in self._held:
                return False
            if tensor is not None and tensor.dtype is ir.DataType.STRING:
                self._refuse("strings", "it works on strings, which are left to the runtime", node)
                return False
            size += self._held[value] if tensor is None else tensor.nbytes
        if any(a.is_ref() or a.type in _GRAPHS for a in node.attributes.values()):
            return False
        if size > self.budget.max_input_bytes:
            self._refuse("budget", f"its constant inputs take {size} bytes, above the budget", node)
            return False
        return not any(output.is_graph_output() for output in node.outputs)

    def _fold(self, graph: ir.Graph, node: ir.Node) -> bool:
        try:
            results = self._evaluate(node, {})
        except SardonyxError as error:
            self._refuse("not-evaluated", error.message, node)
            return False
        if any(result.dtype.kind in "OUS" for result in results):
            self._refuse("strings", "it makes strings, which are left to the runtime", node)
            return False
        growth = sum(result.nbytes for result in results) - self._freed(node)
        if growth <= self.budget.max_growth_bytes:
            replace_by_constants(graph, node, results)
            return True
        self._refuse("growth", f"its value would make the model {growth} bytes larger", node)
        outputs = (output for output in node.outputs if output.name)
        self._held.update((output, result.nbytes) for output, result in zip(outputs, results, strict=True))
        return False

    def _evaluate(self, node: ir.Node, known: dict[ir.Value, Array]) -> Sequence[Array]:
        """Computes a node's outputs; those of held nodes before it are computed again rather than kept in memory."""
        for value in node.inputs:
            if value is None or value in known:
                continue
            tensor, producer = ir.constant_tensor(value), value.producer()
            if tensor is not None:
                known[value] = ir.read_array(tensor)
            elif producer is not None:
                outputs = (output for output in producer.outputs if output.name)
                known.update(zip(outputs, self._evaluate(producer, known), strict=True))
        inputs = [None if value is None else known[value] for value in node.inputs]
        return ir.evaluate_node(node, inputs, opset_imports=self.opsets)

    def _freed(self, node: ir.Node) -> int:
        """Bytes of the constants that die with a node and with the held nodes that only it needs."""
        dying, pending = {node}, [node]
        while pending:
            for value in pending.pop().inputs:
                producer = value.producer() if value is not None and value in self._held else None
                if producer is not None and producer not in dying and _only_for(producer.outputs, dying):
                    dying.add(producer)
                    pending.append(producer)
        constants = {value for dead in dying for value in dead.inputs if value is not None}
        tensors = [ir.constant_tensor(value) for value in constants if _only_for((value,), dying)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def _refuse(self, rule: str, reason: str, node: ir.Node) -> None:
        reason = f"{node.op_type} was not folded: {reason}"
        self._refused.append((node, Refusal(rule, reason, (node.name or "",))))


def _only_for(values: Sequence[ir.Value], nodes: set[ir.Node]) -> bool:
    """Whether nothing but `nodes` uses any of the values."""
    return all(use.node in nodes for value in values for use in value.uses()) and not any(
        value.is_graph_output() for value in values
    )


def replace_by_constants(graph: ir.Graph, node: ir.Node, results: Sequence[Array]) -> None:
    """Replaces the node's outputs by initializers of the same names, and drops the constants that only it used."""
    for output, array in zip((o for o in node.outputs if o.name), results, strict=True):
        name = output.name
        if output.uses() and name is not None:
            output.name = None
            ir.replace_all_uses_with(output, ir.add_initializer(graph, name, np.asarray(array, order="C")))
    ir.remove_unused([node])
