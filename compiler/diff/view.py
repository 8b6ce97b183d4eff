"""A model as flat tables of nodes and values, in which what only carries a quantity on is seen through."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property

from sardonyx import ir
from sardonyx.diff.constants import Constant, Folder, held, tensor_key, text_key
from sardonyx.diff.correspondence import NodeRef

ABSENT = -1
"""In place of an operand that is left out."""

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})

CLIPPING = ("sardonyx.diff", "activation")
"""The kind of activations that a quantizer absorbed, and of the quantizers that did: they clip alike."""

Place = tuple[tuple[str, ...], int]
"""Where a node is: its scope and its position in its graph, as `NodeRef` has them."""

COMMUTATIVE = frozenset({
    "Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
})  # fmt: skip
"""Operators whose operands may change places."""


@dataclass(eq=False)
class NodeView:
    """A node with its operands by number.

    Attributes:
        ref: Where it is.
        node: The node.
        kind: Domain and operator; the same for all calls of the model's functions; `CLIPPING` for what clips alike.
        attributes: What its attributes say, defaults left out; subgraphs are known by their outputs.
        inputs: Numbers of the values it reads, seen through what only carries them on; `ABSENT` for one left out.
        outputs: Numbers of the values it computes.
        bodies: Numbers of the values that its subgraphs or its function return.
        transparent: Whether it only carries a quantity on.
    """

    ref: NodeRef
    node: ir.Node
    kind: tuple[str, str]
    attributes: tuple[tuple[str, str], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bodies: tuple[int, ...] = ()
    transparent: bool = False

    @property
    def commutative(self) -> bool:
        """Whether its operands may change places."""
        return not self.kind[0] and self.kind[1] in COMMUTATIVE


@dataclass(eq=False)
class Formal:
    """Where a value enters a body: which parameter it is, and of which node; of a function where that is None."""

    owner: int | None
    position: tuple[object, ...]


@dataclass(eq=False)
class View:
    """A model as tables. Values are numbered; a value that only carries another on has that one as its root.

    Attributes:
        model: The model.
        nodes: Its nodes, operands first; nodes of bodies before the node that has them.
        values: The value of each number.
        root: The number of the value whose quantity each one carries.
        producer: Position in `nodes` of the node that computes a value, or None.
        consumers: By root: position in `nodes` and operand of each node that reads it.
        constants: By number: what is known to be constant.
        formals: By number: values that enter a body.
        entries: By position in `nodes` at which a body begins: numbers of the values that enter there, outer first.
        inputs: Numbers of the model's inputs.
        outputs: Roots of the model's outputs.
        restored: By root: the type of the floats that integers stand for, where those are dequantized.
    """

    model: ir.Model
    nodes: list[NodeView] = field(default_factory=list)
    values: list[ir.Value] = field(default_factory=list)
    root: list[int] = field(default_factory=list)
    producer: list[int | None] = field(default_factory=list)
    consumers: list[list[tuple[int, int]]] = field(default_factory=list)
    constants: dict[int, Constant] = field(default_factory=dict)
    formals: dict[int, Formal] = field(default_factory=dict)
    entries: dict[int, list[int]] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    restored: dict[int, ir.DataType] = field(default_factory=dict)

    def name(self, value: int) -> str:
        """Returns a value's name."""
        return self.values[value].name or ""

    def shape(self, value: int) -> tuple[object, ...] | None:
        """Returns a value's shape, None for a dimension that is not a number; None where even the rank is unknown."""
        shape = self.values[value].shape
        return None if shape is None else tuple(d if isinstance(d, int) else None for d in shape)

    def dtype(self, value: int) -> ir.DataType | None:
        """Returns the type of the quantity that a value carries: of what integers stand for, where that is known."""
        return self.restored.get(value, self.values[value].dtype)

    def maker(self, value: int) -> NodeView | None:
        """Returns the node that computes a value."""
        position = self.producer[value]
        return None if position is None else self.nodes[position]

    @cached_property
    def kinds(self) -> frozenset[tuple[str, str]]:
        """The operators that the model has."""
        return frozenset(node.kind for node in self.nodes)

    def data(self, node: NodeView) -> Iterator[tuple[int, int]]:
        """Yields position and number of each operand of a node that is no constant."""
        for position, value in enumerate(node.inputs):
            if value != ABSENT and value not in self.constants:
                yield position, value

    def roots(self) -> Iterator[int]:
        """Yields the number of each value that carries a quantity of its own and is no constant."""
        for value, root in enumerate(self.root):
            if value == root and value not in self.constants:
                yield value


def view_of(model: ir.Model, clipping: Set[Place] = frozenset()) -> View:
    """Makes the tables of a model, with its subgraphs and functions.

    Args:
        model: The model.
        clipping: Activations that quantizers of the other model absorbed, or quantizers that absorbed one: these
            compute something and do not only carry a quantity on.

    Raises:
        LoadError: If external weights can no longer be read.
    """
    return _Builder(View(model), clipping, {}).build()


def view_again(view: View, clipping: Set[Place]) -> View:
    """Makes the tables of a model once more, as `view_of` does, without reading its weights again."""
    held = {id(c.tensor): c for v, c in view.constants.items() if view.producer[v] is None and c.tensor is not None}
    return _Builder(View(view.model), clipping, held).build()


class _Builder:
    def __init__(self, view: View, clipping: Set[Place], keys: dict[int, Constant]) -> None:
        self.view = view
        self.numbers: dict[ir.Value, int] = {}
        self.folder = Folder(view.model.opset_imports)
        self.opsets = view.model.opset_imports
        self.calls: dict[tuple[str, str], tuple[int, ...]] = {}
        self.keys = keys
        self.clipping = clipping
        self.clipped: dict[int, int] = {}

    def build(self) -> View:
        view = self.view
        for function in self.view.model.functions.values():
            scope = (function_scope(function),)
            for position, value in enumerate(function.inputs):
                formal = self._add(value)
                view.formals[formal] = Formal(None, (position,))
                view.entries.setdefault(len(view.nodes), []).append(formal)
            self._graph(function.graph, scope)
            outputs = tuple(view.root[self._number(value)] for value in function.outputs)
            self.calls[function.domain, function.name] = outputs
        view.inputs = tuple(self._add(value) for value in view.model.graph.inputs)
        self._graph(view.model.graph, ())
        view.outputs = tuple(view.root[self._number(value)] for value in view.model.graph.outputs)
        return view

    def _add(self, value: ir.Value) -> int:
        """Numbers a value that is its own root."""
        number = self.numbers[value] = len(self.view.values)
        self.view.values.append(value)
        self.view.root.append(number)
        self.view.producer.append(None)
        self.view.consumers.append([])
        return number

    def _number(self, value: ir.Value) -> int:
        """Number of a value; one that nothing defines is taken as an input."""
        found = self.numbers.get(value)
        return self._add(value) if found is None else found

    def _graph(self, graph: ir.Graph, scope: tuple[str, ...]) -> None:
        for value in graph.initializers.values():
            if value.is_graph_input() or value.const_value is None:
                continue
            self.view.constants[self._add(value)] = self._held(value.const_value)
        for index, node in enumerate(graph):
            self._node(node, index, scope)

    def _held(self, tensor: ir.TensorProtocol) -> Constant:
        """The constant of a tensor, which is read once however often it is used."""
        if id(tensor) not in self.keys:
            self.keys[id(tensor)] = held(tensor)
        return self.keys[id(tensor)]

    def _node(self, node: ir.Node, index: int, scope: tuple[str, ...]) -> None:
        view = self.view
        pending: list[tuple[int, Formal]] = []
        start = len(view.nodes)
        returned = tuple(self._bodies(node, scope, pending))
        inputs = tuple(ABSENT if v is None else view.root[self._number(v)] for v in node.inputs)
        ref = NodeRef(scope, node.name or "", node.op_type, node.domain, index)
        called = self.calls.get((node.domain, node.op_type))
        kind = (node.domain, node.op_type) if called is None else ("function", "")
        clips = (scope, index) in self.clipping
        position = len(view.nodes)
        for formal, entry in pending:
            view.formals[formal] = Formal(position, entry.position)
        if pending:  # the bodies inside these bodies are through already
            view.entries[start] = [*(formal for formal, _ in pending), *view.entries.get(start, ())]
        outputs = tuple(self._add(value) for value in node.outputs)
        if clips:
            made = NodeView(ref, node, CLIPPING, (), inputs[:1], outputs)
        else:
            made = NodeView(ref, node, kind, self._attributes(node), inputs, outputs, returned + (called or ()))
        view.nodes.append(made)
        for value in outputs:
            view.producer[value] = position
        for operand, value in enumerate(inputs):
            if value != ABSENT:
                view.consumers[value].append((position, operand))
        self._see_through(made)

    def _bodies(self, node: ir.Node, scope: tuple[str, ...], pending: list[tuple[int, Formal]]) -> Iterator[int]:
        for step, graph in bodies(node):
            kind = step.removeprefix(f"{node.name}.")
            for position, value in enumerate(graph.inputs):
                pending.append((self._add(value), Formal(None, (kind, position))))
            self._graph(graph, (*scope, step))
            yield from (self.view.root[self._number(value)] for value in graph.outputs)

    def _attributes(self, node: ir.Node) -> tuple[tuple[str, str], ...]:
        if not node.attributes:
            return ()
        version = self.opsets.get(node.domain, 1)
        defaults = ir.default_attributes(node.domain, node.op_type, version)
        return tuple(
            (name, text)
            for name, attr in sorted(node.attributes.items())
            if (text := attribute_text(attr)) and (name not in defaults or attribute_text(defaults[name]) != text)
        )

    def _see_through(self, made: NodeView) -> None:
        """Finds out whether a node computes a constant, or only carries its operand on."""
        view, node = self.view, made.node
        found = self.folder.fold_shape(node)
        if (
            found is None
            and not made.bodies
            and made.kind != CLIPPING
            and all(v == ABSENT or v in view.constants for v in made.inputs)
        ):
            found = self._constant(made)
        if found is not None:
            view.constants.update(zip(made.outputs, found, strict=False))
        elif made.kind == CLIPPING:
            self._clip(made)
        elif _carries_on(made, view):
            made.transparent = True
            view.root[made.outputs[0]] = made.inputs[0]
            if node.op_type == "DequantizeLinear" and node.outputs[0].dtype is not None:
                view.restored.setdefault(made.inputs[0], node.outputs[0].dtype)

    def _clip(self, made: NodeView) -> None:
        """A quantizer that clips stands for floats; another one of the same value is the same clipping."""
        view, result, source = self.view, made.outputs[0], made.inputs[0]
        kind = view.dtype(source)
        if made.node.op_type == "QuantizeLinear" and kind is not None:
            view.restored[result] = kind
        first = self.clipped.setdefault(source, result)
        if first != result:
            made.transparent = True
            view.root[result] = first

    def _constant(self, made: NodeView) -> list[Constant] | None:
        node = made.node
        if node.op_type == "Constant" and not node.domain:
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            return None if tensor is None else [self._held(tensor)]
        if not made.inputs or node.op_type.startswith("Random"):
            return None
        operands = [None if v == ABSENT else self.view.constants[v] for v in made.inputs]
        folded = self.folder.fold(node, operands)
        if folded is not None:
            return folded
        key = text_key(f"{made.kind}{made.attributes}{[None if c is None else c.key for c in operands]}")
        shapes = [None if v.shape is None or not v.shape.is_static() else v.shape.numpy() for v in node.outputs]
        outputs = enumerate(zip(node.outputs, shapes, strict=True))
        return [Constant(f"{key}.{i}", value.dtype, shape, None) for i, (value, shape) in outputs]


def ordered(view: View) -> list[NodeView]:
    """Returns the nodes in an order that follows from the graph and not from the file: as outputs need them."""
    order: dict[int, None] = {}
    for start in (*view.outputs, *range(len(view.values))):
        stack = [view.producer[start]]
        while stack:
            position = stack[-1]
            if position is None or position in order:
                stack.pop()
                continue
            node = view.nodes[position]
            needed = [view.producer[v] for v in (*node.inputs, *node.bodies) if v != ABSENT]
            waiting = [p for p in needed if p is not None and p not in order]
            if waiting:
                stack.append(waiting[0])
            else:
                order[position] = None
                stack.pop()
    return [view.nodes[position] for position in order]


def placed_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, tuple[str, ...], int]]:
    """Yields every node with its scope and its position in its graph, as `NodeRef` has them."""
    for function in model.functions.values():
        yield from _placed(function.graph, (function_scope(function),))
    yield from _placed(model.graph, ())


def _placed(graph: ir.Graph, scope: tuple[str, ...]) -> Iterator[tuple[ir.Node, tuple[str, ...], int]]:
    for index, node in enumerate(graph):
        yield node, scope, index
        for step, body in bodies(node):
            yield from _placed(body, (*scope, step))


def function_scope(function: ir.Function) -> str:
    """The step of a scope that leads into a function."""
    return f"function {function.domain}::{function.name}"


def bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """Yields the subgraphs of a node with the steps of a scope that lead into them."""
    for name, attr in node.attributes.items():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield f"{node.name}.{name}", attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from ((f"{node.name}.{name}[{i}]", graph) for i, graph in enumerate(attr.as_graphs()))


def attribute_text(attr: ir.Attr) -> str:
    """Returns what an attribute says as text that is equal for equal values; empty for subgraphs."""
    if attr.is_ref():
        return f"@{attr.ref_attr_name}"
    if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return ""
    if attr.type == ir.AttributeType.TENSOR:
        return tensor_key(attr.as_tensor())
    if attr.type == ir.AttributeType.TENSORS:
        return ",".join(map(tensor_key, attr.as_tensors()))
    value = attr.value
    return repr(list(value)) if isinstance(value, list | tuple) else repr(value)


def _carries_on(made: NodeView, view: View) -> bool:
    """Whether a node's first output is its first operand but for rounding."""
    if not made.inputs or made.inputs[0] == ABSENT or made.inputs[0] in view.constants:
        return False
    if any(output.uses() or output.is_graph_output() for output in made.node.outputs[1:]):
        return False
    if made.kind in _CARRIERS:
        return True
    return made.kind == ("", "Cast") and _keeps_kind(made.node)


def _keeps_kind(node: ir.Node) -> bool:
    """Whether a Cast goes from floats to floats, or to the type that its operand has."""
    source = node.inputs[0]
    attr = node.attributes.get("to")
    if source is None or attr is None or attr.is_ref():
        return False
    target = ir.DataType(attr.as_int())
    return source.dtype == target or (source.dtype in FLOATS and target in FLOATS)


_CARRIERS = frozenset({
    ("", "Identity"), ("", "Dropout"), ("", "QuantizeLinear"), ("", "DequantizeLinear"),
    ("com.microsoft", "QuantizeLinear"), ("com.microsoft", "DequantizeLinear"),
})  # fmt: skip
"""Operators that hand on their first operand: as it is, or on a quantization grid."""
