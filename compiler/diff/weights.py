"""Which initializers took the place of which, and how far their values went apart."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from sardonyx.diff.constants import Constant
from sardonyx.diff.correspondence import Group
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.stages import sorted_shape
from sardonyx.diff.view import NodeView, View


def match_initializers(pairs: Pairs, groups: tuple[Group, ...]) -> dict[str, str]:
    """Matches initializers of the main graphs: by name and content, by content, by the operand they are, by name.

    Returns:
        Name in the second model by name in the first; one to one.
    """
    ours, theirs = _initializers(pairs.before), _initializers(pairs.after)
    operands = list(corresponding_constants(pairs, groups))
    by_key: dict[str, deque[str]] = defaultdict(deque)
    for name, key in theirs.items():
        by_key[key].append(name)
    found: dict[str, str] = {}
    taken: set[str] = set()

    def add(candidates: Iterable[tuple[str, str]]) -> None:
        for name, other in candidates:
            if name in ours and other in theirs and name not in found and other not in taken:
                found[name] = other
                taken.add(other)

    add((name, name) for name, key in ours.items() if theirs.get(name) == key)
    add((name, other) for name, other in operands if ours.get(name) == theirs.get(other))
    add((name, other) for name, key in ours.items() if (other := _next_open(by_key.get(key), taken)))
    add(operands)
    add((name, name) for name in ours)
    return found


def _next_open(names: deque[str] | None, taken: set[str]) -> str | None:
    """The first of some names that is not taken; those before it are dropped."""
    while names and names[0] in taken:
        names.popleft()
    return names[0] if names else None


def _initializers(view: View) -> dict[str, str]:
    """Content keys of the main graph's initializers by name."""
    main = view.model.graph.initializers
    return {
        value.name: constant.key
        for number, constant in view.constants.items()
        if (value := view.values[number]).name and view.producer[number] is None and main.get(value.name) is value
    }


def corresponding_constants(pairs: Pairs, groups: tuple[Group, ...]) -> Iterator[tuple[str, str]]:
    """Yields names of constants that are the same operand of nodes that correspond, those of one node each first."""
    nodes = [{(n.ref.scope, n.ref.index): n for n in view.nodes} for view in (pairs.before, pairs.after)]
    for group in groups:
        before = [nodes[0][ref.scope, ref.index] for ref in group.before]
        after = [nodes[1][ref.scope, ref.index] for ref in group.after]
        if len(before) == len(after) == 1:
            for ours, theirs in zip(before[0].inputs, after[0].inputs, strict=False):
                if ours in pairs.before.constants and theirs in pairs.after.constants:
                    yield _stored(pairs.before, ours), _stored(pairs.after, theirs)
        elif before and after:
            yield from _by_shape(pairs, before, after)


def _stored(view: View, value: int) -> str:
    """The name of an initializer, or of the one that a constant was dequantized, cast or transposed from."""
    maker = view.maker(value)
    while maker is not None and maker.inputs and maker.inputs[0] in view.constants:
        value = maker.inputs[0]
        maker = view.maker(value)
    return view.name(value)


def _by_shape(pairs: Pairs, before: list[NodeView], after: list[NodeView]) -> Iterator[tuple[str, str]]:
    """Yields the constants of two groups of nodes whose shape, or then number of elements, no other of either has."""
    keys: tuple[Callable[[Constant], object], ...] = (lambda c: c.shape, sorted_shape, lambda c: c.size)
    sides = _constants(pairs.before, before), _constants(pairs.after, after)
    for key in keys:
        ours, theirs = (_grouped(side, key) for side in sides)
        for shape, values in ours.items():
            others = theirs.get(shape, ())
            if len(values) == len(others) == 1:
                yield _stored(pairs.before, values[0]), _stored(pairs.after, others[0])


def _constants(view: View, nodes: list[NodeView]) -> dict[int, Constant]:
    """Constants of known shape that nodes read, by number."""
    read = dict.fromkeys(value for node in nodes for value in node.inputs)
    return {v: view.constants[v] for v in read if v in view.constants and view.constants[v].shape is not None}


def _grouped(constants: Mapping[int, Constant], key: Callable[[Constant], object]) -> Mapping[object, list[int]]:
    found: dict[object, list[int]] = defaultdict(list)
    for value, constant in constants.items():
        found[key(constant)].append(value)
    return found
