"""Stands in for the builder: the text of the model file says what it does."""

import json
import os
import signal
import time
from pathlib import Path

__version__ = "0.fake"


class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity, message): ...


class IProgressMonitor: ...


class ProfilingVerbosity:
    DETAILED = 2


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 0


class ComputeCapability:
    SM86 = 86


class MemoryPoolType:
    WORKSPACE = 0


class _Network:
    num_inputs = 0
    text = ""


class _Config:
    progress_monitor = None
    num_compute_capabilities = 0

    def set_memory_pool_limit(self, pool, nbytes): ...

    def set_compute_capability(self, capability, index):
        return index < self.num_compute_capabilities

    def add_optimization_profile(self, profile):
        return 0

    def create_timing_cache(self, known):
        return _Plan(known + b"timed ")

    def set_timing_cache(self, cache, ignore_mismatch):
        return not cache.startswith(b"of another GPU")


class _Profile:
    def set_shape(self, name, least, best, most): ...


class OnnxParser:
    def __init__(self, network, logger):
        self.network = network
        self.num_errors = 0

    def parse_from_file(self, path):
        self.network.text = Path(path).read_bytes().decode("latin-1")
        if self.network.text == "die in the parser":
            os.kill(os.getpid(), signal.SIGSEGV)
        return True


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        os.write(1, b"native code prints to standard output\n")
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 4)
        monitor.step_complete("Building engine", 0)
        if "hang" in network.text:
            time.sleep(600)
        if network.text == "die in the builder":
            os.write(2, b"terminate called\n")
            os.abort()
        if network.text == "leave":
            os._exit(7)
        if network.text == "refuse" or "DequantizeLinear" in network.text:
            self.logger.log(ILogger.Severity.ERROR, "[checkMacros.cpp::catchCudaError::250] cudaError 35")
            self.logger.log(ILogger.Severity.ERROR, "no tactics to\nimplement the operation")
            return None
        monitor.phase_finish("Building engine")
        self.logger.log(ILogger.Severity.INFO, "Total Weights Memory: 12 bytes")
        return _Plan(network.text.encode()[:4])


class _Plan(bytes):
    @property
    def nbytes(self):
        return len(self)

    def serialize(self):
        return self


class LayerInformationFormat:
    JSON = 1


class Runtime:
    """Loads engines where a file says what their inspector tells."""

    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        told = os.environ.get("FAKE_INSPECTOR", "")
        if not told:
            self.logger.log(ILogger.Severity.ERROR, "[checkMacros.cpp::catchCudaError::250] cudaError 35")
            return None
        if not os.path.exists(told):
            self.logger.log(ILogger.Severity.ERROR, "the engine is for another device")
            return None
        if plan == b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        return _Engine(Path(told).read_text(), dynamic=plan == b"dynamic")


class _Engine:
    num_io_tensors = 2

    def __init__(self, told, dynamic):
        self.told, self.dynamic = told, dynamic

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_shape(self, name):
        return [-1, 3] if self.dynamic else [4, 3]

    def get_tensor_mode(self, name):
        return {"x": "TensorIOMode.INPUT", "y": "TensorIOMode.OUTPUT"}[name]

    def get_tensor_profile_shape(self, name, profile):
        return [[1, 3], [4, 3], [8, 3]]

    def is_shape_inference_io(self, name):
        return False

    def create_execution_context(self):
        return _Context(self)

    def create_engine_inspector(self):
        return _Inspector(self)


class _Context:
    def __init__(self, engine):
        self.engine, self.shapes = engine, {}

    @property
    def all_binding_shapes_specified(self):
        return not self.engine.dynamic or "x" in self.shapes

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True


class _Inspector:
    execution_context = None

    def __init__(self, engine):
        self.engine = engine

    def get_engine_information(self, layout):
        if not self.engine.dynamic:
            return self.engine.told
        return json.dumps({**json.loads(self.engine.told, strict=False), "shapes": self.execution_context.shapes})
