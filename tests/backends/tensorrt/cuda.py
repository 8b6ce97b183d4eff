"""As much of the CUDA driver as running an engine takes: memory, a stream, events. Needs nothing but the driver."""

import ctypes
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

COMPUTE_CAPABILITY = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
CLOCK_SM = 1
"""NVML_CLOCK_SM."""


class NoGpuError(Exception):
    """There is no driver, or no device."""


class Gpu:
    """The first device, with its primary context current."""

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NoGpuError(f"no NVIDIA driver was found: {error}") from error
        if (code := self._driver.cuInit(0)) != 0:
            raise NoGpuError(f"the NVIDIA driver found no device: cuInit returned {code}")
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self.stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self.stream), 0)

    @property
    def compute_capability(self) -> str:
        """Such as `8.6`."""
        return ".".join(str(self._attribute(each)) for each in COMPUTE_CAPABILITY)

    @property
    def clock_mhz(self) -> int:
        """The clock of its multiprocessors now, as NVML tells it: idle devices are slow ones."""
        bus = ctypes.create_string_buffer(32)
        self._call("cuDeviceGetPCIBusId", bus, len(bus), self._device)
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        device, clock = ctypes.c_void_p(), ctypes.c_uint()
        for name, arguments in (
            ("nvmlInit_v2", ()),
            ("nvmlDeviceGetHandleByPciBusId_v2", (bus, ctypes.byref(device))),
            ("nvmlDeviceGetClockInfo", (device, CLOCK_SM, ctypes.byref(clock))),
            ("nvmlShutdown", ()),
        ):
            if (code := getattr(nvml, name)(*arguments)) != 0:
                raise RuntimeError(f"{name} returned {code}")
        return clock.value

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, self._device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} returned {code}")

    def run(
        self, trt: ModuleType, plan: bytes, feed: Mapping[str, Array], runs: int
    ) -> tuple[list[Array], list[float]]:
        """Deserializes an engine and runs it; returns its outputs and the milliseconds of each run."""
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(plan)
        assert engine is not None, "the engine does not load on this GPU"
        context = engine.create_execution_context()
        assert context is not None, "the GPU has no memory for the engine"
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        for name, array in feed.items():
            assert context.set_input_shape(name, array.shape), f"the engine does not take {array.shape} at {name}"
        arrays = {
            name: np.ascontiguousarray(feed[name])
            if name in feed
            else np.empty(tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
            for name in names
        }
        memory = {name: self._allocated(array) for name, array in arrays.items()}
        for name, address in memory.items():
            context.set_tensor_address(name, address.value)
        for name in feed:
            self._call("cuMemcpyHtoD_v2", memory[name], *_host(arrays[name]))
        milliseconds = [self._timed(context) for _ in range(runs)]
        for name in names:
            pointer, nbytes = _host(arrays[name])
            self._call("cuMemcpyDtoH_v2", pointer, memory[name], nbytes)
            self._call("cuMemFree_v2", memory[name])
        return [arrays[name] for name in names if name not in feed], milliseconds

    def _allocated(self, array: Array) -> ctypes.c_void_p:
        address = ctypes.c_void_p()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, array.nbytes)))
        return address

    def _timed(self, context: Any) -> float:
        start, end = ctypes.c_void_p(), ctypes.c_void_p()
        for event in (start, end):
            self._call("cuEventCreate", ctypes.byref(event), 0)
        self._call("cuEventRecord", start, self.stream)
        assert context.execute_async_v3(self.stream.value)
        self._call("cuEventRecord", end, self.stream)
        self._call("cuEventSynchronize", end)
        elapsed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), start, end)
        for event in (start, end):
            self._call("cuEventDestroy_v2", event)
        return elapsed.value


def _host(array: Array) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    """An array's address and bytes; plain Python integers would be passed as 32 bits."""
    return array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes)
