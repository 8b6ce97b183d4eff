"""Where there is a GPU: the engine loads, computes what ONNX Runtime computes of its graph, and is timed by events."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from sardonyx.backends.tensorrt import TensorRTBackend
from sardonyx.backends.tensorrt.build import build, find_builders
from sardonyx.backends.tensorrt.settings import AHEAD_OF_TIME, TARGETS, BuildSettings
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
    # integers at a tie may round to the neighbour before the second convolution: one step of 0.1 times a weight
    assert np.abs(output - expected).mean() <= 1e-3 * np.abs(expected).mean()
    assert np.median(milliseconds) > 0
    record_property("milliseconds", float(np.median(milliseconds)))
    record_property("clock_mhz", gpu.clock_mhz)


def test_the_inspector_of_a_loaded_engine_tells_the_layers_that_the_build_logged(
    gpu: Gpu, settings: BuildSettings, tmp_path: Path
) -> None:
    """Without a driver an engine cannot be deserialized (cudaError 35), and without that there is no inspector."""
    path, engine = tmp_path / "model.trt.onnx", tmp_path / "model.engine"
    path.write_bytes(convolutions().SerializeToString())
    result = build(path, settings, engine=engine)
    assert result.done, result.why()
    trt = import_module(result.module)
    loaded = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(engine.read_bytes())
    told = json.loads(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    assert {layer["Name"] for layer in told["Layers"]} == {layer.name for layer in result.layers}
    assert gpu.compute_capability
