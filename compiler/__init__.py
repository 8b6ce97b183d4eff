"""Sardonyx: a graph compiler for ONNX models.

The public face is small: `compile` for the whole job, and the rooms for its parts: `sardonyx.ir`,
`sardonyx.pipeline`, `sardonyx.measure`, `sardonyx.passes`, `sardonyx.backends`, `sardonyx.models`.
"""

from sardonyx._version import __version__

__all__ = ["__version__"]
