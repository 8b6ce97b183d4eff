"""Rules for operators that give back what they are given: neutral elements, empty paddings, single inputs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from sardonyx import ir
from sardonyx.passes.fusion.facts import all_equal_to, ends_form, integers, operand, same_sizes
from sardonyx.passes.fusion.zero_signs import seen_zero_signs
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule

IDLE_OPSET = 7
NEUTRAL: Mapping[str, tuple[int, float]] = {
    "Add": (2, -0.0),
    "Sub": (1, 0.0),
    "Mul": (2, 1.0),
    "Div": (1, 1.0),
    "Pow": (1, 1.0),
    "And": (2, 1.0),
    "Or": (2, 0.0),
}
"""By operator: 2 if either operand may be the neutral one, 1 if the second only, and the neutral element.

x + 0.0 is not x: it makes 0.0 of -0.0, which a division tells apart. x + (-0.0) and x - 0.0 are x in IEEE 754, for NaN
and infinity too.
"""
ZEROS: Mapping[str, tuple[int, float]] = {"Add": (2, 0.0), "Sub": (1, -0.0)}
"""As `NEUTRAL`: what changes nothing but the sign of a zero."""
_SEEN = "values whose zero's sign is seen"


def _neutral_index(node: ir.Node, neutral: Mapping[str, tuple[int, float]] = NEUTRAL) -> int | None:
    """Index of an operand that changes nothing, or None."""
    count, number = neutral[node.op_type]
    for index in (1, 0)[:count]:
        x, value = operand(node, 1 - index), operand(node, index)
        integral = value is not None and value.dtype is not None and not value.dtype.is_floating_point()
        if not all_equal_to(value, abs(number) if integral else number):
            continue
        if same_sizes(x, node.outputs[0]) or _fits_into(value, x):
            return index
    return None


def _fits_into(constant: ir.Value | None, x: ir.Value | None) -> bool:
    """Whether broadcasting a constant against a value leaves the value's shape as it is."""
    tensor = None if constant is None else ir.constant_tensor(constant)
    if tensor is None or x is None or x.shape is None or len(tensor.shape) > len(x.shape):
        return False
    aligned = list(x.shape)[len(x.shape) - len(tensor.shape) :]
    return all(size in (1, dim) for size, dim in zip(tensor.shape.numpy(), aligned, strict=True))


def _lacks_neutral_operand(node: ir.Node) -> str | None:
    if _neutral_index(node) is not None:
        return None
    return f"no operand of {node.name} is known to change neither values nor shape"


class RemoveNeutral(Rule):
    """x * 1, x / 1, x ** 1, x - 0, x + (-0.0), x and true, x or false.

    The scale of a written-out normalization stays even where it is 1: runtimes know the form by it.
    """

    name = "remove-neutral"
    summary = "arithmetic with a constant that is neutral goes"
    pattern: ClassVar[Op] = Op(tuple(NEUTRAL), Var("a"), Var("b"), fits=_lacks_neutral_operand)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses the end of a form that runtimes compute as a whole."""
        if ends_form(self._kept(found)):
            return f"{found.root.name} ends a normalization or Gelu, which runtimes compute as a whole"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the other operand."""
        return self._kept(found)

    @staticmethod
    def _kept(found: Match) -> ir.Value:
        return found.values["a" if _neutral_index(found.root) == 1 else "b"]


def _lacks_zero(node: ir.Node) -> str | None:
    return f"no operand of {node.name} is known to be 0" if _neutral_index(node, ZEROS) is None else None


class RemoveZero(Rule):
    """x + 0.0 is x but for the sign of a zero: it goes where that sign makes no other number.

    Exporters write it for layers whose bias was never trained.
    """

    name = "remove-zero"
    summary = "Add of 0 goes where nothing, such as a division, can tell 0 from -0"
    pattern: ClassVar[Op] = Op(tuple(ZEROS), Var("a"), Var("b"), fits=_lacks_zero)

    @contextmanager
    def at_work(self, graph: ir.Graph, model: ir.Model) -> Iterator[None]:
        """Finds out where signs of zeros are seen, if there is anything to remove. Removing changes none of it."""
        if any(node.op_type in ZEROS and not node.domain and _lacks_zero(node) is None for node in graph):
            graph.meta[_SEEN] = seen_zero_signs(graph, body=graph is not model.graph)
        try:
            yield
        finally:
            graph.meta.pop(_SEEN, None)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses sums whose sign of zero is seen, and the end of a form that runtimes compute as a whole."""
        graph, total = found.root.graph, found.root.outputs[0]
        if graph is None or total in graph.meta.get(_SEEN, (total,)):
            return f"a division, or a node of which that is not known, can tell 0 from -0 in {total.name}"
        if ends_form(self._kept(found)):
            return f"{found.root.name} ends a normalization or Gelu, which runtimes compute as a whole"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the other operand."""
        return self._kept(found)

    @staticmethod
    def _kept(found: Match) -> ir.Value:
        return found.values["a" if _neutral_index(found.root, ZEROS) == 1 else "b"]


class RemoveSingle(Rule):
    """What joins or reduces one value is that value."""

    name = "remove-single"
    summary = "Concat, Max, Mean, Min or Sum of one input goes"
    pattern: ClassVar[Op] = Op(("Concat", "Max", "Mean", "Min", "Sum"), Var("x"))

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


def _pads(node: ir.Node) -> bool:
    amounts = integers(operand(node, 1))
    return amounts is None or any(amounts)


def _repeats(node: ir.Node) -> bool:
    times = integers(operand(node, 1))
    return times is None or any(count != 1 for count in times)


def _drops(node: ir.Node) -> bool:
    """Whether a Dropout may be in training mode, or its mask is used."""
    mask = node.outputs[1:]
    training = operand(node, 2)
    return (training is not None and not all_equal_to(training, 0)) or any(
        v.uses() or v.is_graph_output() for v in mask
    )


_CHANGES: Mapping[str, Callable[[ir.Node], bool]] = {"Pad": _pads, "Tile": _repeats, "Dropout": _drops}


def _changes_something(node: ir.Node) -> str | None:
    return f"{node.name} changes something, or may" if _CHANGES[node.op_type](node) else None


class RemoveIdle(Rule):
    """Operators whose parameters make them do nothing."""

    name = "remove-idle"
    summary = "Pad by nothing, Tile by ones and Dropout in inference go"
    pattern: ClassVar[Op] = Op(tuple(_CHANGES), Var("x"), open_inputs=True, fits=_changes_something)

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses opsets in which Dropout trains by default and Tile has other inputs."""
        if opset < IDLE_OPSET:
            return f"{found.root.op_type} is known from opset {IDLE_OPSET} on, the model has {opset}"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the input."""
        return found.values["x"]


def _chosen(node: ir.Node) -> ir.Value | None:
    """The operand that a Where takes wherever it looks, or None where it may take both or broadcasts it."""
    condition, x, y = (operand(node, index) for index in range(3))
    chosen = x if x is y or all_equal_to(condition, 1) else y if all_equal_to(condition, 0) else None
    return chosen if same_sizes(chosen, node.outputs[0]) else None


def _chooses(node: ir.Node) -> str | None:
    return f"{node.name} may choose from both, or repeats what it chooses" if _chosen(node) is None else None


class RemoveWhere(Rule):
    """A Where that takes one operand everywhere is that operand."""

    name = "remove-where"
    summary = "Where with a constant condition that is all true or all false, or of one value with itself, goes"
    pattern: ClassVar[Op] = Op("Where", Var("condition"), Var("x"), Var("y"), fits=_chooses)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Takes the operand."""
        chosen = _chosen(found.root)
        assert chosen is not None, "the pattern fits only where one is chosen"
        return chosen


RULES = (RemoveNeutral(), RemoveSingle(), RemoveIdle(), RemoveWhere())
LATE_RULES = (RemoveZero(),)
