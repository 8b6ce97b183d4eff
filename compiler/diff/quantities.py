"""Pairs of values that carry the same quantity, with quantization seen through."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.diff.segments import Wiring

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

    @property
    def before_values(self) -> frozenset[ir.Value]:
        """The values of the first model at which segments end."""
        return frozenset(pair.before for pair in self.pairs) | frozenset(self.given.values())

    @property
    def after_values(self) -> frozenset[ir.Value]:
        """The values of the second model at which segments end."""
        return frozenset(pair.after for pair in self.pairs) | frozenset(self.given)


def is_dequantize(node: ir.Node | None) -> bool:
    """Whether a node is a DequantizeLinear of any domain."""
    return node is not None and node.op_type == "DequantizeLinear"


def is_quantize(node: ir.Node | None) -> bool:
    """Whether a node is a QuantizeLinear of any domain."""
    return node is not None and node.op_type == "QuantizeLinear"


def rounded_forms(value: ir.Value) -> Iterator[ir.Value]:
    """Yields what comes of a float value through QuantizeLinear and DequantizeLinear."""
    for use in value.uses():
        if is_quantize(use.node) and use.idx == 0 and use.node.graph is value.graph:
            yield from _dequantized(use.node.outputs[0])


def unrounded_form(value: ir.Value) -> ir.Value | None:
    """Returns the float value that was quantized and dequantized into this one, or None where it is none."""
    producer = value.producer()
    if producer is None or not is_dequantize(producer) or producer.inputs[0] is None:
        return None
    quantize = producer.inputs[0].producer()
    return quantize.inputs[0] if quantize is not None and is_quantize(quantize) else None


def pairs_of(before: ir.Graph, after: ir.Graph, values: Mapping[ir.Value, ir.Value]) -> Pairs:
    """Returns the pairs of a matching, and those that follow from it where one model quantizes.

    A value and what it becomes through QuantizeLinear and DequantizeLinear are taken apart here, whichever of them was
    matched: before rounding, the values of both models are compared with each other, and so are they after rounding.

    Args:
        before: The first model's main graph.
        after: The second model's main graph.
        values: Value of the second by the value of the first that carries the same quantity.
    """
    roots: dict[ir.Value, ir.Value] = {}
    for old, new in (*values.items(), *zip(before.outputs, after.outputs, strict=False)):
        for b, a in _as_floats(old, new):
            if b.const_value is not None or a.const_value is not None:
                continue
            roots.setdefault(_root(a), _root(b))
    found: dict[ir.Value, Pair] = {}
    given: dict[ir.Value, ir.Value] = {}
    for a, b in roots.items():
        for pair in _apart(b, a, given):
            found.setdefault(pair.after, pair)
    given = {pair.after: pair.before for pair in found.values()} | given
    return Pairs(tuple(pair for pair in found.values() if pair.after.producer() is not None), given)


def without_misread(pairs: Pairs, before: Wiring, after: Wiring) -> Pairs:
    """Leaves out rounded values that are read where the first model reads something else.

    There either the quantizer or what reads it takes the wrong value, so that they answer for it together.

    Args:
        pairs: Of two main graphs.
        before: Wiring of the first model's.
        after: Wiring of the second model's.
    """
    stops = pairs.before_values, pairs.after_values
    rounded = {pair.after for pair in pairs.pairs if pair.rounded}
    right: set[ir.Value] = set()
    wrong: set[ir.Value] = set()
    for pair in pairs.pairs:
        taken = rounded.intersection(after.segment((pair.after,), stops[1]).reads)
        if taken and not pair.rounded:
            reads = before.segment((pair.before,), stops[0]).reads
            right |= {value for value in taken if pairs.given[value] in reads}
            wrong |= taken if reads else set()
    wrong -= right
    return Pairs(
        tuple(pair for pair in pairs.pairs if pair.after not in wrong),
        {value: given for value, given in pairs.given.items() if value not in wrong},
    )


def _apart(b: ir.Value, a: ir.Value, given: dict[ir.Value, ir.Value]) -> Iterator[Pair]:
    """Yields the pair of two values that no quantizer made, and those of what they are rounded to."""
    forms_b, forms_a = tuple(rounded_forms(b)), tuple(rounded_forms(a))
    rounded = b
    if forms_a and not forms_b:
        b, rounded = _around_activation(b, a)
    yield Pair(b, a)
    for index, form in enumerate(forms_a):
        yield Pair(forms_b[min(index, len(forms_b) - 1)], form) if forms_b else Pair(rounded, form, rounded=True)
    if forms_b and not forms_a:
        given[a] = forms_b[0]


def _around_activation(b: ir.Value, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Returns what is not yet and what is clipped, where the grid of the second model clips as an activation does.

    Such an activation has gone from the second model, so that either side of it may have been matched.
    """
    maker, other = b.producer(), a.producer()
    if maker is not None and maker.op_type in _CLIPPING and (other is None or other.op_type != maker.op_type):
        return (maker.inputs[0] or b), b
    readers = [use.node for use in b.uses()]
    kept = {use.node.op_type for value in (a, *rounded_forms(a)) for use in value.uses()}
    if len(readers) == 1 and readers[0].op_type in _CLIPPING and readers[0].op_type not in kept:
        return b, readers[0].outputs[0]
    return b, b


def _root(value: ir.Value) -> ir.Value:
    """Returns what a value was before it was quantized and dequantized, however often."""
    while (earlier := unrounded_form(value)) is not None:
        value = earlier
    return value


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
        if is_dequantize(use.node) and use.idx == 0 and use.node.graph is value.graph:
            yield use.node.outputs[0]


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
