"""Asking all rules of one model as it is."""

from collections.abc import Iterable

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Finding
from sardonyx.backends.tensorrt.rules import RULES
from sardonyx.backends.tensorrt.rules.rule import Rule, Scope


def examine(scope: Scope) -> tuple[Finding, ...]:
    """Returns what TensorRT would refuse, change or run otherwise in a model as it is: by model first, then by node.

    Rules of one id tell a node once.
    """
    ir.ensure_shapes(scope.model)
    found = [finding for rule in RULES for finding in rule.find(scope)]
    by_operator = _index(rule for rule in RULES if rule.check is not None)
    everywhere = by_operator.get("", [])
    for graph in ir.all_graphs(scope.model):
        for node in graph:
            for rule in (*everywhere, *by_operator.get(node.op_type, ())):
                finding = rule.look(node, scope)
                if finding is not None:
                    found.append(finding)
    return tuple(dict.fromkeys(found))


def _index(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    index: dict[str, list[Rule]] = {}
    for rule in rules:
        for operator in rule.operators or ("",):
            index.setdefault(operator, []).append(rule)
    return index
