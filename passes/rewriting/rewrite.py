"""The pass that applies rules from other packages: ours, or those written for onnxscript's rewriter."""

from collections.abc import Iterable
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.measure.importing import import_object
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.rewriting.driver import rewrite_model
from sardonyx.passes.rewriting.onnxscript_rules import adapt_rules
from sardonyx.passes.rewriting.rule import Rule


@dataclass(frozen=True)
class Rewrite(Pass):
    """Applies rules that are named by their import path until none matches any more.

    Attributes:
        rules: Paths of the form `package.module:NAME`; each names a Rule of ours, a rule of onnxscript (RewriteRule,
            RewriteRuleSet, RewritePass or a subclass of RewriteRuleClassBase), or a sequence of one kind.
    """

    name = "rewrite"
    summary = 'apply rules of other packages, ours or onnxscript\'s: rewrite{rules="package.module:NAME"}'

    rules: tuple[str, ...] = ()

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Applies the rules.

        Raises:
            SpecError: If no rules are named, or what is named holds none.
            DataError: If a path leads nowhere.
            PassError: If a rule's code raises, or rules undo each other.
        """
        if not self.rules:
            raise SpecError("The pass 'rewrite' names no rules.", remedy='Write rewrite{rules="package.module:NAME"}.')
        ir.ensure_shapes(model)
        rules = [rule for path in self.rules for rule in _named(path, model)]
        done = rewrite_model(model, rules)
        return PassResult(model, bool(done.stats), dict(done.stats), tuple(done.refusals))


def _named(path: str, model: ir.Model) -> list[Rule]:
    """Imports what a path names, as rules."""
    found = import_object(path, what="rule")
    ours = list(found) if isinstance(found, Iterable) and not isinstance(found, str | bytes) else [found]
    if ours and all(isinstance(rule, Rule) for rule in ours):
        return ours
    return adapt_rules(found, model)
