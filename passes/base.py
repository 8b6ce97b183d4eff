"""The contract of a pass: an onnx_ir pass that also counts, refuses with reasons, and prints itself.

A pass is a frozen dataclass. Its fields are its options, so that `spec(p)` is the text that builds it
again. It changes the model in place and returns a `PassResult`. It never saves, verifies or undoes: the pass
manager does.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.measure import Samples

Progress = Callable[[int, int | None, str], None]
"""Called as progress(done, total, what) during long work; total is None where it is unknown."""


def no_progress(done: int, total: int | None, what: str) -> None:
    """Reports nothing: the default progress callback."""


@dataclass(frozen=True)
class PassContext:
    """What a pass may use besides the model.

    Attributes:
        capabilities: The target's table, for passes that depend on the target.
        samples: Calibration samples; iterated anew each time, one sample in memory at a time.
        progress: Told how far long work has come.
        threads: Threads a pass may give to a runtime it calls.
        memory: What passes keep for later runs with this context, such as observed ranges; keys name their owner.
    """

    capabilities: Capabilities | None = None
    samples: Samples | None = None
    progress: Progress = no_progress
    threads: int = 1
    memory: dict[Hashable, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Refusal:
    """Something a pass could have done and did not.

    Attributes:
        rule: The rule that refused, in kebab-case.
        reason: Why, as a sentence a user can act on.
        nodes: Names of the nodes (or values) concerned.
    """

    rule: str
    reason: str
    nodes: tuple[str, ...] = ()


@dataclass
class PassResult(ir.PassResult):
    """What a pass did: onnx_ir's result, with the reasons.

    Attributes:
        stats: How often each rule was applied.
        refusals: What was not done and why.
        details: JSON-able facts worth keeping in the record, such as the quantization plan.
    """

    stats: dict[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


class Pass(ir.InPlacePass):
    """Base of all passes. Subclasses are frozen dataclasses that set `name` and implement `apply`."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Changes `model` in place.

        Raises:
            PassError: If the pass cannot work on this model at all; the manager undoes it.
        """

    def call(self, model: ir.Model) -> PassResult:
        """Runs the pass as onnx_ir would: without target, samples or progress."""
        return self.apply(model, PassContext())


def options(pass_type: type[Pass]) -> dict[str, Any]:
    """Returns the options of a pass type and their defaults, in order of declaration."""
    return {f.name: f.default for f in dataclasses.fields(pass_type)}  # type: ignore[arg-type]
