"""Broken models never break the compiler: every step gives findings, a result, or an error raised on purpose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from sardonyx import ir
from sardonyx.backends.tensorrt.build import BuildJob, build_all
from sardonyx.backends.tensorrt.child import Stage
from sardonyx.backends.tensorrt.findings import Finding
from sardonyx.backends.tensorrt.legalization import legalize
from sardonyx.backends.tensorrt.preflight import preflight
from sardonyx.errors import SardonyxError
from tests.backends.tensorrt.nets import conv
from tests.backends.tensorrt.rows import ROWS

Generator = np.random.Generator
Mutation = Callable[[onnx.ModelProto, Generator], None]


def _node(model: onnx.ModelProto, rng: Generator) -> onnx.NodeProto:
    return model.graph.node[int(rng.integers(len(model.graph.node)))]


def _drop_node(model: onnx.ModelProto, rng: Generator) -> None:
    model.graph.node.remove(_node(model, rng))


def _drop_input(model: onnx.ModelProto, rng: Generator) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[int(rng.integers(len(node.input)))] = ""


def _swap_inputs(model: onnx.ModelProto, rng: Generator) -> None:
    _node(model, rng).input.reverse()


def _rename_operator(model: onnx.ModelProto, rng: Generator) -> None:
    _node(model, rng).op_type = str(
        rng.choice(["Relu", "MatMul", "QuantizeLinear", "QLinearConv", "Concat", "Sparkle"])
    )


def _reshape_initializer(model: onnx.ModelProto, rng: Generator) -> None:
    if model.graph.initializer:
        tensor = model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]
        tensor.dims[:] = [int(rng.integers(0, 5)), *tensor.dims]


def _retype_initializer(model: onnx.ModelProto, rng: Generator) -> None:
    if model.graph.initializer:
        tensor = model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]
        tensor.data_type = int(rng.choice([1, 2, 3, 5, 6, 10, 11, 22]))


def _drop_attribute(model: onnx.ModelProto, rng: Generator) -> None:
    node = _node(model, rng)
    if node.attribute:
        node.attribute.pop()


def _change_axis(model: onnx.ModelProto, rng: Generator) -> None:
    node = _node(model, rng)
    node.attribute.append(onnx.helper.make_attribute("axis", int(rng.integers(-9, 9))))


def _resize_input(model: onnx.ModelProto, rng: Generator) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if dims:
        dims[int(rng.integers(len(dims)))].dim_value = int(rng.choice([0, 1, 7, 2**40]))


MUTATIONS: tuple[Mutation, ...] = (
    _drop_node,
    _drop_input,
    _swap_inputs,
    _rename_operator,
    _reshape_initializer,
    _retype_initializer,
    _drop_attribute,
    _change_axis,
    _resize_input,
)

COUNT = 100


def mutated(seed: int) -> bytes:
    """A row of the tests with a structural mutation, or with some of its bytes changed."""
    rng = np.random.default_rng(seed)
    small = [row for row in ROWS if row.name != "int4-blocks-256"]
    model = small[int(rng.integers(len(small)))].make() if seed % 4 else conv()
    if seed % 2:
        MUTATIONS[(seed // 2) % len(MUTATIONS)](model, rng)
        return model.SerializeToString()
    data = bytearray(model.SerializeToString())
    for position in rng.integers(0, len(data), 4):
        data[position] ^= 1 << int(rng.integers(8))
    return bytes(data)


def compile_model(data: bytes, path: Path) -> tuple[Finding, ...] | None:
    """Takes a model through loading, pre-flight and legalization; None where it was refused with an error of ours."""
    try:
        model = ir.load(data).model
        found = preflight(model)
        legalize(model)
        ir.save(model, path)
    except SardonyxError:
        return None
    return found


@pytest.fixture(scope="module")
def survivors(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Those mutated models that come through, as files."""
    folder = tmp_path_factory.mktemp("mutated")
    paths = [folder / f"{seed}.onnx" for seed in range(COUNT)]
    return [path for seed, path in enumerate(paths) if compile_model(mutated(seed), path) is not None]


def test_some_are_refused_and_some_come_through(survivors: list[Path]) -> None:
    assert COUNT // 10 < len(survivors) < COUNT


def test_the_builder_answers_for_all_that_come_through(survivors: list[Path]) -> None:
    results = build_all([BuildJob(path) for path in survivors])
    assert len(results) == len(survivors)
    for result in results:
        assert result.stage in tuple(Stage)
        assert result.done or result.errors
