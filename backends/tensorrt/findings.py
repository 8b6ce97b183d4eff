"""What pre-flight finds: one value for each thing that TensorRT would refuse, change or run otherwise than written."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What comes of a finding if the graph is given to TensorRT as it is."""

    REFUSED = "refused"
    """The parser or the builder refuses the model, or dies of it."""
    WRONG_NUMBERS = "wrong-numbers"
    """It builds, and computes something else than the graph says."""
    SILENT_FLOAT = "silent-float"
    """It builds, and runs in float what the graph quantizes."""
    REWRITTEN = "rewritten"
    """One of the above, which legalization rewrites."""
    NOTE = "note"
    """It builds and computes what it should; somebody may want it otherwise."""

    @property
    def is_fatal(self) -> bool:
        """Whether an engine must not be built with this finding left."""
        return self in (Severity.REFUSED, Severity.WRONG_NUMBERS)


@dataclass(frozen=True)
class Finding:
    """One rule that one place of a model breaks.

    Attributes:
        rule: The rule's id, in kebab-case; docs/tensorrt.md lists them.
        severity: What comes of it.
        node: Name of the node concerned; empty where the finding is about the model or a value alone.
        tensor: Name of the value concerned, if it is about one.
        message: What is wrong and what TensorRT does with it, as a sentence that names node and tensor.
        remedy: What to do about it, as a sentence.
    """

    rule: str
    severity: Severity
    node: str
    tensor: str
    message: str
    remedy: str

    def __str__(self) -> str:
        """The message, the remedy and the rule's id."""
        return f"{self.message} {self.remedy} [{self.rule}]"
