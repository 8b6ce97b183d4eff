"""A model as canonical text for line-by-line comparison, as git's textconv wants it.

Names of nodes, values and weights do not appear unless they are asked for, since exporters renumber them: a node refers
to what it reads by how many nodes before it that was computed (`^1` is the node just before), and a weight is its type,
shape, hash and statistics. Nodes stand in an order that follows from the graph, not from the file. So a line changes
where the model does, and near an edit where a reference crosses it.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

from sardonyx import ir
from sardonyx.diff.tensors import elements
from sardonyx.diff.view import attribute_text

INLINE = 8
"""Constants up to this many elements are written out."""


def model_text(model: ir.Model, *, names: bool = False) -> Iterator[str]:
    """Yields the lines of a model's canonical text.

    Args:
        model: The model.
        names: Whether to end each line with the name of its node.

    Raises:
        LoadError: If external weights can no longer be read.
    """
    for domain, version in sorted(model.opset_imports.items()):
        yield f"opset {domain or 'ai.onnx'} {version}"
    for key, said in sorted(model.metadata_props.items()):
        yield f"metadata {printable(key)} = {printable(said)}"
    writer = _Writer(names)
    for function in sorted(model.functions.values(), key=lambda f: (f.domain, f.name)):
        yield f"function {printable(f'{function.domain}::{function.name}')}"
        yield from writer.graph(function.inputs, function.outputs, list(function), "  ")
    for value in model.graph.inputs:
        yield f"input {printable(value.name or '')}: {typed(value)}"
    yield from writer.graph(model.graph.inputs, model.graph.outputs, list(model.graph), "", top=True)


def printable(text: str) -> str:
    """Returns text on one line without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def typed(value: ir.Value) -> str:
    """Returns a value's type and shape, as `FLOAT[Nx3x8x8]`."""
    dtype = "?" if value.dtype is None else value.dtype.name
    if value.shape is None:
        return f"{dtype}[?]"
    dims = ("?" if str(dim) == "None" else printable(str(dim)) for dim in value.shape)
    return f"{dtype}[{'x'.join(dims)}]"


def tensor_text(tensor: ir.TensorProtocol) -> str:
    """Returns a tensor's type and shape with its elements, or with hash and statistics where they are many."""
    head = f"{tensor.dtype.name}[{'x'.join(map(str, tensor.shape))}]"
    if tensor.size <= INLINE:
        return f"{head} {printable(str(ir.read_array(tensor).tolist()))}"
    digest = hashlib.sha256()
    for chunk in ir.read_chunks(tensor):
        digest.update(chunk)
    return f"{head} {digest.hexdigest()[:12]}{_statistics(tensor)}"


def _statistics(tensor: ir.TensorProtocol) -> str:
    if tensor.dtype == ir.DataType.STRING:
        return ""
    count = total = squares = 0.0
    low, high = math.inf, -math.inf
    for part in elements(tensor):
        numbers = part.astype(np.float64)
        count += numbers.size
        with np.errstate(invalid="ignore", over="ignore"):
            total += float(numbers.sum())
            squares += float(np.square(numbers).sum())
        low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    mean = total / count
    spread = math.sqrt(max(squares / count - mean * mean, 0.0)) if math.isfinite(squares) else math.nan
    return f" mean {mean:.4g} std {spread:.4g} min {low:.4g} max {high:.4g}"


class _Writer:
    """Writes graphs; lines of nodes are counted through all of them, so that references reach outer graphs."""

    def __init__(self, names: bool) -> None:
        self._names = names
        self._line = 0
        self._made: dict[ir.Value, tuple[int, int]] = {}
        self._given: dict[ir.Value, str] = {}

    def graph(
        self,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        nodes: list[ir.Node],
        indent: str,
        top: bool = False,
    ) -> Iterator[str]:
        for index, value in enumerate(inputs):
            self._given[value] = printable(value.name or "") if top else f"input{index}@{len(indent) // 2}"
        for node in _ordered(outputs, nodes):
            yield from self._node(node, indent)
        self._line += 1  # what is returned counts as a line
        for value in outputs:
            name = f"output {printable(value.name or '')}: {typed(value)}" if top else "return"
            yield f"{indent}{name} = {self._reference(value)}"

    def _node(self, node: ir.Node, indent: str) -> Iterator[str]:
        self._line += 1
        operator = printable(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
        operands = ", ".join("_" if value is None else self._reference(value) for value in node.inputs)
        attributes = "".join(
            f" {printable(name)}={printable(attribute_text(attr))}"
            for name, attr in sorted(node.attributes.items())
            if attribute_text(attr)
        )
        results = ", ".join(typed(value) for value in node.outputs)
        name = f"  # {printable(node.name or '')}" if self._names else ""
        yield f"{indent}{operator}({operands}){attributes} -> {results}{name}"
        for index, operand in enumerate(node.inputs):
            tensor = None if operand is None else ir.constant_tensor(operand)
            if tensor is not None and tensor.size > INLINE:
                yield f"{indent}  {index}: {tensor_text(tensor)}"
        for index, value in enumerate(node.outputs):
            self._made[value] = self._line, index
        for key, attr in sorted(node.attributes.items()):
            for graph in _graphs(attr):
                yield f"{indent}  {printable(key)}:"
                yield from self.graph(graph.inputs, graph.outputs, list(graph), indent + "    ")

    def _reference(self, value: ir.Value) -> str:
        tensor = ir.constant_tensor(value)
        if tensor is not None:
            return tensor_text(tensor) if tensor.size <= INLINE else "weight"
        if value in self._made:
            line, index = self._made[value]
            return f"^{self._line - line}" + (f".{index}" if index else "")
        return self._given.get(value, printable(value.name or ""))


def _graphs(attr: ir.Attr) -> Sequence[ir.Graph]:
    if attr.is_ref():
        return ()
    if attr.type == ir.AttributeType.GRAPH:
        return (attr.as_graph(),)
    return attr.as_graphs() if attr.type == ir.AttributeType.GRAPHS else ()


def _ordered(outputs: Sequence[ir.Value], nodes: list[ir.Node]) -> list[ir.Node]:
    """Nodes of a graph, operands first, in the order in which outputs need them; then those that no output needs.

    Nodes that make constants are left out: the constants stand where they are read.
    """
    own, order = set(nodes), dict[ir.Node, None]()
    starts = [producer for value in outputs if (producer := value.producer()) is not None]
    for start in (*starts, *nodes):
        stack = [(start, iter(_needed(start)))] if start in own and start not in order else []
        open_nodes = {start}
        while stack:
            node, pending = stack[-1]
            following = next((n for n in pending if n in own and n not in order and n not in open_nodes), None)
            if following is None:
                order[node] = None
                stack.pop()
            else:
                open_nodes.add(following)
                stack.append((following, iter(_needed(following))))
    return [node for node in order if not (node.op_type == "Constant" and not node.domain)]


def _needed(node: ir.Node) -> list[ir.Node]:
    """Nodes that compute what a node reads, or what its subgraphs read."""
    found = [producer for value in node.inputs if value is not None and (producer := value.producer()) is not None]
    for graph in ir.node_subgraphs(node):
        returned = (producer for value in graph.outputs if (producer := value.producer()) is not None)
        found.extend(producer for producer in returned if producer.graph is not graph)
        for inner in graph:
            found.extend(_needed(inner))
    return found
