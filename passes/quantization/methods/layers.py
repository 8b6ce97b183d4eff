"""Linear layers: what Conv, Gemm and MatMul with a constant weight have in common.

Every one of them is a product of columns, which are rows of the input or patches of it, with a matrix:

    y[g] = columns(x)[g] @ matrix[g].T        g: groups of a Conv, otherwise one

with columns of shape (groups, rows, K) and the matrix of shape (groups, outputs / groups, K). K runs over input
channels and, faster, over the taps of a kernel. The accuracy methods are written for these and know no operator.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import PassError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Layer:
    """A node that multiplies an activation with a constant weight.

    Attributes:
        node: The Conv, Gemm or MatMul.
        groups: Groups of a Conv; 1 otherwise.
    """

    node: ir.Node
    groups: int

    @property
    def activation(self) -> ir.Value:
        """The value that is multiplied, the node's input 0."""
        return _present(self.node, 0)

    @property
    def weight(self) -> ir.Value:
        """The weight, the node's input 1."""
        return _present(self.node, 1)

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The weight's tensor, FLOAT."""
        tensor = ir.constant_tensor(self.weight)
        if tensor is None:
            raise PassError(f"The weight {self.weight.name} of {self.node.name} is not a constant.")
        return tensor

    @property
    def output_axis(self) -> int:
        """The weight's axis of output channels."""
        return _FORMS[self.node.op_type].output_axis(self.node)

    @property
    def input_axis(self) -> int:
        """The weight's axis of input channels, those of one group for a Conv."""
        return 1 - self.output_axis

    @property
    def channel_axis(self) -> int:
        """The axis of input channels in the activation: 1 for a Conv, else -1."""
        return _FORMS[self.node.op_type].channel_axis

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.tensor.shape.numpy()[self.output_axis]

    @property
    def channels(self) -> int:
        """Number of input channels, of all groups together."""
        return self.tensor.shape.numpy()[self.input_axis] * self.groups

    @property
    def bias(self) -> ir.Value | None:
        """The node's own bias, if it has one."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """The shape of the matrix: (groups, outputs / groups, K)."""
        return self.groups, self.outputs // self.groups, int(self.tensor.size) // self.outputs

    def matrix(self) -> npt.NDArray[np.float64]:
        """Returns the weight, shape (groups, outputs / groups, K)."""
        weight = self.tensor.numpy().astype(np.float64)
        if self.output_axis:
            weight = weight.T
        return weight.reshape(self.groups, self.outputs // self.groups, -1)

    def weight_of(self, matrix: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Returns the weight, laid out as the node takes it, for a matrix of shape (groups, outputs / groups, K)."""
        flat = matrix.reshape(self.outputs, -1)
        weight = flat.T if self.output_axis else flat.reshape(self.tensor.shape.numpy())
        return np.ascontiguousarray(weight, np.float32)

    def channel_norms(self) -> npt.NDArray[np.float64]:
        """Returns the squared weights of each input channel, summed over outputs and taps: shape (channels,)."""
        matrix = self.matrix()
        norms: npt.NDArray[np.float64] = np.square(matrix).sum(axis=1).reshape(self.channels, -1).sum(axis=1)
        return norms

    def columns(self, activation: npt.NDArray[np.floating], most: int) -> npt.NDArray[np.float32]:
        """Returns what the matrix is multiplied with.

        Args:
            activation: An array of the layer's activation.
            most: Rows to return at most; of more, evenly spaced ones are taken.

        Returns:
            Shape (groups, rows, K).
        """
        return _FORMS[self.node.op_type].columns(self, np.asarray(activation, np.float32), most)


def _present(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise PassError(f"Input {index} of {node.name} is absent.")
    return value


def linear_layers(graph: ir.Graph) -> Iterator[Layer]:
    """Yields the linear layers of a graph, in order; nodes of forms that are not understood are left out."""
    for node in graph:
        form = _FORMS.get(node.op_type) if not node.domain else None
        if form is None or len(node.inputs) < 2:
            continue
        activation, weight = node.inputs[:2]
        tensor = None if weight is None else ir.constant_tensor(weight)
        if activation is None or weight is None or tensor is None or tensor.dtype is not ir.DataType.FLOAT:
            continue
        if ir.constant_tensor(activation) is None and form.understood(node, len(tensor.shape)):
            yield Layer(node, int(ir.attribute(node, "group", 1)))


def _conv_columns(layer: Layer, activation: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float32]:
    """Patches of shape (groups, rows, channels / groups * taps), zero padding included."""
    kernel = layer.tensor.shape.numpy()[2:]
    rank = len(kernel)
    strides, dilations, pads = _geometry(layer.node, rank)
    around = [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))]
    padded = np.pad(activation, around) if any(pads) else activation  # which would copy it
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + rank)))
    every = tuple(slice(None, None, step) for step in (*strides, *dilations))
    windows = np.moveaxis(windows[:, :, *every], 1, 1 + rank)  # (N, *positions, channels, *kernel), a view
    where = np.unravel_index(_spread(int(np.prod(windows.shape[: 1 + rank])), most), windows.shape[: 1 + rank])
    patches = windows[where].reshape(len(where[0]), layer.groups, -1)
    return np.ascontiguousarray(patches.transpose(1, 0, 2))


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` indices below `count`, evenly spaced."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _geometry(node: ir.Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, dilations and pads of a Conv whose auto_pad is NOTSET or VALID."""
    defaults: Mapping[str, tuple[int, ...]] = {
        "strides": (1,) * rank,
        "dilations": (1,) * rank,
        "pads": (0,) * 2 * rank,
    }
    strides, dilations, pads = (tuple(ir.attribute(node, name, default)) for name, default in defaults.items())
    return strides, dilations, pads


def _rows(layer: Layer, activation: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float32]:
    rows = activation.reshape(-1, layer.channels)
    return rows[_spread(len(rows), most)][None]


@dataclass(frozen=True)
class _Form:
    output_axis: Callable[[ir.Node], int]
    channel_axis: int
    understood: Callable[[ir.Node, int], bool]
    columns: Callable[[Layer, npt.NDArray[np.float32], int], npt.NDArray[np.float32]]


def _plain_conv(node: ir.Node, rank: int) -> bool:
    return rank >= 3 and ir.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _plain_gemm(node: ir.Node, rank: int) -> bool:
    scales = ir.attribute(node, "alpha", 1.0), ir.attribute(node, "beta", 1.0)
    return rank == 2 and scales == (1.0, 1.0) and not ir.attribute(node, "transA", 0)


_FORMS: Mapping[str, _Form] = {
    "Conv": _Form(lambda node: 0, 1, _plain_conv, _conv_columns),
    "Gemm": _Form(lambda node: 1 - int(ir.attribute(node, "transB", 0)), -1, _plain_gemm, _rows),
    "MatMul": _Form(lambda node: 1, -1, lambda node, rank: rank == 2, _rows),
}
