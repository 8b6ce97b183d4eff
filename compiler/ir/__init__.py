"""The IR room."""

from onnx_ir import DataType, Model
from onnx_ir.passes import InPlacePass, PassResult

__all__ = ["DataType", "InPlacePass", "Model", "PassResult"]
