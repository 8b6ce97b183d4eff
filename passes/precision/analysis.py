"""What is known of a model before its types are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sardonyx import ir
from sardonyx.capabilities import Capabilities, FloatSupport
from sardonyx.passes.precision.bounds import Interval, from_integers, proven_intervals
from sardonyx.passes.precision.formats import ConstantLoss, Format, constant_loss
from sardonyx.passes.precision.masks import CARRIES, only_scores
from sardonyx.passes.precision.operators import PINNED_INPUTS, TYPE_ATTRIBUTES


@dataclass(frozen=True)
class Positions:
    """Which inputs and outputs of a node change their type when the node is converted."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


@dataclass
class Analysis:
    """Facts about a model and what the user asks for; the model does not change while it is in use.

    Attributes:
        model: The model; its functions are left alone.
        form: The 16-bit format.
        limit: Magnitudes beyond this may overflow.
        support: What the target runs in the format; None for whatever ONNX's schemas allow.
        native: Whether to use only operators that the target has kernels for.
        capabilities: The target's table, for its integer operators.
        measured: Ranges of the finite values seen on samples, by value name of the main graph.
        graphs: The main graph and its subgraphs, outer before inner.
    """

    model: ir.Model
    form: Format
    limit: float
    support: FloatSupport | None = None
    native: bool = False
    capabilities: Capabilities | None = None
    measured: Mapping[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graphs: tuple[ir.Graph, ...] = (self.model.graph, *self.model.graph.subgraphs())
        self.derived = from_integers(self.graphs)
        self._proven = proven_intervals(self.graphs)
        self._losses: dict[int, tuple[ir.TensorProtocol, ConstantLoss]] = {}  # the tensor keeps its id taken
        self._positions: dict[ir.Node, Positions] = {}
        self._masks: dict[ir.Value, bool] = {}
        self._unsampled = self._made_large()

    @property
    def opsets(self) -> Mapping[str, int]:
        """Opset version by domain."""
        return self.model.opset_imports

    def interval(self, value: ir.Value) -> Interval | None:
        """Returns what a value's finite elements lie in, or None where nothing is known."""
        if value in self._unsampled:
            return self._proven.get(value)
        return self.measured.get(value.name or "") or self._proven.get(value)

    def _made_large(self) -> set[ir.Value]:
        """Values made of integers and large constants: a mask is 0 on samples without padding, and large with it."""
        found: set[ir.Value] = set()
        for node in (node for graph in self.graphs for node in graph):
            derived = [value for value in node.outputs if value in self.derived]
            if not derived:
                continue
            constants = [tensor for value in node.inputs if (tensor := float_constant(value)) is not None]
            large = any(self.loss(tensor).magnitude > self.limit for tensor in constants)
            if large or node.op_type == "ConstantOfShape" or any(value in found for value in node.inputs):
                found.update(derived)
        return found

    def loss(self, tensor: ir.TensorProtocol) -> ConstantLoss:
        """Returns what a FLOAT constant loses; each tensor is read once."""
        if id(tensor) not in self._losses:
            self._losses[id(tensor)] = (tensor, constant_loss(tensor, self.form))
        return self._losses[id(tensor)][1]

    def masks(self, value: ir.Value) -> bool:
        """Whether a value holds the large numbers that switch attention scores off, and nothing else is made of it."""
        if value not in self._masks:
            self._masks[value] = only_scores(value) and self._holds_mask(value)
        return self._masks[value]

    def overflow(self, value: ir.Value) -> str | None:
        """Says that a value reaches beyond the limit, if so."""
        interval = self.interval(value)
        if interval is None or self._within(interval):
            return None
        reach, name = max(-interval[0], interval[1]), self.form.dtype.name
        return f"{value.name} reaches {reach:.4g}, and {name} is trusted up to {self.limit:.4g}"

    def _within(self, interval: Interval | None) -> bool:
        return interval is not None and max(-interval[0], interval[1]) <= self.limit

    def _holds_mask(self, value: ir.Value) -> bool:
        tensor = float_constant(value)
        if tensor is not None:
            return self.loss(tensor).overflows
        if value in self.derived:
            return not self._within(self._proven.get(value))
        producer = value.producer()
        if producer is None or producer.domain or producer.op_type not in CARRIES | {"Add", "Where"}:
            return False
        return any(source is not None and is_float(source) and self.masks(source) for source in producer.inputs)

    def positions(self, node: ir.Node) -> Positions:
        """Returns which inputs and outputs of a node can change their type; none where it takes no other."""
        if node not in self._positions:
            self._positions[node] = _positions(node, self)
        return self._positions[node]


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is a tensor of FLOAT, the one type that is converted."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def float_constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Returns the tensor of a FLOAT constant, or None."""
    tensor = None if value is None else ir.constant_tensor(value)
    return tensor if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None


def _positions(node: ir.Node, facts: Analysis) -> Positions:
    types = ir.formal_types(node, facts.opsets)
    if types is None or node.op_type == "Constant":
        return Positions()
    by_attribute = {0} if node.op_type in TYPE_ATTRIBUTES and not node.domain else set[int]()
    read = {t.variable for t, value in zip(types.inputs, node.inputs, strict=True) if value is not None}
    inputs = {
        index
        for index, (formal, value) in enumerate(zip(types.inputs, node.inputs, strict=True))
        if is_float(value) and facts.form.dtype in formal.dtypes
    }
    inputs -= {index for index in inputs if (node.op_type, index) in PINNED_INPUTS}
    outputs = {
        index
        for index, (formal, value) in enumerate(zip(types.outputs, node.outputs, strict=True))
        if is_float(value) and facts.form.dtype in formal.dtypes and (formal.variable in read or index in by_attribute)
    }
    return Positions(frozenset(inputs), frozenset(outputs))
