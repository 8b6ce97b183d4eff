"""What a rule of pre-flight is: where it looks, what it finds there, and the words for it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Finding, Severity
from sardonyx.backends.tensorrt.settings import ShapeRange
from sardonyx.errors import VerifyError


@dataclass(frozen=True)
class Scope:
    """What rules may ask about besides the node they look at.

    Attributes:
        model: The model, with shapes inferred.
        profile: Shapes of dynamic inputs; None where they are not chosen yet.
        targets: Compute capabilities to build for, such as `8.6`; empty: the builder's default.
    """

    model: ir.Model
    profile: tuple[ShapeRange, ...] | None = None
    targets: tuple[str, ...] = ()

    @property
    def opset(self) -> int:
        """Version of the standard operators; 0 where the model imports none."""
        return self.model.opset_imports.get("", 0)


@dataclass(frozen=True)
class Hit:
    """A place where a rule is broken.

    Attributes:
        tensor: The value concerned, empty if it is the node as a whole.
        detail: What the message puts in the place of `{detail}`.
        remedy: What helps here, where that is not what always helps.
    """

    tensor: str = ""
    detail: str = ""
    remedy: str = ""


CONTRADICTIONS = (IndexError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError, VerifyError)
"""What looking at a node raises whose inputs or attributes break its operator's schema."""

NodeCheck = Callable[[ir.Node, Scope], "Hit | None"]
ModelCheck = Callable[[Scope], Iterable[tuple[str, Hit]]]


@dataclass(frozen=True)
class Rule:
    """One row of what TensorRT takes.

    Attributes:
        name: The id, in kebab-case.
        severity: What TensorRT does where the rule is broken.
        message: A sentence with `{node}`, `{op}`, `{tensor}` and `{detail}`.
        remedy: What to do, as a sentence.
        check: Looks at a node of one of `operators`.
        operators: Names of the operators to look at, in any domain; empty: all.
        model_check: Looks at the model once instead; yields names of nodes, empty for none, with hits.
    """

    name: str
    severity: Severity
    message: str
    remedy: str
    check: NodeCheck | None = None
    operators: frozenset[str] = field(default_factory=frozenset)
    model_check: ModelCheck | None = None

    def find(self, scope: Scope) -> Iterator[Finding]:
        """Yields what breaks the rule as a whole model sees it."""
        if self.model_check is not None:
            for node, hit in self.model_check(scope):
                yield self.finding(node, "", hit)

    def look(self, node: ir.Node, scope: Scope) -> Finding | None:
        """Returns what breaks the rule at a node."""
        if self.check is None:
            return None
        try:
            hit = self.check(node, scope)
        except CONTRADICTIONS as error:
            return MALFORMED.finding(node.name or "", _operator(node), Hit(detail=str(error) or type(error).__name__))
        return None if hit is None else self.finding(node.name or "", _operator(node), hit)

    def finding(self, node: str, operator: str, hit: Hit) -> Finding:
        """Puts a finding into words."""
        message = self.message.format(node=f"{node!r}", op=operator, tensor=f"{hit.tensor!r}", detail=hit.detail)
        return Finding(self.name, self.severity, node, hit.tensor, message, hit.remedy or self.remedy)


MALFORMED = Rule(
    "malformed",
    Severity.REFUSED,
    "{op} {node} contradicts the schema of its operator: {detail}.",
    "Export the model again: a runtime that checks refuses this too.",
)
"""What is found where a rule cannot even look."""


def _operator(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def names(text: str) -> frozenset[str]:
    """Splits a text into operator names."""
    return frozenset(text.split())
