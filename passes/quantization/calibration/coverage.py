"""Which samples have been observed: sets of indices as sorted, disjoint ranges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

IndexRange = tuple[int, int]
"""Indices start, ..., stop - 1."""


@dataclass(frozen=True)
class Coverage:
    """A set of sample indices.

    Attributes:
        ranges: Sorted, not empty, neither overlapping nor touching.
    """

    ranges: tuple[IndexRange, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[Sequence[int]]) -> Self:
        """Joins ranges in any order."""
        joined: list[IndexRange] = []
        for start, stop in sorted((int(start), int(stop)) for start, stop in ranges if start < stop):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            else:
                joined.append((start, stop))
        return cls(tuple(joined))

    def __contains__(self, index: int) -> bool:
        return any(start <= index < stop for start, stop in self.ranges)

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    def with_ranges(self, ranges: Iterable[IndexRange]) -> "Coverage":
        """Returns the set with more indices."""
        return Coverage.of((*self.ranges, *ranges))

    def missing(self, total: int, longest: int) -> list[IndexRange]:
        """Returns the indices below `total` that are not in the set, in ranges of at most `longest`."""
        gaps, at = [], 0
        for start, stop in (*self.ranges, (total, total)):
            end = min(start, total)
            gaps += [(i, min(i + longest, end)) for i in range(at, end, longest)]
            at = max(at, stop)
        return gaps
