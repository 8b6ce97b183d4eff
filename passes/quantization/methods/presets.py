"""Default accuracy methods, one set for each kind of model.

The kind is seen from the operators. What the sets hold was measured with `benchmarks/quantization.py` on models of each
kind; none of it is tuned to one model.
"""

from collections.abc import Mapping
from enum import StrEnum

from sardonyx import ir
from sardonyx.capabilities import Capabilities

RECURRENT_OPERATORS = frozenset({"LSTM", "GRU", "RNN"})


class ModelKind(StrEnum):
    """What a model mostly computes with."""

    CONVOLUTIONAL = "convolutional"
    TRANSFORMER = "transformer"
    RECURRENT = "recurrent"


def model_kind(model: ir.Model) -> ModelKind:
    """Returns a model's kind: recurrent where it has a recurrent operator, else by its multiply-accumulates.

    A model without any counts as convolutional.
    """
    nodes = [node for graph in ir.all_graphs(model) for node in graph]
    if any(node.op_type in RECURRENT_OPERATORS and not node.domain for node in nodes):
        return ModelKind.RECURRENT
    macs = [(node.op_type.startswith("Conv"), ir.node_macs(node) or 0) for node in nodes if ir.has_macs(node)]
    convolutions = sum(count for is_convolution, count in macs if is_convolution)
    products = sum(count for is_convolution, count in macs if not is_convolution)
    return ModelKind.TRANSFORMER if products > convolutions else ModelKind.CONVOLUTIONAL


_PRESETS: Mapping[ModelKind, tuple[str, ...]] = {
    ModelKind.CONVOLUTIONAL: ("mse-ranges",),
    ModelKind.TRANSFORMER: (),
    ModelKind.RECURRENT: (),
}
"""Methods by kind of model."""

_SYMMETRIC_PRESETS: Mapping[ModelKind, tuple[str, ...]] = {
    ModelKind.CONVOLUTIONAL: ("mse-ranges", "output-mse-weights", "bias-correction"),
    ModelKind.TRANSFORMER: (),
    ModelKind.RECURRENT: (),
}
"""The same where the zero point of activations is fixed: after a Relu half of the integers are never used, so that more
of the error is theirs."""


def preset(model: ir.Model, capabilities: Capabilities) -> tuple[str, ...]:
    """Returns the names of the methods that suit a model's kind and the integers of a target."""
    presets = _SYMMETRIC_PRESETS if capabilities.activation.symmetric else _PRESETS
    return presets[model_kind(model)]
