"""TensorRT: what it takes, how a graph becomes that, and engines built from it with the proof of their types."""

from sardonyx.backends.tensorrt.backend import TensorRTBackend

__all__ = ["TensorRTBackend"]
