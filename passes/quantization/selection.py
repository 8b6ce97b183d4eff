"""Selecting nodes by pattern: what a user excludes from quantization, or includes.

/model/head/*               nodes whose name matches, or that were made from one which does
op:Softmax                  all nodes of an operator
region:backbone..neck_out   all nodes on a way from one node or value to another
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.provenance import sources

OPERATOR, REGION, BETWEEN = "op:", "region:", ".."


def select(model: ir.Model, patterns: Sequence[str]) -> Mapping[str, str]:
    """Returns the names of the nodes that patterns select, each with the first pattern that selects it.

    Args:
        model: The model whose nodes, those of subgraphs included, are selected from.
        patterns: As in the module's description.

    Raises:
        SpecError: If a pattern selects nothing: most often a name is misspelt.
    """
    selected: dict[str, str] = {}
    nodes = [node for graph in ir.all_graphs(model) for node in graph] if patterns else []
    by_name: dict[str, list[ir.Node]] = {}
    for node in nodes:
        for name in (node.name or "", *sources(node)):
            by_name.setdefault(name, []).append(node)
    for pattern in patterns:
        found = by_name.get(pattern) or _select(nodes, pattern)
        names = [node.name or "" for node in found]
        if not names:
            raise SpecError(
                f"The pattern {pattern!r} matches no node of the model.",
                remedy="Give a node name (with * as wildcard), op:OPERATOR or region:FROM..TO; "
                "`sardonyx inspect` lists operators, and plan.json names nodes.",
            )
        for name in names:
            selected.setdefault(name, pattern)
    return selected


def kept_float(model: ir.Model, exclude: Sequence[str], include: Sequence[str]) -> dict[str, str]:
    """Returns the reason by name of each node that a pass's options keep in float.

    Args:
        model: The model.
        exclude: Patterns of nodes to keep in float.
        include: Patterns of the only nodes to quantize; empty for all.

    Raises:
        SpecError: If a pattern selects nothing.
    """
    reasons = {name: f"excluded by {pattern!r}" for name, pattern in select(model, exclude).items()}
    if include:
        included = select(model, include)
        for graph in ir.all_graphs(model):
            for node in graph:
                if node.name not in included:
                    reasons.setdefault(node.name or "", "it is not among the included nodes")
    return reasons


def _select(nodes: Sequence[ir.Node], pattern: str) -> Iterable[ir.Node]:
    if pattern.startswith(OPERATOR):
        operator = pattern.removeprefix(OPERATOR)
        return [node for node in nodes if operator in (node.op_type, f"{node.domain}::{node.op_type}")]
    if pattern.startswith(REGION):
        first, between, last = pattern.removeprefix(REGION).partition(BETWEEN)
        if not between:
            raise SpecError(f"The region {pattern!r} lacks its end.", remedy="Write region:FROM..TO.")
        behind, before = _reachable(nodes, first, forwards=True), _reachable(nodes, last, forwards=False)
        return [node for node in nodes if node in behind and node in before]
    return [node for node in nodes if any(fnmatchcase(name, pattern) for name in (node.name or "", *sources(node)))]


def _reachable(nodes: Sequence[ir.Node], name: str, *, forwards: bool) -> set[ir.Node]:
    """Nodes from which, or to which, a way leads along values; those of the name itself included."""
    reached: set[ir.Node] = set()
    reached_values: set[ir.Value] = set()
    for node in nodes if forwards else reversed(nodes):
        coming = {v for v in (node.inputs if forwards else node.outputs) if v is not None}
        leaving = {v for v in (node.outputs if forwards else node.inputs) if v is not None}
        named = node.name == name or any(v.name == name for v in coming)
        if named or not reached_values.isdisjoint(coming):
            reached.add(node)
            reached_values |= leaving
    return reached
