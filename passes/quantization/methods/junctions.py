"""Junctions: values whose channels can be scaled against each other without changing what the model computes.

A junction is a value x that only linear layers take. Where its producers let it, channel c of x is divided by s[c] and
the layers' weights are multiplied by it. Producers, from x backwards:

    LayerNormalization, Mul, Add with constants of one number a channel    their constants are divided
    Conv, Gemm, MatMul with a constant weight                              rows of their weight, and their bias
    Relu, LeakyRelu, PRelu, pooling                                        f(x / s) = f(x) / s: looked through
    Clip, such as ReLU6, right behind a Conv, Gemm or MatMul               in channels that are proven not to be held
    Mul(z, Sigmoid(z)), which is SiLU                                      z is divided, and restored for the Sigmoid
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.passes.base import Refusal
from sardonyx.passes.quantization.methods.channels import FloatArray
from sardonyx.passes.quantization.methods.clips import least_scales
from sardonyx.passes.quantization.methods.layers import Layer, linear_layers

HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
"""Operators with f(x / s) = f(x) / s for s > 0 in each channel on its own."""
CLAMPS = frozenset({"HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu", "Elu", "Softplus", "Erf"})
"""Operators that bend at a fixed value, so that no scale passes."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant that takes the scales up.

    Attributes:
        node: The node that reads it.
        index: Which of the node's inputs.
        axis: The axis of channels in the constant.
    """

    node: ir.Node
    index: int
    axis: int


@dataclass(frozen=True, eq=False)
class Gate:
    """A SiLU between the producer and the junction: Mul(z, Sigmoid(z))."""

    sigmoid: ir.Node
    product: ir.Node
    source: ir.Value


@dataclass(frozen=True, eq=False)
class Junction:
    """A value between layers whose channels may be scaled.

    Attributes:
        value: x.
        channels: Its number of channels.
        axis: Their axis in x, as the layers that take it count: 1 or -1.
        producers: Constants to divide.
        consumers: Layers whose weights are multiplied.
        layer: The linear layer that makes x, or None where a normalization or product does.
        gate: The SiLU between them, if any.
        least: The least scales, shape (channels,), infinity for a channel that must keep 1; None where any will do.
    """

    value: ir.Value
    channels: int
    axis: int
    producers: tuple[Constant, ...]
    consumers: tuple[Layer, ...]
    layer: Layer | None
    gate: Gate | None
    least: FloatArray | None = None


@dataclass(frozen=True)
class Junctions:
    """The junctions of a graph in order, and why further values between layers are none."""

    found: tuple[Junction, ...]
    refusals: tuple[Refusal, ...]


def find_junctions(graph: ir.Graph) -> Junctions:
    """Finds all junctions of a graph."""
    layers = {layer.node: layer for layer in linear_layers(graph)}
    takers = dict.fromkeys(layer.activation for layer in layers.values())
    found: list[Junction] = []
    refusals: list[Refusal] = []
    for value in takers:
        result = _junction(value, layers)
        if isinstance(result, Junction):
            found.append(result)
        elif value.producer() is not None:
            refusals.append(Refusal("move-scales", result, (value.name or "",)))
    return Junctions(tuple(found), tuple(refusals))


def _junction(value: ir.Value, layers: Mapping[ir.Node, Layer]) -> Junction | str:
    consumers = tuple(dict.fromkeys(layers[use.node] for use in value.uses() if use.node in layers and use.idx == 0))
    others = [use.node.op_type for use in value.uses() if use.node not in layers or use.idx]
    if others or value.is_graph_output():
        return f"{value.name} is also {'an output of the model' if not others else f'taken by {others[0]}'}"
    channels, axis = consumers[0].channels, consumers[0].channel_axis
    if any(len(layer.weight.uses()) > 1 for layer in consumers):
        return f"a weight that {value.name} is multiplied with has further users"
    if any((layer.channels, layer.channel_axis) != (channels, axis) for layer in consumers):
        return f"the layers that take {value.name} count its channels along different axes"
    traced = _Tracer(layers, channels, axis).trace(value)
    if isinstance(traced, str):
        return traced
    return Junction(value, channels, axis, tuple(traced.producers), consumers, traced.layer, traced.gate, traced.least)


@dataclass
class _Trace:
    producers: list[Constant]
    layer: Layer | None = None
    gate: Gate | None = None
    clip: ir.Node | None = None
    least: FloatArray | None = None


class _Tracer:
    """Goes from a junction's value back to the constants that can take its scales up."""

    def __init__(self, layers: Mapping[ir.Node, Layer], channels: int, axis: int) -> None:
        self._layers = layers
        self._channels = channels
        self._axis = axis

    def trace(self, value: ir.Value) -> _Trace | str:
        trace = _Trace([])
        while True:
            node = value.producer()
            if node is None:
                return f"{value.name} is an input of the model"
            if node in self._layers:
                return self._from_layer(trace, self._layers[node])
            if trace.clip is not None:
                return f"{node.op_type} ({node.name}) stands between {trace.clip.name} and a layer"
            step = self._step(trace, node)
            if not isinstance(step, ir.Value):
                return trace if step is None else step
            if len(step.uses()) != 1 + (trace.gate is not None and trace.gate.source is step):
                return f"{step.name} is also taken by others"
            if step.is_graph_output():
                return f"{step.name} is also an output of the model"
            value = step

    def _step(self, trace: _Trace, node: ir.Node) -> ir.Value | str | None:
        """The value to look at next, None at the end, or why there is no way."""
        source = node.inputs[0] if node.inputs else None
        if node.domain or source is None:
            return f"{node.op_type} ({node.name}) lets no scale pass"
        if node.op_type in HOMOGENEOUS and self._channels_stay_apart(node):
            return source
        if node.op_type in CLAMPS:
            return f"{node.op_type} ({node.name}) bends at a fixed value, which a scale would move"
        found = _STEPS.get(node.op_type)
        return f"{node.op_type} ({node.name}) lets no scale pass" if found is None else found(self, trace, node)

    def _channels_stay_apart(self, node: ir.Node) -> bool:
        pools = node.op_type.endswith("Pool")
        return self._axis == 1 or not pools

    def _from_layer(self, trace: _Trace, layer: Layer) -> _Trace | str:
        if (layer.channel_axis, layer.outputs) != (self._axis, self._channels):
            return f"the channels of {layer.node.outputs[0].name} are not those of the layer behind it"
        if len(layer.weight.uses()) > 1:
            return f"the weight {layer.weight.name} has further users"
        trace.layer = layer
        trace.producers.append(Constant(layer.node, 1, layer.output_axis))
        bias = layer.bias
        if bias is not None:
            tensor = ir.constant_tensor(bias)
            if tensor is None:
                return f"the bias {bias.name} is not a constant"
            if tensor.size != self._channels:
                return f"the bias {bias.name} is not one number a channel"
            trace.producers.append(Constant(layer.node, 2, -1))
        if trace.clip is not None:
            least = least_scales(trace.clip, layer)
            if isinstance(least, str):
                return least
            trace.least = least
        return trace

    def clip(self, trace: _Trace, node: ir.Node) -> ir.Value | str | None:
        if trace.gate is not None:
            return f"more than a SiLU lies between {node.name} and the layers"
        trace.clip = node
        return node.inputs[0]

    def normalization(self, trace: _Trace, node: ir.Node) -> ir.Value | str | None:
        rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else None
        if self._axis != -1 or rank is None or ir.attribute(node, "axis", -1) % rank != rank - 1:
            return f"{node.name} does not normalize along the channels alone"
        if any(output.uses() for output in node.outputs[1:]):
            return f"the mean or deviation that {node.name} gives is used"
        for index in range(1, len(node.inputs)):
            if not self._take(trace, node, index):
                return f"input {index} of {node.name} is not one constant number a channel"
        return None

    def product(self, trace: _Trace, node: ir.Node) -> ir.Value | str | None:
        gate = _gate(node)
        if gate is not None:
            if trace.gate is not None or trace.producers:
                return f"more than a SiLU lies between {node.name} and the layers"
            trace.gate = gate
            return gate.source
        for index in (1, 0):
            if self._take(trace, node, index):
                return None
        return f"Mul ({node.name}) has no constant of one number a channel"

    def sum(self, trace: _Trace, node: ir.Node) -> ir.Value | str | None:
        for index in (1, 0):
            if self._take(trace, node, index):
                other = node.inputs[1 - index]
                return other if other is not None else f"an operand of {node.name} is absent"
        return f"Add ({node.name}) has no constant of one number a channel"

    def _take(self, trace: _Trace, node: ir.Node, index: int) -> bool:
        """Takes a constant input that has one number a channel."""
        value = node.inputs[index] if index < len(node.inputs) else None
        tensor = None if value is None else ir.constant_tensor(value)
        if tensor is None or tensor.dtype is not ir.DataType.FLOAT:
            return False
        axis = self._axis if self._axis == -1 else self._from_the_back(node)
        if axis is None or -axis > len(tensor.shape):
            return False
        if tensor.shape[axis] != self._channels or tensor.size != self._channels:
            return False
        trace.producers.append(Constant(node, index, axis))
        return True

    def _from_the_back(self, node: ir.Node) -> int | None:
        shape = node.outputs[0].shape
        return None if shape is None else self._axis - len(shape)


def _gate(node: ir.Node) -> Gate | None:
    """The SiLU that a Mul ends, where nothing else takes part."""
    for sigmoid_value, source in (node.inputs, tuple(reversed(node.inputs))):
        sigmoid = sigmoid_value.producer() if sigmoid_value is not None else None
        if sigmoid is None or sigmoid.op_type != "Sigmoid" or sigmoid.domain or sigmoid.inputs[0] is not source:
            continue
        if source is not None and sigmoid_value is not None and len(sigmoid_value.uses()) == 1:
            return Gate(sigmoid, node, source)
    return None


_Step = Callable[[_Tracer, _Trace, ir.Node], "ir.Value | str | None"]

_STEPS: Mapping[str, _Step] = {
    "Clip": _Tracer.clip,
    "LayerNormalization": _Tracer.normalization,
    "Mul": _Tracer.product,
    "Add": _Tracer.sum,
}
"""How operators with constants, or with a gate, let scales pass."""
