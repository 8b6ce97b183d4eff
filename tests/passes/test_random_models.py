"""Property: whatever the model, the exact passes keep its function at all sizes, and come to an end."""

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, event, given, reject, settings

from sardonyx import ir
from sardonyx.pipeline import PassManager, Status
from tests.exactness import RUNTIME_DEFECT, exact_passes, judge
from tests.random_graphs.strategy import Drawn, models

VARIETIES: dict[str, tuple[int, type[np.floating[Any]]]] = {
    **{f"float32-{opset}": (opset, np.float32) for opset in (11, 13, 15, 17, 18, 21)},
    "float64-17": (17, np.float64),
    "float16-18": (18, np.float16),
}
RUNS = 4
EXAMPLES = 500 if settings.default.max_examples >= 1000 else 12


def assert_settles(source: onnx.ModelProto) -> None:
    """A pass run twice is a pass run once; all of them may find a little more in what the last one left, but not on."""
    model = ir.load(source).model
    for _ in range(RUNS):
        result = PassManager(exact_passes()).run(model)
        model = result.model
        changed = {
            record.name: dict(record.stats) for record in result.records if record.status is not Status.UNCHANGED
        }
        if not changed:
            return
    raise AssertionError(f"The pipeline still changes its own result after {RUNS} runs: {changed}")


@pytest.mark.parametrize("variety", VARIETIES)
def test_function_is_kept_and_the_result_settles(variety: str) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)

    @settings(suppress_health_check=[HealthCheck.too_slow], max_examples=EXAMPLES)
    @given(drawn=models(*VARIETIES[variety]))
    def check_function(drawn: Drawn) -> None:
        outcome = judge(drawn.model, drawn.feeds())
        event(f"{outcome.verdict} in {outcome.evaluator}")
        if outcome.verdict == "original does not run":  # not every operator has a kernel for every float type
            assert drawn.dtype != np.float32 or RUNTIME_DEFECT in outcome.reason, outcome.reason
            reject()
        assert outcome.verdict == "equal", outcome.reason
        assert outcome.undone == ()
        assert_settles(drawn.model)

    check_function()
