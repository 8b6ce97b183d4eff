"""What differs between two matched models, by kind."""

from collections import Counter

from sardonyx import ir
from sardonyx.diff.matching import Matching
from sardonyx.diff.schema import Cost, Diff, NodeEntry, Region, Totals


def compare(before: ir.Model, after: ir.Model, matching: Matching) -> Diff:
    """Says what differs between two models.

    Args:
        before: The first model.
        after: The second model.
        matching: What corresponds, from `match` of these very models.

    Raises:
        LoadError: If external weights can no longer be read.
    """
    regions = tuple(
        Region(
            how=group.how,
            before=tuple(map(NodeEntry.of, group.before)),
            after=tuple(map(NodeEntry.of, group.after)),
            evidence=group.evidence,
        )
        for group in matching.groups
        if group.how not in ("same", "renamed")
    )
    counts = Counter(group.how for group in matching.groups)
    return Diff(
        same=not regions,
        identical=not regions and not counts["renamed"],
        counts=dict(counts),
        unchanged=counts["same"],
        regions=regions,
        before=_totals(before),
        after=_totals(after),
    )


def _totals(model: ir.Model) -> Totals:
    return Totals(cost=Cost(nodes=ir.num_nodes(model)), operators=ir.operator_counts(model), nbytes=ir.nbytes(model))
