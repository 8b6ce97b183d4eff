"""Every pass is a transaction."""

import gc
from dataclasses import dataclass

import numpy as np
import pytest

from sardonyx import ir
from sardonyx.errors import DataError, PassError, VerifyError
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.cleanup.cleanup import Cleanup
from sardonyx.passes.fusion.fuse import Fuse
from sardonyx.pipeline import PassManager, PassRecord, Status
from tests import models_for_tests as build


@dataclass(frozen=True)
class RaiseHalfway(Pass):
    """Destroys part of the model, then raises."""

    name = "raise-halfway"
    summary = "for tests"
    error: type[Exception] = RuntimeError

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        model.graph.outputs.clear()
        model.graph.initializers.clear()
        raise self.error("something broke\nbadly")


@dataclass(frozen=True)
class BreakAnInvariant(Pass):
    """Removes a weight that is still used, and calls that a success."""

    name = "break-an-invariant"
    summary = "for tests"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        model.graph.initializers.pop("w3")
        return PassResult(model, modified=True)


@dataclass(frozen=True)
class Refuse(Pass):
    """Does nothing and says why."""

    name = "refuse"
    summary = "for tests"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        return PassResult(model, False, {}, (Refusal("rule", "because", ("node",)),), {"fact": 1})


@dataclass(frozen=True)
class BreakAndDenyIt(Pass):
    """Breaks the model, and says that it changed nothing."""

    name = "break-and-deny-it"
    summary = "for tests"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        model.graph.initializers.pop("w3")
        return PassResult(model, modified=False)


@dataclass(frozen=True)
class RenameOutput(Pass):
    """Leaves a valid model that its users no longer know."""

    name = "rename-output"
    summary = "for tests"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        model.graph.outputs[0].name = "better"
        return PassResult(model, modified=True)


def load() -> ir.Model:
    return ir.load(build.cnn()).model


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (RaiseHalfway(), "RuntimeError: something broke badly"),
        (BreakAnInvariant(), "w3"),
        (BreakAndDenyIt(), "w3"),
        (RenameOutput(), "inputs or outputs"),
    ],
    ids=["exception", "invariant", "invariant-denied", "interface"],
)
def test_a_bad_pass_is_undone_and_only_that_pass(bad: Pass, reason: str) -> None:
    expected = PassManager([Fuse(disable=("fuse-pad",)), Fuse(disable=("fuse-batch-norm",))]).run(load())
    result = PassManager([Fuse(disable=("fuse-pad",)), bad, Fuse(disable=("fuse-batch-norm",))]).run(load())
    assert [r.status for r in result.records] == [Status.APPLIED, Status.UNDONE, Status.APPLIED]
    assert reason in result.records[1].reason
    assert ir.digest(result.model) == ir.digest(expected.model)
    assert ir.verify(result.model) == ()
    feed = build.images(1)[0]
    np.testing.assert_array_equal(build.run(result.model, feed)[0], build.run(expected.model, feed)[0])


def test_errors_of_the_user_are_not_swallowed() -> None:
    with pytest.raises(DataError):
        PassManager([RaiseHalfway(DataError)]).run(load())


def test_an_invalid_model_is_refused_before_the_first_pass() -> None:
    model = load()
    model.graph.initializers.pop("w3")
    with pytest.raises(VerifyError, match="w3"):
        PassManager([Cleanup()]).run(model)


def test_records_count_what_happened() -> None:
    record = PassManager([Fuse(disable=("fuse-pad",))]).run(load()).records[0]
    assert (record.name, record.spec, record.status) == ("fuse", "fuse{disable=[fuse-pad]}", Status.APPLIED)
    assert record.nodes == (11, 10)
    assert record.stats == {"fuse-batch-norm": 1}
    assert record.nbytes[0] == ir.nbytes(load())
    assert record.seconds > 0


def test_refusals_and_details_are_kept() -> None:
    record = PassManager([Refuse()]).run(load()).records[0]
    assert record.status is Status.UNCHANGED
    assert record.refusals == (Refusal("rule", "because", ("node",)),)
    assert record.details == {"fact": 1}


def test_the_hook_sees_both_models_and_may_veto() -> None:
    seen = []

    def hook(before: ir.Model, after: ir.Model, record: PassRecord) -> None:
        seen.append((ir.num_nodes(before), ir.num_nodes(after), record.name))
        if "fuse-batch-norm" in record.spec:
            raise PassError("padding is holy")

    result = PassManager([Fuse(disable=("fuse-pad",)), Fuse(disable=("fuse-batch-norm",))], hook=hook).run(load())
    assert seen == [(11, 10, "fuse"), (10, 9, "fuse")]
    assert [r.status for r in result.records] == [Status.APPLIED, Status.UNDONE]
    assert result.records[1].reason == "padding is holy"
    assert ir.num_nodes(result.model) == 10


def test_passes_of_onnx_ir_plug_in() -> None:
    model = load()
    model.graph.doc_string = "to be cleared"
    result = PassManager([ir.common_passes.ClearMetadataAndDocStringPass()]).run(model)
    assert result.records[0].status is Status.APPLIED
    assert result.records[0].name == "ClearMetadataAndDocStringPass"


def test_our_passes_run_as_passes_of_onnx_ir() -> None:
    result = Fuse(disable=("fuse-pad",))(load())
    assert result.modified
    assert isinstance(result, PassResult)


@dataclass(frozen=True)
class CountRuns(Pass):
    """Counts how often it ran, in the context's memory."""

    name = "count-runs"
    summary = "for tests"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        context.memory[self] = context.memory.get(self, 0) + 1
        return PassResult(model, False)


def test_a_pass_is_not_repeated_where_nothing_changed_since_it_ran() -> None:
    fuse, counted, context = Fuse(disable=("fuse-pad",)), CountRuns(), PassContext()
    result = PassManager([counted, Refuse(), counted, fuse, counted, fuse], context=context).run(load())
    assert context.memory[counted] == 2
    assert [r.status for r in result.records[2:]] == [
        Status.UNCHANGED,
        Status.APPLIED,
        Status.UNCHANGED,
        Status.UNCHANGED,
    ]
    assert result.records[-1].nodes == (10, 10)


@dataclass(frozen=True)
class NoteCollector(Pass):
    """Notes whether the garbage collector is at work."""

    name = "note-collector"
    summary = "for tests"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        return PassResult(model, False, details={"collects": gc.isenabled()})


def test_the_collector_rests_only_where_no_code_of_others_runs() -> None:
    def collects(manager: PassManager) -> bool:
        return bool(manager.run(ir.load(build.cnn()).model).records[0].details["collects"])

    def hook(before: ir.Model, after: ir.Model, record: PassRecord) -> None:
        assert after is not before

    assert not collects(PassManager([NoteCollector()]))
    assert collects(PassManager([NoteCollector()], hook=hook))
    assert collects(PassManager([NoteCollector(), ir.common_passes.RemoveUnusedNodesPass()]))
    assert gc.isenabled()
