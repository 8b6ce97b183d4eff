"""Faults in shipped models: the part of `benchmarks/diff_faults.py` that is quick."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.diff_faults import KINDS, Subject, subjects, trial


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Subject], Path]:
    return {subject.name: subject for subject in subjects(None, ())}, tmp_path_factory.mktemp("quantized")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", ["optimized", "quantized", "optimized to quantized"])
def test_a_fault_in_a_convolutional_model_is_named(
    kind: str, setting: str, shipped: tuple[dict[str, Subject], Path]
) -> None:
    models, work = shipped
    named = trial(models["digits_cnn"], setting, kind, np.random.default_rng(3), work)
    assert named is (
        None if (setting, kind) == ("optimized", "scale") else True
    )  # no scales where nothing is quantized


@pytest.mark.parametrize("setting", ["original", "quantized", "optimized to quantized"])
def test_a_fault_in_a_transformer_is_named(setting: str, shipped: tuple[dict[str, Subject], Path]) -> None:
    models, work = shipped
    assert trial(models["digits_transformer"], setting, "weight", np.random.default_rng(1), work)
