"""Rules for Cast: those to the type there is, and those through a type that holds every value exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

_TYPE = ir.DataType


@dataclass(frozen=True)
class _Range:
    """What a type holds exactly: all integers from `low` to `high`, and for floating point its digits and exponents.

    Attributes:
        low: Least integer up to which all are held.
        high: Greatest one.
        exponents: Least and greatest binary exponent, the subnormal ones included; None for integers.
    """

    low: int
    high: int
    exponents: tuple[int, int] | None = None

    def holds(self, other: "_Range") -> bool:
        """Whether every value of the other type is one of this."""
        if other.exponents is not None:
            if self.exponents is None:
                return False
            if not (self.exponents[0] <= other.exponents[0] and other.exponents[1] <= self.exponents[1]):
                return False
        return self.low <= other.low and other.high <= self.high


def _integer(bits: int, *, signed: bool) -> _Range:
    return _Range(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else _Range(0, (1 << bits) - 1)


def _floating(digits: int, least: int, greatest: int) -> _Range:
    return _Range(-(1 << digits), 1 << digits, (least, greatest))


RANGES: Mapping[ir.DataType, _Range] = {
    _TYPE.BOOL: _Range(0, 1),
    _TYPE.INT8: _integer(8, signed=True),
    _TYPE.INT16: _integer(16, signed=True),
    _TYPE.INT32: _integer(32, signed=True),
    _TYPE.INT64: _integer(64, signed=True),
    _TYPE.UINT8: _integer(8, signed=False),
    _TYPE.UINT16: _integer(16, signed=False),
    _TYPE.UINT32: _integer(32, signed=False),
    _TYPE.UINT64: _integer(64, signed=False),
    _TYPE.FLOAT16: _floating(11, -24, 15),
    _TYPE.BFLOAT16: _floating(8, -133, 127),
    _TYPE.FLOAT: _floating(24, -149, 127),
    _TYPE.DOUBLE: _floating(53, -1074, 1023),
}
"""Types between which Cast is followed; IEEE 754 for floating point. Strings and 4- and 8-bit floats are left alone."""


def _target(node: ir.Node) -> ir.DataType | None:
    known = {dtype.value: dtype for dtype in RANGES}
    return known.get(ir.attribute(node, "to", 0))


def _changes_type(node: ir.Node) -> str | None:
    x = node.inputs[0]
    same = x is not None and x.dtype is not None and x.dtype.value == ir.attribute(node, "to", 0)
    return None if same else f"{node.name} changes the type, or the type is unknown"


class RemoveCast(Rule):
    """A Cast to the type that the value already has."""

    name = "remove-cast"
    summary = "Cast to the same type goes"
    pattern: ClassVar[Op] = Op("Cast", Var("x"), fits=_changes_type)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


class MergeCasts(Rule):
    """A Cast through a type that holds every value exactly is a Cast without it."""

    name = "merge-casts"
    summary = "Cast of a Cast to a type that loses nothing becomes one or none"
    pattern: ClassVar[Op] = Op("Cast", Op("Cast", Var("x"), name="inner", shared=True))

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses an inner type that loses something, and conversions that ONNX leaves open."""
        x, inner = found.values["x"], found.named["inner"]
        before, between, after = x.dtype, _target(inner), _target(found.root)
        if before is None or before not in RANGES or between is None or after is None:
            return f"{x.name} is of type {before}, or a Cast is to a type, that is not followed"
        if not RANGES[between].holds(RANGES[before]):
            return f"{between} does not hold every {before} of {x.name} exactly"
        floats = RANGES[before].exponents is None and RANGES[between].exponents is not None
        to_integer = RANGES[after].exponents is None and after is not _TYPE.BOOL and after is not before
        if to_integer and RANGES[before].exponents is not None:
            return f"what {before} above the range of {after} becomes is left open, and depends on the way"
        if to_integer and floats and not RANGES[after].holds(RANGES[before]):
            return f"what {between} outside of the range of {after} becomes is left open"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the one Cast, or takes the input where it ends in its type."""
        x = found.values["x"]
        if x.dtype is _target(found.root):
            return x
        return editor.op("Cast", [x], list(found.root.attributes.values()))


RULES = (RemoveCast(), MergeCasts())
