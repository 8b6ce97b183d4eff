"""Constant folding: nodes whose inputs are all constant are replaced by their value.

Exact by construction: each node is evaluated by ONNX's own reference implementation. Q/DQ is never folded, because it
tells the runtime what runs as integers. Budgets in bytes keep the file and the memory from growing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import SardonyxError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal

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


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluates nodes with constant inputs, in the main graph and in subgraphs.

    Attributes:
        max_input_bytes: Nodes whose constant inputs together are larger are left alone.
        max_growth_bytes: How much larger a result may be than the constants that it makes dead.
    """

    name = "fold-constants"
    summary = "replace nodes whose inputs are all constant by their value, within byte budgets"

    max_input_bytes: int = 64 << 20
    max_growth_bytes: int = 4 << 10

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Folds in one sweep in graph order; what was foldable and was not folded leaves a refusal."""
        ir.infer_shapes(model)
        folder = _Folder(self)
        function_graphs = {id(function.graph) for function in model.functions.values()}
        for graph in ir.all_graphs(model):
            if id(graph) not in function_graphs:  # functions hold no initializers; cleanup inlines them
                folder.fold(graph, dict(model.opset_imports))
        return PassResult(model, bool(folder.stats), folder.stats, tuple(folder.refusals))


@dataclass
class _Folder:
    budget: FoldConstants
    stats: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    def fold(self, graph: ir.Graph, opsets: Mapping[str, int]) -> None:
        for node in graph:
            if (node.domain, node.op_type) in KEEP or any(o.is_graph_output() for o in node.outputs):
                continue
            results = self._results(node, opsets)
            if results is not None and self._within_growth(node, results):
                _replace(graph, node, results)
                self.stats[node.op_type] = self.stats.get(node.op_type, 0) + 1

    def _results(self, node: ir.Node, opsets: Mapping[str, int]) -> Sequence[Array] | None:
        from_shape = _FROM_SHAPE.get((node.domain, node.op_type))
        if from_shape is not None:
            return from_shape(node)
        inputs = _constant_inputs(node)
        if inputs is None:
            return None
        size = sum(t.nbytes for t in inputs if t is not None)
        if size > self.budget.max_input_bytes:
            self._refuse("budget", f"its constant inputs take {size} bytes, above the budget", node)
            return None
        if any(t is not None and t.dtype is ir.DataType.STRING for t in inputs):
            self._refuse("strings", "it works on strings, which are left to the runtime", node)
            return None
        return self._evaluate(node, [None if t is None else t.numpy() for t in inputs], opsets)

    def _evaluate(
        self, node: ir.Node, inputs: Sequence[Array | None], opsets: Mapping[str, int]
    ) -> Sequence[Array] | None:
        try:
            results = ir.evaluate_node(node, inputs, opset_imports=opsets)
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
    graph_types = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if not node.inputs or any(a.is_ref() or a.type in graph_types for a in node.attributes.values()):
        return None
    tensors = []
    for value in node.inputs:
        tensor = None if value is None else ir.constant_tensor(value)
        if value is not None and tensor is None:
            return None
        tensors.append(tensor)
    return tensors


def _static_shape(node: ir.Node) -> list[int] | None:
    value = node.inputs[0] if node.inputs else None
    if value is None or value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return [int(d) for d in value.shape.numpy()]


def _shape(node: ir.Node) -> Sequence[Array] | None:
    shape = _static_shape(node)
    if shape is None:
        return None
    start, end = ir.attribute(node, "start", 0), ir.attribute(node, "end", len(shape))
    return [np.asarray(shape[start:end], np.int64)]


def _size(node: ir.Node) -> Sequence[Array] | None:
    shape = _static_shape(node)
    return None if shape is None else [np.asarray(np.prod(shape, dtype=np.int64))]


_FROM_SHAPE: Mapping[tuple[str, str], Callable[[ir.Node], Sequence[Array] | None]] = {
    ("", "Shape"): _shape,
    ("", "Size"): _size,
}
"""Operators that need their input's shape only, so that the input is neither required to be constant nor read."""


def _bytes_only_for(value: ir.Value | None) -> int:
    """Bytes of a constant that dies with its only consumer."""
    if value is None or value.is_graph_output() or len({use.node for use in value.uses()}) != 1:
        return 0
    tensor = ir.constant_tensor(value)
    return 0 if tensor is None else tensor.nbytes


def _replace(graph: ir.Graph, node: ir.Node, results: Sequence[Array]) -> None:
    """Replaces the node's outputs by initializers of the same names."""
    for output, array in zip((o for o in node.outputs if o.name), results, strict=True):
        name = output.name
        if output.uses() and name is not None:
            output.name = None
            ir.replace_all_uses_with(output, ir.add_initializer(graph, name, np.ascontiguousarray(array)))
    inputs = {value for value in node.inputs if value is not None}
    graph.remove(node, safe=True)
    for value in inputs:
        owner = value.graph
        if value.is_initializer() and owner is not None and not _needed(value) and value.name is not None:
            owner.initializers.pop(value.name)


def _needed(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output() or value.is_graph_input()
