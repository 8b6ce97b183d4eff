"""The rules for nodes that only move data, and for those that do nothing."""

from sardonyx.passes.fusion import casts, channels, concats, neutral, reshapes, shape_parts, slices, transposes
from sardonyx.passes.rewriting.rule import Rule

RULES: tuple[Rule, ...] = (
    *channels.RULES,
    *neutral.RULES,
    *casts.RULES,
    *reshapes.RULES,
    *transposes.RULES,
    *slices.RULES,
    *concats.RULES,
)

LATE_RULES: tuple[Rule, ...] = (
    *neutral.LATE_RULES,
    *reshapes.LATE_RULES,
    *slices.LATE_RULES,
    *concats.LATE_RULES,
    *shape_parts.LATE_RULES,
)
"""Rules that write data movement in a way that the patterns of other rules do not know: applied last, one by one."""
