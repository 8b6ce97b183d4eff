"""Runs a model in ONNX Runtime on the CPU."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from sardonyx.errors import BackendError, LoadError
from sardonyx.measure import narrow_types
from sardonyx.measure.feeds import Array, Feed, TensorSpec, check_feed

Optimization = Literal["all", "extended", "basic", "disabled"]

_LEVELS: dict[Optimization, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    "tensor(float16)": np.dtype("float16"),
    **{
        f"tensor({name})": np.dtype(name)
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
    },
    "tensor(string)": np.dtype(object),
    **narrow_types.CARRIERS,
}


GRAPH_NAME = "graph.onnx"
"""The file in a profile's folder that holds the graph as the runtime runs it."""


@dataclass(frozen=True)
class SessionOptions:
    """How ONNX Runtime is to run a model.

    Attributes:
        threads: Threads within one operator (intra-op); operators run one after the other.
        optimization: The runtime's own graph optimization level.
        arena: Whether the CPU memory arena keeps freed memory; off, peak memory is what the model needs.
        prepack: Whether weights are copied into the layout of the kernels; off, external ones stay mapped from their
            file, and runs take longer.
        profile: An existing folder, to which the runtime writes the graph it makes of the model when it is loaded, as
            `GRAPH_NAME`, and at `Session.end_profile` the times of all nodes; None for neither.
    """

    threads: int = 1
    optimization: Optimization = "all"
    arena: bool = True
    prepack: bool = True
    profile: Path | None = None


class Session:
    """A model loaded in ONNX Runtime, ready to run. Also a context manager that frees it.

    Args:
        source: Path of an ONNX file, or a serialized model without external data.
        options: How to run it.

    Raises:
        LoadError: If the file does not exist.
        BackendError: If the runtime refuses the model.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, *, options: SessionOptions = SessionOptions()) -> None:
        if isinstance(source, bytes):
            self.name = "the model in memory"
        else:
            self.name = os.fspath(source)
            if not Path(source).is_file():
                raise LoadError(f"{self.name}: no such file.", remedy="Check the path of the model.")
        self.options = options
        loaded = _load(source if isinstance(source, bytes) else self.name, options, self.name)
        self._session: Any | None = loaded
        self._input_types = {i.name: i.type for i in loaded.get_inputs()}
        self._narrow = any(
            value.type in narrow_types.CARRIERS for value in (*loaded.get_inputs(), *loaded.get_outputs())
        )
        self.inputs: tuple[TensorSpec, ...] = tuple(map(_spec, loaded.get_inputs()))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(_spec, loaded.get_outputs()))

    def check(self, feed: Feed) -> None:
        """Checks that a feed fits the model's inputs.

        Raises:
            DataError: If it does not, naming the input.
        """
        check_feed(feed, self.inputs, where=f"The feed of {self.name}")

    def run(self, feed: Feed, output_names: Sequence[str] | None = None) -> list[Array]:
        """Runs the model once.

        Args:
            feed: Arrays by input name.
            output_names: The outputs wanted, in this order; None for all in the model's order.

        Returns:
            One array an output. Element types that numpy lacks are widened exactly (see `TensorSpec`); a
            sequence or map comes as a one-dimensional array of objects.

        Raises:
            DataError: If the run failed because the feed does not fit.
            BackendError: If the runtime failed for another reason.
        """
        with self._explained(feed):
            return [_as_array(value) for value in self.runner(feed, output_names)()]

    def runner(self, feed: Feed, output_names: Sequence[str] | None = None) -> Callable[[], list[Any]]:
        """Binds a feed, so that calling the result costs nothing but the run: what timings use.

        Raises:
            BackendError: If the session is closed.
        """
        session = self._opened()
        names = None if output_names is None else list(output_names)
        if self._narrow:
            return lambda: narrow_types.run(session, names, feed, self._input_types)
        return partial(session.run, names, dict(feed))

    def writer(self, outputs: Mapping[str, Array]) -> Callable[[Feed], None] | None:
        """Binds arrays that outputs are written to, run after run, so that a run neither allocates nor copies them.

        Args:
            outputs: C-contiguous arrays by output name, of the element type and the shape that the output will have.

        Returns:
            What runs the model on a feed and fills the arrays. It raises DataError if the feed does not fit, and
            BackendError if the runtime failed, as where an output has another shape. None where inputs or outputs are
            of types that numpy lacks.

        Raises:
            BackendError: If the session is closed.
        """
        if self._narrow:
            return None
        session = self._opened()
        binding = session.io_binding()
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

        def write(feed: Feed, bound: Mapping[str, Array] = outputs) -> None:  # keeps the memory alive
            arrays = {name: np.ascontiguousarray(value) for name, value in feed.items()}
            with self._explained(feed):
                for name, array in arrays.items():
                    binding.bind_cpu_input(name, array)
                session.run_with_iobinding(binding)

        return write

    def _opened(self) -> Any:
        if self._session is None:
            raise BackendError(f"{self.name}: the session is closed.", remedy="Open a new Session.")
        return self._session

    @contextmanager
    def _explained(self, feed: Feed) -> Iterator[None]:
        """Says of a failed run whether the feed is at fault."""
        try:
            yield
        except _runtime_errors() as error:
            self.check(feed)
            raise BackendError(
                f"{self.name}: ONNX Runtime failed to run the model: {_one_line(error)}",
                remedy="Run it with SessionOptions(optimization='disabled') to see whether the model itself "
                "or a graph optimization of the runtime is at fault.",
            ) from error

    def end_profile(self) -> Path:
        """Ends the profile and returns the file, in the format of Chrome's tracing.

        Raises:
            BackendError: If the session is closed, or does not profile.
        """
        if self._session is None or self.options.profile is None:
            raise BackendError(
                f"{self.name} is not being profiled.", remedy="Open it with SessionOptions(profile=...)."
            )
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Frees the model; closing twice is allowed."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _load(source: str | bytes, options: SessionOptions, name: str) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[options.optimization])
    settings.enable_cpu_mem_arena = options.arena
    settings.log_severity_level = 4  # fatal only: what the runtime would log as errors, it also raises
    # Idle threads of one session must not spin while another session is being timed.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    if not options.prepack:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if options.profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = os.fspath(options.profile / "profile")
        settings.optimized_model_filepath = os.fspath(options.profile / GRAPH_NAME)
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "graph.data")
    try:
        return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise BackendError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} refused the model: {_one_line(error)}",
            remedy="Check the model with onnx.checker, or export it for an older opset; "
            "custom operators and models with external data must be given as files.",
        ) from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Returns the exception types of the runtime: its own share no base below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [t for t in vars(state).values() if isinstance(t, type) and issubclass(t, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)


def _one_line(error: Exception) -> str:
    """Shortens the runtime's reason to one line of at most 300 characters, without its prefix."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):  # "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : reason"
        text = text.split(" : ", 3)[-1]
    return text if len(text) <= 300 else text[:297] + "..."


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(value.name, _DTYPES.get(value.type), tuple(value.shape or ()))


def _as_array(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    items = list(value) if isinstance(value, list | tuple) else [value]
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
