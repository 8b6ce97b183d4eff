"""Rules for rotary position embedding: pairs of elements of each head turn by an angle that grows with the position.

Su et al. 2021, arXiv:2104.09864: (a, b) becomes (a cos - b sin, b cos + a sin), where a and b are the halves of a head
or, interleaved, its even and odd elements. Targets: RotaryEmbedding of com.microsoft and of ONNX (opset 23).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.attention.angles import Half, read_half
from sardonyx.passes.fusion.attention.rule import (
    FusedRule,
    dimension,
    dims,
    integers,
    producer,
    reshaped,
    same,
    shaped,
)
from sardonyx.passes.rewriting.pattern import Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor


@dataclass(frozen=True)
class Rotation:
    """What a match turns out to be.

    Attributes:
        x: Heads [B, N, S, H].
        cos: Cosines [B or 1, 1, S, H / 2], leading ones left out where the graph leaves them out.
        sin: Sines, alike.
        interleaved: Whether pairs are neighbours instead of H / 2 apart.
    """

    x: ir.Value
    cos: Half
    sin: Half
    interleaved: bool = False


class _RotaryRule(FusedRule):
    """What rules for rotary embedding have in common; subclasses say how a match is read."""

    op_type = "RotaryEmbedding"

    @abstractmethod
    def read(self, found: Match) -> Rotation | str:
        """Reads a match, or says why it is no rotation."""

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses what is no rotation of heads, and angles that are not one for each position and pair."""
        read = self.read(found)
        if isinstance(read, str):
            return read
        shape = dims(read.x, 4)
        if shape is None or not isinstance(shape[3], int) or shape[3] % 2:
            return f"{read.x.name} is not known to be heads of an even size"
        wanted = (shape[0], 1, shape[2], shape[3] // 2)
        for half in (read.cos, read.sin):
            if not 2 <= len(half.shape) <= 4:
                return f"{half.source.name} does not hold angles by position"
            sizes = (1, 1, *half.shape)[-4:]
            if not all(map(same, sizes[1:], wanted[1:])) or not (sizes[0] == 1 or same(sizes[0], wanted[0])):
                return f"{half.source.name} does not hold one angle for each position of {read.x.name}"
        if len(read.cos.shape) != len(read.sin.shape) or not all(map(same, read.cos.shape, read.sin.shape)):
            return f"{read.cos.source.name} and {read.sin.source.name} are not known to have one shape"
        return self.dtype_obstacle(read.x)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds RotaryEmbedding."""
        read = self.read(found)
        assert isinstance(read, Rotation), "the check refuses what is no rotation"
        shape = dims(read.x, 4)
        assert shape is not None, "the check refuses other ranks"
        attributes = [ir.AttrInt64("interleaved", int(read.interleaved))]
        result = self.make(editor, self.operands(read, editor), attributes)[0]
        return shaped(result, read.x, shape)

    def operands(self, read: Rotation, editor: Editor) -> list[ir.Value]:
        """Inputs of com.microsoft's operator: x, positions, tables [positions, H / 2].

        Where all sequences share their angles, one table serves from position 0; else the table holds the angles of
        one sequence after the other, and positions count through it.
        """
        tables = [half.build(editor) for half in (read.cos, read.sin)]
        size = read.cos.shape[-1]
        assert isinstance(size, int), "the check makes sure of the size"
        flat = [reshaped(editor, table, (-1, size), (ir.SymbolicDim(None), size)) for table in tables]
        if (1, 1, *read.cos.shape)[-4] == 1:
            return [read.x, editor.constant("first_position", np.zeros(1, np.int64)), *flat]
        batch, length = (dimension(editor, read.x, axis) for axis in (0, 2))
        zero, one = (editor.constant("bound", np.array(n, np.int64)) for n in (0, 1))
        scalar = editor.constant("scalar_shape", np.zeros(0, np.int64))
        count = editor.op("Reshape", [editor.op("Mul", [batch, length]), scalar])
        target = editor.op("Concat", [batch, length], [ir.AttrInt64("axis", 0)])
        return [read.x, editor.op("Reshape", [editor.op("Range", [zero, count, one]), target]), *flat]


class RotaryEmbedding(_RotaryRule):
    """X cos + (-b, a) sin, where a and b are the halves of x, and cos and sin repeat themselves in their halves."""

    name = "rotary-embedding"
    summary = "x * cos + rotate_half(x) * sin becomes com.microsoft RotaryEmbedding"
    pattern: ClassVar[Op] = Op(
        "Add",
        Op("Mul", Var("left"), Var("right")),
        Op("Mul", Op("Concat", Op("Neg", Var("second")), Var("first"), name="rotated"), Var("sin")),
    )

    def read(self, found: Match) -> Rotation | str:
        """Reads x from its halves, and the halves of cos and sin."""
        first, second = _part(found.values["first"]), _part(found.values["second"])
        if first is None or second is None or first[0] is not second[0] or (first[1:], second[1:]) != ((0, 1), (1, 1)):
            return f"{found.named['rotated'].name} does not swap the halves of one value"
        x, left, right = first[0], found.values["left"], found.values["right"]
        if x not in (left, right):
            return f"{x.name} is not what is multiplied with the cosine"
        if ir.attribute(found.named["rotated"], "axis", 0) not in (-1, 3):
            return f"{found.named['rotated'].name} is not along the last axis"
        values = (right if left is x else left, found.values["sin"])
        halves = [read_half(value) for value in values]
        for half, value in zip(halves, values, strict=True):
            if half is None:
                return f"the halves of {value.name} are not known to be equal"
        cos, sin = halves
        assert cos is not None, "just looked at"
        assert sin is not None, "just looked at"
        return Rotation(x, cos, sin)


def _turned(a: str, b: str) -> Op:
    """The parts a cos - b sin and b cos + a sin of a rotated pair, joined along the last axis."""
    product = {name: Op("Mul", Var(f"{name}_x"), Var(f"{name}_y"), name=name) for name in ("ac", "bs", "bc", "as")}
    one: Op = Op("Sub", product["ac"], product["bs"])
    other: Op = Op("Add", product["bc"], product["as"])
    if a == b:
        return Op("Concat", one, other, name="joined")
    return Op("Concat", Op("Unsqueeze", one, Const(a)), Op("Unsqueeze", other, Const(b)), name="joined")


class RotaryEmbeddingOfHalves(_RotaryRule):
    """(a cos - b sin, b cos + a sin) of the halves a and b of x."""

    name = "rotary-embedding-of-halves"
    summary = "the rotated halves of a value, concatenated, become com.microsoft RotaryEmbedding"
    pattern: ClassVar[Op] = _turned("", "")

    def read(self, found: Match) -> Rotation | str:
        """Reads which products are with the cosine and which with the sine."""
        if ir.attribute(found.named["joined"], "axis", 0) not in (-1, 3):
            return f"{found.named['joined'].name} is not along the last axis"
        return _rotation(found, step=1)


class RotaryEmbeddingInterleaved(_RotaryRule):
    """(a cos - b sin, b cos + a sin) of the even and odd elements a and b of x, interleaved again."""

    name = "rotary-embedding-interleaved"
    summary = "rotated even and odd elements, interleaved, become com.microsoft RotaryEmbedding"
    pattern: ClassVar[Op] = Op("Reshape", _turned("axis_a", "axis_b"), Var("shape"))

    def read(self, found: Match) -> Rotation | str:
        """Reads which products are with the cosine and which with the sine, and that pairs become neighbours."""
        axes = [integers(found.values[name]) for name in ("axis_a", "axis_b")]
        last = all(axis in ((-1,), (4,)) for axis in axes)
        if not last or ir.attribute(found.named["joined"], "axis", 0) not in (-1, 4):
            return f"{found.named['joined'].name} does not join pairs along a new last axis"
        read = _rotation(found, step=2)
        if isinstance(read, str):
            return read
        result, shape = dims(found.root.outputs[0], 4), dims(read.x, 4)
        if result is None or shape is None or not all(map(same, result, shape)):
            return f"{found.root.name} is not known to give the shape of {read.x.name}"
        return read


def _rotation(found: Match, *, step: int) -> Rotation | str:
    """Reads a cos - b sin and b cos + a sin; the two products of the sum may stand in either order."""
    factors: dict[tuple[str, int], ir.Value] = {}
    sources: list[ir.Value] = []
    for name, sign in (("ac", "-"), ("bs", "-"), ("bc", "+"), ("as", "+")):
        for part, factor in (pair := list(found.named[name].inputs), pair[::-1]):
            taken = _part(part) if part is not None else None
            if taken is not None and factor is not None and taken[2] == step:
                factors[sign, taken[1]] = factor
                sources.append(taken[0])
                break
    joined = found.named["joined"].name
    if len(factors) != 4 or any(source is not sources[0] for source in sources):
        return f"{joined} does not join products with the two parts of one value"
    cos, sin = factors["-", 0], factors["-", 1]
    minuend = _part_index(found.named["ac"], step)
    if minuend != 0 or factors["+", 1] is not cos or factors["+", 0] is not sin:
        return f"{joined} does not join a cos - b sin and b cos + a sin"
    for value in (cos, sin):
        if value.shape is None:
            return f"the shape of {value.name} is not known"
    return Rotation(sources[0], Half.whole(cos), Half.whole(sin), interleaved=step == 2)


def _part_index(product: ir.Node, step: int) -> int | None:
    parts = (_part(value) for value in product.inputs if value is not None)
    return next((part[1] for part in parts if part is not None and part[2] == step), None)


def _part(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """Of which value a value is a half or every second element of the last axis: (it, 0 or 1, step 1 or 2)."""
    node = producer(value, "Slice", "Split")
    source = node.inputs[0] if node is not None else None
    shape = dims(source, 4) if source is not None else None
    if node is None or source is None or shape is None or not isinstance(shape[3], int) or shape[3] % 2:
        return None
    if node.op_type == "Split":
        equal = len(node.outputs) == 2 and dims(value, 4) is not None and value.shape is not None
        last = ir.attribute(node, "axis", 0) in (-1, 3)
        halves = (
            equal and last and all(out.shape is not None and out.shape[-1] == shape[3] // 2 for out in node.outputs)
        )
        return (source, node.outputs.index(value), 1) if halves else None
    given = [integers(item) if item is not None else None for item in node.inputs[1:]]
    start, end, axes, steps = (*given, (1,))[:4] if len(given) == 3 else (*given, None, None, None, None)[:4]
    if start is None or end is None or axes not in ((-1,), (3,)) or steps not in ((1,), (2,)):
        return None
    half, size = shape[3] // 2, shape[3]
    ends = end[0] >= size
    known = {(0, 1): end[0] == half, (half, 1): ends, (0, 2): ends, (1, 2): ends}
    if not known.get((start[0], steps[0]), False):
        return None
    return source, int(start[0] != 0), steps[0]


class _Standard(_RotaryRule):
    """The standard operator: its tables are [B, S, H / 2] where it has no positions."""

    domain = ""
    since = 23

    def operands(self, read: Rotation, editor: Editor) -> list[ir.Value]:
        """Inputs of ONNX's operator: x and tables [B, S, H / 2]."""
        shape = dims(read.x, 4)
        assert shape is not None, "the check refuses other ranks"
        assert isinstance(shape[3], int), "the check refuses unknown sizes"
        ones = editor.constant("ones", np.ones(2, np.int64))
        target = editor.op("Concat", [dimension(editor, read.x, 0), ones], [ir.AttrInt64("axis", 0)])
        tables = []
        for half in (read.cos, read.sin):
            table = half.build(editor)
            if len(half.shape) == 4:
                axis = editor.constant("heads_axis", np.array([1], np.int64))
                table = editor.op("Squeeze", [table, axis])
            tables.append(shaped(editor.op("Expand", [table, target]), read.x, (shape[0], shape[2], shape[3] // 2)))
        return [read.x, *tables]


class StandardRotaryEmbedding(_Standard, RotaryEmbedding):
    """The same as `RotaryEmbedding`, as the standard operator."""

    name = "standard-rotary-embedding"
    summary = "x * cos + rotate_half(x) * sin becomes RotaryEmbedding (opset 23)"


class StandardRotaryEmbeddingOfHalves(_Standard, RotaryEmbeddingOfHalves):
    """The same as `RotaryEmbeddingOfHalves`, as the standard operator."""

    name = "standard-rotary-embedding-of-halves"
    summary = "the rotated halves of a value, concatenated, become RotaryEmbedding (opset 23)"


class StandardRotaryEmbeddingInterleaved(_Standard, RotaryEmbeddingInterleaved):
    """The same as `RotaryEmbeddingInterleaved`, as the standard operator."""

    name = "standard-rotary-embedding-interleaved"
    summary = "rotated even and odd elements, interleaved, become RotaryEmbedding (opset 23)"


RULES = (
    StandardRotaryEmbedding,
    StandardRotaryEmbeddingOfHalves,
    StandardRotaryEmbeddingInterleaved,
    RotaryEmbedding,
    RotaryEmbeddingOfHalves,
    RotaryEmbeddingInterleaved,
)
