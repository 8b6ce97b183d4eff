"""The driver: from a model file to a proven artefact."""

from sardonyx.driver.compile import CompileJob, CompileResult, run_compile
from sardonyx.driver.quantize import QuantizeJob, QuantizeResult, Selection, run_quantize

__all__ = [
    "CompileJob",
    "CompileResult",
    "QuantizeJob",
    "QuantizeResult",
    "Selection",
    "run_compile",
    "run_quantize",
]
