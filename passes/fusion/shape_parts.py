"""Rules for parts of shapes: Shape itself can give them."""

from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.facts import ENDLESS, integers, operand
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

PART_OPSET = 15


def _sliced(node: ir.Node) -> tuple[int, int] | None:
    """Start and end of a Slice with step 1 of a vector, or None."""
    starts, ends = integers(operand(node, 1)), integers(operand(node, 2))
    axes, steps = operand(node, 3), operand(node, 4)
    if starts is None or ends is None or len(starts) != 1 or len(ends) != 1:
        return None
    if (axes is not None and integers(axes) not in ((0,), (-1,))) or (steps is not None and integers(steps) != (1,)):
        return None
    return starts[0], ends[0]


def _gathered(node: ir.Node) -> tuple[int, int] | None:
    """Start and end of the neighbours that a Gather takes from a vector, or None."""
    indices, chosen = operand(node, 1), integers(operand(node, 1))
    if not chosen or indices is None or indices.shape is None or indices.shape.rank() != 1:
        return None
    first, last = chosen[0], chosen[-1]
    if chosen != tuple(range(first, last + 1)) or (first < 0) != (last < 0):
        return None
    return first, ENDLESS if last == -1 else last + 1


def _part(node: ir.Node) -> tuple[int, int] | None:
    return _sliced(node) if node.op_type == "Slice" else _gathered(node)


def _takes_no_part(node: ir.Node) -> str | None:
    return f"{node.name} takes no constant, contiguous part" if _part(node) is None else None


class ShapeOfPart(Rule):
    """Slice or Gather of a Shape: ONNX operator Shape-15 takes a start and an end."""

    name = "shape-of-part"
    summary = "Slice or Gather of neighbours of a Shape becomes a Shape with start and end"
    pattern: ClassVar[Op] = Op(
        ("Slice", "Gather"), Op("Shape", Var("x"), name="shape"), open_inputs=True, fits=_takes_no_part
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses opsets without the attributes, and parts of parts."""
        if opset < PART_OPSET:
            return f"Shape with start and end needs opset {PART_OPSET}, the model has {opset}"
        shape = found.named["shape"]
        return f"{shape.name} is a part already" if shape.attributes else None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the Shape of the part."""
        part = _part(found.root)
        assert part is not None, "the pattern asks for it"
        start, end = part
        attributes = [ir.AttrInt64("start", start)] + ([ir.AttrInt64("end", end)] if end < ENDLESS else [])
        return editor.op("Shape", [found.values["x"]], attributes)


LATE_RULES = (ShapeOfPart(),)
"""Shape arithmetic elsewhere reads Shapes of all axes."""
