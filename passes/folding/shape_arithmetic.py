"""Shape arithmetic: what a model computes from the sizes of its values, simplified as far as sizes are known.

- A value whose elements are all known becomes a constant, and one that an earlier value equals is replaced by that.
- A Reshape, Expand or Slice whose target says nothing but "as the input" gets a constant target.
- A Reshape, Expand or Slice that changes no size goes.
- A Shape of a value that nothing else needs reads an earlier value of the same sizes, so that nodes between can go.

All of it holds for every size that the model accepts, empty tensors included.
"""

from collections import ChainMap, Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from sardonyx import ir
from sardonyx.ir.dims import Dim, Polynomial, at_least, subtract
from sardonyx.passes.base import Refusal

K = TypeVar("K", bound=Hashable)

_READERS = frozenset(("Shape", "Size"))


class ShapeArithmetic:
    """Evaluates sizes along a sweep over a model and simplifies what depends on them.

    Attributes:
        stats: How often each simplification was made.
        refusals: Targets that shape arithmetic computes and that could not be made constant.
        values: What the sweep has found of sizes.
    """

    def __init__(self, graph: ir.Graph, names: ir.NameAuthority) -> None:
        self.stats: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        self._names = names
        self.values = ir.SymbolicValues(graph)
        self._computed: ChainMap[Hashable, ir.Value] = ChainMap()
        self._shaped: ChainMap[tuple[Dim, ...], ir.Value] = ChainMap()

    def enter(self, graph: ir.Graph) -> None:
        """Begins a graph; what the graphs around it have computed so far is visible in it."""
        self._computed = self._computed.new_child()
        self._shaped = self._shaped.new_child()
        for value in graph.inputs:
            self._note_shape(value)

    def leave(self) -> None:
        """Ends a graph; its values are not visible outside."""
        self._computed = self._computed.parents
        self._shaped = self._shaped.parents

    def simplify(self, graph: ir.Graph, node: ir.Node) -> None:
        """Evaluates a node and simplifies it; call it for every node that stays, in graph order."""
        self.values.visit(node)
        if len(node.outputs) != 1 or node.domain:
            return
        output = node.outputs[0]
        if self._is_replaced(graph, node, output):
            return
        if node.op_type in TARGETS and self._make_target_constant(graph, node):
            self.values.visit(node)  # a constant target may say more: what -1 stands for
            if self._is_replaced(graph, node, output):
                return
        self._note_shape(output)
        if node.op_type in _READERS:
            self._read_earlier(node)

    def _is_replaced(self, graph: ir.Graph, node: ir.Node, output: ir.Value) -> bool:
        """Replaces a value that needs no computing; a graph output stays, with its name."""
        return not output.is_graph_output() and (self._is_known(graph, node, output) or self._is_no_op(node, output))

    def _is_known(self, graph: ir.Graph, node: ir.Node, output: ir.Value) -> bool:
        """Replaces a value by a constant or by an earlier value with the same elements."""
        elements = self.values.elements(output)
        if elements is None or output.dtype is None or any(item is None for item in elements.flat):
            return False
        if all(isinstance(item, int) for item in elements.flat):
            name, output.name = output.name, None
            array = elements.astype(output.dtype.numpy())
            replacement = ir.add_initializer(graph, name or self._names.value("sizes"), array)
            self.stats[node.op_type] += 1
        else:
            key = (output.dtype, elements.shape, *elements.flat)
            replacement = _earliest(self._computed, key, output)
            if replacement is output:
                return False
            self.stats["merge-equal-sizes"] += 1
        self._replace(output, replacement)
        return True

    def _is_no_op(self, node: ir.Node, output: ir.Value) -> bool:
        """Removes a node that moves nothing: each size of its output is that of its input."""
        data = node.inputs[0] if node.inputs else None
        if data is None or node.op_type not in TARGETS or not _keeps_order(node, self.values):
            return False
        before, after = self.values.dims(data), self.values.dims(output)
        if before is None or before != after:
            return False
        self.stats[f"remove-{node.op_type.lower()}"] += 1
        self._replace(output, data)
        return True

    def _replace(self, output: ir.Value, replacement: ir.Value) -> None:
        node = output.producer()
        ir.replace_all_uses_with(output, replacement)
        if node is not None:
            ir.remove_unused([node])

    def _note_shape(self, value: ir.Value) -> None:
        dims = self.values.dims(value)
        if dims is not None:
            _earliest(self._shaped, dims, value)

    def _read_earlier(self, node: ir.Node) -> None:
        """Lets a Shape read an earlier value, where the one it reads is needed for nothing but its sizes."""
        value = node.inputs[0]
        dims = None if value is None else self.values.dims(value)
        if value is None or dims is None or value.producer() is None or value.is_graph_output():
            return
        earlier = _earliest(self._shaped, dims, value)
        if earlier is not value and all(use.node.op_type in _READERS for use in value.uses()):
            producer = value.producer()
            node.replace_input_with(0, earlier)
            self.stats["read-earlier-shape"] += 1
            if producer is not None:
                ir.remove_unused([producer])

    def _make_target_constant(self, graph: ir.Graph, node: ir.Node) -> bool:
        resolved = TARGETS[node.op_type](node, self.values)
        if isinstance(resolved, str):
            reason = f"The target of {node.op_type} {node.name!r} stays computed: {resolved}"
            self.refusals.append(Refusal("constant-target", reason, (node.name or "",)))
            return False
        for index, items in resolved.items():
            old = node.inputs[index]
            if old is None or old.dtype is None:
                continue
            producer = old.producer()
            name = self._names.value(f"{node.outputs[0].name}_{_PARTS[node.op_type][index]}")
            node.replace_input_with(index, ir.add_initializer(graph, name, np.array(items, old.dtype.numpy())))
            if producer is not None:
                ir.remove_unused([producer])
        if resolved:
            if node.op_type == "Reshape" and "allowzero" in node.attributes:
                node.attributes.pop("allowzero")  # zeros copy now
            self.stats[f"constant-{node.op_type.lower()}"] += 1
        return bool(resolved)


def _earliest(seen: ChainMap[K, ir.Value], key: K, value: ir.Value) -> ir.Value:
    """Returns the first value noted under a key that is still in the model, and notes this one if there is none."""
    earlier = seen.get(key)
    if earlier is not None:
        producer = earlier.producer()
        if producer is None or producer.graph is not None:
            return earlier
    seen[key] = value
    return value


Resolved = Mapping[int, Sequence[int]] | str
"""New constants by input index; empty where nothing is to be done; or why it cannot be done."""


def _computed_elements(node: ir.Node, index: int, values: ir.SymbolicValues) -> list[Dim | None] | None:
    """The elements of an input that is computed; None where it is constant, left out, or wholly unknown."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or ir.constant_tensor(value) is not None:
        return None
    elements = values.elements(value)
    return None if elements is None or elements.ndim != 1 else list(elements)


def _reshape(node: ir.Node, values: ir.SymbolicValues) -> Resolved:
    """A 0 copies a size of the input; -1 stands for one other size, if no size beside it may be 0."""
    target = _computed_elements(node, 1, values)
    data = values.dims(node.inputs[0]) if node.inputs[0] is not None else None
    if target is None:
        return {}
    if ir.attribute(node, "allowzero", 0) and 0 in target:
        return "it asks for a size of 0"
    result = [_reshape_size(item, data, axis) for axis, item in enumerate(target)]
    if result.count(-1) > 1:
        unknown = [_name(item) for item, size in zip(target, result, strict=True) if size == -1]
        return f"several of its sizes are not those of the input: {', '.join(unknown)}"
    own = [item for item, size in zip(target, result, strict=True) if size == -1 and item != -1]
    if own and not all(_positive(size, data, axis) for axis, size in enumerate(result) if size != -1):
        return f"-1 cannot stand for {_name(own[0])}, as another size of it may be 0"
    return {1: result}


def _reshape_size(item: Dim | None, data: Sequence[Dim] | None, axis: int) -> int:
    if isinstance(item, int):
        return item
    return 0 if item is not None and data is not None and axis < len(data) and data[axis] == item else -1


def _positive(size: int, data: Sequence[Dim] | None, axis: int) -> bool:
    return size > 0 or (size == 0 and data is not None and axis < len(data) and at_least(data[axis], 1))


def _expand(node: ir.Node, values: ir.SymbolicValues) -> Resolved:
    """A 1 keeps a size of the input."""
    target = _computed_elements(node, 1, values)
    data = values.dims(node.inputs[0]) if node.inputs[0] is not None else None
    if target is None or data is None:
        return {}
    offset = len(data) - len(target)
    result = []
    for axis, item in enumerate(target):
        if isinstance(item, int):
            result.append(item)
        elif offset + axis >= 0 and item == data[offset + axis]:
            result.append(1)
        else:
            return f"its size {_name(item)} is not that of the input"
    return {1: result}


def _slice(node: ir.Node, values: ir.SymbolicValues) -> Resolved:
    """Bounds at or behind the end become the largest number, bounds one or two before it count from the back."""
    starts, ends = (_bounds(node, index, values) for index in (1, 2))
    data = values.dims(node.inputs[0]) if node.inputs[0] is not None else None
    axes = _known(node, 3, values, len(starts or ()))
    steps = _known(node, 4, values, len(starts or ()))
    if starts is None or ends is None or data is None or axes is None or steps is None:
        return {}
    found: dict[int, Sequence[int]] = {}
    for index, bounds in ((1, starts), (2, ends)):
        if all(isinstance(bound, int) for bound in bounds):
            continue
        if min(steps) < 1:
            return "its steps are negative"
        far = 2**31 - 1 if node.inputs[index].dtype is ir.DataType.INT32 else 2**63 - 1  # type: ignore[union-attr]
        placed = [_bound(bound, data[axis], far) for bound, axis in zip(bounds, axes, strict=True)]
        if None in placed:
            return f"its bound {_name(bounds[placed.index(None)])} is not an end of the input"
        found[index] = [bound for bound in placed if bound is not None]
    return found


def _bounds(node: ir.Node, index: int, values: ir.SymbolicValues) -> list[Dim | None] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    elements = None if value is None else values.elements(value)
    return None if elements is None else list(elements.flat)


def _bound(bound: Dim | None, dim: Dim, far: int) -> int | None:
    if bound is None or isinstance(bound, int):
        return bound
    if at_least(bound, dim):
        return far
    # A bound -k counts from the back as size - k does, also where size < k: both end up at 0 if k <= 2.
    behind = subtract(bound, dim)
    return behind if behind in (-1, -2) and isinstance(behind, int) else None


def _known(node: ir.Node, index: int, values: ir.SymbolicValues, count: int) -> list[int] | None:
    """Axes (input 3) or steps (input 4) of a Slice, defaults filled in; None where they are not known."""
    if index >= len(node.inputs) or node.inputs[index] is None:
        return list(range(count)) if index == 3 else [1] * count
    items = _bounds(node, index, values)
    if items is None or not all(isinstance(item, int) for item in items):
        return None
    return [item for item in items if isinstance(item, int)]


def _keeps_order(node: ir.Node, values: ir.SymbolicValues) -> bool:
    """Whether a node with unchanged sizes moves nothing: a Slice may count backwards."""
    return node.op_type != "Slice" or set(_known(node, 4, values, 1) or ()) == {1}


def _name(item: Dim | None) -> str:
    return str(item) if isinstance(item, int | Polynomial) else "that depends on data"


TARGETS: Mapping[str, Callable[[ir.Node, ir.SymbolicValues], Resolved]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
}
"""Operators whose target is made constant: new constants for their inputs."""

_PARTS: Mapping[str, Mapping[int, str]] = {
    "Reshape": {1: "shape"},
    "Expand": {1: "shape"},
    "Slice": {1: "starts", 2: "ends"},
}
