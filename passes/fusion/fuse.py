"""The pass that applies the fusion rules."""

from collections import Counter
from dataclasses import dataclass

from sardonyx import ir
from sardonyx.errors import SpecError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.fusion import (
    channelwise,
    clipping,
    gated,
    gelu,
    gemm,
    group_norm,
    joined,
    layer_norm,
    movement,
    norm_parameters,
    padding,
    piecewise,
    recurrent,
    softmax,
)
from sardonyx.passes.rewriting.driver import rewrite_model
from sardonyx.passes.rewriting.rule import Rule

PHASES: tuple[tuple[Rule, ...], ...] = (
    (
        *movement.RULES,
        *layer_norm.RULES,
        *norm_parameters.RULES,
        *group_norm.RULES,
        *softmax.RULES,
        *clipping.RULES,
        *gelu.RULES,
        *gated.RULES,
        *piecewise.RULES,
        *padding.RULES,
        *channelwise.RULES,
        *gemm.RULES,
        *recurrent.RULES,
        *joined.RULES,
    ),
    *((rule,) for rule in movement.LATE_RULES),
)
"""Rules that are applied together until none matches; then those of the next phase."""

RULES: tuple[Rule, ...] = tuple(rule for rules in PHASES for rule in rules)


@dataclass(frozen=True)
class Fuse(Pass):
    """Applies the fusion rules until none matches any more.

    Attributes:
        disable: Names of rules to leave out.
        enable: Names of candidates to apply: rules that are left out otherwise (see `Rule.candidate`).
    """

    name = "fuse"
    summary = "fuse and simplify nodes by rules; " + ", ".join(rule.name for rule in RULES)

    disable: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = [rule.name for rule in RULES]
        unknown = [name for name in (*self.disable, *self.enable) if name not in known]
        if unknown:
            raise SpecError(f"There is no fusion rule {unknown[0]!r}.", remedy=f"Rules: {', '.join(known)}.")

    @ir.paused_gc()
    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Applies the enabled rules.

        Raises:
            PassError: If rules undo each other.
        """
        ir.ensure_shapes(model)
        names = ir.NameAuthority(model)
        stats: Counter[str] = Counter()
        refusals: list[Refusal] = []
        for phase in PHASES:
            done = rewrite_model(model, [rule for rule in phase if self._applies(rule)], names)
            stats += done.stats
            refusals += done.refusals
        return PassResult(model, bool(stats), dict(stats), tuple(refusals))

    def _applies(self, rule: Rule) -> bool:
        return rule.name not in self.disable and (rule.name in self.enable or not rule.candidate)
