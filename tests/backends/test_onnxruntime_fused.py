"""The table of fused operators, on the runtime itself."""

from pathlib import Path

import pytest

from sardonyx import ir
from sardonyx.backends.onnxruntime.fused import ACTIVATIONS, FUSED, NORMALIZATION
from tests.backends.test_onnxruntime_table import optimized_operators
from tests.passes.fusion_attention.graphs import fused
from tests.passes.fusion_attention.test_small_rules import GOLDEN

OWN_FORMS = ("gelu: half of x times gate", "gelu: half x times gate", "quick gelu", "silu")
"""Forms that the runtime finds by itself; it finds fewer than the rules do."""


@pytest.mark.parametrize("case", OWN_FORMS)
def test_activations_are_what_the_runtime_makes_itself(case: str, tmp_path: Path) -> None:
    source, rules, operator = GOLDEN[case]
    model, _ = fused(source, *rules)
    after = optimized_operators(ir.to_proto(model), tmp_path)
    assert after[operator] == 1
    assert after == optimized_operators(source, tmp_path)


def test_operators_that_were_slower_are_no_defaults() -> None:
    assert not any(row.default for row in NORMALIZATION)
    assert all(row.default for row in ACTIVATIONS)
    assert {row.op_type for row in FUSED.values() if row.default} == {
        *(row.op_type for row in ACTIVATIONS),
        "RotaryEmbedding",
    }
