"""The diff room: which parts of two models are the same, and what became of the rest."""

from sardonyx.diff.changes import compare
from sardonyx.diff.matching import Group, How, Matching, NodeRef, match
from sardonyx.diff.schema import Diff

__all__ = ["Diff", "Group", "How", "Matching", "NodeRef", "compare", "match"]
