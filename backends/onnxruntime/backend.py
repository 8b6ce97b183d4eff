"""The ONNX Runtime backend (CPU provider)."""

import os
from dataclasses import dataclass
from pathlib import Path

from sardonyx import ir
from sardonyx.backends.base import Backend, LegalizeResult
from sardonyx.backends.onnxruntime.table import DOMAINS, capabilities
from sardonyx.capabilities import Capabilities
from sardonyx.measure import Machine, Session, SessionOptions

MODEL_NAME = "model.onnx"


@dataclass(frozen=True)
class OnnxRuntimeBackend(Backend):
    """ONNX models with Q/DQ, run by ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    summary = "ONNX Runtime, CPU provider: ONNX models with Q/DQ, run as QLinear* kernels"
    files = (MODEL_NAME, f"{MODEL_NAME}.data")

    def capabilities(self, machine: Machine) -> Capabilities:
        """Returns the table of the CPU provider on a machine."""
        return capabilities(machine)

    def legalize(self, model: ir.Model) -> LegalizeResult:
        """Names the operators that no kernel will run; their nodes are left as they are."""
        known = {*DOMAINS, *(function.domain for function in model.functions.values())}
        refusals = tuple(
            f"{node.name or node.op_type}: the domain {node.domain!r} is not one that ONNX Runtime has kernels for; "
            "it loads only where a custom operator library is registered."
            for graph in ir.all_graphs(model)
            for node in graph
            if node.domain not in known
        )
        return LegalizeResult(refusals=refusals)

    def load(self, source: str | os.PathLike[str] | bytes, *, threads: int = 1) -> Session:
        """Loads a model; see `Session` for the errors raised."""
        return Session(source, options=SessionOptions(threads=threads))

    def emit(self, model: ir.Model, folder: Path, *, check: bool = True) -> Path:
        """Writes `model.onnx` (with `model.onnx.data` beside it over 2 GB) and loads it back.

        Types and shapes of computed values are left out. With them, ONNX Runtime 1.31 fuses SkipLayerNormalization,
        whose CPU kernel is slower than what it replaces, and no model was found that is faster with them
        (`benchmarks/declarations.py`).
        """
        path = folder / MODEL_NAME
        ir.save(model, path, declare=False)
        if check:
            self.load(path)
        return path
