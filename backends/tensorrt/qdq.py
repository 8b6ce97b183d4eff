"""Reading Q/DQ nodes: their constants, the type they store, what feeds them and what they feed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import VerifyError
from sardonyx.ir import DataType

Array = npt.NDArray[Any]

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

BYTES = frozenset((DataType.INT8, DataType.UINT8))
NIBBLES = frozenset((DataType.INT4, DataType.UINT4))
FLOAT8 = frozenset((DataType.FLOAT8E4M3FN, DataType.FLOAT8E5M2))
STORED = BYTES | NIBBLES | FLOAT8 | {DataType.INT16, DataType.UINT16}
"""Types that quantized values are stored in; INT32 is left out because indices are, too."""

MOVES = frozenset(
    [
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Gather",
        "Split",
        "Concat",
        "Expand",
        "Tile",
        "Identity",
        "DepthToSpace",
        "SpaceToDepth",
        "MaxPool",
    ]
)
"""Operators that only move, repeat or select elements of their first inputs, so that they commute with Q and DQ."""

_LIMITS = {
    DataType.INT4: (-8, 7),
    DataType.UINT4: (0, 15),
    DataType.INT8: (-128, 127),
    DataType.UINT8: (0, 255),
    DataType.INT16: (-32768, 32767),
    DataType.UINT16: (0, 65535),
    DataType.INT32: (-(2**31), 2**31 - 1),
}


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear node with what is known of its parameters.

    Attributes:
        node: The node.
        dtype: Type of the quantized side; UINT8 for a QuantizeLinear that says nothing, as ONNX defines it.
        scale: The constant scale, or None where it is computed at run time.
        zero_point: The constant zero point, zeros like `scale` where it is left out, or None where it is computed.
        axis: Axis of per-channel or blocked parameters, not negative where the rank is known.
        block_size: Elements that share a scale along `axis`; 0: not blocked.
    """

    node: ir.Node
    dtype: DataType | None
    scale: Array | None
    zero_point: Array | None
    axis: int
    block_size: int

    @property
    def is_per_tensor(self) -> bool:
        """Whether one scale holds for the whole tensor."""
        return self.scale is not None and self.scale.size == 1

    @property
    def is_symmetric(self) -> bool:
        """Whether all zero points are known to be 0."""
        return self.zero_point is not None and not np.any(self.zero_point.astype(np.float32))

    @property
    def is_known(self) -> bool:
        """Whether type, scale and zero point are known before the model runs."""
        return self.scale is not None and self.zero_point is not None and self.dtype is not None

    @property
    def constants(self) -> tuple[Array, Array, DataType]:
        """Scale, zero point and quantized type of a node of which all three are known."""
        if self.scale is None or self.zero_point is None or self.dtype is None:
            raise VerifyError(
                f"The parameters of {self.node.name!r} are computed while the model runs.",
                remedy="Quantize statically: scales and zero points as initializers.",
            )
        return self.scale, self.zero_point, self.dtype

    @property
    def data(self) -> ir.Value:
        """The first input."""
        value = self.node.inputs[0]
        if value is None:
            raise VerifyError(f"{self.node.name!r} has no input.", remedy="Export the model again.")
        return value

    @property
    def output(self) -> ir.Value:
        """The output."""
        return self.node.outputs[0]

    def range(self) -> tuple[float, float]:
        """Smallest and largest real value that a per-tensor integer quantization holds."""
        scales, zero_points, dtype = self.constants
        low, high = _LIMITS[dtype]
        scale, zero_point = float(scales.ravel()[0]), int(zero_points.ravel()[0])
        return (low - zero_point) * scale, (high - zero_point) * scale


def is_operator(node: ir.Node | None, op_type: str) -> bool:
    """Whether a node is an operator of the standard domain or, as TensorRT reads it, of ONNX Runtime's."""
    return node is not None and node.op_type == op_type and node.domain in ("", MICROSOFT)


def is_quantize(node: ir.Node | None) -> bool:
    """Whether a node quantizes."""
    return is_operator(node, "QuantizeLinear")


def is_dequantize(node: ir.Node | None) -> bool:
    """Whether a node dequantizes."""
    return is_operator(node, "DequantizeLinear")


def limits(dtype: DataType) -> tuple[int, int]:
    """Returns the smallest and largest integer of a quantized type."""
    return _LIMITS[dtype]


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Returns an input of a node, or None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer_of(node: ir.Node, index: int) -> ir.Node | None:
    """Returns the node that makes an input, or None."""
    value = input_of(node, index)
    return None if value is None else value.producer()


def constant(value: ir.Value | None) -> Array | None:
    """Returns the elements of a constant, or None where the value is computed."""
    tensor = None if value is None else ir.constant_tensor(value)
    return None if tensor is None else ir.read_array(tensor)


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer or a Constant."""
    return value is not None and ir.constant_tensor(value) is not None


def quantizer(node: ir.Node) -> Quantizer:
    """Reads a QuantizeLinear or DequantizeLinear node."""
    scale, given = constant(input_of(node, 1)), input_of(node, 2)
    zero_point = constant(given) if given is not None else np.zeros((), np.int8)
    data = node.inputs[0]
    dtype = data.dtype if data is not None else None
    if is_quantize(node):
        declared = ir.attribute(node, "output_dtype", 0)
        stored = DataType(declared) if declared else DataType.UINT8
        dtype = given.dtype if given is not None else stored
    elif given is not None and given.dtype is not None:
        dtype = given.dtype
    axis = ir.attribute(node, "axis", 1)
    if axis < 0 and data is not None and data.shape is not None:
        axis += len(data.shape)
    return Quantizer(node, dtype, scale, zero_point, axis, ir.attribute(node, "block_size", 0))


def quantizers(graph: ir.Graph) -> Iterator[Quantizer]:
    """Yields the Q/DQ nodes of a graph, without its subgraphs, in order; the graph may be edited meanwhile."""
    for node in tuple(graph):
        if node.graph is graph and (is_quantize(node) or is_dequantize(node)) and node.inputs[0] is not None:
            yield quantizer(node)


def dequantizer_of(value: ir.Value | None) -> Quantizer | None:
    """Returns the DequantizeLinear that makes a value, or None."""
    node = None if value is None else value.producer()
    return quantizer(node) if node is not None and is_dequantize(node) else None


def through_moves(value: ir.Value | None, *, also: frozenset[str] = frozenset()) -> ir.Value | None:
    """Follows a value back through operators that only move elements (and those of `also`)."""
    seen = 0
    while value is not None and seen < 1000:
        node = value.producer()
        if node is None or node.domain or node.op_type not in MOVES | also or not node.inputs:
            return value
        value, seen = node.inputs[0], seen + 1
    return value


def only_user(value: ir.Value) -> ir.Node | None:
    """Returns the one node that reads a value, or None where there are others or it is an output of the graph."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def rank_of(value: ir.Value | None) -> int | None:
    """Returns the rank of a value, or None where it is unknown."""
    if value is None:
        return None
    tensor = ir.constant_tensor(value)
    if tensor is not None:
        return len(tensor.shape)
    return None if value.shape is None else len(value.shape)
