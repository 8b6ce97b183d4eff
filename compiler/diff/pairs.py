"""The values of two models that are taken to be the same quantity, as far as is known."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sardonyx import ir
from sardonyx.diff.view import FLOATS, View

BothNumbers = tuple[Sequence[int], Sequence[int]]
"""A number for each value, of both models."""


@dataclass(eq=False)
class Pairs:
    """Matched values, one to one, with the evidence.

    Attributes:
        before: The first model.
        after: The second model.
        forward: Number of a value of the first model -> that of its partner.
        backward: The reverse.
        evidence: Why, by number of the first model.
        doubles: Values of the first model that are computed once in the second, though not alone: number -> number.
        new: Values of the first model that were matched since this list was last emptied.
    """

    before: View
    after: View
    forward: dict[int, int] = field(default_factory=dict)
    backward: dict[int, int] = field(default_factory=dict)
    evidence: dict[int, str] = field(default_factory=dict)
    doubles: dict[int, int] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)

    def add(self, before: int, after: int, evidence: str) -> bool:
        """Matches two values, unless either has a partner, is constant, or they cannot be the same quantity."""
        if before in self.forward or after in self.backward:
            return False
        if before in self.before.constants or after in self.after.constants or not self.alike(before, after):
            return False
        self.forward[before] = after
        self.backward[after] = before
        self.evidence[before] = evidence
        self.new.append(before)
        return True

    def alike(self, before: int, after: int) -> bool:
        """Whether two values may be the same quantity: types but for precision, ranks, and whether they are inputs."""
        first, second = self.before.values[before], self.after.values[after]
        if not _types_alike(self.before.dtype(before), self.after.dtype(after)):
            return False
        return first.shape is None or second.shape is None or len(first.shape) == len(second.shape)

    def same_shape(self, before: int, after: int) -> bool:
        """Whether no dimension is known to differ."""
        first, second = self.before.shape(before), self.after.shape(after)
        if first is None or second is None:
            return True
        if len(first) != len(second):
            return False
        return all(a is None or b is None or a == b for a, b in zip(first, second, strict=True))

    def made_alike(self, before: int, after: int) -> bool:
        """Whether the same operator computes two values, or one of which the other model has none."""
        ours, theirs = self.before.maker(before), self.after.maker(after)
        if ours is None or theirs is None or ours.kind == theirs.kind:
            return True
        return ours.kind not in self.after.kinds or theirs.kind not in self.before.kinds

    def by_number(self, numbers: BothNumbers, evidence: str, uses: Callable[[], BothNumbers] | None = None) -> int:
        """Matches values of equal numbers: of equal names, then of equal uses, then by operator, and the rest in order.

        Args:
            numbers: A number for each value, of both models.
            evidence: What equal numbers mean.
            uses: Numbers for what is computed with each value, asked for where several have the same number. They are
                given where equal numbers mean that the same is computed: a surplus is then noted in `doubles`.

        Returns:
            How many were matched.
        """
        theirs: dict[int, list[int]] = defaultdict(list)
        for value in self.after.roots():
            if value not in self.backward:
                theirs[numbers[1][value]].append(value)
        ours: dict[int, list[int]] = defaultdict(list)
        for value in self.before.roots():
            if value not in self.forward and numbers[0][value] in theirs:
                ours[numbers[0][value]].append(value)
        found = 0
        for number, values in ours.items():
            partners = theirs[number]
            if len(values) != len(partners) and uses is None:
                continue  # which of them it is cannot be told
            for before, after in self._in_order(values, partners, uses):
                found += self.add(before, after, evidence)
            if uses is not None:
                self.doubles.update((value, partners[0]) for value in values if value not in self.forward)
        return found

    def _in_order(
        self, values: Sequence[int], partners: Sequence[int], uses: Callable[[], BothNumbers] | None
    ) -> Iterable[tuple[int, int]]:
        if len(values) == len(partners) == 1:
            return [(values[0], partners[0])]
        tellers: list[Callable[[int, Sequence[int]], Mapping[Any, int]]] = [self._by_name, self._by_rank]
        if uses is not None:
            tellers.insert(1, lambda side, rest: {uses()[side][value]: value for value in rest})
        left: tuple[Sequence[int], Sequence[int]] = values, partners
        found: list[tuple[int, int]] = []
        for tell in tellers:
            if not all(left):
                break
            ours, theirs = tell(0, left[0]), tell(1, left[1])
            told = [(value, theirs[key]) for key, value in ours.items() if key in theirs]
            taken = {v for v, _ in told}, {v for _, v in told}
            left = [v for v in left[0] if v not in taken[0]], [v for v in left[1] if v not in taken[1]]
            found += told
        return [*found, *zip(*left, strict=False)]

    def _by_name(self, side: int, values: Sequence[int]) -> dict[str, int]:
        view = (self.before, self.after)[side]
        return {view.name(value): value for value in values}

    def _by_rank(self, side: int, values: Sequence[int]) -> dict[tuple[object, int], int]:
        return by_rank((self.before, self.after)[side], values)

    def known(self) -> tuple[dict[int, int], dict[int, int]]:
        """Returns numbers for the matched values of both models, below all others."""
        first = {value: -1 - value for value in self.forward}
        return first, {partner: first[value] for value, partner in self.forward.items()}


def by_rank(view: View, values: Sequence[int]) -> dict[tuple[object, int], int]:
    """Returns values by the operator that computes them and how many of it came before."""
    found: dict[tuple[object, int], int] = {}
    counts: dict[object, int] = defaultdict(int)
    for value in values:
        maker = view.maker(value)
        kind = None if maker is None else maker.kind
        found[kind, counts[kind]] = value
        counts[kind] += 1
    return found


def _types_alike(first: ir.DataType | None, second: ir.DataType | None) -> bool:
    return first is None or second is None or first == second or (first in FLOATS and second in FLOATS)
