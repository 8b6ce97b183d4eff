"""Rules for moves between channels and space: DepthToSpace and SpaceToDepth, written as reshapes or as slices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.facts import Size, operand, sizes
from sardonyx.passes.fusion.reshapes import Sizes, reshaped
from sardonyx.passes.fusion.slices import cuts
from sardonyx.passes.fusion.transposes import permutation
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""Types that runtimes take for DepthToSpace and SpaceToDepth."""
FOCUS_BLOCK = 2
MODE_OPSET = 11


@dataclass(frozen=True)
class _Move:
    """One of the moves, as Reshape - Transpose - Reshape does it.

    Attributes:
        op_type: DepthToSpace or SpaceToDepth.
        mode: The mode of DepthToSpace, empty for the other.
        perm: The permutation of the six axes between the Reshapes.
        blocks: The two of the six axes that are blocks, the other four being the batch, channels, height and width.
    """

    op_type: str
    mode: str
    perm: tuple[int, ...]
    blocks: tuple[int, int]


_MOVES = (
    _Move("DepthToSpace", "DCR", (0, 3, 4, 1, 5, 2), (1, 2)),
    _Move("DepthToSpace", "CRD", (0, 1, 4, 2, 5, 3), (2, 3)),
    _Move("SpaceToDepth", "", (0, 3, 5, 1, 2, 4), (3, 5)),
)
"""The definitions of both operators in ONNX."""


class MoveChannels(Rule):
    """DepthToSpace (pixel shuffle) and SpaceToDepth by ONNX's definitions of them."""

    name = "move-channels"
    summary = "Reshape, Transpose and Reshape that move blocks of channels become DepthToSpace or SpaceToDepth"
    pattern: ClassVar[Op] = Op(
        "Reshape",
        Op("Transpose", Op("Reshape", Var("x"), Var("split"), name="apart"), name="moved"),
        Var("shape"),
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses other shapes and permutations, and types that runtimes do not take."""
        known = self._known(found)
        if isinstance(known, str):
            return known
        if opset < MODE_OPSET:
            return f"DepthToSpace has a mode from opset {MODE_OPSET} on, the model has {opset}"
        x = found.values["x"]
        return None if x.dtype in DTYPES else f"{x.name} is of type {x.dtype}, which the operator is not made for"

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the one node."""
        known = self._known(found)
        assert not isinstance(known, str), "the check refuses other matches"
        move, block = known
        attributes = [ir.AttrInt64("blocksize", block), *([ir.AttrString("mode", move.mode)] if move.mode else [])]
        return editor.op(move.op_type, [found.values["x"]], attributes)

    @staticmethod
    def _known(found: Match) -> tuple[_Move, int] | str:
        given = sizes(found.values["x"])
        apart = reshaped(found.named["apart"], given) if given is not None else "its rank is unknown"
        perm = permutation(found.named["moved"])
        if given is None or isinstance(apart, str) or len(given) != 4 or len(apart) != 6:
            return f"{found.named['apart'].name} is not known to part 4 axes into 6"
        end = reshaped(found.root, tuple(apart[axis] for axis in perm or ()))
        for move in _MOVES:
            block = apart[move.blocks[0]].fixed
            if perm != move.perm or block is None or block < 1 or apart[move.blocks[1]].fixed != block:
                continue
            rest = [size for axis, size in enumerate(apart) if axis not in move.blocks]
            if _moved(given, rest, move, block) == end and not isinstance(end, str):
                return move, block
        return f"{found.named['moved'].name} moves no blocks of channels as DepthToSpace or SpaceToDepth do"


def _moved(given: Sizes, rest: Sequence[Size], move: _Move, block: int) -> Sizes | None:
    """The shape that a move makes of another, or None where the four axes beside the blocks are not those it has."""
    batch, channels, height, width = rest
    side, area = Size(block), Size(block * block)
    if move.op_type == "DepthToSpace":
        fits = given == (batch, channels * area, height, width)
        return (batch, channels, height * side, width * side) if fits else None
    fits = given == (batch, channels, height * side, width * side)
    return (batch, channels * area, height, width) if fits else None


def _focus(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What a Concat of the four phases of an image takes them from, and the order of the phases in SpaceToDepth's."""
    concat = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if concat is None or concat.op_type != "Concat" or ir.attribute(concat, "axis", 0) not in (1, -3):
        return None
    if len(concat.inputs) != FOCUS_BLOCK**2 or len(node.inputs[0].uses()) != 1 or node.inputs[0].is_graph_output():  # type: ignore[union-attr]
        return None
    phases = [_phase(value) for value in concat.inputs]
    known = [phase for phase in phases if phase is not None]
    if len(known) != len(phases) or len({id(image) for image, _ in known}) != 1:
        return None
    order = tuple(index for _, index in known)
    return (known[0][0], order) if sorted(order) == list(range(FOCUS_BLOCK**2)) else None


def _phase(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """The image of which a Slice takes every second row and column, and which of the four phases that is."""
    node = value.producer() if value is not None else None
    image = operand(node, 0) if node is not None and node.op_type == "Slice" else None
    dims = sizes(image)
    taken = cuts(node) if node is not None and image is not None else "no Slice"
    if image is None or dims is None or len(dims) != 4 or isinstance(taken, str) or set(taken) != {2, 3}:
        return None
    starts = []
    for axis in (2, 3):
        size = dims[axis].fixed
        cut = taken[axis].resolved(size) if size is not None and size % FOCUS_BLOCK == 0 else None
        if cut is None or cut.step != FOCUS_BLOCK or cut.start >= FOCUS_BLOCK or cut.stop < (size or 0) - 1 + cut.start:
            return None
        starts.append(cut.start)
    return image, starts[0] * FOCUS_BLOCK + starts[1]


def _lacks_focus(node: ir.Node) -> str | None:
    return f"{node.name} does not read the four phases of an image" if _focus(node) is None else None


class FocusToConv(Rule):
    """The first layer of YOLO: the four phases of an image as channels, which the Conv behind reads in any order.

    The input channels of the weight are put in the order of SpaceToDepth; the sum over them changes by rounding only.
    """

    name = "focus-to-space-to-depth"
    summary = "Concat of four strided Slices before a Conv becomes SpaceToDepth, with the Conv's weight reordered"
    pattern: ClassVar[Op] = Op("Conv", Var("phases"), Var("weight"), open_inputs=True, fits=_lacks_focus)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses grouped convolutions, and weights or images that are not FLOAT or whose channels are not known."""
        focus, weight = _focus(found.root), ir.constant_tensor(found.values["weight"])
        channels = sizes(focus[0]) if focus is not None else None
        if weight is None or weight.dtype is not ir.DataType.FLOAT:
            return f"{found.values['weight'].name} is not a FLOAT constant"
        if ir.attribute(found.root, "group", 1) != 1:
            return f"{found.root.name} is grouped"
        if channels is None or channels[1].fixed is None:
            return f"the channels of {focus[0].name if focus else found.root.name} are not known"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds SpaceToDepth and the Conv."""
        focus, tensor = _focus(found.root), ir.constant_tensor(found.values["weight"])
        assert focus is not None and tensor is not None, "the pattern and the check refuse others"  # noqa: PT018
        image, order = focus
        weight = tensor.numpy()
        blocks = np.split(weight, len(order), axis=1)
        ordered = np.concatenate([blocks[order.index(phase)] for phase in range(len(order))], axis=1)
        depth = editor.op("SpaceToDepth", [image], [ir.AttrInt64("blocksize", FOCUS_BLOCK)])
        constant = editor.constant(f"{found.values['weight'].name}_phases", ordered)
        inputs = [depth, constant, *found.root.inputs[2:]]
        return editor.op("Conv", inputs, list(found.root.attributes.values()))


RULES = (MoveChannels(), FocusToConv())
