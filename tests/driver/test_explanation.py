"""Explanations from a compile's folder tell what was written, not what could have been."""

import hashlib
from pathlib import Path

import onnx
import pytest

from sardonyx.driver.explanation import explain
from sardonyx.errors import UsageError
from sardonyx.pipeline import CompileRecord, Recipe
from tests import models_for_tests as build


def recorded(folder: Path, chosen: str) -> Path:
    """A folder with nothing but the record of a compile of a network, of which the node `gemm` was given back."""
    onnx.save(build.cnn(), folder / "model.onnx")
    record = CompileRecord(recipe=Recipe(), chosen=chosen)
    record.source.path = str(folder / "model.onnx")
    record.source.sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    record.decide("give-back", "float", "number 1 of 3", ("gemm",))
    record.decide("choose", chosen, "the fastest that keeps the budget")
    record.write(folder / "record.json")
    return folder


@pytest.mark.parametrize(
    ("chosen", "integers"),
    [
        ("quantized", "it runs as integers"),
        ("mixed", "it was given back to float: number 1 of 3"),
        (
            "optimized",
            "the target can run it as integers, but the optimized model was written: the fastest that keeps the budget",
        ),
    ],
)
def test_what_was_written_counts(tmp_path: Path, chosen: str, integers: str) -> None:
    assert explain(recorded(tmp_path, chosen), "gemm").integers == integers


def test_a_node_that_was_not_given_back(tmp_path: Path) -> None:
    assert explain(recorded(tmp_path, "mixed"), "add1").integers == "it runs as integers"


def test_a_model_that_is_gone(tmp_path: Path) -> None:
    folder = recorded(tmp_path, "quantized")
    (folder / "model.onnx").unlink()
    with pytest.raises(UsageError, match=r"was compiled from .*model\.onnx, which is not there"):
        explain(folder, "gemm")
