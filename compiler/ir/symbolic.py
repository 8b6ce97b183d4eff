"""Symbolic evaluation: the sizes of values, and the elements of small integer tensors made of them.

What ONNX's inference keeps only as numbers is kept here as expressions over the sizes of the graph's inputs, so that a
shape computed at run time (Shape, Gather, Mul, Concat, Reshape) is known as far as it can be before. Everything holds
for all inputs that the model accepts: where a size depends on which dimension is 1 or 0, it is a symbol of its own.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir

from sardonyx.errors import VerifyError
from sardonyx.ir.dim_rules import DIM_RULES
from sardonyx.ir.dims import Dim, Polynomial, symbol, symbol_name
from sardonyx.ir.element_rules import ELEMENT_RULES
from sardonyx.ir.kernels import MOVES, run_kernel
from sardonyx.ir.rule_inputs import MAX_ELEMENTS, Dims, Elements
from sardonyx.ir.tensors import constant_tensor

_SIZES = frozenset((oir.DataType.INT64, oir.DataType.INT32, oir.DataType.BOOL))
_OWN = "?"
_FILLERS = frozenset(("none", "unknown", "unk", "dynamic"))
_CONTRADICTIONS = (IndexError, ValueError, ZeroDivisionError, VerifyError)
"""What rules raise at a node whose inputs break its schema; ONNX's inference reports that with its cause."""


class SymbolicValues:
    """What is known about the sizes and elements of values, computed node by node.

    Visit nodes in topological order, those of subgraphs after the nodes before their owner. What was not visited is
    known by its declared shape only.

    Sizes of graph inputs that have the same name are the same, as ONNX says. Names on computed values are not used,
    as exporters write them carelessly; fixed sizes on computed values are believed.

    Args:
        graph: The main graph, whose inputs' named sizes are symbols.
    """

    def __init__(self, graph: oir.Graph) -> None:
        self._graph = graph
        self._dims: dict[oir.Value, tuple[Dim, ...] | None] = {}
        self._elements: dict[oir.Value, Elements | None] = {}
        self._own_symbols = 0

    def visit(self, node: oir.Node) -> None:
        """Evaluates a node whose inputs are known already."""
        rule = DIM_RULES.get((node.domain, node.op_type))
        try:
            results = rule(node, self) if rule is not None else ()
        except _CONTRADICTIONS:
            results = ()
        for index, output in enumerate(node.outputs):
            self._dims[output] = self._merged(output, results[index] if index < len(results) else None)
        if len(node.outputs) == 1:
            self._visit_elements(node, node.outputs[0])

    def dims(self, value: oir.Value) -> tuple[Dim, ...] | None:
        """Returns the size of each dimension, or None where the rank is unknown."""
        if value not in self._dims:
            tensor = value.const_value if value.is_initializer() and not value.is_graph_input() else None
            if tensor is not None:
                self._dims[value] = tuple(int(size) for size in tensor.shape.numpy())
            else:
                self._dims[value] = self._merged(value, self._named(value))
        return self._dims[value]

    def elements(self, value: oir.Value) -> Elements | None:
        """Returns an array of objects (int, Polynomial, or None for unknown; bools are 0 and 1), or None.

        Known for constants and for what is computed from sizes, of dtype INT64, INT32 or BOOL, up to `MAX_ELEMENTS`.
        """
        if value not in self._elements:
            self._elements[value] = _constant_elements(value)
        return self._elements[value]

    def is_expressed(self, value: oir.Value) -> bool:
        """Whether a value's type is known, and each of its sizes as a number or by sizes of the graph's inputs."""
        dims = self.dims(value)
        return value.type is not None and dims is not None and not any(_OWN in str(dim) for dim in dims)

    def _named(self, value: oir.Value) -> Dims:
        """Sizes of a value that is not computed."""
        if value.shape is None or value.producer() is not None:
            return None
        trusted = value.is_graph_input() and value.graph is self._graph
        names = [None if isinstance(dim, int) else dim.value for dim in value.shape]
        return [symbol(name) if trusted and name is not None and _is_name(name) else None for name in names]

    def _merged(self, value: oir.Value, found: Dims) -> tuple[Dim, ...] | None:
        """Fills what no rule found with the declared fixed sizes, and the rest with symbols of its own."""
        declared = value.shape
        if found is None and declared is None:
            return None
        if found is not None and (declared is None or len(declared) != len(found)):
            sizes: Sequence[object] = [None] * len(found)
        else:
            assert declared is not None
            sizes = list(declared)
        known = found or [None] * len(sizes)
        return tuple(
            self._own() if dim is None else dim
            for dim in (
                (size if isinstance(size, int) else None) if dim is None else dim
                for dim, size in zip(known, sizes, strict=True)
            )
        )

    def _own(self) -> Polynomial:
        self._own_symbols += 1
        return symbol(f"{_OWN}{self._own_symbols}")

    def _visit_elements(self, node: oir.Node, output: oir.Value) -> None:
        if output.dtype not in _SIZES or node.op_type == "Constant":
            return
        found = self._computed(node)
        if found is not None and found.size <= MAX_ELEMENTS and any(item is not None for item in found.flat):
            self._elements[output] = found
        else:
            self._elements[output] = None

    def _computed(self, node: oir.Node) -> Elements | None:
        try:
            return self._evaluate(node)
        except _CONTRADICTIONS:
            return None

    def _evaluate(self, node: oir.Node) -> Elements | None:
        rule = None if node.domain else ELEMENT_RULES.get(node.op_type)
        if rule is not None:
            return rule(node, self)
        if node.domain or node.op_type not in MOVES:
            return None
        moved = len(node.inputs) if node.op_type == "Concat" else 1
        inputs = []
        for index, value in enumerate(node.inputs):
            array = None if value is None else self.elements(value)
            if value is not None and array is None:
                array = self._unknown(value)
            if array is not None and index >= moved:
                array = known_array(array)
            if value is not None and array is None:
                return None
            inputs.append(array)
        return run_kernel(node, inputs)

    def _unknown(self, value: oir.Value) -> Elements | None:
        """An array of unknown elements, for a small value of known size."""
        dims = self.dims(value)
        if dims is None or value.dtype not in _SIZES:
            return None
        sizes = [dim for dim in dims if isinstance(dim, int)]
        if len(sizes) != len(dims) or np.prod(sizes, dtype=np.float64) > MAX_ELEMENTS:
            return None
        return np.full(sizes, None, object)


def known_array(elements: Elements) -> "np.typing.NDArray[np.int64] | None":
    """Returns elements as INT64 if all of them are numbers."""
    if all(isinstance(item, int) for item in elements.flat):
        return elements.astype(np.int64)
    return None


def _is_name(name: str) -> bool:
    """Whether a size's name tells it from others: some exporters write a filler at every size that is not fixed."""
    return (name[:1].isalnum() or name[:1] == "_") and "(" not in name and name.lower() not in _FILLERS


def input_symbol(dim: Dim) -> str | None:
    """Returns the name of a graph input's size, or None for anything else: numbers, expressions, own symbols."""
    name = symbol_name(dim)
    return None if name is None or name.startswith(_OWN) or "(" in name else name


def _constant_elements(value: oir.Value) -> Elements | None:
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in _SIZES or tensor.size > MAX_ELEMENTS:
        return None
    array = tensor.numpy()
    return array.astype(np.int64).astype(object)
