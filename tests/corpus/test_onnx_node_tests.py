"""The ONNX project's own node tests: load, optimize, run, compare. About 1,900 models, every operator."""

import logging
import warnings
from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as node_cases

from sardonyx import ir
from sardonyx.errors import BackendError, DataError, LoadError
from sardonyx.measure import Session, SessionOptions
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, parse_pipeline

SHARDS = 8
# Folding evaluates in numpy and the rest runs in the runtime: sums may be reassociated. For the 16-bit types that is
# one unit in the last place, 2^-10 and 2^-7.
RTOL = {np.dtype(np.float16): 2e-3, np.dtype(np.float64): 1e-7}
AS_GIVEN = SessionOptions(optimization="disabled")


@cache
def cases() -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(node_cases.collect_testcases(None))


def outcome(model: onnx.ModelProto, inputs: list[object]) -> str:
    """What became of one model: how it was excluded, or that it is equal; a difference raises."""
    try:
        loaded = ir.load(model).model
    except LoadError as error:
        return f"not loaded: {error.message}"
    result = PassManager(parse_pipeline(Recipe().optimize, available_passes())).run(loaded)
    undone = [r.reason for r in result.records if r.status is Status.UNDONE]
    assert all("the model contradicts itself" in reason for reason in undone), undone
    if not all(isinstance(value, np.ndarray | np.generic) for value in inputs):
        return "inputs that are sequences or optionals"
    try:
        with Session(model.SerializeToString(), options=AS_GIVEN) as session:
            feed = dict(zip((spec.name for spec in session.inputs), inputs, strict=False))
            expected = session.run(feed)
    except (BackendError, DataError):
        return "the runtime does not run the original"
    with Session(ir.serialize(result.model), options=AS_GIVEN) as session:
        actual = session.run(feed)
    for before, after in zip(expected, actual, strict=True):
        compare(before, after)
    return "equal"


def compare(before: np.ndarray, after: np.ndarray) -> None:
    assert (before.dtype, before.shape) == (after.dtype, after.shape)
    if before.dtype.kind == "f":
        rtol = RTOL.get(before.dtype, 1e-5)
        np.testing.assert_allclose(after, before, rtol=rtol, atol=rtol / 10, equal_nan=True)
    elif before.dtype.kind == "O":
        assert repr(after) == repr(before)
    else:
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_optimized_models_are_equal(shard: int) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    counts: Counter[str] = Counter()
    failures = []
    random = {"test_bernoulli", "test_randomnormallike"}
    for case in cases()[shard::SHARDS]:
        if any(case.name.startswith(prefix) for prefix in random):  # type: ignore[attr-defined]
            continue
        try:
            counts[outcome(case.model, list(case.data_sets[0][0]))] += 1  # type: ignore[attr-defined]
        except Exception as error:  # collected, so that one failure does not hide the others
            failures.append(f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")  # type: ignore[attr-defined]
    assert failures == []
    assert counts["equal"] > 0.6 * sum(counts.values()), dict(counts)
