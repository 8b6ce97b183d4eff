"""Provenance: every node that a pass makes or changes says which rule did it, and from what."""

from sardonyx.ir.provenance import RULE_KEY, SOURCE_KEY, mark, rules, sources

__all__ = ["RULE_KEY", "SOURCE_KEY", "mark", "rules", "sources"]
