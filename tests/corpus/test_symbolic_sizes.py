"""The ONNX project's node tests with every size of every input made a symbol: what is inferred and folded must hold.

Three claims about each model: the type and sizes that inference gives every intermediate value are those that the
runtime computes; folding shape arithmetic keeps the function; and both hold although no size is known.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as node_cases

from sardonyx import ir
from sardonyx.errors import BackendError, DataError, LoadError, VerifyError
from sardonyx.measure import Session, SessionOptions
from sardonyx.passes.base import PassContext
from sardonyx.passes.folding.constants import FoldConstants

SHARDS = 4
AS_GIVEN = SessionOptions(optimization="disabled")
RANDOM = ("test_bernoulli", "test_randomnormallike", "test_training_dropout")


@cache
def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = node_cases.collect_testcases(None)
    return [
        case
        for case in found
        if not case.name.startswith(RANDOM)
        and all(isinstance(value, np.ndarray | np.generic) for value in case.data_sets[0][0])
    ]


def with_symbols(source: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a symbol for each size of each input, and nothing declared about what it computes."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return model


def computed(model: ir.Model) -> Iterator[ir.Value]:
    """The named values that the main graph's nodes compute and whose type is a tensor's."""
    for node in model.graph:
        yield from (v for v in node.outputs if v.name and (v.type is None or isinstance(v.type, ir.TensorType)))


def expose(model: ir.Model) -> bytes:
    """The model with all values that it computes as outputs."""
    for value in computed(model):
        if not value.is_graph_output() and value.type is not None:
            model.graph.outputs.append(value)
    return ir.serialize(model)


def contradictions(model: ir.Model, results: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    """Values whose inferred dtype or sizes are not those computed; symbols are looked up in `sizes`."""
    found = []
    for value in computed(model):
        actual = results.get(value.name or "")
        if not isinstance(actual, np.ndarray) or value.shape is None:
            continue
        inferred = [dim if isinstance(dim, int) else sizes.get(str(dim.value)) for dim in value.shape]
        same = len(inferred) == actual.ndim and all(
            a is None or a == b for a, b in zip(inferred, actual.shape, strict=True)
        )
        same_type = actual.dtype.kind in "OV" or value.dtype is None or value.dtype.numpy() == actual.dtype
        if not (same and same_type):
            found.append(f"{value.name}: inferred {value.dtype}{value.shape}, computed {actual.dtype}{actual.shape}")
    return found


def outcome(case: Any) -> tuple[str, list[str]]:
    """What became of one model, and what was wrong."""
    source = with_symbols(case.model)
    try:
        inferred, folded = ir.load(source).model, ir.load(source).model
    except LoadError:
        return "not loaded", []
    inputs = [np.asarray(value) for value in case.data_sets[0][0]]
    names = [value.name for value in source.graph.input]
    feed = dict(zip(names, inputs, strict=False))
    sizes = {f"{name}_{axis}": size for name, array in feed.items() for axis, size in enumerate(array.shape)}
    ir.infer_shapes(inferred)
    declared = [value.name for value in inferred.graph.outputs]
    try:
        with Session(expose(inferred), options=AS_GIVEN) as session:
            results = dict(zip([value.name for value in session.outputs], session.run(feed), strict=True))
    except (BackendError, DataError, VerifyError):
        return "the runtime does not run it", []
    wrong = contradictions(inferred, results, sizes)
    if FoldConstants().apply(folded, PassContext()).modified:
        with Session(ir.serialize(folded), options=AS_GIVEN) as session:
            after = dict(zip([value.name for value in session.outputs], session.run(feed), strict=True))
        for name in declared:
            compare(results[name or ""], after[name or ""])
        return "folded", wrong
    return "equal", wrong


def compare(before: Any, after: Any) -> None:
    if isinstance(before, np.ndarray) and before.dtype.kind in "fiub":
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        # Folding evaluates some nodes in numpy and the runtime does the rest; 2e-3 is one unit of the 16-bit types.
        rtol = 2e-3 if before.dtype.itemsize == 2 else 1e-5
        np.testing.assert_allclose(after, before, rtol=rtol, atol=1e-6, equal_nan=True)
    else:
        assert repr(after) == repr(before)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_what_is_inferred_and_folded_holds(shard: int) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    counts: Counter[str] = Counter()
    failures = []
    for case in cases()[shard::SHARDS]:
        try:
            kind, wrong = outcome(case)
        except Exception as error:  # collected, so that one failure does not hide the others
            kind, wrong = "failed", [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]
        counts[kind] += 1
        failures += [f"{case.name}: {what}" for what in wrong]
    assert failures == []
    assert counts["folded"] + counts["equal"] > 0.6 * sum(counts.values()), dict(counts)
