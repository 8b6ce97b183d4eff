"""Legalization: rewriting a graph, also one that another tool quantized, to what TensorRT takes."""

from sardonyx.backends.tensorrt.legalization.legalize import legalize, rewrite

__all__ = ["legalize", "rewrite"]
