"""The rules of what TensorRT takes, as tables: one row a rule, grouped by what they look at."""

from sardonyx.backends.tensorrt.rules import graph, integers, operators, parameters, projections
from sardonyx.backends.tensorrt.rules.rule import MALFORMED, Rule, Scope

RULES: tuple[Rule, ...] = (
    *graph.RULES,
    MALFORMED,
    *operators.RULES,
    *parameters.RULES,
    *integers.RULES,
    *projections.RULES,
)
"""All rules, in the order in which their findings are reported."""

__all__ = ["RULES", "Rule", "Scope"]
