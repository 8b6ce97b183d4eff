"""Rules for Relu, Clip and Max or Min with a constant: which of them are needed, and which are one."""

from math import inf
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.bounds import BOUNDING, EVERYTHING, MOVEMENT, RANGES, Interval, bounds, known_range
from sardonyx.passes.fusion.elementwise import Elementwise, X
from sardonyx.passes.fusion.obstacles import as_float32, lacking, not_float, widening
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Pattern, Var
from sardonyx.passes.rewriting.rule import Editor, Rule


def _bounded(part: Pattern, name: str) -> tuple[Op, Op]:
    """A node that holds a value between constants."""
    return (
        Op(("Relu", "Clip"), part, name=name, open_inputs=True),
        Op(("Max", "Min"), part, Const(f"{name}_bound"), name=name),
    )


class RemoveClip(Rule):
    """A bound that the value keeps anyway: Relu of a Sigmoid, Clip of a Clip within it."""

    name = "remove-clip"
    summary = "Relu, Clip, or Max or Min with a constant, of a value that lies within the bounds goes"
    pattern: ClassVar[AnyOf] = AnyOf(*_bounded(Var("x", tuple(sorted({*RANGES, *BOUNDING, *MOVEMENT}))), "outer"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses values that may lie outside the bounds, and types that hold larger numbers than FLOAT."""
        asked, x = bounds(found.root), found.values["x"]
        if x.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            return f"{x.name} is not known to be FLOAT, FLOAT16 or BFLOAT16"
        if isinstance(asked, str):
            return asked
        known = known_range(x)
        if not (asked[0] <= known[0] and known[1] <= asked[1]):
            return f"{x.name} may lie outside [{asked[0]:g}, {asked[1]:g}]"
        return widening(found, x)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


class MaxToRelu(Elementwise):
    """max(x, 0)."""

    name = "max-to-relu"
    summary = "Max(x, 0) becomes Relu"
    operator = "Relu"
    pattern: ClassVar[Op] = Op("Max", X, Const("floor", 0.0))


class MergeClips(Rule):
    """Two bounds, one after the other, are one: the outer bounds hold, and the inner ones held between them."""

    name = "merge-clips"
    summary = "two of Relu, Clip, and Max or Min with a constant, in a row become one of them"
    pattern: ClassVar[AnyOf] = AnyOf(*_bounded(AnyOf(*_bounded(X, "inner")), "outer"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses bounds that are not constant or in the wrong order."""
        merged = _merged(found)
        if isinstance(merged, str):
            return merged
        x = found.values["x"]
        return lacking("Clip", opset) or not_float(x) or widening(found, x)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds Relu or Max for a lower bound, Min for an upper one, and Clip for both."""
        merged, x = _merged(found), found.values["x"]
        assert not isinstance(merged, str), "the check refuses other bounds"
        if merged == (0.0, inf):
            return editor.op("Relu", [x])
        low, high = (
            None if abs(bound) == inf else editor.constant(f"{found.root.name}_{name}", as_float32(bound))
            for name, bound in zip(("min", "max"), merged, strict=True)
        )
        if low is None or high is None:
            return editor.op("Max" if high is None else "Min", [x, low if high is None else high])
        return editor.op("Clip", [x, low, high])


def _merged(found: Match) -> Interval | str:
    """The bounds of two nodes as one interval, or why there is none."""
    held = [bounds(found.named[name]) for name in ("inner", "outer")]
    inner, outer = held
    if isinstance(inner, str):
        return inner
    if isinstance(outer, str):
        return outer
    for low, high in (inner, outer):
        if low > high:
            return f"the bounds [{low:g}, {high:g}] are in the wrong order"
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    return "neither of them bounds the value" if (low, high) == EVERYTHING else (low, high)


RULES = (RemoveClip(), MaxToRelu(), MergeClips())
