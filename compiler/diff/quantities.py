"""Pairs of values that carry the same quantity, with quantization seen through."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.diff.matching import Matching

QUANTIZERS = frozenset({"QuantizeLinear"})
DEQUANTIZERS = frozenset({"DequantizeLinear"})

_CLIPPING = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class Pair:
    """A value of each model that carry the same quantity.

    Attributes:
        before: The value of the first model.
        after: The value of the second model.
        rounded: Whether only one of the two has been quantized and dequantized since it was computed.
    """

    before: ir.Value
    after: ir.Value
    rounded: bool = False


@dataclass(frozen=True)
class Pairs:
    """All pairs of two main graphs.

    Attributes:
        pairs: Without those of inputs and constants.
        given: What stands for a value of the second model where its readers are to take over from the first model.
    """

    pairs: tuple[Pair, ...]
    given: Mapping[ir.Value, ir.Value]


def is_dequantize(node: ir.Node | None) -> bool:
    """Whether a node is a DequantizeLinear of any domain."""
    return node is not None and node.op_type in DEQUANTIZERS


def is_quantize(node: ir.Node | None) -> bool:
    """Whether a node is a QuantizeLinear of any domain."""
    return node is not None and node.op_type in QUANTIZERS


def rounded_forms(value: ir.Value) -> Iterator[ir.Value]:
    """Yields what comes of a float value through QuantizeLinear and DequantizeLinear."""
    for use in value.uses():
        if is_quantize(use.node) and use.idx == 0:
            yield from _dequantized(use.node.outputs[0])


def unrounded_form(value: ir.Value) -> ir.Value | None:
    """Returns the float value that was quantized and dequantized into this one, or None where it is none."""
    producer = value.producer()
    if producer is None or not is_dequantize(producer) or producer.inputs[0] is None:
        return None
    quantize = producer.inputs[0].producer()
    return quantize.inputs[0] if quantize is not None and is_quantize(quantize) else None


def pairs_of(before: Mapping[str, ir.Value], after: Mapping[str, ir.Value], matching: Matching) -> Pairs:
    """Returns the pairs of a matching, and those that follow from it where one model quantizes.

    Args:
        before: Values of the first model's main graph by name.
        after: Values of the second model's main graph by name.
        matching: Which of them carry the same quantity.
    """
    matched: dict[ir.Value, ir.Value] = {}
    for old, new in matching.values.items():
        if old in before and new in after:
            matched.update((a, b) for b, a in _as_floats(before[old], after[new]))
    found = {after_value: Pair(before_value, after_value) for after_value, before_value in matched.items()}
    given = dict(matched)
    for a, b in matched.items():
        _see_through(a, b, found, given)
    computed = (pair for pair in found.values() if pair.after.producer() is not None)
    return Pairs(tuple(pair for pair in computed if pair.before.const_value is None), given)


def _see_through(a: ir.Value, b: ir.Value, found: dict[ir.Value, Pair], given: dict[ir.Value, ir.Value]) -> None:
    """Adds the pairs that follow from one: of what it was rounded from, and of what it is rounded to."""
    plain_a, plain_b = unrounded_form(a), unrounded_form(b)
    if plain_a is not None:
        if plain_b is None:
            found[a] = Pair(b, a, rounded=True)
        if plain_a not in found:
            found[plain_a] = Pair(plain_b or b, plain_a)
            given[plain_a] = plain_b or b
        return
    forms_a, forms_b = tuple(rounded_forms(a)), tuple(rounded_forms(b))
    for form in forms_a:
        if form not in found:
            found[form] = Pair(forms_b[0] if forms_b else _absorbed(b, a), form, rounded=not forms_b)
            given[form] = found[form].before
    if forms_b and not forms_a:
        given[a] = forms_b[0]


def _absorbed(b: ir.Value, a: ir.Value) -> ir.Value:
    """Returns the value that is rounded where the grid clips as an activation does, which has gone for that reason."""
    readers = [use.node for use in b.uses()]
    if len(readers) != 1 or readers[0].op_type not in _CLIPPING or any(not is_quantize(use.node) for use in a.uses()):
        return b
    return readers[0].outputs[0]


def _as_floats(b: ir.Value, a: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yields a pair, with what an integer stands for in its place where the other is a float."""
    if _is_float(b) == _is_float(a):
        yield b, a
    elif _is_float(b):
        yield from ((b, form) for form in _dequantized(a))
    else:
        yield from ((form, a) for form in list(_dequantized(b))[:1])


def _dequantized(value: ir.Value) -> Iterator[ir.Value]:
    for use in value.uses():
        if is_dequantize(use.node) and use.idx == 0:
            yield use.node.outputs[0]


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
