"""Initializers that are computed when they are read."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.errors import LoadError
from tests import models_for_tests as build

BIG = (1024, 300)  # 1.2 MB of FLOAT


def empty_graph() -> ir.Graph:
    return build.model([], {"x": [2]}, {"x": [2]}).graph


def test_small_ones_are_computed_at_once_and_large_ones_on_reading() -> None:
    calls: list[tuple[int, ...]] = []

    def compute(shape: tuple[int, ...]) -> np.ndarray:
        calls.append(shape)
        return np.full(shape, 0.5, np.float32)

    graph = empty_graph()
    small = ir.lazy_initializer(graph, "small", ir.DataType.FLOAT, (2, 3), lambda: compute((2, 3)))
    large = ir.lazy_initializer(graph, "large", ir.DataType.FLOAT, BIG, lambda: compute(BIG))
    assert calls == [(2, 3)]
    assert isinstance(large.const_value, ir.LazyTensor)
    assert not isinstance(small.const_value, ir.LazyTensor)
    assert (large.dtype, list(large.shape or ())) == (ir.DataType.FLOAT, [*BIG])
    assert large.const_value.nbytes == 4 * 1024 * 300
    np.testing.assert_array_equal(large.const_value.numpy(), np.full(BIG, 0.5, np.float32))
    assert calls == [(2, 3), BIG]


@pytest.mark.parametrize("wrong", [np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float64)])
def test_another_shape_or_dtype_is_an_error(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"'k' is .*, not float32\[2, 3\]"):
        ir.lazy_initializer(empty_graph(), "k", ir.DataType.FLOAT, (2, 3), lambda: wrong)


def test_it_is_digested_and_saved_as_its_value(tmp_path: Path) -> None:
    weight = build.weights(*BIG)
    multiply = helper.make_node("MatMul", ["x", "w"], ["y"])
    source = build.proto([multiply], {"x": [2, 1024]}, {"y": None}, {"w": weight})
    model = ir.load(source).model
    plain = ir.digest(model)
    lazy = ir.LazyTensor(lambda: ir.tensor(weight), dtype=ir.DataType.FLOAT, shape=ir.Shape(BIG), name="w")
    model.graph.initializers["w"].const_value = lazy
    assert ir.digest(model) == plain
    for external in (False, True):
        ir.save(model, tmp_path / "model.onnx", external_data=external)
        assert ir.digest(ir.load(tmp_path / "model.onnx").model) == plain


def external(folder: Path, array: np.ndarray, dtype: ir.DataType) -> ir.ExternalTensor:
    (folder / "data").write_bytes(array.tobytes())
    shape = ir.Shape(array.shape)
    return ir.ExternalTensor("data", 0, array.nbytes, dtype, shape=shape, name="w", base_dir=str(folder))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_])
def test_external_data_is_read_and_not_mapped(tmp_path: Path, dtype: type) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    tensor = external(tmp_path, array, ir.tensor(array).dtype)
    read = ir.read_array(tensor)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "data") not in maps
    np.testing.assert_array_equal(
        ir.read_array(ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=tensor.shape)), array
    )


def test_external_data_that_is_gone_is_an_error(tmp_path: Path) -> None:
    tensor = external(tmp_path, np.zeros(3, np.float32), ir.DataType.FLOAT)
    (tmp_path / "data").unlink()
    with pytest.raises(LoadError, match="'w' cannot be read"):
        ir.read_array(tensor)
