"""Default accuracy methods, one set for each kind of model.

The kind is seen from the operators. What the sets hold was measured with `benchmarks/quantization.py` on models of each
kind; none of it is tuned to one model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Preset:
    """What suits a kind of model.

    Attributes:
        calibrator: Name of the calibrator.
        methods: Names of accuracy methods.
    """

    calibrator: str = "percentile"
    methods: tuple[str, ...] = ()


_PRESETS: Mapping[ModelKind, Preset] = {
    ModelKind.CONVOLUTIONAL: Preset(methods=("mse-ranges", "bias-correction")),
    ModelKind.TRANSFORMER: Preset(),
    ModelKind.RECURRENT: Preset(),
}

_SYMMETRIC_PRESETS: Mapping[ModelKind, Preset] = {
    ModelKind.CONVOLUTIONAL: Preset("mse"),
    ModelKind.TRANSFORMER: Preset(),
    ModelKind.RECURRENT: Preset(),
}
"""Where the zero point of activations is fixed: after a Relu half of the integers are never used, so that it matters
more how much of the range is given up for a finer step."""


def preset(model: ir.Model, capabilities: Capabilities) -> Preset:
    """Returns what suits a model's kind and the integers of a target."""
    presets = _SYMMETRIC_PRESETS if capabilities.activation.symmetric else _PRESETS
    return presets[model_kind(model)]
