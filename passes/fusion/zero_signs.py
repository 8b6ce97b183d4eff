"""Where the sign of a zero matters: IEEE 754 has 0.0 and -0.0, which are equal, but 1 / 0.0 and 1 / -0.0 are not.

A sign is seen where it changes a result by more than the sign of a zero. Most operators at most pass it on, some lose
it on the way (the exponential of both zeros is 1), and a few, such as Div by the value, make another number of it.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.facts import MAX_COMPARED

MOVING = (
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Identity", "Pad", "Reshape", "ReverseSequence", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
)
MOVING_FIRST = ("Gather", "GatherElements", "GatherND")
ARITHMETIC = (
    *("Add", "Attention", "AveragePool", "Ceil", "Clip", "Conv", "ConvTranspose", "Elu", "Erf", "Floor", "GRU"),
    *("Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LSTM", "LeakyRelu"),
    *("MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "RNN", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "Relu", "RotaryEmbedding", "Round", "Selu", "Sign", "Sin"),
    *("Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh"),
)
ARITHMETIC_FIRST = (
    *("BatchNormalization", "Celu", "CumSum", "Div", "GroupNormalization", "InstanceNormalization"),
    *("LayerNormalization", "LpNormalization", "RMSNormalization", "Resize"),
)
ABSORBING = (
    *("Abs", "And", "ArgMax", "ArgMin", "Cos", "Equal", "Exp", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("LogSoftmax", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare", "Shape", "Sigmoid", "Size"),
    *("Softmax", "Softplus"),
)
"""Operators whose results are the same for both zeros, up to rounding."""

PASSED_ON: Mapping[str, bool] = {
    **dict.fromkeys((*MOVING, *ARITHMETIC, *ABSORBING), False),
    **dict.fromkeys((*MOVING_FIRST, *ARITHMETIC_FIRST), True),
}
"""Operators that make at most a zero of the other sign of one; true where that is known of the first input only."""


def _numbers(value: ir.Value | None) -> "np.typing.NDArray[np.float64] | None":
    tensor = None if value is None else ir.constant_tensor(value)
    if tensor is None or tensor.size > MAX_COMPARED or not tensor.dtype.is_floating_point():
        return None
    return tensor.numpy().astype(np.float64)


def _adds_a_number(node: ir.Node) -> bool:
    """Whether a sum has a constant term without zeros: x + 1 is 1 for both zeros."""
    constants = [numbers for value in node.inputs if (numbers := _numbers(value)) is not None]
    return any(bool(numbers.all()) for numbers in constants)


def _is_even_power(node: ir.Node) -> bool:
    exponent = _numbers(node.inputs[1])
    return exponent is not None and bool(np.all((exponent > 0) & (exponent % 2 == 0)))


def _is_square(node: ir.Node) -> bool:
    return node.inputs[0] is node.inputs[1]


def _leaves_floats(node: ir.Node) -> bool:
    """Whether a Cast makes integers or truth values."""
    dtype = node.outputs[0].dtype
    return dtype is not None and (dtype.is_integer() or dtype is ir.DataType.BOOL)


_ABSORBS_WHERE: Mapping[str, Callable[[ir.Node], bool]] = {
    **dict.fromkeys(ABSORBING, lambda node: True),
    "Add": _adds_a_number,
    "Sub": _adds_a_number,
    "Mul": _is_square,
    "Pow": _is_even_power,
    "Cast": _leaves_floats,
}


def _absorbs(node: ir.Node) -> bool:
    asked = _ABSORBS_WHERE.get(node.op_type)
    return not node.domain and asked is not None and asked(node)


def _makes_floats(node: ir.Node) -> bool:
    dtype = node.outputs[0].dtype
    return dtype is not None and dtype.is_floating_point()


def _is_positive_power(node: ir.Node) -> bool:
    exponent = _numbers(node.inputs[1])
    return exponent is not None and bool(np.all(exponent > 0))


_PASSES_ON_WHERE: Mapping[str, Callable[[ir.Node], bool]] = {
    "Cast": lambda node: _makes_floats(node) or _leaves_floats(node),
    "Pow": _is_positive_power,
}


def _sees(node: ir.Node, index: int) -> bool:
    """Whether a node may make more than another zero of the sign of a zero in one of its inputs."""
    if node.domain:
        return True
    asked = _PASSES_ON_WHERE.get(node.op_type)
    if asked is not None:
        return not asked(node)
    first_only = PASSED_ON.get(node.op_type)
    return first_only is None or (first_only and index > 0)


def _is_seen(value: ir.Value, graph: ir.Graph, *, returned: bool) -> bool:
    if returned and value.is_graph_output():
        return True
    return any(use.node.graph is not graph or _sees(use.node, use.idx) for use in value.uses())


def _computed(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yields what nodes compute that may hold a negative zero."""
    for node in graph:
        for value in node.outputs:
            if value.dtype is None or value.dtype.is_floating_point():
                yield value


def seen_zero_signs(graph: ir.Graph, *, body: bool) -> frozenset[ir.Value]:
    """Returns the computed values of a graph of which the sign of a zero may change more than the sign of a zero.

    Operators that are not listed, operators of other domains and subgraphs are taken to see signs.

    Args:
        graph: The graph.
        body: Whether it is a subgraph or a function's, whose outputs others read.
    """
    found = {value for value in _computed(graph) if _is_seen(value, graph, returned=body)}
    waiting = list(found)
    while waiting:
        node = waiting.pop().producer()
        if node is None or _absorbs(node):
            continue
        behind = [value for value in node.inputs if value is not None and value not in found]
        found.update(behind)
        waiting += behind
    return frozenset(found)
