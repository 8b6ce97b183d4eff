"""Patterns of nodes: what a rule looks for, written as the expression that it computes.

    Op("Mul", Var("x"), Op("Sigmoid", Var("x")))            x * sigmoid(x), in either order
    Op("Div", Var("x"), Const("root", 1.4142135))           a division by a constant

A pattern is matched from its root node towards the inputs, along first outputs. Add, Mul, Max and Min match in either
order of two inputs. A failed match says which node ended it, so that a user can be told what was missing.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from sardonyx import ir

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min"})
CONSTANT_RTOL = 1e-6
"""Exporters round constants such as the square root of 2 to float32."""


@dataclass(frozen=True)
class Var:
    """Any value; the same name means the same value wherever it stands.

    Attributes:
        name: Name in the match.
        computed_by: Standard operators, one of which must compute the value; their nodes are no part of the match, so
            others may use the value too. Empty: anything.
    """

    name: str
    computed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Const:
    """A constant; with `value`, a scalar equal to it within float32 rounding."""

    name: str
    value: float | None = None


@dataclass(frozen=True, init=False)
class Op:
    """A node of one of some operators.

    Args:
        op_type: Operator, or several: any of them.
        *inputs: What its inputs match; further inputs of the node must be absent, unless `open_inputs`.
        name: Name under which the node is found in the match.
        open_inputs: Whether the node may have more inputs than the pattern.
        attributes: Attribute values the node must have.
        domain: Domain of the operators.
        shared: Whether nodes outside the match may use the node's outputs; it then stays for them.
        fits: Says why a node is not one of those looked for, or None: for what inputs and attributes cannot express.
    """

    op_types: tuple[str, ...]
    inputs: "tuple[Pattern, ...]"
    name: str
    open_inputs: bool
    attributes: tuple[tuple[str, Any], ...]
    domain: str
    shared: bool
    fits: Callable[[ir.Node], str | None] | None

    def __init__(  # noqa: PLR0913 - the words of a pattern, all optional
        self,
        op_type: str | tuple[str, ...],
        *inputs: "Pattern",
        name: str = "",
        open_inputs: bool = False,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        shared: bool = False,
        fits: Callable[[ir.Node], str | None] | None = None,
    ) -> None:
        set_field = object.__setattr__  # the class is frozen; this is its constructor
        set_field(self, "op_types", (op_type,) if isinstance(op_type, str) else op_type)
        set_field(self, "inputs", inputs)
        set_field(self, "name", name)
        set_field(self, "open_inputs", open_inputs)
        set_field(self, "attributes", tuple((attributes or {}).items()))
        set_field(self, "domain", domain)
        set_field(self, "shared", shared)
        set_field(self, "fits", fits)


@dataclass(frozen=True, init=False)
class AnyOf:
    """The first of several patterns that matches, with the rest of the pattern, is taken.

    Args:
        *patterns: The alternatives, tried in order.
    """

    patterns: "tuple[Pattern, ...]"

    def __init__(self, *patterns: "Pattern") -> None:
        object.__setattr__(self, "patterns", patterns)


Pattern = Var | Const | Op | AnyOf


@dataclass(frozen=True)
class Match:
    """Where a pattern was found.

    Attributes:
        root: The node that the pattern's root matched.
        nodes: All matched nodes, the root last.
        values: Values by the name of their Var or Const.
        named: Nodes by the name of their Op.
        plans: What a rule's check has worked out for its rewrite, by the rule's name.
    """

    root: ir.Node
    nodes: tuple[ir.Node, ...]
    values: Mapping[str, ir.Value]
    named: Mapping[str, ir.Node]
    plans: dict[str, Any] = field(default_factory=dict, compare=False, kw_only=True)

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """The values that a rewrite replaces: the root's outputs."""
        return tuple(self.root.outputs)

    def constant(self, name: str) -> "np.typing.NDArray[Any]":
        """Returns a matched constant as an array."""
        tensor = ir.constant_tensor(self.values[name])
        if tensor is None:
            raise KeyError(name)
        return tensor.numpy()


@dataclass(frozen=True)
class Mismatch:
    """Why a pattern was not found.

    Attributes:
        reason: What was missing, as a sentence.
        node: Name of the node at which the match ended.
        matched: How many nodes had matched before: the larger, the nearer the miss.
    """

    reason: str
    node: str
    matched: int


class _State(NamedTuple):
    """What has matched so far; a named tuple, as one is made for each node and value that is looked at."""

    nodes: tuple[ir.Node, ...]
    values: Mapping[str, ir.Value]
    named: Mapping[str, ir.Node]
    shared: frozenset[ir.Node]


_START = _State((), {}, {}, frozenset())


def roots(pattern: Op | AnyOf) -> tuple[Op, ...]:
    """Returns the nodes a pattern may start from: itself, or its alternatives, which must be of nodes."""
    if isinstance(pattern, Op):
        return (pattern,)
    return tuple(part for part in pattern.patterns if isinstance(part, Op))


def operators(pattern: Pattern) -> Iterator[frozenset[str]]:
    """Yields sets of operators: a graph that lacks all operators of one of them cannot match."""
    if isinstance(pattern, Op):
        yield frozenset(pattern.op_types)
        for part in pattern.inputs:
            yield from operators(part)
    elif isinstance(pattern, AnyOf):
        if all(isinstance(part, Op) for part in pattern.patterns):
            yield frozenset().union(*(part.op_types for part in pattern.patterns if isinstance(part, Op)))
        yield from set[frozenset[str]].intersection(*(set(operators(part)) for part in pattern.patterns))
    elif isinstance(pattern, Var) and pattern.computed_by:
        yield frozenset(pattern.computed_by)


@dataclass(frozen=True)
class Start:
    """What can be seen of a pattern's root, or of one of its alternatives, without matching it.

    Attributes:
        op_types: The root's operators.
        producers: Sets of operators, of each of which one must compute an input of the root.
        constants: How many inputs of the root must be constants.
    """

    op_types: tuple[str, ...]
    producers: tuple[frozenset[str], ...]
    constants: int

    def admits(self, computed_by: AbstractSet[str], constants: int) -> bool:
        """Whether a node may match whose inputs these operators compute and of which so many may be constants."""
        return constants >= self.constants and not any(map(computed_by.isdisjoint, self.producers))


def starts(pattern: Op | AnyOf) -> tuple[Start, ...]:
    """Returns what can be seen of each root that a match may start from."""
    return tuple(
        Start(
            root.op_types,
            tuple(wanted for part in root.inputs if (wanted := _computed_by(part))),
            sum(isinstance(part, Const) for part in root.inputs),
        )
        for root in roots(pattern)
    )


def _computed_by(pattern: Pattern) -> frozenset[str]:
    """Operators of which one must compute what matches; empty where it may be computed by any or by none."""
    if isinstance(pattern, AnyOf):
        parts = [_computed_by(part) for part in pattern.patterns]
        return frozenset().union(*parts) if all(parts) else frozenset()
    if isinstance(pattern, Op):
        return frozenset(pattern.op_types)
    return frozenset(pattern.computed_by) if isinstance(pattern, Var) else frozenset()


def match(pattern: Op | AnyOf, node: ir.Node) -> Match | Mismatch:
    """Matches a pattern at a node.

    Every matched node but the root and those marked as shared must be used by matched nodes only, because the rewrite
    removes it.
    """
    matcher = _Matcher()
    for state in chain.from_iterable(matcher.node(root, node, _START) for root in roots(pattern)):
        leak = _leak(state, node)
        if leak is None:
            inner = dict.fromkeys(n for n in state.nodes if n is not node)
            return Match(node, (*inner, node), state.values, state.named)
        matcher.note(f"{leak} is used outside the pattern too", node, state)
    return matcher.nearest or Mismatch("nothing matched", node.name or "", 0)


def _leak(state: _State, root: ir.Node) -> str | None:
    inside = set(state.nodes)
    for node in state.nodes:
        for value in node.outputs if node is not root and node not in state.shared else ():
            if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
                return value.name
    return None


class _Matcher:
    def __init__(self) -> None:
        self.nearest: Mismatch | None = None

    def note(self, reason: str, node: ir.Node, state: _State) -> None:
        """Keeps the mismatch that got furthest."""
        if self.nearest is None or len(state.nodes) > self.nearest.matched:
            self.nearest = Mismatch(reason, node.name or "", len(state.nodes))

    def node(self, pattern: Op, node: ir.Node, state: _State) -> Iterator[_State]:
        """Yields the ways in which a node matches."""
        if node.domain != pattern.domain or node.op_type not in pattern.op_types:
            return self.note(f"{node.name} is {node.op_type}, not {' or '.join(pattern.op_types)}", node, state)
        for name, value in pattern.attributes:
            if ir.attribute(node, name, value) != value:
                return self.note(f"{node.name} has another {name} than {value}", node, state)
        reason = pattern.fits(node) if pattern.fits is not None else None
        if reason is not None:
            return self.note(reason, node, state)
        given = list(node.inputs)
        while given and given[-1] is None:
            given.pop()
        wanted = len(pattern.inputs)
        if len(given) < wanted or (len(given) > wanted and not pattern.open_inputs):
            return self.note(f"{node.name} has {len(given)} inputs, not {wanted}", node, state)
        named = {**state.named, pattern.name: node} if pattern.name else state.named
        shared = state.shared | {node} if pattern.shared else state.shared
        state = _State((*state.nodes, node), state.values, named, shared)
        yield from self._inputs(pattern, given[:wanted], node, state)
        if node.op_type in COMMUTATIVE and wanted == 2:
            yield from self._inputs(pattern, given[1::-1], node, state)
        return None

    def _inputs(self, pattern: Op, given: list[ir.Value | None], node: ir.Node, state: _State) -> Iterator[_State]:
        states: Iterator[_State] = iter((state,))
        for part, value in zip(pattern.inputs, given, strict=True):
            states = self._each(part, value, node, states)
        yield from states

    def _each(self, part: Pattern, value: ir.Value | None, node: ir.Node, states: Iterator[_State]) -> Iterator[_State]:
        for state in states:
            if value is None:
                self.note(f"{node.name} lacks an input", node, state)
            else:
                yield from self._value(part, value, node, state)

    def _value(self, part: Pattern, value: ir.Value, node: ir.Node, state: _State) -> Iterator[_State]:
        if isinstance(part, AnyOf):
            for alternative in part.patterns:
                yield from self._value(alternative, value, node, state)
            return None
        if isinstance(part, Op):
            producer = value.producer()
            if producer is None or producer.graph is not node.graph:
                return self.note(f"{value.name} is not computed by {' or '.join(part.op_types)}", node, state)
            if value is not producer.outputs[0]:
                return self.note(f"{value.name} is not the first output of {producer.name}", node, state)
            yield from self.node(part, producer, state)
            return None
        if isinstance(part, Const):
            reason = _not_constant(part, value)
            if reason is not None:
                return self.note(reason, node, state)
        if isinstance(part, Var) and part.computed_by and not _is_computed_by(value, part.computed_by):
            return self.note(f"{value.name} is not computed by {' or '.join(part.computed_by)}", node, state)
        bound = state.values.get(part.name)
        if bound is not None and bound is not value:
            return self.note(f"{value.name} is not {bound.name}", node, state)
        yield _State(state.nodes, {**state.values, part.name: value}, state.named, state.shared)
        return None


def _is_computed_by(value: ir.Value, op_types: tuple[str, ...]) -> bool:
    producer = value.producer()
    return producer is not None and not producer.domain and producer.op_type in op_types


def _not_constant(part: Const, value: ir.Value) -> str | None:
    tensor = ir.constant_tensor(value)
    if tensor is None:
        return f"{value.name} is not a constant"
    if part.value is None:
        return None
    if tensor.size != 1 or not math.isclose(float(tensor.numpy().item()), part.value, rel_tol=CONSTANT_RTOL):
        return f"the constant {value.name} is not {part.value}"
    return None
