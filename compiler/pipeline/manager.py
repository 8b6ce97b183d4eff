"""The pass manager: every pass is a transaction.

The model is verified before the first pass and after each one. A pass that raises, breaks an invariant, changes the
model's inputs or outputs, or is vetoed by the hook between passes is undone, and only that pass; its record says why,
and the pipeline goes on. A pass that would find the model as its last run has left it is not run again.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sardonyx import ir
from sardonyx.errors import PassError, UsageError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.pipeline.spec import format_pass

logger = logging.getLogger(__name__)

REPEAT_LIMIT = 20.0
"""A model is copied again when repeating the passes since the last copy would take this many times as long."""


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
        with ir.paused_gc() if self._is_frugal() else nullcontext():
            return self._run(model)

    def _is_frugal(self) -> bool:
        """Whether the garbage of a run is at most the nodes that were replaced: no samples, and only one copy."""
        return self.hook is None and self.context.samples is None and all(isinstance(p, Pass) for p in self.passes)

    def _run(self, model: ir.Model) -> PipelineResult:
        ir.require_valid(model)
        records: list[PassRecord] = []
        known = _Known.of(ir.survey(model))
        history = _History(self._apply)
        for number, instance in enumerate(self.passes, start=1):
            self.context.progress(number - 1, len(self.passes), format_pass(instance))
            history.prepare(model, always=self.hook is not None)
            model, known, record = self._transact(model, instance, known, history)
            records.append(record)
        return PipelineResult(model, tuple(records))

    def _transact(
        self, model: ir.Model, instance: ir.PassBase, known: "_Known", history: "_History"
    ) -> tuple[ir.Model, "_Known", PassRecord]:
        start = time.perf_counter()
        interface = _interface(model)
        try:
            if instance in known.settled:
                result, after = PassResult(model, False), known
            else:
                result = self._apply(instance, model)
                after = known.after(instance, result)
            if result.modified or after.structure != known.structure:
                ir.require_valid(result.model)
                _require_interface(interface, result.model)
            seconds = time.perf_counter() - start
            record = _record(instance, (known.size, after.size), result, seconds)
            if self.hook is not None:
                self.hook(history.good, result.model, record)
        except UsageError:
            raise
        except Exception as error:  # the transaction's boundary: undone, and recorded with its cause
            logger.info("pass %s undone", format_pass(instance), exc_info=error)
            record = _undone(instance, known.size, error, time.perf_counter() - start)
            restored = history.restore()
            return restored, _Known.of(ir.survey(restored)), record
        history.note(instance, seconds)
        return result.model, after, record

    def _apply(self, instance: ir.PassBase, model: ir.Model) -> PassResult:
        """Runs a pass; the result of an onnx_ir pass is wrapped into ours."""
        if isinstance(instance, Pass):
            return instance.apply(model, self.context)
        result = instance(model)
        return PassResult(result.model, result.modified)


def _require_interface(before: tuple[list[str | None], list[str | None]], after: ir.Model) -> None:
    """Refuses a change of the names of inputs and outputs, on which the model's users and the judge rely."""
    if _interface(after) != before:
        raise PassError("It changed the names or the order of the model's inputs or outputs.")


def _interface(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    graph = model.graph
    return [v.name for v in graph.inputs if v.name not in graph.initializers], [v.name for v in graph.outputs]


@dataclass(frozen=True)
class _Known:
    """What the manager knows of a model: its structure, nodes and bytes, and the passes that would not change it."""

    structure: int
    size: tuple[int, int]
    settled: tuple[Pass, ...] = ()

    @classmethod
    def of(cls, seen: ir.Survey, settled: tuple[Pass, ...] = ()) -> "_Known":
        return cls(seen.structure, (seen.nodes, seen.nbytes), settled)

    def after(self, instance: ir.PassBase, result: PassResult) -> "_Known":
        """Returns what is known after a pass. Ours change nothing the second time; of others that is not known."""
        settled = (instance,) if isinstance(instance, Pass) else ()
        seen = ir.survey(result.model)
        if result.modified or seen.structure != self.structure:
            return _Known.of(seen, settled)
        return replace(self, settled=(*self.settled, *settled))


def _record(
    instance: ir.PassBase, sizes: tuple[tuple[int, int], tuple[int, int]], result: PassResult, seconds: float
) -> PassRecord:
    before, after = sizes
    return PassRecord(
        name=_name(instance),
        spec=format_pass(instance),
        status=Status.APPLIED if result.modified else Status.UNCHANGED,
        reason="",
        seconds=seconds,
        nodes=(before[0], after[0]),
        nbytes=(before[1], after[1]),
        stats=dict(result.stats),
        refusals=result.refusals,
        details=dict(result.details),
    )


def _undone(instance: ir.PassBase, size: tuple[int, int], error: Exception, seconds: float) -> PassRecord:
    what = str(error) if isinstance(error, PassError) else f"{type(error).__name__}: {error}"
    return PassRecord(
        name=_name(instance),
        spec=format_pass(instance),
        status=Status.UNDONE,
        reason=" ".join(what.split()),
        seconds=seconds,
        nodes=(size[0], size[0]),
        nbytes=(size[1], size[1]),
    )


def _name(instance: ir.PassBase) -> str:
    return str(getattr(instance, "name", type(instance).__name__))


class _History:
    """The way back to the last good model: one copy, and the passes that succeeded since it was made.

    A copy before every pass would cost more than most passes. Ours are deterministic, so the last good model is also
    what the passes since the copy make of it again. A new copy is made where repeating would take longer than copying.

    Args:
        apply: Runs a pass on a model.

    Attributes:
        good: The copy.
    """

    def __init__(self, apply: Callable[[ir.PassBase, ir.Model], PassResult]) -> None:
        self.good: ir.Model
        self._apply = apply
        self._since: list[ir.PassBase] | None = None
        self._to_repeat = 0.0
        self._copying = 0.0

    def prepare(self, model: ir.Model, *, always: bool) -> None:
        """Copies the model before a pass, where that is cheaper than repeating, or always."""
        repeatable = self._since is not None and all(isinstance(done, Pass) for done in self._since)
        if repeatable and not always and self._to_repeat <= REPEAT_LIMIT * self._copying:
            return
        start = time.perf_counter()
        self.good = ir.clone(model)
        self._copying = time.perf_counter() - start
        self._since, self._to_repeat = [], 0.0

    def note(self, instance: ir.PassBase, seconds: float) -> None:
        """Remembers a pass that succeeded."""
        assert self._since is not None
        self._since.append(instance)
        self._to_repeat += seconds

    def restore(self) -> ir.Model:
        """Returns the last good model."""
        model = ir.clone(self.good)
        for instance in self._since or ():
            model = self._apply(instance, model).model
        return model
