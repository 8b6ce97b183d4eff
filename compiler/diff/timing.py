"""Where the time goes in two models: what the runtime's nodes take, by groups of nodes that correspond."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

from networkx.utils import UnionFind

from sardonyx import ir
from sardonyx.diff.drift import input_names
from sardonyx.diff.matching import Matching, NodeRef
from sardonyx.diff.schema import NodeEntry, Part
from sardonyx.diff.segments import Wiring
from sardonyx.measure import Feed
from sardonyx.measure.profile import NodeTime, Profile, ProfileInput, profile_pair

TIMES_VERSION: Final = 1


class Kernel(Part):
    """A node as the runtime runs it: its name and operator there, and seconds a run (median)."""

    name: str
    op_type: str
    seconds: float


class TimedRegion(Part):
    """Nodes of both models that correspond, as far as the runtime does not merge them with others.

    Attributes:
        before: Nodes of the first model.
        after: Nodes of the second.
        before_kernels: What the runtime runs for the nodes of the first; empty where it folded or merged them away.
        after_kernels: What it runs for those of the second.
        before_seconds: Time of the first model's kernels in a run.
        after_seconds: Time of the second's.
    """

    before: tuple[NodeEntry, ...]
    after: tuple[NodeEntry, ...]
    before_kernels: tuple[Kernel, ...]
    after_kernels: tuple[Kernel, ...]
    before_seconds: float
    after_seconds: float


class Times(Part):
    """The time of two models by region.

    Attributes:
        version: Version of this schema.
        regions: In the order of the second model; those that take no time left out.
        before_untraced: Kernels of the first model that belong to no node of it, such as changes of layout.
        after_untraced: The same of the second.
        before_seconds: Median time of all kernels of the first.
        after_seconds: Median time of all kernels of the second.
        runs: Number of runs of each, in alternation.
    """

    version: Literal[1] = TIMES_VERSION
    regions: tuple[TimedRegion, ...]
    before_untraced: tuple[Kernel, ...]
    after_untraced: tuple[Kernel, ...]
    before_seconds: float
    after_seconds: float
    runs: int


def node_times(
    paths: tuple[Path, Path], models: tuple[ir.Model, ir.Model], matching: Matching, feed: Feed, *, runs: int = 20
) -> Times:
    """Times the nodes of two models on one sample, and sums them up by what corresponds.

    Both run in ONNX Runtime with its own optimizations, in alternation. A kernel that the runtime fused from several
    nodes counts for all of them, and the regions that it reaches into are one.

    Args:
        paths: The files.
        models: The same, loaded.
        matching: Of the two.
        feed: A feed of the first model.
        runs: Runs of each that are timed.

    Raises:
        UsageError: If the second model has an input that the first one lacks.
        DataError: If the feed does not fit.
        BackendError: If the runtime refuses or fails to run a model.
    """
    names = input_names(*models, matching)
    feeds = feed, {names.get(name, name): array for name, array in feed.items()}
    wiring = Wiring(models[0].graph), Wiring(models[1].graph)
    first, second = (
        ProfileInput(path, fed, {node.name or "": [value.name or "" for value in node.outputs] for node in model.graph})
        for path, fed, model in zip(paths, feeds, models, strict=True)
    )
    profiles = profile_pair(first, second, runs=runs)
    return _Regions(wiring, matching).sum_up(profiles)


class _Regions:
    """Unites groups of nodes that a kernel spans, and adds up what their kernels take."""

    def __init__(self, wiring: tuple[Wiring, Wiring], matching: Matching) -> None:
        self._wiring = wiring
        self._groups = matching.groups
        self._group_of = (
            {ref.index: n for n, group in enumerate(matching.groups) for ref in group.before if not ref.scope},
            {ref.index: n for n, group in enumerate(matching.groups) for ref in group.after if not ref.scope},
        )
        self._united = UnionFind(range(len(matching.groups)))

    def sum_up(self, profiles: tuple[Profile, Profile]) -> Times:
        """Returns the times of all regions."""
        traced = [self._traced(side, profile.nodes) for side, profile in enumerate(profiles)]
        for numbers in (numbers for side in traced for _, numbers in side if numbers):
            self._united.union(*numbers)
        kernels: tuple[dict[int, list[Kernel]], ...] = (defaultdict(list), defaultdict(list))
        loose: tuple[list[Kernel], ...] = ([], [])
        for side, nodes in enumerate(traced):
            for kernel, numbers in nodes:
                (kernels[side][self._united[numbers[0]]] if numbers else loose[side]).append(kernel)
        members: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self._groups)):
            members[self._united[number]].append(number)
        regions = [
            self._region(members[root], kernels[0].get(root, ()), kernels[1].get(root, ()))
            for root in members
            if root in kernels[0] or root in kernels[1]
        ]
        return Times(
            regions=tuple(regions),
            before_untraced=tuple(loose[0]),
            after_untraced=tuple(loose[1]),
            before_seconds=profiles[0].seconds,
            after_seconds=profiles[1].seconds,
            runs=profiles[0].runs,
        )

    def _traced(self, side: int, nodes: Iterable[NodeTime]) -> list[tuple[Kernel, tuple[int, ...]]]:
        """Returns each kernel with the groups whose nodes it computes: those back to the values of other kernels."""
        wiring, group_of = self._wiring[side], self._group_of[side]
        made: Mapping[str, ir.Value] = wiring.values
        nodes = tuple(nodes)
        stops = frozenset(made[name] for node in nodes for name in node.values if name in made)
        found = []
        for node in nodes:
            covered = wiring.segment([made[name] for name in node.values if name in made], stops).nodes
            numbers = dict.fromkeys(group_of[wiring.index(each)] for each in covered if wiring.index(each) in group_of)
            found.append((Kernel(name=node.name, op_type=node.op_type, seconds=node.seconds), tuple(numbers)))
        return found

    def _region(self, numbers: Iterable[int], before: Iterable[Kernel], after: Iterable[Kernel]) -> TimedRegion:
        groups = [self._groups[number] for number in numbers]
        return TimedRegion(
            before=_entries(ref for group in groups for ref in group.before),
            after=_entries(ref for group in groups for ref in group.after),
            before_kernels=tuple(before),
            after_kernels=tuple(after),
            before_seconds=sum(kernel.seconds for kernel in before),
            after_seconds=sum(kernel.seconds for kernel in after),
        )


def _entries(refs: Iterable[NodeRef]) -> tuple[NodeEntry, ...]:
    return tuple(NodeEntry.of(ref) for ref in refs)
