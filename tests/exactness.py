"""Whether an optimized model computes what the original does: the one judgement that all corpora share.

A result may differ from the original's by float rounding only. How much that is depends on the element type, and on
whether a rule that was applied sums or multiplies in another order: such rules state it in `REASSOCIATING`. All others
are held to the strict tolerance, so that a new rule loosens nothing in silence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from sardonyx import ir
from sardonyx.errors import BackendError, DataError, LoadError, SardonyxError
from sardonyx.measure import Session, SessionOptions
from sardonyx.passes.base import Pass, PassContext
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, parse_pipeline

Array = np.ndarray[Any, np.dtype[Any]]
Feed = Mapping[str, Any]
Verdict = Literal["not loaded", "original does not run", "optimized does not run", "differs", "equal"]

STRICT: Mapping[np.dtype[Any], float] = {
    np.dtype(np.float16): 2e-3,  # one unit in the last place is 2^-10
    np.dtype(np.float32): 1e-5,
    np.dtype(np.float64): 1e-12,
}
"""Largest relative difference without reassociation, by element type."""

REASSOCIATING: Mapping[str, float] = {
    # Weights are scaled before they are summed instead of after: a relative error of 2^-24 a product.
    "fuse-batch-norm": 1e-4,
    "fuse-channelwise": 1e-4,
    # Mean and variance are summed in another order.
    "layer-norm": 1e-4,
    # x * clip(x + 3) / 6 becomes x * clip(x / 6 + 1 / 2): roundings in another order.
    "hard-swish": 1e-4,
    "hard-swish-from-clip": 1e-4,
}
"""Largest relative difference in float32 of rules that compute in another order; other types in proportion."""

OF_SCALE = 0.1
"""Near zero a value may differ by this part of the tolerance, relative to the largest value of its output."""

NO_TARGET = PassContext()
RUNTIME_DEFECT = "op_kernel_context.h"
"""ONNX Runtime 1.31 loses what a body takes from outside where two Casts to its own type compute it."""
AS_GIVEN = SessionOptions(optimization="disabled")


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Attributes:
        verdict: How far it came.
        reason: Why it came no farther; empty where it is equal.
        rules: How often each rule was applied.
        undone: Why passes were undone.
        nodes: Nodes before and after.
        evaluator: What ran both.
    """

    verdict: Verdict
    reason: str = ""
    rules: Mapping[str, int] = field(default_factory=dict)
    undone: tuple[str, ...] = ()
    nodes: tuple[int, int] = (0, 0)
    evaluator: str = ""


@cache
def exact_passes() -> tuple[Pass, ...]:
    """The default exact passes."""
    return tuple(parse_pipeline(Recipe().optimize, available_passes()))


def judge(source: onnx.ModelProto | Path, feeds: Sequence[Feed], context: PassContext = NO_TARGET) -> Outcome:
    """Optimizes a model, runs it and the original on all feeds without the runtime's optimizations, and compares.

    Raises:
        Exception: Whatever the compiler does not foresee: a crash is no verdict.
    """
    try:
        loaded = ir.load(source).model
    except LoadError as error:
        return Outcome("not loaded", error.message)
    given = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
    try:
        evaluator, expected = _first_that_runs(given, feeds)
    except BackendError as error:
        return Outcome("original does not run", _one_line(error))
    before = ir.num_nodes(loaded)
    result = PassManager(exact_passes(), context=context).run(loaded)
    rules: dict[str, int] = {}
    for record in result.records:
        rules |= {rule: rules.get(rule, 0) + count for rule, count in record.stats.items()}
    undone = tuple(record.reason for record in result.records if record.status is Status.UNDONE)
    nodes = before, ir.num_nodes(result.model)
    try:
        actual = _EVALUATORS[evaluator](ir.serialize(result.model), feeds)
    except (BackendError, DataError) as error:
        return Outcome("optimized does not run", f"{evaluator}: {_one_line(error)}", rules, undone, nodes)
    for index, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
        for position, (one, other) in enumerate(zip(wanted, got, strict=True)):
            difference = compare(one, other, relaxation(rules))
            if difference:
                where = f"feed {index}, output {position}"
                return Outcome("differs", f"{where}: {difference}; rules {dict(rules)}", rules, undone, nodes)
    return Outcome("equal", "", rules, undone, nodes, evaluator)


def relaxation(rules: Mapping[str, int]) -> float:
    """Returns by how much the strict tolerance is exceeded by the rules that were applied: 1 where by none."""
    strict = STRICT[np.dtype(np.float32)]
    return max((REASSOCIATING.get(rule, strict) for rule in rules), default=strict) / strict


def compare(before: Any, after: Any, relaxed: float = 1.0) -> str:
    """Returns how two outputs differ beyond the tolerance of their type; empty where they do not.

    Args:
        before: An array, or a sequence of them.
        after: The same of the optimized model.
        relaxed: Factor of the strict tolerance.
    """
    if isinstance(before, list):
        if len(before) != len(after):
            return f"{len(before)} against {len(after)} elements"
        return next(filter(None, (compare(*pair, relaxed) for pair in zip(before, after, strict=True))), "")
    before, after = np.asarray(before), np.asarray(after)
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        return f"{before.dtype}{list(before.shape)} against {after.dtype}{list(after.shape)}"
    if before.dtype.kind in "OU":
        return "" if repr(before.tolist()) == repr(after.tolist()) else "other objects"
    if before.dtype not in STRICT:
        if before.dtype.kind not in "biu":  # complex, or one of the types that numpy lacks
            before, after = before.astype(np.complex128), after.astype(np.complex128)
        same = np.array_equal(before, after, equal_nan=before.dtype.kind == "c")
        return "" if same else f"{np.count_nonzero(before != after)} other values"
    return _float_difference(before, after, STRICT[before.dtype] * relaxed)


def _float_difference(before: Array, after: Array, rtol: float) -> str:
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True) or not np.isfinite(after[finite]).all():
        return "values that are not finite differ"
    one, other = before[finite].astype(np.float64), after[finite].astype(np.float64)
    scale = float(np.abs(one).max(initial=0.0))
    errors = np.abs(other - one)
    if (errors <= rtol * (np.abs(one) + OF_SCALE * scale)).all():
        return ""
    return f"{errors.max() / (scale or 1.0):.2e} of the scale {scale:.3g}"


def run(model: bytes | Path, feeds: Sequence[Feed]) -> list[list[Any]]:
    """Runs a model in ONNX Runtime, all of whose optimizations are off.

    Raises:
        BackendError: If the runtime refuses the model or fails.
        DataError: If a feed does not fit.
    """
    if not all(isinstance(value, np.ndarray) for feed in feeds for value in feed.values()):
        raise BackendError("A sequence or an optional is fed.", remedy="Run it in onnx.reference.")
    with Session(model, options=AS_GIVEN) as session:
        return [session.run(feed) for feed in feeds]


def evaluate(model: bytes | Path, feeds: Sequence[Feed]) -> list[list[Any]]:
    """Runs a model in ONNX's reference implementation, for what ONNX Runtime has no kernel for.

    Raises:
        BackendError: If it fails.
    """
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    if any(node.op_type == "Loop" and not node.input[1] for node in proto.graph.node):
        raise BackendError("onnx.reference: it never runs a Loop without a condition.", remedy="None.")
    try:
        evaluator = ReferenceEvaluator(proto)
        with np.errstate(all="ignore"):
            return [evaluator.run(None, dict(feed)) for feed in feeds]
    except Exception as error:  # it raises what its Python code happens to raise
        raise BackendError(f"onnx.reference: {type(error).__name__}: {error}", remedy="None.") from error


_EVALUATORS: Mapping[str, Callable[[bytes | Path, Sequence[Feed]], list[list[Any]]]] = {
    "ONNX Runtime": run,
    "onnx.reference": evaluate,
}


def _first_that_runs(model: bytes | Path, feeds: Sequence[Feed]) -> tuple[str, list[list[Any]]]:
    """Returns the first evaluator that runs a model, and its outputs."""
    reasons = []
    for name, evaluator in _EVALUATORS.items():
        try:
            return name, evaluator(model, feeds)
        except (BackendError, DataError) as error:
            reasons.append(_one_line(error))
            if RUNTIME_DEFECT in reasons[-1]:  # the model is fine, and the reference knows fewer old operators
                break
    raise BackendError("; ".join(reasons), remedy="None.")


def _one_line(error: SardonyxError) -> str:
    return " ".join(error.message.split())[:300]
