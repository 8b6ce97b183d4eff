"""The driver: from a model file to a proven artefact."""

from sardonyx.driver.compile import CompileJob, CompileResult, run_compile

__all__ = ["CompileJob", "CompileResult", "run_compile"]
