"""Where there is a GPU: the engine loads, computes what ONNX Runtime computes of its graph, and is timed by events."""

import dataclasses
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from sardonyx.backends.tensorrt import TensorRTBackend
from sardonyx.backends.tensorrt.build import build, find_builders
from sardonyx.backends.tensorrt.inspector import inspect_engine
from sardonyx.backends.tensorrt.settings import AHEAD_OF_TIME, TARGETS, BuildSettings, ShapeRange
from tests.backends.tensorrt.cuda import Gpu, NoGpuError
from tests.backends.tensorrt.graphs import convolutions

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    try:
        return Gpu()
    except NoGpuError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def settings(gpu: Gpu) -> BuildSettings:
    usable = [module for module, probe in find_builders().items() if probe.done]
    capability = gpu.compute_capability
    if not usable:
        pytest.skip("no TensorRT builder is installed")
    if usable[0] == AHEAD_OF_TIME and capability not in TARGETS:
        pytest.skip(f"the ahead-of-time builder has no target for this GPU's compute capability {capability}")
    return BuildSettings(compute_capabilities=(capability,) if usable[0] == AHEAD_OF_TIME else ())


def test_an_engine_computes_what_its_graph_says(
    gpu: Gpu, settings: BuildSettings, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path, engine = tmp_path / "model.trt.onnx", tmp_path / "model.engine"
    path.write_bytes(convolutions().SerializeToString())
    result = build(path, settings, engine=engine)
    assert result.done, result.why()
    feed = {"x": np.random.default_rng(0).standard_normal((1, 8, 16, 16)).astype(np.float32)}
    with TensorRTBackend().load(path) as session:
        (expected,) = session.run(feed)
    (output,), milliseconds = gpu.run(import_module(result.module), engine.read_bytes(), feed, runs=20)
    clock = gpu.clock_mhz
    # integers at a tie may round to the neighbour before the second convolution: one step of 0.1 times a weight
    assert np.abs(output - expected).mean() <= 1e-3 * np.abs(expected).mean()
    assert np.median(milliseconds) > 0
    record_property("milliseconds", float(np.median(milliseconds)))
    record_property("clock_mhz", clock)


def test_the_inspector_of_a_loaded_engine_tells_the_products_that_the_build_logged(
    settings: BuildSettings, tmp_path: Path
) -> None:
    """Without a driver an engine cannot be deserialized (cudaError 35), and without that there is no inspector."""
    path, engine = tmp_path / "model.trt.onnx", tmp_path / "model.engine"
    path.write_bytes(convolutions().SerializeToString())
    result = build(path, settings, engine=engine)
    assert result.done, result.why()
    inspection = inspect_engine(engine, result.module)
    assert not inspection.problem
    told, logged = (
        {(layer.nodes, layer.precision) for layer in layers if layer.computes_products}
        for layers in (inspection.layers, result.layers or inspection.layers)
    )
    assert told == logged
    assert {precision for _, precision in told} == {"Int8"}


def test_the_inspector_knows_the_formats_of_dynamic_values(settings: BuildSettings, tmp_path: Path) -> None:
    path, engine = tmp_path / "model.trt.onnx", tmp_path / "model.engine"
    path.write_bytes(convolutions("N").SerializeToString())
    profile = (ShapeRange.parse("x=1x8x16x16:4x8x16x16:8x8x16x16"),)
    result = build(path, dataclasses.replace(settings, profile=profile), engine=engine)
    assert result.done, result.why()
    inspection = inspect_engine(engine, result.module)
    assert not inspection.problem
    assert all(each.dtype for layer in inspection.layers for each in (*layer.inputs, *layer.outputs))
