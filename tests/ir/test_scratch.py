"""Tensors in a temporary file."""

import gc
from pathlib import Path

import numpy as np
import pytest

from sardonyx import ir
from sardonyx.errors import SaveError
from tests import models_for_tests as build


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    scratch = ir.ScratchFile(tmp_path)
    arrays = [build.weights(3, 5), np.arange(7, dtype=np.int64), build.weights(0, 2)]
    tensors = [scratch.add(f"t{i}", array) for i, array in enumerate(arrays)]
    for tensor, array in zip(tensors, arrays, strict=True):
        assert tensor.dtype.numpy() == array.dtype
        np.testing.assert_array_equal(ir.read_array(tensor), array)


def test_four_bit_integers_are_packed(tmp_path: Path) -> None:
    levels = np.array([[-8, 7, 3]], np.int8).astype(ir.DataType.INT4.numpy())
    tensor = ir.ScratchFile(tmp_path).add("t", levels, ir.DataType.INT4)
    assert (tensor.nbytes, tensor.shape.numpy()) == (2, (1, 3))
    np.testing.assert_array_equal(tensor.numpy().astype(np.int8), [[-8, 7, 3]])


def test_the_file_lives_as_long_as_its_tensors(tmp_path: Path) -> None:
    scratch = ir.ScratchFile(tmp_path)
    tensor = scratch.add("t", build.weights(4))
    del scratch
    gc.collect()
    np.testing.assert_array_equal(ir.read_array(tensor), build.weights(4))
    del tensor
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_such_tensors_is_saved_and_survives_the_file(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    model = ir.load(build.cnn()).model
    scratch = ir.ScratchFile(tmp_path / "scratch")
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = scratch.add(value.name or "", value.const_value.numpy())
    before = ir.digest(ir.load(build.cnn()).model)
    ir.save(model, tmp_path / "m.onnx", external_data=True)
    del model, scratch, value
    gc.collect()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert ir.digest(ir.load(tmp_path / "m.onnx").model) == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="cannot be written"):
        ir.ScratchFile(tmp_path / "absent")
