"""The structural verifier: one traversal over all graphs, in which every rule of `rules` looks once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx_ir as oir

from sardonyx.errors import VerifyError
from sardonyx.ir.graphs import node_subgraphs, paused_gc, root_graphs
from sardonyx.ir.rules import (
    GRAPH_RULES,
    INITIALIZER_RULES,
    INPUT_RULES,
    NODE_RULES,
    OPERATOR_RULES,
    VALUE_RULES,
    Rule,
    Signature,
    T,
    Walk,
)


@dataclass(frozen=True)
class Violation:
    """A rule that a model breaks.

    Attributes:
        rule: The rule's id.
        message: What is wrong.
        where: The node, value or graph, by name.
        hint: What usually helps.
    """

    rule: str
    message: str
    where: str
    hint: str


def verify(model: oir.Model) -> tuple[Violation, ...]:
    """Checks the structure of a model without reading weights; linear in nodes and values.

    Returns:
        What is wrong, in graph order; empty for a sound model.
    """
    found: list[Violation] = []
    domains = frozenset(function.domain for function in model.functions.values())
    with paused_gc():
        for root in root_graphs(model):
            walk = Walk(model, root.opset_imports, function_domains=domains)
            _Verifier(walk, found).graph(root)
    return tuple(found)


def require_valid(model: oir.Model) -> None:
    """Checks the structure of a model.

    Raises:
        VerifyError: If it breaks a rule, with the first three violations.
    """
    violations = verify(model)
    if violations:
        lines = [f"{v.where}: {v.message} [{v.rule}]" for v in violations[:3]]
        more = f" and {len(violations) - 3} more" if len(violations) > 3 else ""
        raise VerifyError(f"The model is not valid: {'; '.join(lines)}{more}.", remedy=violations[0].hint)


@dataclass(frozen=True)
class _Operator:
    """What is known of an operator, and which rules all its nodes break."""

    signature: Signature | str | None
    broken: tuple[tuple[Rule[oir.Node], str], ...]


class _Verifier:
    """Walks the graphs of one scope tree and asks the rules."""

    def __init__(self, walk: Walk, found: list[Violation]) -> None:
        self._walk = walk
        self._found = found
        self._operators: dict[tuple[str, str, str], _Operator] = {}

    def graph(self, graph: oir.Graph) -> None:
        walk = self._walk
        walk.graphs.append(graph)
        defined: list[oir.Value] = []
        for value in graph.initializers.values():
            self._ask(INITIALIZER_RULES, value, value.name)
        for value in graph.inputs:
            self._define(value, defined)
        for value in graph.initializers.values():
            if not value.is_graph_input():
                self._define(value, defined)
        for node in graph:
            self._node(node, defined)
        self._ask(GRAPH_RULES, graph, graph.name)
        walk.graphs.pop()
        if not walk.graphs:
            return
        walk.visible.difference_update(defined)
        for value in defined:
            if value.name and walk.names.get(value.name) is value:
                del walk.names[value.name]

    def _node(self, node: oir.Node, defined: list[oir.Value]) -> None:
        visible = self._walk.visible
        self._operator(node)
        for value in node.inputs:
            if value is not None and value not in visible:
                self._ask(INPUT_RULES, value, node.name)
        self._ask(NODE_RULES, node, node.name)
        if node.name:
            self._walk.node_names.add(node.name)
        if node.attributes.data:
            for subgraph in node_subgraphs(node):
                self.graph(subgraph)
        for value in node.outputs:
            self._define(value, defined)

    def _operator(self, node: oir.Node) -> None:
        """Looks up what is known of a node's operator, which is asked for once."""
        key = (node.domain, node.op_type, node.overload)
        known = self._operators.get(key)
        if known is None:
            signature = self._walk.operator = self._walk.signature(node)
            checked = ((rule, rule.check(node, self._walk)) for rule in OPERATOR_RULES)
            broken = tuple((rule, message) for rule, message in checked if message is not None)
            known = self._operators[key] = _Operator(signature, broken)
        self._walk.operator = known.signature
        for rule, message in known.broken:
            self._note(rule, message, node.name)

    def _define(self, value: oir.Value, defined: list[oir.Value]) -> None:
        walk = self._walk
        self._ask(VALUE_RULES, value, value.name)
        walk.visible.add(value)
        defined.append(value)
        if value.name:
            walk.names.setdefault(value.name, value)

    def _ask(self, rules: Iterable[Rule[T]], subject: T, where: str | None) -> None:
        for rule in rules:
            message = rule.check(subject, self._walk)
            if message is not None:
                self._note(rule, message, where)

    def _note(self, rule: Rule[Any], message: str, where: str | None) -> None:
        self._found.append(Violation(rule.name, message, where or "", rule.hint))
