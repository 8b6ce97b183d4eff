"""Value numbering: equal numbers for values that two models compute alike, or use alike.

Forward, a value's number stands for all that is computed up to it; backward, for all that is computed with it. Both are
Weisfeiler-Lehman refinements of an acyclic graph, exact instead of iterated: each node is looked at once.
"""

from collections.abc import Mapping, Sequence
from enum import Enum

from sardonyx.diff.view import ABSENT, NodeView, View

SMALL = 8
"""Constants up to this many elements are likely axes, shapes or steps: they stay part of what a node is."""


class Detail(Enum):
    """How much of constants belongs to a number: all of their content, or their shape alone."""

    CONTENT = "content"
    SHAPE = "shape"


class Numbers(dict[object, int]):
    """Gives a number to each key: the same in both models, and in later rounds."""

    def of(self, key: object) -> int:
        """Returns the number of a key."""
        return self.setdefault(key, len(self))


class Numbering:
    """Numbers values of models.

    Args:
        numbers: Where the numbers come from, one object for both models.
        detail: What of constants counts.
    """

    def __init__(self, numbers: Numbers, detail: Detail) -> None:
        self._numbers = numbers
        self._detail = detail

    def constant(self, view: View, value: int) -> int:
        """Number of a constant."""
        constant = view.constants[value]
        if self._detail is Detail.CONTENT or (constant.size <= SMALL and constant.shape is not None):
            return self._numbers.of(("constant", constant.key))
        return self._numbers.of(("constant", constant.shape))

    def forward(self, view: View, known: Mapping[int, int]) -> list[int]:
        """Numbers each value by how it is computed.

        Args:
            view: The model.
            known: Numbers that are given: those of matched values.

        Returns:
            A number for each value of the view.
        """
        of = self._numbers.of
        numbers = [0] * len(view.values)
        for value, root in enumerate(view.root):
            if value in view.constants:
                numbers[value] = self.constant(view, value)
            elif root == value and view.producer[value] is None:
                numbers[value] = known[value] if value in known else of(("free", id(view), value))
        for position, node in enumerate(view.nodes):
            for value in view.entries.get(position, ()):
                numbers[value] = known[value] if value in known else of(self._formal(view, value, numbers))
            if node.transparent:
                numbers[node.outputs[0]] = numbers[node.inputs[0]]
                continue
            key = self._node_key(view, node, numbers)
            for index, value in enumerate(node.outputs):
                if value not in view.constants:
                    numbers[value] = known[value] if value in known else of(("computed", index, key))
        return numbers

    def _formal(self, view: View, value: int, numbers: list[int]) -> object:
        """What a parameter of a body is: which one, and of a node that reads what; of any function alike."""
        formal = view.formals[value]
        if formal.owner is None:
            return "formal", formal.position
        node = view.nodes[formal.owner]
        operands = tuple(ABSENT if operand == ABSENT else numbers[operand] for operand in node.inputs)
        return "formal", formal.position, node.kind, node.attributes, operands

    def _node_key(self, view: View, node: NodeView, numbers: list[int]) -> object:
        operands = [ABSENT if value == ABSENT else numbers[value] for value in node.inputs]
        if node.commutative:
            operands.sort()
        bodies = tuple(numbers[value] for value in node.bodies)
        return self._numbers.of((node.kind, node.attributes, tuple(operands), bodies))

    def backward(self, view: View, known: Mapping[int, int], forward: Sequence[int]) -> list[int]:
        """Numbers each value by what is computed with it.

        Args:
            view: The model.
            known: Numbers that are given: those of matched values and of outputs.
            forward: Numbers of `forward`, of which those of constants and of known values are read.

        Returns:
            A number for each value of the view.
        """
        of = self._numbers.of
        numbers = [0] * len(view.values)
        keys = [0] * len(view.nodes)
        returned = {value: index for index, value in enumerate(view.outputs)}
        within = _readers_of_bodies(view)
        for position in range(len(view.nodes) - 1, -1, -1):
            node = view.nodes[position]
            for value in node.outputs:
                numbers[value] = self._use(view, value, known, keys, (returned, within))
            if not node.transparent:
                keys[position] = of(
                    (
                        "user",
                        node.kind,
                        node.attributes,
                        tuple(numbers[value] for value in node.outputs),
                        self._beside(view, node, known, forward),
                        tuple(known[value] if value in known else _kind(view, value) for value in node.bodies),
                    )
                )
        for value in range(len(view.values)):
            if view.producer[value] is None:
                numbers[value] = self._use(view, value, known, keys, (returned, within))
        return numbers

    def _beside(self, view: View, node: NodeView, known: Mapping[int, int], forward: Sequence[int]) -> object:
        """What is known of a node's operands: constants and matched values; the others are left open."""
        seen = tuple(
            forward[value] if value != ABSENT and (value in view.constants or value in known) else ABSENT
            for value in node.inputs
        )
        return tuple(sorted(seen)) if node.commutative else seen

    def _use(
        self,
        view: View,
        value: int,
        known: Mapping[int, int],
        keys: list[int],
        ends: tuple[Mapping[int, int], Mapping[int, tuple[int, int]]],
    ) -> int:
        root = view.root[value]
        if root in known:
            return known[root]
        returned, within = ends
        uses = sorted(
            (keys[position], 0 if view.nodes[position].commutative else operand)
            for position, operand in view.consumers[root]
            if not view.nodes[position].transparent
        )
        inner = (keys[within[root][0]], within[root][1]) if root in within else None
        return self._numbers.of(("used", tuple(uses), returned.get(root), inner))


def _kind(view: View, value: int) -> object:
    """The operator that computes a value: what a body ends in tells apart an If from one that is inside it."""
    maker = view.maker(value)
    return None if maker is None else maker.kind


def _readers_of_bodies(view: View) -> dict[int, tuple[int, int]]:
    """Position of the node whose body returns a value, and as which output."""
    return {value: (position, i) for position, node in enumerate(view.nodes) for i, value in enumerate(node.bodies)}
