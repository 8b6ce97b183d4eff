"""Rules for Relu, Clip and Max or Min with a constant: which of them are needed, and which are one."""

from collections.abc import Sequence
from math import inf
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.bounds import EVERYTHING, Interval, bounds, known_range
from sardonyx.passes.fusion.elementwise import Elementwise, X
from sardonyx.passes.fusion.obstacles import as_float32, lacking, not_float, widening
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Pattern
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
    pattern: ClassVar[AnyOf] = AnyOf(*_bounded(X, "outer"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses values that may lie outside the bounds."""
        asked, x = bounds(found.root), found.values["x"]
        if isinstance(asked, str):
            return asked
        known = known_range(x)
        if not (asked[0] <= known[0] and known[1] <= asked[1]):
            return f"{x.name} may lie outside [{asked[0]:g}, {asked[1]:g}]"
        return widening(found, x)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


class ToRelu(Elementwise):
    """max(x, 0), written as Max or as Clip without an upper bound."""

    name = "to-relu"
    summary = "Max(x, 0) or Clip(x, 0) becomes Relu"
    operator = "Relu"
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Max", X, Const("floor", 0.0)), Op("Clip", X, Const("floor", 0.0), open_inputs=True)
    )

    def obstacle(self, found: Match) -> str | None:
        """Refuses another bound."""
        return None if bounds(found.root) == (0.0, inf) else f"{found.root.name} has an upper bound"


class MergeClips(Rule):
    """Two bounds, one after the other, are one: the outer bounds hold, and the inner ones held between them."""

    name = "merge-clips"
    summary = "two of Relu, Clip, and Max or Min with a constant, in a row become one Relu or Clip"
    pattern: ClassVar[AnyOf] = AnyOf(*_bounded(AnyOf(*_bounded(X, "inner")), "outer"))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses bounds that are not constant or in the wrong order."""
        merged = _merged(found)
        if isinstance(merged, str):
            return merged
        x = found.values["x"]
        return lacking("Clip", opset) or not_float(x) or widening(found, x)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds Relu or Clip."""
        merged = _merged(found)
        assert not isinstance(merged, str), "the check refuses other bounds"
        if merged == (0.0, inf):
            return editor.op("Relu", [found.values["x"]])
        return editor.op("Clip", [found.values["x"], *_inputs(merged, found, editor)])


def _merged(found: Match) -> Interval | str:
    """The bounds of two nodes as one interval, or why there is none."""
    inner, outer = bounds(found.named["inner"]), bounds(found.named["outer"])
    for held in (inner, outer):
        if isinstance(held, str):
            return held
        if held[0] > held[1] or held == EVERYTHING:
            return f"the bounds [{held[0]:g}, {held[1]:g}] are in the wrong order, or none"
    assert not isinstance(inner, str), "returned above"
    assert not isinstance(outer, str), "returned above"
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    return low, high


def _inputs(held: Interval, found: Match, editor: Editor) -> Sequence[ir.Value | None]:
    """The bounds as inputs of a Clip: none for infinity."""
    inputs: list[ir.Value | None] = []
    for name, bound in zip(("min", "max"), held, strict=True):
        infinite = bound in EVERYTHING
        inputs.append(None if infinite else editor.constant(f"{found.root.name}_{name}", as_float32(bound)))
    return inputs if inputs[-1] is not None else inputs[:1]


RULES = (RemoveClip(), ToRelu(), MergeClips())
