"""From matched values to their neighbours: through equal operators, and across what was fused or taken apart."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from sardonyx.diff.numbering import SMALL
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.view import ABSENT, NodeView, View

REACH = 32
"""Values looked at when what an operator was fused from is searched: the longest chains that rules fuse."""

Context = tuple[object, ...]

T = TypeVar("T")


class Trust(IntEnum):
    """Which operands of nodes that belong together do so as well.

    `ALIKE`: those that the same operator computes, with the same attributes. `REWRITTEN`: others too, where constants
    beside them are equal; else one node may do what another did before. `ANY`: all that nothing contradicts.
    """

    ALIKE = 0
    REWRITTEN = 1
    ANY = 2


class Surroundings:
    """What surrounds the values of a model, by operators: names and weights do not count.

    Attributes:
        view: The model.

    Args:
        view: The model.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self._above: dict[int, Context] = {}
        self._below: dict[int, Context] = {}

    def users(self, value: int) -> Iterator[tuple[NodeView, int]]:
        """Yields the nodes that read a value, and as which operand, without those that only carry it on."""
        for position, operand in self.view.consumers[value]:
            node = self.view.nodes[position]
            if not node.transparent:
                yield node, 0 if node.commutative else operand

    def above(self, value: int) -> Context:
        """The operator that computes a value, and those before it."""
        if value not in self._above:
            maker = self.view.maker(value)
            before = () if maker is None else tuple(self.kind(v) for _, v in self.view.data(maker))
            ordered = tuple(sorted(before)) if maker is not None and maker.commutative else before
            self._above[value] = (self.kind(value), ordered)
        return self._above[value]

    def below(self, value: int) -> Context:
        """The operators that read a value, and those behind them."""
        if value not in self._below:
            self._below[value] = self._readers(value, 2)
        return self._below[value]

    def readers(self, value: int) -> Context:
        """The operators that read a value."""
        return self._readers(value, 1)

    def kind(self, value: int) -> tuple[str, str]:
        """The operator that computes a value; empty where none does."""
        maker = self.view.maker(value)
        return ("", "") if maker is None else maker.kind

    def _readers(self, value: int, depth: int) -> Context:
        if depth == 0:
            return ()
        found = sorted(
            (node.kind, operand, *self._readers(node.outputs[0], depth - 1)) for node, operand in self.users(value)
        )
        return (value in self.view.outputs, *found)


class Propagation:
    """Matches the neighbours of matched values, what is certain before what is searched.

    Args:
        pairs: What is matched so far; more is added to it.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._before = Surroundings(pairs.before)
        self._after = Surroundings(pairs.after)
        self._near: deque[int] = deque()
        self._rewritten: deque[int] = deque()
        self._far: deque[tuple[int, bool]] = deque()
        self._last: deque[tuple[int, bool]] = deque()

    def run(self) -> int:
        """Goes on until nothing is found any more; returns how many values were matched."""
        count = len(self._pairs.forward)
        self._near.extend(self._pairs.forward)
        while self._near or self._rewritten or self._far or self._last:
            self._pairs.new.clear()
            if self._near:
                value = self._near.popleft()
                self._to_operands(value, Trust.ALIKE)
                self._to_users(value)
                self._rewritten.append(value)
            elif self._rewritten:
                value = self._rewritten.popleft()
                self._to_operands(value, Trust.REWRITTEN)
                self._far.append((value, True))
            else:
                value, strict = (self._far or self._last).popleft()
                self._across(value, strict=strict)
                if strict:
                    self._last.append((value, False))
                else:
                    self._to_operands(value, Trust.ANY)
            self._near.extend(self._pairs.new)
        return len(self._pairs.forward) - count

    def _to_operands(self, value: int, trust: Trust) -> None:
        """Matches what the nodes read that compute a pair.

        What other operators compute waits until nothing else is found: one of the nodes may read the wrong value.
        """
        pairs, partner = self._pairs, self._pairs.forward[value]
        first, second = pairs.before.maker(value), pairs.after.maker(partner)
        if first is None or second is None or not self._same_operator(first, second):
            return
        if not self._same_ends(first, second):
            return
        for ours, theirs in zip(first.bodies, second.bodies, strict=False):
            pairs.add(ours, theirs, "returned alike")
        same_constants = _constant_keys(first, pairs.before) == _constant_keys(second, pairs.after)
        rewritten = Trust.REWRITTEN if same_constants else Trust.ANY
        for ours, theirs in self._operands(first, second):
            needed = Trust.ALIKE if self._computed_alike(ours, theirs) else rewritten
            if trust >= needed and pairs.same_shape(ours, theirs):
                pairs.add(ours, theirs, f"operand of the matched {first.kind[1] or 'call'}")

    def _same_operator(self, first: NodeView, second: NodeView) -> bool:
        return first.kind == second.kind and len(first.outputs) == len(second.outputs)

    def _computed_alike(self, ours: int, theirs: int) -> bool:
        """Whether the same operator computes two values, as one can tell without weights."""
        first, second = self._pairs.before.maker(ours), self._pairs.after.maker(theirs)
        if first is None or second is None:
            return first is second
        return first.kind == second.kind and _but_for_weights(first, self._pairs.before) == _but_for_weights(
            second, self._pairs.after
        )

    def _same_ends(self, first: NodeView, second: NodeView) -> bool:
        """Whether bodies return what the same operators compute: an If may stand for one that was inside another."""
        pairs = self._pairs
        ends = zip(first.bodies, second.bodies, strict=False)
        return len(first.bodies) == len(second.bodies) and all(
            pairs.forward.get(ours) == theirs or self._before.kind(ours) == self._after.kind(theirs)
            for ours, theirs in ends
        )

    def _operands(self, first: NodeView, second: NodeView) -> list[tuple[int, int]]:
        """Operands of two nodes that belong together and have no partner yet; none where others contradict."""
        pairs = self._pairs
        ours, theirs = dict(pairs.before.data(first)), dict(pairs.after.data(second))
        if any(v in pairs.forward and pairs.forward[v] not in theirs.values() for v in ours.values()):
            return []
        if any(v in pairs.backward and pairs.backward[v] not in ours.values() for v in theirs.values()):
            return []
        if not first.commutative:
            return [(value, theirs[place]) for place, value in ours.items() if place in theirs]
        open_ours = [v for v in dict.fromkeys(ours.values()) if v not in pairs.forward]
        open_theirs = [v for v in dict.fromkeys(theirs.values()) if v not in pairs.backward]
        if len(open_ours) == len(open_theirs) == 1:
            return [(open_ours[0], open_theirs[0])]
        return _unique_pairs(open_ours, open_theirs, self._before.above, self._after.above)

    def _to_users(self, value: int) -> None:
        pairs, partner = self._pairs, self._pairs.forward[value]
        ours = _by_use(self._before.users(value), pairs.forward)
        theirs = _by_use(self._after.users(partner), pairs.backward)
        for use, nodes in ours.items():
            others = theirs.get(use, [])
            if len(nodes) == len(others) == 1:
                candidates = [(nodes[0], others[0])]
            else:
                candidates = _unique_pairs(nodes, others, self._sign_before, self._sign_after)
            for first, second in candidates:
                self._match_outputs(first, second)

    def _sign_before(self, node: NodeView) -> Context:
        return _sign(node, self._before)

    def _sign_after(self, node: NodeView) -> Context:
        return _sign(node, self._after)

    def _match_outputs(self, first: NodeView, second: NodeView) -> None:
        pairs = self._pairs
        if not self._same_operator(first, second) or not self._same_operands(first, second):
            return
        same = self._same_function(first, second)
        for ours, theirs in zip(first.outputs, second.outputs, strict=True):
            used_alike = same or self._before.readers(ours) == self._after.readers(theirs)
            if used_alike and pairs.same_shape(ours, theirs):
                pairs.add(ours, theirs, f"{first.kind[1] or 'call'} of matched operands")

    def _same_function(self, first: NodeView, second: NodeView) -> bool:
        """Whether nodes of the same operator make the same of the same operands, whatever reads it then."""
        ours = (first.attributes, _constant_keys(first, self._pairs.before))
        theirs = (second.attributes, _constant_keys(second, self._pairs.after))
        return ours == theirs and not first.bodies and not second.bodies

    def _same_operands(self, first: NodeView, second: NodeView) -> bool:
        """Whether operands that are data correspond and those that are constants have equal shapes."""
        pairs = self._pairs
        ours, theirs = pairs.before.data(first), pairs.after.data(second)
        partners = [pairs.forward.get(value, ABSENT) for _, value in ours]
        others = [value if value in pairs.backward else ABSENT for _, value in theirs]
        if sorted(partners) != sorted(others) if first.commutative else partners != others:
            return False
        return constant_shapes(first, pairs.before) == constant_shapes(second, pairs.after)

    def _across(self, value: int, *, strict: bool) -> None:
        """Looks for what the operators around a pair were fused from, or taken apart into, in either model.

        If `strict`, two operators behind what is looked for have to be alike, else one.
        """
        pairs, partner = self._pairs, self._pairs.forward[value]
        ours, theirs = _Side(self._before, pairs.forward), _Side(self._after, pairs.backward)
        for before, after in _beyond(ours, value, theirs, partner, strict):
            self._add_beyond(before, after, strict=strict)
        for after, before in _beyond(theirs, partner, ours, value, strict):
            self._add_beyond(before, after, strict=strict)

    def _add_beyond(self, before: int, after: int, *, strict: bool) -> None:
        """Matches values around what was fused, unless other operators make them that both models have anyway."""
        if self._pairs.same_shape(before, after) and (strict or self._pairs.made_alike(before, after)):
            self._pairs.add(before, after, "beyond what was taken apart or fused")


@dataclass(frozen=True)
class _Side:
    """One of the models: its surroundings, and which of its values are matched."""

    near: Surroundings
    matched: Mapping[int, int]

    def is_open(self, value: int) -> bool:
        return value not in self.matched and value not in self.near.view.constants


def _beyond(one: _Side, value: int, other: _Side, partner: int, strict: bool) -> Iterator[tuple[int, int]]:
    """Yields pairs of what one operator of `one` reads or computes and what stands further off in `other`.

    Args:
        one: The model in which the operator next to the pair is taken as a whole.
        value: Its value of the pair.
        other: The model in which several operators are passed over.
        partner: Its value of the pair.
        strict: Whether two operators behind have to be alike, or one.
    """
    maker = one.near.view.maker(value)
    if maker is not None:
        for _, operand in one.near.view.data(maker):
            if one.is_open(operand):
                found = _first(other, _upwards(other, partner), other.near.above, one.near.above(operand))
                if found is not None:
                    yield operand, found
    for node in dict.fromkeys(node for node, _ in one.near.users(value)):
        result = node.outputs[0]
        if one.is_open(result):
            found = _first(
                other,
                _downwards(other, partner),
                other.near.below if strict else other.near.readers,
                one.near.below(result) if strict else one.near.readers(result),
            )
            if found is not None:
                yield result, found


def _first(side: _Side, values: Iterator[int], context: Callable[[int], Context], wanted: Context) -> int | None:
    """The first open value of a context, or None."""
    return next((value for value in values if side.is_open(value) and context(value) == wanted), None)


def _upwards(side: _Side, start: int) -> Iterator[int]:
    """Values that a value is computed from, nearest first, up to matched ones."""
    view = side.near.view

    def operands(value: int) -> list[int]:
        maker = view.maker(value)
        return [] if maker is None else [operand for _, operand in view.data(maker)]

    return _reach(side, start, operands)


def _downwards(side: _Side, start: int) -> Iterator[int]:
    """Values that are computed with a value, nearest first, up to matched ones."""
    return _reach(side, start, lambda value: [output for node, _ in side.near.users(value) for output in node.outputs])


def _reach(side: _Side, start: int, neighbours: Callable[[int], list[int]]) -> Iterator[int]:
    seen, queue = {start}, deque([start])
    while queue and len(seen) <= REACH:
        for value in neighbours(queue.popleft()):
            if value not in seen and side.is_open(value):
                seen.add(value)
                queue.append(value)
                yield value


def _by_use(users: Iterator[tuple[NodeView, int]], matched: Mapping[int, int]) -> dict[object, list[NodeView]]:
    """Nodes whose first result has no partner yet, by operator and operand."""
    found: dict[object, list[NodeView]] = defaultdict(list)
    for node, operand in users:
        if node.outputs and node.outputs[0] not in matched:
            found[node.kind, operand].append(node)
    return found


def constant_shapes(node: NodeView, view: View) -> list[object]:
    """Shapes of the constants that a node reads, with the operand where operands may not change places."""
    shapes = [
        (0 if node.commutative else place, view.constants[value].shape)
        for place, value in enumerate(node.inputs)
        if value in view.constants
    ]
    return sorted(shapes, key=str)


def _sign(node: NodeView, near: Surroundings) -> Context:
    """What tells apart nodes that read the same value: attributes, constants, and what reads their result."""
    return (node.attributes, _constant_keys(node, near.view), near.below(node.outputs[0]))


def _but_for_weights(node: NodeView, view: View) -> tuple[object, ...]:
    """Attributes of a node, and contents of the constants that it reads but for those of weights."""
    constants = [view.constants[v] for v in node.inputs if v in view.constants]
    return (node.attributes, *sorted(constant.key for constant in constants if constant.size <= SMALL))


def _constant_keys(node: NodeView, view: View) -> tuple[str, ...]:
    """Contents of the constants that a node reads."""
    return tuple(view.constants[v].key for v in node.inputs if v in view.constants)


def _unique_pairs(
    ours: Sequence[T], theirs: Sequence[T], sign: Callable[[T], Context], other_sign: Callable[[T], Context]
) -> list[tuple[T, T]]:
    """Pairs of items whose sign no other item of their list has."""
    first, second = _by_sign(ours, sign), _by_sign(theirs, other_sign)
    return [(mine[0], second[s][0]) for s, mine in first.items() if len(mine) == 1 and len(second.get(s, ())) == 1]


def _by_sign(items: Sequence[T], sign: Callable[[T], Context]) -> dict[Context, list[T]]:
    found: dict[Context, list[T]] = defaultdict(list)
    for item in items:
        found[sign(item)].append(item)
    return found
