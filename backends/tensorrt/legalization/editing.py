"""Edits of a graph for legalization: new nodes and constants in their place, and the sentences that tell of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.backends.tensorrt.qdq import Quantizer, limits
from sardonyx.ir import DataType

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Parameters:
    """Constants of a Q/DQ node to be.

    Attributes:
        scale: Scalar, or one for each index of `axis`.
        zero_point: Likewise; its dtype is the quantized type. None: float, nothing is quantized.
        axis: Axis of the scales; None: per tensor.
    """

    scale: ir.Value
    zero_point: ir.Value | None
    axis: int | None = None


@dataclass
class Editor:
    """Makes what legalization writes into one model.

    Attributes:
        model: The model, edited in place.
        changes: Names of nodes by the sentence that tells what became of them.
        kept: Names of nodes by the sentence that tells why nothing did.
        exact: Whether every change was exact, but for the rounding of floats.
    """

    model: ir.Model
    changes: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    exact: bool = True

    def __post_init__(self) -> None:
        self.names = ir.NameAuthority(self.model)

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return self.model.opset_imports.get("", 0)

    def report(self, node: ir.Node | str, what: str, *, exact: bool = True) -> None:
        """Notes what became of a node; equal sentences are told once, with all names.

        Args:
            node: The node, or names to tell.
            what: What became of it.
            exact: Whether it computes the same as before, but for the rounding of floats.
        """
        self.exact = self.exact and exact
        self.changes.setdefault(what, []).append(node if isinstance(node, str) else node.name or node.op_type)

    def keep(self, node: ir.Node, why: str) -> None:
        """Notes why a node stays as it is."""
        self.kept.setdefault(why, []).append(node.name or node.op_type)

    def sentences(self) -> tuple[str, ...]:
        """The changes as sentences that name the first nodes."""
        return tuple(f"{ir.name_list(list(dict.fromkeys(names)))}: {what}." for what, names in self.changes.items())

    def op(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr] = (),
        *,
        like: ir.Value | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Adds a node in front of another, typed and sized `like` a value, and returns its output."""
        graph = graph_of(before)
        node = ir.Node(domain, op_type, list(inputs), attributes, name=self.names.node(f"{before.name}_{op_type}"))
        ir.mark(node, "legalize", before.name)
        output = node.outputs[0]
        output.name = self.names.value(f"{before.outputs[0].name}_{op_type}")
        if like is not None:
            declared(output, like.dtype, like.shape)
        graph.insert_before(before, node)
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        return output

    def constant(self, near: ir.Node, name: str, array: npt.ArrayLike, dtype: DataType | None = None) -> ir.Value:
        """Adds an initializer to the graph of a node."""
        data = np.asarray(array, order="C") if dtype is None else np.asarray(array).astype(dtype.numpy())
        return ir.add_initializer(graph_of(near), self.names.value(name), data)

    def quantize(self, before: ir.Node, value: ir.Value, parameters: Parameters) -> ir.Value:
        """Adds a QuantizeLinear."""
        made = self.op(before, "QuantizeLinear", _operands(value, parameters), _axis(parameters))
        stored = parameters.zero_point.dtype if parameters.zero_point is not None else DataType.UINT8
        return declared(made, stored, value.shape)

    def dequantize(self, before: ir.Node, value: ir.Value, parameters: Parameters) -> ir.Value:
        """Adds a DequantizeLinear."""
        made = self.op(before, "DequantizeLinear", _operands(value, parameters), _axis(parameters))
        return declared(made, parameters.scale.dtype, value.shape)

    def clip(self, before: ir.Node, value: ir.Value, low: float | None, high: float | None) -> ir.Value:
        """Adds a Clip, or a Relu where that is all it does."""
        if low is None and high is None:
            return value
        if low == 0.0 and high is None:
            return self.op(before, "Relu", [value], like=value)
        dtype = value.dtype or DataType.FLOAT
        ends = [
            None if end is None else self.constant(before, f"{value.name}_limit", end, dtype) for end in (low, high)
        ]
        return self.op(before, "Clip", [value, *ends], like=value)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Lets a value take another's place everywhere, also as graph output, whose name it takes over."""
        if not old.is_graph_output():
            ir.replace_all_uses_with(old, new)
            return
        producer = new.producer()
        if producer is None or new.is_graph_output() or producer.graph is not old.graph:
            maker = old.producer()
            assert maker is not None, "a value that is replaced is made by a node"
            new = self.op(maker, "Identity", [new], like=old)
        name = old.name
        ir.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name, new.name = None, name


def declared(value: ir.Value, dtype: DataType | None, shape: ir.Shape | None) -> ir.Value:
    """Gives a new value its type and shape, as far as they are known, and returns it."""
    value.type = None if dtype is None else ir.TensorType(dtype)
    value.shape = shape
    return value


def graph_of(node: ir.Node) -> ir.Graph:
    """Returns the graph of a node that is in one."""
    graph = node.graph
    assert isinstance(graph, ir.Graph), "nodes of a model are in a graph"
    return graph


def _operands(value: ir.Value, parameters: Parameters) -> list[ir.Value]:
    given = [value, parameters.scale, parameters.zero_point]
    return [each for each in given if each is not None]


def _axis(parameters: Parameters) -> list[ir.Attr]:
    return [] if parameters.axis is None else [ir.AttrInt64("axis", parameters.axis)]


def along(array: Array, seen: Quantizer, shape: Sequence[int]) -> Array:
    """Shapes scales or zero points so that they broadcast over the quantized tensor.

    Raises:
        ValueError: If they do not fit that shape.
    """
    if array.size == 1:
        return array.reshape(())
    if seen.block_size:
        repeated = np.repeat(array, seen.block_size, axis=seen.axis)
        return np.take(repeated, range(shape[seen.axis]), axis=seen.axis)
    sizes = [1] * len(shape)
    sizes[seen.axis] = -1
    return array.reshape(sizes)


def dequantized(seen: Quantizer, stored: Array) -> Array:
    """Returns what DequantizeLinear makes of constants, in the type of its scale: (q - zero point) * scale."""
    scale, zero_point, _ = seen.constants
    offset = along(zero_point, seen, stored.shape).astype(np.float64)
    centred = (stored.astype(np.float64) - offset).astype(np.float32)
    return np.asarray(centred * along(scale, seen, stored.shape)).astype(scale.dtype)


def rounded(values: Array, scale: Array, dtype: DataType) -> Array:
    """Returns saturate(round_half_even(values / scale)) in a signed integer type, as QuantizeLinear does."""
    low, high = limits(dtype)
    quotient = np.rint(values.astype(np.float32) / scale.astype(np.float32))
    return np.clip(quotient, low, high).astype(dtype.numpy())
