"""Applies rules to a graph: indexed by root operator, driven by a worklist, in time linear in the graph.

A rule is tried only at nodes of its root's operators, and only in graphs that have all operators it needs. After a
rewrite the nodes around it are looked at again. A pair of rules that undo each other is stopped and named.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.passes.base import Refusal
from sardonyx.passes.rewriting.pattern import Match, Mismatch, Start, operators, roots, starts
from sardonyx.passes.rewriting.rule import Editor, RewriteRefusedError, Rule

REWRITES_PER_NODE = 8
"""More rewrites than this many times the nodes of a graph, and rules are undoing each other."""

APPLIES = "nothing: it applies"
"""What `near_misses` says where nothing keeps a rule from being applied."""


@dataclass
class Rewriting:
    """What the driver did.

    Attributes:
        stats: How often each rule was applied.
        refusals: Matches that a rule's check refused, with the reason and the matched nodes.
        domains: Domains of the nodes made, besides the standard one.
    """

    stats: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)


def rewrite_model(model: ir.Model, rules: Sequence[Rule], names: ir.NameAuthority | None = None) -> Rewriting:
    """Applies rules to all graphs of a model, in place, until none matches any more.

    Args:
        model: The model.
        rules: The rules, in the order in which they are tried at a node.
        names: Gives names; where several sets of rules are applied, it need not collect those taken for each.

    Raises:
        PassError: If rules undo each other; the message names them.
    """
    done = Rewriting()
    names = names or ir.NameAuthority(model)
    indexed = tuple(_indexed(rule) for rule in rules)
    opset = model.opset_imports.get("", 0)
    for graph in list(ir.all_graphs(model)):
        with ExitStack() as at_work:
            for rule in rules:
                at_work.enter_context(rule.at_work(graph, model))
            _GraphRewriter(graph, indexed, names, opset, done).run()
    for domain in done.domains:
        model.opset_imports.setdefault(domain, 1)
    return done


def near_misses(model: ir.Model, rules: Sequence[Rule], node_name: str) -> Iterator[tuple[Rule, str]]:
    """Yields, for a node, each rule that could start at it and what kept it from being applied there."""
    opset = model.opset_imports.get("", 0)
    for graph in ir.all_graphs(model):
        for node in graph:
            if node.name != node_name:
                continue
            for rule in rules:
                if any(node.op_type in root.op_types and node.domain == root.domain for root in roots(rule.pattern)):
                    with rule.at_work(graph, model):
                        found = rule.find(node)
                        reason = found.reason if isinstance(found, Mismatch) else rule.check(found, opset)
                    applies = f"{APPLIES} where it is enabled" if rule.candidate else APPLIES
                    yield rule, reason or applies


def would_apply(model: ir.Model, rules: Sequence[Rule], opset: int) -> Iterator[tuple[Rule, ir.Node]]:
    """Yields the rules that would apply if the model were of an opset, each with the node that it would start at.

    Types and shapes are inferred first where some rule's operators are there at all.
    """
    indexed = tuple(_indexed(rule) for rule in rules)
    names = ir.NameAuthority(model)
    for graph in ir.all_graphs(model):
        rewriter = _GraphRewriter(graph, indexed, names, opset, Rewriting())
        if not rewriter.index:
            continue
        ir.ensure_shapes(model)
        with ExitStack() as at_work:
            for rule in rules:
                at_work.enter_context(rule.at_work(graph, model))
            for node in graph:
                yield from ((rule, node) for rule, _ in rewriter.applicable(node))


class _Indexed:
    """A rule, with what can be seen of its pattern without matching it."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.needs = tuple(operators(rule.pattern))
        self.starts: dict[str, list[Start]] = {}
        for start in starts(rule.pattern):
            for op_type in start.op_types:
                self.starts.setdefault(op_type, []).append(start)


@lru_cache(maxsize=1024)
def _indexed(rule: Rule) -> _Indexed:
    """Walks through a rule's pattern once in the life of the rule."""
    return _Indexed(rule)


class _GraphRewriter:
    def __init__(
        self, graph: ir.Graph, rules: Sequence[_Indexed], names: ir.NameAuthority, opset: int, done: Rewriting
    ) -> None:
        self.graph = graph
        self.names = names
        self.opset = opset
        self.done = done
        self.refused: set[tuple[str, str | None]] = set()
        self.left: dict[ir.Value, None] = {}  # initializers that removed nodes have read
        self.present = {node.op_type for node in graph}
        self.rules = rules
        self.index: dict[str, list[_Indexed]] = {}
        self._build_index()

    def _build_index(self) -> None:
        """Lists, by root operator, the rules whose operators the graph has."""
        self.index.clear()
        for each in self.rules:
            if not any(self.present.isdisjoint(wanted) for wanted in each.needs):
                for op_type in each.starts:
                    self.index.setdefault(op_type, []).append(each)

    def run(self) -> None:
        if not self.index:
            return
        queue = deque(self.graph)
        queued = set(queue)
        budget = REWRITES_PER_NODE * len(self.graph) + 100
        fired: deque[str] = deque(maxlen=20)
        while queue:
            node = queue.popleft()
            queued.discard(node)
            if node.graph is not self.graph:
                continue
            rule, neighbours = self._try(node)
            if rule is None:
                continue
            fired.append(rule)
            budget -= 1
            if budget < 0:
                raise PassError(
                    f"The rules {', '.join(sorted(set(fired)))} undo each other in graph {self.graph.name!r}.",
                    remedy="Disable one of them: fuse{disable=[...]}.",
                )
            for other in neighbours:
                if other.graph is self.graph and other not in queued:
                    queued.add(other)
                    queue.append(other)
        ir.remove_unused_initializers(self.left)

    def applicable(self, node: ir.Node) -> Iterator[tuple[Rule, Match]]:
        """Yields the matches at a node that no check refuses, and notes the others."""
        candidates = self.index.get(node.op_type)
        if candidates is None:
            return
        producers = [value.producer() for value in node.inputs if value is not None]
        computed_by = {producer.op_type for producer in producers if producer is not None}
        constants = sum(producer is None or producer.op_type == "Constant" for producer in producers)
        for each in candidates:
            if not any(start.admits(computed_by, constants) for start in each.starts[node.op_type]):
                continue
            found = each.rule.find(node)
            if isinstance(found, Mismatch):
                continue
            reason = each.rule.check(found, self.opset)
            if reason is None:
                yield each.rule, found
            else:
                self._refuse(each.rule, found, reason)

    def _try(self, node: ir.Node) -> tuple[str | None, list[ir.Node]]:
        for rule, found in self.applicable(node):
            try:
                return rule.name, self._apply(rule, found)
            except RewriteRefusedError as refusal:
                self._refuse(rule, found, refusal.message)
        return None, []

    def _refuse(self, rule: Rule, found: Match, reason: str) -> None:
        key = (rule.name, found.root.name)
        if key not in self.refused:
            self.refused.add(key)
            self.done.refusals.append(Refusal(rule.name, reason, tuple(n.name or "" for n in found.nodes)))

    def _apply(self, rule: Rule, found: Match) -> list[ir.Node]:
        """Rewrites a match and returns the nodes around it that are worth another look."""
        editor = Editor(self.graph, self.names, rule.name, found)
        rewritten = rule.rewrite(found, editor)
        replacements = (rewritten,) if isinstance(rewritten, ir.Value) else tuple(rewritten)
        exchanged = [*zip(found.outputs, replacements, strict=False), *editor.replaced]
        elsewhere = any(output.producer() is not found.root for output in found.outputs)
        beside = [old.producer() for old, _ in editor.replaced]
        for old, new in exchanged:
            self._exchange(old, new, editor)
        unused = [*reversed(found.nodes), *(node for node in beside if node is not None)]
        self.left.update(dict.fromkeys(ir.remove_unused_nodes(unused)))
        if elsewhere:
            self.graph.sort()  # readers of another node's output may stand before the root
        self.done.stats[rule.name] += 1
        self.done.domains.update(node.domain for node in editor.made if node.domain)
        made = {node.op_type for node in editor.made}
        if not made <= self.present:
            self.present |= made
            self._build_index()
        values = [new for _, new in exchanged]
        return _around([*editor.made, *(value.producer() for value in values)], values)

    def _exchange(self, old: ir.Value, new: ir.Value, editor: Editor) -> None:
        if new is old:
            return
        if old.is_graph_output() and not _may_be_output(new, self.graph):
            new = editor.op("Identity", [new])
        replace_value(old, new)


def _around(made: Sequence[ir.Node | None], values: Sequence[ir.Value]) -> list[ir.Node]:
    """Nodes that may match now: new ones, what they read from, and what reads the replacements."""
    nodes = [node for node in made if node is not None]
    feeding = [v.producer() for node in nodes for v in node.inputs if v is not None]
    using = [use.node for value in values for use in value.uses()]
    return [node for node in (*nodes, *using, *feeding) if node is not None]


def _may_be_output(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether a value can take over the name of a graph output: inputs and other outputs keep their own."""
    producer = value.producer()
    return producer is not None and producer.graph is graph and not value.is_graph_output()


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Gives a value's type and shape, where unknown, its uses and, where it is a graph output, its name to another."""
    if new.type is None:
        new.type = old.type
    if new.shape is None:
        new.shape = old.shape
    if not old.is_graph_output():
        ir.replace_all_uses_with(old, new)
        return
    name = old.name
    ir.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = None, name
