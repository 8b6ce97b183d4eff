"""The heads of queries, keys and values: how they are laid out, and how they are had in the layout a kernel takes.

Letters: B batch, N heads, S sequence, H size of a head. Graphs split a projection [B, S, N H] to [B, S, N, H] and
transpose that to [B, N, S, H]; or take one third of a packed projection [B, S, 3 N H].
"""

from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.attention.rule import (
    Dim,
    dims,
    integers,
    permutation,
    producer,
    reshaped,
    same,
    scalar,
    shaped,
    transposed,
)
from sardonyx.passes.rewriting.rule import Editor

SWAP_HEADS = (0, 2, 1, 3)
"""[B, N, S, H] to [B, S, N, H] and back."""
PACKED = (2, 0, 3, 1, 4)
"""[B, S, 3, N, H] to [3, B, N, S, H]."""


@dataclass(frozen=True)
class Heads:
    """A tensor of heads.

    Attributes:
        value: Of shape [B, N, S, H], or [B, S, N, H] where `sequence_first`.
        sequence_first: Whether the sequence stands before the heads.
    """

    value: ir.Value
    sequence_first: bool = False

    @property
    def shape(self) -> tuple[Dim, Dim, Dim, Dim] | None:
        """(B, N, S, H), or None where the rank is unknown or not 4."""
        found = dims(self.value, 4)
        if found is None:
            return None
        b, n, s, h = (found[axis] for axis in SWAP_HEADS) if self.sequence_first else found
        return b, n, s, h

    @property
    def static(self) -> tuple[int, int]:
        """(N, H), which the reading of a graph makes sure are numbers."""
        shape = self.shape
        if shape is None or not isinstance(shape[1], int) or not isinstance(shape[3], int):
            raise ValueError(f"{self.value.name} has no known number and size of heads")
        return shape[1], shape[3]

    def is_merged_free(self) -> bool:
        """Whether `merged` costs no transposition."""
        return self._sequence_first() is not None or packed_third(self.value) is not None

    def merged(self, editor: Editor) -> ir.Value:
        """Returns the heads as [B, S, N H]: the projection that was split, or a view or copy of it."""
        third = packed_third(self.value) if not self.sequence_first else None
        if third is not None:
            return _split(editor, *third)
        count, size = self.static
        source = self._sequence_first()
        if source is None:
            source = transposed(editor, self.value, SWAP_HEADS)
        shape = dims(source, 4)
        assert shape is not None, "the reading of a graph makes sure of the rank"
        wanted = (shape[0], shape[1], count * size)
        reshape = producer(source, "Reshape")
        projection = reshape.inputs[0] if reshape is not None else None
        found = dims(projection, 3) if projection is not None else None
        if projection is not None and found is not None and all(map(same, found, wanted)):
            return projection
        return reshaped(editor, source, (0, 0, count * size), wanted)

    def heads_first(self, editor: Editor) -> ir.Value:
        """Returns the heads as [B, N, S, H]."""
        return transposed(editor, self.value, SWAP_HEADS) if self.sequence_first else self.value

    def _sequence_first(self) -> ir.Value | None:
        """The heads as [B, S, N, H] where the graph has them so."""
        if self.sequence_first:
            return self.value
        node = producer(self.value, "Transpose")
        return node.inputs[0] if node is not None and permutation(node) == SWAP_HEADS else None


def packed_third(value: ir.Value) -> tuple[ir.Value, int] | None:
    """Returns the packed projection [B, S, 3 N H] and which third of it the heads [B, N, S, H] are, or None."""
    taken = _taken(value)
    if taken is None:
        return None
    whole, index = taken
    transpose = producer(whole, "Transpose")
    if transpose is None or permutation(transpose) != PACKED:
        return None
    reshape = producer(transpose.inputs[0], "Reshape")
    if reshape is None or reshape.inputs[0] is None or transpose.inputs[0] is None:
        return None
    parts, packed = dims(transpose.inputs[0], 5), dims(reshape.inputs[0], 3)
    if parts is None or packed is None or parts[2] != 3:
        return None
    if not isinstance(packed[2], int) or not any(map(same, parts[:2], packed)):
        return None  # of batch and sequence one may be unknown: the other, and the number of elements, decide it
    return reshape.inputs[0], index


def _taken(value: ir.Value) -> tuple[ir.Value, int] | None:
    """The tensor whose first axis a value is one element of, and which: by Gather, by Slice, or by Split."""
    node = producer(value, "Gather", "Squeeze")
    if node is None or node.inputs[0] is None:
        return None
    if node.op_type == "Gather":
        index = scalar(node.inputs[1])
        indices = node.inputs[1]
        point = indices is not None and indices.shape is not None and len(indices.shape) == 0
        taken = index is not None and point and ir.attribute(node, "axis", 0) == 0
        return (node.inputs[0], int(index)) if taken and index in (0, 1, 2) else None
    if len(node.inputs) < 2 or integers(node.inputs[1]) != (0,):
        return None
    part = producer(node.inputs[0], "Slice", "Split")
    if part is None or part.inputs[0] is None:
        return None
    if part.op_type == "Split":
        equal = len(part.outputs) == 3 and ir.attribute(part, "axis", 0) == 0
        return (part.inputs[0], part.outputs.index(node.inputs[0])) if equal else None
    start, end, axes = (integers(item) for item in (*part.inputs[1:], None, None, None)[:3])
    steps = integers(part.inputs[4]) if len(part.inputs) > 4 else (1,)
    one = start is not None and start in ((0,), (1,), (2,)) and end == (start[0] + 1,)
    return (part.inputs[0], start[0]) if one and start is not None and axes == (0,) and steps == (1,) else None


def _split(editor: Editor, packed: ir.Value, index: int) -> ir.Value:
    """One third of a packed projection along its last axis; the thirds are made once in a rewrite."""
    for node in editor.made:
        if node.op_type == "Split" and node.inputs[0] is packed:
            return node.outputs[index]
    shape = dims(packed, 3)
    assert shape is not None, "packed_third makes sure of the rank"
    assert isinstance(shape[2], int), "packed_third makes sure of the sizes"
    third = shape[2] // 3
    sizes = editor.constant(f"{packed.name}_thirds", np.array([third] * 3, np.int64))
    parts = editor.node("Split", [packed, sizes], [ir.AttrInt64("axis", -1)], outputs=3)
    for part in parts:
        shaped(part, packed, (*shape[:2], third))
    return parts[index]
