"""ONNX Runtime on the CPU: the table, and how its models are written, loaded and run."""

from sardonyx.backends.onnxruntime.backend import OnnxRuntimeBackend

__all__ = ["OnnxRuntimeBackend"]
