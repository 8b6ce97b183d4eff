"""Stands in for the builder: the text of the model file says what it does."""

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
        self.cache = cache

    def get_timing_cache(self):
        return self.cache


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


class Runtime:
    def __init__(self, logger): ...
