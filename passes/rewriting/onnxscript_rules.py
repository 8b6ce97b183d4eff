"""Rules written for onnxscript's rewriter, as they are, under our driver.

The rule's own matcher, condition and replacement run through its public methods. The driver does the rest: it tries the
rule only at its root's operator, names new nodes, values and initializers so that none replaces another, records where
they came from, removes what died, and looks again at what stands around them. onnxscript is imported where it is used.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sardonyx import ir
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.rewriting.pattern import Match, Mismatch, Op
from sardonyx.passes.rewriting.rule import Editor, RewriteRefusedError, Rule

if TYPE_CHECKING:
    from onnxscript.rewriter import MatchResult, MatchStatus, RewriteRule

_KINDS = "a RewriteRule, a RewriteRuleSet, a RewritePass, a RewriteRuleClassBase, or a sequence of those"


@dataclass(frozen=True)
class OnnxscriptMatch(Match):
    """A match that onnxscript found.

    Attributes:
        replaced: The values that the rule's replacement stands for.
        refusal: Why the rule's condition refused the match; None where it did not.
    """

    replaced: tuple[ir.Value, ...] = ()
    refusal: str | None = None

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """The values that a rewrite replaces."""
        return self.replaced


def adapt_rules(source: object, model: ir.Model) -> list[Rule]:
    """Returns onnxscript rules as rules for our driver, bound to the model they will be applied to.

    As before onnxscript's own rewriting, the values of Constant nodes get their `const_value`.

    Args:
        source: A RewriteRule, RewriteRuleSet, RewritePass, subclass of RewriteRuleClassBase, or a sequence of those.
        model: The model; the rules' own methods take it.

    Raises:
        SpecError: If onnxscript is not installed, `source` is something else, or a rule cannot run here: one that
            extracts a function, or whose root operator is not fixed.
    """
    taken: dict[str, int] = {}
    adapted = []
    for rule in _rules(source):
        name = _kebab(str(rule.name or "onnxscript-rule"))
        taken[name] = taken.get(name, 0) + 1
        adapted.append(_adapted(rule, name if taken[name] == 1 else f"{name}-{taken[name]}", model))
    for graph in ir.all_graphs(model):
        _propagate_constants(graph)
    return adapted


def _rules(source: Any) -> Iterator["RewriteRule"]:
    try:
        from onnxscript.rewriter import RewritePass, RewriteRule, RewriteRuleClassBase, RewriteRuleSet
    except ImportError as error:
        raise SpecError(
            "Rules for onnxscript's rewriter need onnxscript.", remedy="Run pip install 'sardonyx[onnxscript]'."
        ) from error
    if isinstance(source, RewriteRule):
        yield source
    elif isinstance(source, type) and issubclass(source, RewriteRuleClassBase):
        yield source.rule()  # type: ignore[attr-defined]  # the optional package is unknown to the type checker
    elif isinstance(source, RewritePass | RewriteRuleSet):
        yield from source.rules.rules if isinstance(source, RewritePass) else source.rules
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes):
        for part in source:
            yield from _rules(part)
    else:
        raise SpecError(
            f"An object of type {type(source).__name__} holds no onnxscript rules.", remedy=f"Name {_KINDS}."
        )


def _kebab(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")


def _adapted(rule: "RewriteRule", rule_name: str, model: ir.Model) -> Rule:
    """Makes a rule class with the name and the root operator of an onnxscript rule, and its one instance."""
    if rule.as_function:
        raise SpecError(
            f"The onnxscript rule {rule_name} extracts a function, which the driver does not do.",
            remedy="Apply it with onnxscript before compiling.",
        )

    class Adapted(_OnnxscriptRule):
        name = rule_name
        summary = f"onnxscript rule {rule.name or rule_name}"
        pattern = _root(rule, rule_name)

    return Adapted(rule, model)


def _root(rule: "RewriteRule", name: str) -> Op:
    """The operator at which a rule's matcher starts: the first of its pattern's output nodes."""
    root = rule._target_pattern.output_nodes[0]  # the pattern has no public name
    operator, domain = str(root.op), str(root.domain)
    if operator.isidentifier():
        return Op(operator, domain=domain.rstrip("*"), open_inputs=True)
    raise SpecError(
        f"The root of the onnxscript rule {name} is no fixed operator.", remedy="Write one rule for each operator."
    )


class _OnnxscriptRule(Rule):
    """An onnxscript rule with the face of ours."""

    def __init__(self, rule: "RewriteRule", model: ir.Model) -> None:
        self._rule = rule
        self._model = model

    @contextmanager
    def at_work(self, graph: ir.Graph, model: ir.Model) -> Iterator[None]:
        """Lets the rule prepare and clean up."""
        if self._rule.graph_pre_visitor is not None:
            self._rule.graph_pre_visitor()
        try:
            yield
        finally:
            if self._rule.graph_post_visitor is not None:
                self._rule.graph_post_visitor()

    def find(self, node: ir.Node) -> Match | Mismatch:
        """Runs the rule's matcher and condition."""
        from onnxscript.rewriter import MatchStatus

        logged = _Log()
        removes = self._rule.remove_nodes
        with _told_as_pass_error(self.name, node):
            result = self._rule.match(self._model, node.graph, node, check_nodes_are_removable=removes, tracer=logged)
        if result:
            return _match(node, result, tuple(result.outputs), None)
        last = logged.result
        if logged.status is MatchStatus.CONDITION_FAILED and last is not None:
            return _match(node, last, (), logged.reason("its condition does not hold"))
        return Mismatch(logged.reason("nothing matched"), node.name or "", 0 if last is None else len(last.nodes))

    def check(self, found: Match, opset: int) -> str | None:
        """Returns what the rule's condition said."""
        return found.refusal if isinstance(found, OnnxscriptMatch) else None

    def rewrite(self, found: Match, editor: Editor) -> Sequence[ir.Value]:
        """Lets the rule build its replacement, and takes it over under new names.

        Raises:
            RewriteRefusedError: If the rule gives no replacement, or initializers for the body of a function.
            PassError: If the rule's code raises.
        """
        logged = _Log()
        with _told_as_pass_error(self.name, found.root):
            made = self._rule.try_rewrite(self._model, editor.graph, found.root, tracer=logged)
        reason = logged.reason("it gave no replacement") if made is None else None
        if made is not None and made.new_initializers and self._in_function(editor.graph):
            reason = "the body of a function holds no initializers"
        if made is None or reason is not None:
            _drop_unfinished(found)
            raise RewriteRefusedError(reason or "")
        for initializer in made.new_initializers:
            if not initializer.is_initializer():
                initializer.name = editor.names.value(initializer.name or f"{found.root.name}_{self.name}")
                editor.graph.register_initializer(initializer)
        for node in made.new_nodes:
            editor.adopt(node)
        _propagate_constants(made.new_nodes)
        return tuple(made.new_outputs)

    def _in_function(self, graph: ir.Graph) -> bool:
        return any(function.graph is graph for function in self._model.functions.values())


@dataclass
class _Log:
    """Takes the place of onnxscript's MatchingTracer: keeps the last result, with its reason."""

    status: "MatchStatus | None" = None
    result: "MatchResult | None" = None

    def log(self, rule: object, container: object, node: object, match_result: Any, status: Any) -> None:
        """Called by the rule when a match ends."""
        self.status, self.result = status, match_result

    def reason(self, default: str) -> str:
        """Returns what the rule said, or `default` where it said nothing."""
        return str(self.result.reason) if self.result is not None and self.result.reason else default


@contextmanager
def _told_as_pass_error(rule: str, node: ir.Node) -> Iterator[None]:
    """Names the rule and the node where code of others raises."""
    try:
        yield
    except Exception as error:  # whatever the rule's own code raises
        raise PassError(
            f"The onnxscript rule {rule} raised {type(error).__name__} at node {node.name!r}: {error}",
            remedy="Leave the rule out, or mend it.",
        ) from error


def _match(root: ir.Node, result: Any, replaced: tuple[ir.Value, ...], refusal: str | None) -> OnnxscriptMatch:
    inner = dict.fromkeys(node for node in result.nodes if node is not root)
    return OnnxscriptMatch(root, (*inner, root), {}, {}, replaced, refusal)


def _propagate_constants(nodes: Iterable[ir.Node]) -> None:
    """Sets `const_value` of the outputs of Constant nodes, from which rules read constants."""
    from onnxscript import optimizer

    optimizer.basic_constant_propagation(nodes)


def _drop_unfinished(found: Match) -> None:
    """Detaches nodes that a rule built and did not hand over: they would count as readers of the graph's values."""
    for value in {v for node in found.nodes for v in (*node.inputs, *node.outputs) if v is not None}:
        for use in tuple(value.uses()):
            if use.node.graph is None:
                use.node.replace_input_with(use.idx, None)
