"""Placement: which values become integers. Read from the target's table, never from its name.

The rules, in order:

1. Nodes in role COMPUTE that meet their row's conditions run as integers.
2. Followers run as integers between integers; transparent nodes carry their input's quantization on.
3. A follower or transparent node whose result no integer node takes goes back to float: its pair would buy nothing.
4. A clamp after an integer node vanishes into the quantization of its output.
5. A value made by a float node gets a pair only towards the integer nodes that take it.
6. A residual node computes in float, fused into the integer node that makes one operand; it reads the other as integers
   where that one is there as integers.
7. The inputs of a transparent node with several share the scale of its output, which holds them all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sardonyx import ir
from sardonyx.capabilities import Capabilities, OpSupport, Role
from sardonyx.passes.quantization.conditions import unmet_condition, weight_axis
from sardonyx.passes.quantization.scopes import graphs_of, nodes_in_order


@dataclass(frozen=True)
class PlacedValue:
    """An activation that is quantized; ranges come later.

    Attributes:
        value: Name of the float value.
        consumers: Names of the nodes that take the quantized value; None for all of them.
        shared_with: Name of the value whose parameters this one shares.
        absorbs: Name of the clamp made redundant.
        fixed_range: Range that the target prescribes, if any.
        reason: Why.
    """

    value: str
    consumers: tuple[str, ...] | None = None
    shared_with: str | None = None
    absorbs: str | None = None
    fixed_range: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True)
class PlacedWeight:
    """A constant operand of an integer node.

    Attributes:
        node: Name of the node.
        activation: Name of the activation it is multiplied with.
        weight: Name of the float initializer.
        axis: Channel axis of the scales, or None for per-tensor.
        bias: Name of the float bias initializer, if any.
    """

    node: str
    activation: str
    weight: str
    axis: int | None
    bias: str | None = None


@dataclass(frozen=True)
class Placement:
    """The decision where, without numbers.

    Attributes:
        values: Activations to quantize, in graph order.
        weights: Weights to quantize, in graph order.
        integer_nodes: Names of the nodes that run as integers, in graph order; absorbed clamps among them.
        compute_nodes: Those of them whose role is COMPUTE.
        float_nodes: Reason by node name for nodes in the target's table that stay in float.
    """

    values: tuple[PlacedValue, ...]
    weights: tuple[PlacedWeight, ...]
    integer_nodes: tuple[str, ...] = ()
    compute_nodes: tuple[str, ...] = ()
    float_nodes: dict[str, str] = field(default_factory=dict)

    def observed(self) -> tuple[str, ...]:
        """Names of the values whose range has to be observed: those that neither share nor have a fixed one."""
        return tuple(v.value for v in self.values if v.shared_with is None and v.fixed_range is None)


NOTHING: Mapping[str, str] = {}


def place(
    model: ir.Model,
    capabilities: Capabilities,
    unusable: frozenset[str] = frozenset(),
    kept_float: Mapping[str, str] = NOTHING,
) -> Placement:
    """Decides which values become integers on a target, in the main graph and in the bodies of If, Loop and Scan.

    Args:
        model: A verified model with inferred types, whose values have names of their own; it is not changed.
        capabilities: The target's table.
        unusable: Names of values that have no finite range and must stay in float.
        kept_float: Reason by name of each node that stays in float whatever the table says.
    """
    return _Placer(model.graph, capabilities, unusable, kept_float).run()


class _Placer:
    def __init__(
        self, graph: ir.Graph, capabilities: Capabilities, unusable: frozenset[str], kept_float: Mapping[str, str]
    ) -> None:
        self.graph = graph
        self.nodes = tuple(nodes_in_order(graph))
        self.unusable = unusable
        self.kept_float = kept_float
        self.capabilities = capabilities
        self.rows: dict[ir.Node, OpSupport] = {}
        self.integer: set[ir.Node] = set()
        self.clamp_of: dict[ir.Node, ir.Node] = {}
        self.skip_of: dict[ir.Node, ir.Value] = {}
        self.joined: dict[str, str] = {}
        self.float_nodes: dict[str, str] = {}

    def run(self) -> Placement:
        self._find_candidates()
        self._spread()
        self._give_back()
        integer = [node for node in self.nodes if node in self.integer]
        return Placement(
            values=tuple(self._values()),
            weights=tuple(self._weights()),
            integer_nodes=tuple(map(_name, integer)),
            compute_nodes=tuple(_name(node) for node in integer if self._is_compute(node)),
            float_nodes=self.float_nodes,
        )

    def _find_candidates(self) -> None:
        opset, needed = self.graph.opset_imports.get("", 0), self.capabilities.min_opset
        too_old = f"the target takes Q/DQ from opset {needed}; the model has {opset}" if opset < needed else None
        for node in self.nodes:
            row = self.capabilities.support(node.domain, node.op_type)
            if row is None:
                continue
            kept = self.kept_float.get(_name(node))
            reason = too_old or kept or unmet_condition(node, row, opset) or self._unusable_operand(node)
            if reason is None:
                self.rows[node] = row
            elif kept or row.role is Role.COMPUTE:
                self.float_nodes[_name(node)] = reason

    def _unusable_operand(self, node: ir.Node) -> str | None:
        names = [v.name for v in (*node.inputs, *node.outputs) if v is not None and v.name in self.unusable]
        return f"{names[0]} becomes NaN or infinite on the samples" if names else None

    def _spread(self) -> None:
        """Rules 1, 2, 4 and 6: lets integer regions grow along the graph order."""
        takes_part = {
            Role.COMPUTE: lambda node, row: True,
            Role.FOLLOWER: self._follows,
            Role.TRANSPARENT: self._carries,
            Role.ACTIVATION: self._absorbed,
            Role.RESIDUAL: self._reads_skip,
        }
        for node, row in self.rows.items():
            if takes_part[row.role](node, row):
                self.integer.add(node)

    def _follows(self, node: ir.Node, row: OpSupport) -> bool:
        return all(self._available(value) for value in _activations(node, row))

    def _carries(self, node: ir.Node, row: OpSupport) -> bool:
        """Whether all inputs are there as integers and, where they are several, may share one scale."""
        inputs = dict.fromkeys(_activations(node, row)) if row.inputs is None else (node.inputs[0],)
        if not all(map(self._available, inputs)) or (row.inputs is None and len(inputs) < len(node.inputs)):
            return False
        if row.inputs is not None:
            return True
        roots = [self._root(value) for value in inputs if value is not None]
        taken = next((root for root in roots if _value_name(root) in self.joined), None)
        if taken is not None:
            other = self.joined[_value_name(taken)]
            self.float_nodes[_name(node)] = f"its input {taken.name} already has the scale of {other}"
            return False
        self.joined |= dict.fromkeys(map(_value_name, roots), _value_name(node.outputs[0]))
        return True

    def _root(self, value: ir.Value) -> ir.Value:
        """The value whose scale a value has because only transparent nodes with one input lie between them."""
        producer = value.producer()
        while producer is not None and producer in self.integer and self.rows[producer].role is Role.TRANSPARENT:
            source = producer.inputs[0]
            if self.rows[producer].inputs is None or source is None:
                break
            value, producer = source, source.producer()
        return value

    def _reads_skip(self, node: ir.Node, row: OpSupport) -> bool:
        """Notes which operand of a residual node is read as integers; the node itself computes in float."""
        operands = _activations(node, row)
        fused = next((value for value in operands if self._fuses_into(value, node)), None)
        others = [value for value in operands if value is not fused]
        if fused is not None and len(others) == 1 and self._available(others[0]):
            self.skip_of[node] = others[0]
        return False

    def _fuses_into(self, value: ir.Value, node: ir.Node) -> bool:
        """Whether a value is made by an integer product for one node alone, which then runs in the same kernel."""
        producer = value.producer()
        alone = len(value.uses()) == 1 and not value.is_graph_output()
        return alone and producer in self.integer and self._is_compute(producer) and producer.graph is node.graph

    def _absorbed(self, node: ir.Node, row: OpSupport) -> bool:
        value = node.inputs[0]
        producer = value.producer() if value is not None else None
        if value is None or producer not in self.integer or value.is_graph_output() or len(value.uses()) != 1:
            return False
        if producer.graph is not node.graph:
            return False
        if self.rows[producer].role not in (Role.COMPUTE, Role.FOLLOWER):
            return False
        self.clamp_of[producer] = node
        return True

    def _available(self, value: ir.Value | None) -> bool:
        """Whether a value is there as integers, or will be because an integer node takes it."""
        if value is None or ir.constant_tensor(value) is not None:
            return False
        if value.producer() in self.integer:
            return True
        return any(
            self._is_compute(use.node) and value in _activations(use.node, self.rows[use.node]) for use in value.uses()
        )

    def _is_compute(self, node: ir.Node) -> bool:
        return node in self.rows and self.rows[node].role is Role.COMPUTE

    def _give_back(self) -> None:
        """Rule 3, from the outputs backwards."""
        for node in reversed(self.nodes):
            row = self.rows.get(node)
            if node not in self.integer or row is None or row.role not in (Role.FOLLOWER, Role.TRANSPARENT):
                continue
            if self._taken_as_integer(node) or self._moved_into_body(node):
                continue
            self.integer.discard(node)
            given_up = set(map(_value_name, node.outputs))
            self.joined = {value: root for value, root in self.joined.items() if root not in given_up}
            clamp = self.clamp_of.pop(node, None)
            if clamp is not None:
                self.integer.discard(clamp)
            self.float_nodes[_name(node)] = "no integer node takes its result, so a Q/DQ pair would buy nothing"

    def _taken_as_integer(self, node: ir.Node) -> bool:
        last = self.clamp_of.get(node, node)
        return any(self._integer_uses(output) for output in last.outputs)

    def _moved_into_body(self, node: ir.Node) -> bool:
        """Whether a node moves data that a body captures: it then has a pair of its own, and the body takes integers.

        A runtime may move a DequantizeLinear behind such nodes without looking into bodies; ONNX Runtime 1.31 aborts.
        """
        captured = any(use.node.graph is not node.graph for output in node.outputs for use in output.uses())
        return captured and self.rows[node].role is Role.TRANSPARENT

    def _integer_uses(self, value: ir.Value) -> tuple[ir.Node, ...]:
        """The nodes that take a value as an activation in integers."""
        users = dict.fromkeys(use.node for use in value.uses())
        return tuple(user for user in users if self._reads_integers(user, value))

    def _reads_integers(self, user: ir.Node, value: ir.Value) -> bool:
        if user in self.skip_of:
            return self.skip_of[user] is value
        return user in self.integer and value in _activations(user, self.rows[user])

    def _values(self) -> Iterator[PlacedValue]:
        for graph in graphs_of(self.graph):
            for value in graph.inputs:
                yield from self._towards_integers(value)
        clamps = set(self.clamp_of.values())
        for node in self.nodes:
            if node in clamps or node in self.clamp_of:
                yield from self._of_clamped(node)
            elif node in self.integer:
                yield from self._of_integer(node)
            else:
                for value in node.outputs:
                    yield from self._towards_integers(value)

    def _of_clamped(self, node: ir.Node) -> Iterator[PlacedValue]:
        clamp = self.clamp_of.get(node)
        if clamp is not None:  # quantized after the clamp, when that one is reached
            return
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if producer is not None:
            yield from self._of_integer(producer, clamp=node)

    def _of_integer(self, node: ir.Node, clamp: ir.Node | None = None) -> Iterator[PlacedValue]:
        row = self.rows[node]
        root = node.inputs[0] if row.role is Role.TRANSPARENT and row.inputs is not None else None
        for value in (clamp or node).outputs:
            users = self._integer_uses(value)
            quantized = (row.role is Role.COMPUTE and row.needs_quantized_output) or self._moved_into_body(node)
            if not users and not quantized:
                continue
            everyone = row.needs_quantized_output or len(users) == len({u.node for u in value.uses()})
            yield PlacedValue(
                value=_value_name(value),
                consumers=None if everyone else tuple(_name(u) for u in users),
                shared_with=_value_name(root) if root is not None else self.joined.get(_value_name(value)),
                absorbs=_name(clamp) if clamp is not None else None,
                fixed_range=row.fixed_output_range,
                reason=f"{node.op_type} runs as integers" + (f"; {row.note}" if row.note else ""),
            )

    def _towards_integers(self, value: ir.Value) -> Iterator[PlacedValue]:
        users = self._integer_uses(value)
        if users:
            yield PlacedValue(
                value=_value_name(value),
                consumers=tuple(_name(u) for u in users),
                shared_with=self.joined.get(_value_name(value)),
                reason=f"taken by {', '.join(dict.fromkeys(u.op_type for u in users))}, which run as integers",
            )

    def _weights(self) -> Iterator[PlacedWeight]:
        for node in self.nodes:
            row = self.rows.get(node)
            if node not in self.integer or row is None or row.weight is None:
                continue
            weight = node.inputs[row.weight]
            if weight is None or ir.constant_tensor(weight) is None:
                continue
            bias = None
            if row.bias is not None and row.bias_dtype is not ir.DataType.FLOAT and row.bias < len(node.inputs):
                bias = node.inputs[row.bias]
            activation = next(v for v in _activations(node, row) if v is not weight)
            yield PlacedWeight(
                node=_name(node),
                activation=_value_name(activation),
                weight=_value_name(weight),
                axis=weight_axis(node, row),
                bias=_value_name(bias) if bias is not None else None,
            )


def _activations(node: ir.Node, row: OpSupport) -> tuple[ir.Value, ...]:
    """The inputs that carry quantized activations: the row's, less absent and constant ones."""
    indices = range(len(node.inputs)) if row.inputs is None else row.inputs
    values = (node.inputs[i] for i in indices if i < len(node.inputs))
    return tuple(v for v in values if v is not None and ir.constant_tensor(v) is None)


def _name(node: ir.Node) -> str:
    return node.name or ""


def _value_name(value: ir.Value) -> str:
    return value.name or ""
