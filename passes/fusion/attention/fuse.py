"""The pass that applies the fusions of transformers which the target's table admits."""

from dataclasses import dataclass

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.fusion.attention import attention, gelu, packed, rotary, skip
from sardonyx.passes.fusion.attention.rule import FusedRule
from sardonyx.passes.rewriting.driver import rewrite_model

RULES: tuple[type[FusedRule], ...] = (
    *rotary.RULES,
    *attention.RULES,
    *packed.RULES,
    *gelu.RULES,
    *skip.RULES,
)
"""Where several start at one node, the first that fits is taken."""

CHOICE = "nothing: it applies where fuse-transformer takes it"
"""What kept a fused form from being made that the target runs and that fits."""


def admitted(capabilities: Capabilities | None) -> tuple[FusedRule, ...]:
    """Returns the rules whose operator a target runs; without a target, those that make standard operators."""
    if capabilities is None:
        return tuple(rule() for rule in RULES if not rule.domain)
    rows = ((rule, capabilities.fused.get((rule.domain, rule.op_type))) for rule in RULES)
    return tuple(rule(support) for rule, support in rows if support is not None)


@dataclass(frozen=True)
class FuseTransformer(Pass):
    """Writes attention, rotary embedding, Gelu and normalization to fused operators that the target runs.

    Operators that the target's table keeps as choices are made only where `enable` names their rule. Without a table
    only standard operators are made.

    Attributes:
        enable: Names of rules to apply although their operator may be slower than what it replaces.
        disable: Names of rules to leave out.
    """

    name = "fuse-transformer"
    summary = "fused operators of transformers that the target runs; " + ", ".join(rule.name for rule in RULES)

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = [rule.name for rule in RULES]
        unknown = [name for name in (*self.enable, *self.disable) if name not in known]
        if unknown:
            raise SpecError(f"There is no transformer rule {unknown[0]!r}.", remedy=f"Rules: {', '.join(known)}.")

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Applies the admitted rules that are defaults or enabled.

        Raises:
            PassError: If rules undo each other.
        """
        rules = admitted(context.capabilities)
        target = "no target" if context.capabilities is None else context.capabilities.target
        missing = tuple(
            Refusal(rule.name, f"{target} has no {rule.domain or 'standard'} {rule.op_type} in its table")
            for rule in RULES
            if rule.name in self.enable and rule not in map(type, rules)
        )
        chosen = [rule for rule in rules if self._takes(rule, context.capabilities)]
        ir.infer_shapes(model)
        done = rewrite_model(model, chosen)
        if done.stats:  # the nodes beside the fused ones have no shapes yet
            ir.infer_shapes(model)
        return PassResult(model, bool(done.stats), dict(done.stats), (*missing, *done.refusals))

    def _takes(self, rule: FusedRule, capabilities: Capabilities | None) -> bool:
        default = capabilities is None or rule.support.default
        return rule.name not in self.disable and (default or rule.name in self.enable)
