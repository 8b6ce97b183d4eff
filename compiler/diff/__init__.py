"""The diff room: which parts of two models are the same, what became of the rest, and what that does to samples."""

from sardonyx.diff.bisect import Bisection, bisect
from sardonyx.diff.changes import compare
from sardonyx.diff.document import MeasuredDiff
from sardonyx.diff.drift import drift
from sardonyx.diff.drift_schema import Drift
from sardonyx.diff.matching import Group, How, Matching, NodeRef, match
from sardonyx.diff.measuring import DriftOptions
from sardonyx.diff.schema import Diff
from sardonyx.diff.timing import Times, node_times

__all__ = [
    "Bisection",
    "Diff",
    "Drift",
    "DriftOptions",
    "Group",
    "How",
    "Matching",
    "MeasuredDiff",
    "NodeRef",
    "Times",
    "bisect",
    "compare",
    "drift",
    "match",
    "node_times",
]
