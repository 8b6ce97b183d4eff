"""Cosines and sines of rotary embedding that are written twice side by side: the half that says it all."""

from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.attention.rule import Dim, integers, producer, scalar, shaped
from sardonyx.passes.rewriting.rule import Editor


@dataclass(frozen=True)
class Half:
    """Half of a value along its last axis, as nodes to repeat on half of what they read.

    Attributes:
        source: What the nodes start from; a constant of twice the width where `constant`.
        nodes: Nodes to repeat, first to last.
        shape: Dimensions of the half.
        constant: Whether the first half of `source` is to be taken; else it is the half itself.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    shape: tuple[Dim, ...]
    constant: bool = False

    @classmethod
    def whole(cls, value: ir.Value) -> "Half":
        """A value that is not written twice."""
        return cls(value, (), tuple(value.shape or ()))

    def build(self, editor: Editor) -> ir.Value:
        """Returns the half, its nodes made again."""
        value = self.source
        tensor = ir.constant_tensor(value) if self.constant else None
        if tensor is not None:
            array = tensor.numpy()
            value = editor.constant(f"{value.name}_half", array[..., : array.shape[-1] // 2])
        for node in self.nodes:
            index = _through(node)
            inputs = list(node.inputs)
            inputs[index or 0] = value
            value = editor.op(node.op_type, inputs, list(node.attributes.values()))
        return value if not self.nodes else shaped(value, self.nodes[-1].outputs[0], self.shape)


def read_half(value: ir.Value) -> Half | None:
    """Returns the half of a value whose halves are equal, or None where they are not known to be.

    They are where one value was concatenated with itself or a constant repeats itself, and only nodes follow that
    leave the last axis alone.
    """
    shape = tuple(value.shape) if value.shape is not None else ()
    if not shape or not isinstance(shape[-1], int) or shape[-1] % 2:
        return None
    half = (*shape[:-1], shape[-1] // 2)
    nodes: list[ir.Node] = []
    while True:
        if (tensor := ir.constant_tensor(value)) is not None:
            array = tensor.numpy()
            left, right = np.split(array, 2, axis=-1) if array.ndim and array.shape[-1] == shape[-1] else (0, 1)
            return Half(value, tuple(nodes[::-1]), half, constant=True) if np.array_equal(left, right) else None
        node = producer(value, "Concat", "Cos", "Sin", "Cast", "Mul", "Div", "Unsqueeze", "Gather", "Slice")
        if node is None:
            return None
        if node.op_type == "Concat":
            rank = len(value.shape) if value.shape is not None else 0
            twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
            last = ir.attribute(node, "axis", 0) in (-1, rank - 1)
            source = node.inputs[0]
            return Half(source, tuple(nodes[::-1]), half) if twice and last and source is not None else None
        index = _through(node)
        if index is None or node.inputs[index] is None:
            return None
        nodes.append(node)
        value = node.inputs[index] or value


def _through(node: ir.Node) -> int | None:
    """Index of the input whose last axis a node leaves alone, or None."""
    output = node.outputs[0]
    rank = len(output.shape) if output.shape is not None else 0
    if node.op_type in ("Cos", "Sin", "Cast"):
        return 0
    if node.op_type in ("Mul", "Div"):
        return _beside_scalar(node)
    if node.op_type == "Unsqueeze" and len(node.inputs) > 1:
        axes = integers(node.inputs[1])
        return 0 if rank and axes is not None and not {-1, rank - 1} & set(axes) else None
    if node.op_type == "Gather":
        data = node.inputs[0]
        wide = data is not None and data.shape is not None and len(data.shape) > 1
        return 0 if wide and ir.attribute(node, "axis", 0) == 0 else None
    if node.op_type == "Slice" and len(node.inputs) > 3:
        axes = integers(node.inputs[3])
        return 0 if rank and axes is not None and not {-1, rank - 1} & set(axes) else None
    return None


def _beside_scalar(node: ir.Node) -> int | None:
    """The other input of a product with one number that does not raise the rank."""
    for index in (0, 1) if node.op_type == "Mul" else (0,):
        value, number = node.inputs[index], node.inputs[1 - index]
        if scalar(number) is None or value is None or number is None or value.shape is None or number.shape is None:
            continue
        return index if len(number.shape) <= len(value.shape) else None
    return None
