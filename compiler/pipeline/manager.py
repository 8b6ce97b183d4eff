"""The pass manager: every pass is a transaction.

The model is verified before the first pass and after each one. A pass that raises, breaks an invariant, changes the
model's inputs or outputs, or is vetoed by the hook between passes is undone, and only that pass; its record says why,
and the pipeline goes on.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sardonyx import ir
from sardonyx.errors import PassError, UsageError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.pipeline.spec import format_pass

logger = logging.getLogger(__name__)


class Status(StrEnum):
    """How a pass ended."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    UNDONE = "undone"


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        name: The pass.
        spec: The text that builds it again, options included.
        status: Whether it changed the model, did not, or was undone.
        reason: Why it was undone, in one sentence; empty otherwise.
        seconds: Wall time, verification included.
        nodes: Number of nodes in all graphs, before and after.
        nbytes: Bytes of all tensors, before and after.
        stats: How often each rule was applied.
        refusals: What was not done and why.
        details: Further facts, such as the quantization plan.
    """

    name: str
    spec: str
    status: Status
    reason: str
    seconds: float
    nodes: tuple[int, int]
    nbytes: tuple[int, int]
    stats: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PipelineResult:
    """The model after all passes, and one record a pass."""

    model: ir.Model
    records: tuple[PassRecord, ...]


Hook = Callable[[ir.Model, ir.Model, PassRecord], None]
"""Called between passes as hook(before, after, record); raising PassError undoes the pass."""


class PassManager:
    """Runs passes in order, each as a transaction.

    Args:
        passes: Ours, or any onnx_ir pass.
        context: What passes may use: the target's table, samples, progress.
        hook: The one hook between passes: for timing, dumps, diffs, or a veto.
    """

    def __init__(
        self, passes: Sequence[ir.PassBase], *, context: PassContext | None = None, hook: Hook | None = None
    ) -> None:
        self.passes = tuple(passes)
        self.context = context or PassContext()
        self.hook = hook

    def run(self, model: ir.Model) -> PipelineResult:
        """Runs all passes. The given model may be changed: go on with the result's.

        Raises:
            VerifyError: If the model is invalid before the first pass.
            UsageError: If a pass finds the user's samples or options unusable; nothing can be undone about that.
        """
        ir.require_valid(model)
        records = []
        for number, instance in enumerate(self.passes, start=1):
            self.context.progress(number - 1, len(self.passes), format_pass(instance))
            model, record = self._transact(model, instance)
            records.append(record)
        return PipelineResult(model, tuple(records))

    def _transact(self, model: ir.Model, instance: ir.PassBase) -> tuple[ir.Model, PassRecord]:
        start = time.perf_counter()
        before = ir.clone(model)
        try:
            result = self._apply(instance, model)
            ir.require_valid(result.model)
            _require_interface(before, result.model)
            record = _record(instance, before, result, time.perf_counter() - start)
            if self.hook is not None:
                self.hook(before, result.model, record)
        except UsageError:
            raise
        except Exception as error:  # the transaction's boundary: undone, and recorded with its cause
            logger.info("pass %s undone", format_pass(instance), exc_info=error)
            seconds = time.perf_counter() - start
            return before, _undone(instance, before, error, seconds)
        return result.model, record

    def _apply(self, instance: ir.PassBase, model: ir.Model) -> PassResult:
        """Runs a pass; the result of an onnx_ir pass is wrapped into ours."""
        if isinstance(instance, Pass):
            return instance.apply(model, self.context)
        result = instance(model)
        return PassResult(result.model, result.modified)


def _require_interface(before: ir.Model, after: ir.Model) -> None:
    """Refuses a change of the names of inputs and outputs, on which the model's users and the judge rely."""
    if _interface(before) != _interface(after):
        raise PassError("It changed the names or the order of the model's inputs or outputs.")


def _interface(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    graph = model.graph
    return [v.name for v in graph.inputs if v.name not in graph.initializers], [v.name for v in graph.outputs]


def _record(instance: ir.PassBase, before: ir.Model, result: PassResult, seconds: float) -> PassRecord:
    return PassRecord(
        name=_name(instance),
        spec=format_pass(instance),
        status=Status.APPLIED if result.modified else Status.UNCHANGED,
        reason="",
        seconds=seconds,
        nodes=(ir.num_nodes(before), ir.num_nodes(result.model)),
        nbytes=(ir.nbytes(before), ir.nbytes(result.model)),
        stats=dict(result.stats),
        refusals=result.refusals,
        details=dict(result.details),
    )


def _undone(instance: ir.PassBase, before: ir.Model, error: Exception, seconds: float) -> PassRecord:
    what = str(error) if isinstance(error, PassError) else f"{type(error).__name__}: {error}"
    nodes, nbytes = ir.num_nodes(before), ir.nbytes(before)
    return PassRecord(
        name=_name(instance),
        spec=format_pass(instance),
        status=Status.UNDONE,
        reason=" ".join(what.split()),
        seconds=seconds,
        nodes=(nodes, nodes),
        nbytes=(nbytes, nbytes),
    )


def _name(instance: ir.PassBase) -> str:
    return str(getattr(instance, "name", type(instance).__name__))
