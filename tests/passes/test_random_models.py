"""Property: whatever the model, the exact passes keep its function at all sizes, and a second run changes nothing."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, reject, settings

from sardonyx import ir
from sardonyx.pipeline import PassManager, Status
from tests.exactness import exact_passes, judge
from tests.random_graphs.strategy import Drawn, models

VARIETIES: dict[str, tuple[int, type[np.floating[Any]]]] = {
    **{f"float32-{opset}": (opset, np.float32) for opset in (11, 13, 15, 17, 18, 21)},
    "float64-17": (17, np.float64),
    "float16-18": (18, np.float16),
}
SETTLED = 2
"""Runs of the pipeline after which another one must change nothing."""
EXAMPLES = 500 if settings.default.max_examples >= 1000 else 12


@pytest.mark.parametrize("variety", VARIETIES)
def test_the_function_is_kept_and_the_passes_settle(variety: str) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)

    @settings(suppress_health_check=[HealthCheck.too_slow], max_examples=EXAMPLES)
    @given(drawn=models(*VARIETIES[variety]))
    def check_function(drawn: Drawn) -> None:
        outcome = judge(drawn.model, drawn.feeds())
        event(f"{outcome.verdict} in {outcome.evaluator}")
        if outcome.verdict == "original does not run":  # not every operator has a kernel for every float type
            assert drawn.dtype != np.float32, outcome.reason
            reject()
        assert outcome.verdict == "equal", outcome.reason
        assert outcome.undone == ()
        model = ir.load(drawn.model).model
        for _ in range(SETTLED):  # what one pass makes may give an earlier one work
            model = PassManager(exact_passes()).run(model).model
        ir.infer_shapes(model)  # the last rewrite may let inference say more: that is no change
        digest = ir.digest(model)
        again = PassManager(exact_passes()).run(model)
        assert ir.digest(again.model) == digest
        assert all(record.status is Status.UNCHANGED for record in again.records)

    check_function()
