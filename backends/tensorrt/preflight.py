"""Pre-flight: what TensorRT would make of a model, told before a long build, with the remedy."""

from collections.abc import Sequence
from dataclasses import replace

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Finding, Severity
from sardonyx.backends.tensorrt.legalization import rewrite
from sardonyx.backends.tensorrt.rules import Scope
from sardonyx.backends.tensorrt.rules.examine import examine
from sardonyx.backends.tensorrt.rules.rule import MALFORMED
from sardonyx.backends.tensorrt.settings import ShapeRange
from sardonyx.errors import VerifyError


def preflight(
    model: ir.Model,
    *,
    profile: Sequence[ShapeRange] | None = None,
    compute_capabilities: Sequence[str] = (),
    legalizes: bool = True,
) -> tuple[Finding, ...]:
    """Returns what TensorRT would refuse, compute wrongly, run in float in silence, or what is worth a note.

    Args:
        model: The model; it is not changed. Its shapes are inferred where they are not known.
        profile: Shapes of dynamic inputs; None where they are not chosen yet.
        compute_capabilities: What to build for, such as `8.6`; empty: the builder's default.
        legalizes: Whether legalization comes before the build: what it puts right is then `Severity.REWRITTEN`, and
            findings about what it writes are added. Otherwise the model is judged as it is.

    Returns:
        The findings, the model's first, then in the order of its nodes.
    """
    chosen, targets = None if profile is None else tuple(profile), tuple(compute_capabilities)
    found = examine(Scope(model, chosen, targets))
    if not legalizes:
        return found
    try:
        legal = ir.clone(model)
        rewrite(legal)
    except VerifyError as error:
        return (*found, Finding(MALFORMED.name, MALFORMED.severity, "", "", error.message, error.remedy))
    left = examine(Scope(legal, chosen, targets))
    places = {(each.rule, each.node) for each in left}
    told = {(each.rule, each.node) for each in found}
    return (
        *(each if (each.rule, each.node) in places else _rewritten(each) for each in found),
        *(each for each in left if (each.rule, each.node) not in told),
    )


def _rewritten(finding: Finding) -> Finding:
    return finding if finding.severity is Severity.NOTE else replace(finding, severity=Severity.REWRITTEN)
