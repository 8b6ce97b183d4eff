"""Folding BatchNormalization into the convolution or Gemm before it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.provenance import mark

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FuseBatchNorm(Pass):
    """Rewrites BatchNormalization(Conv(x)) to Conv(x), likewise for ConvTranspose and Gemm.

    With s = gamma / sqrt(variance + epsilon), y = gamma (Wx + b - mean) / sqrt(variance + epsilon) + beta equals
    (sW) x + (s (b - mean) + beta); see Jacob et al. 2018, arXiv:1712.05877, section 3.2. Computed in float64.
    """

    name = "fuse-batch-norm"
    summary = "fold BatchNormalization into the Conv, ConvTranspose or Gemm before it"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Fuses wherever the parameters are constant and nobody else reads the value in between."""
        fused = 0
        refusals = []
        names = ir.NameAuthority(model)
        for graph in ir.all_graphs(model):
            for node in graph:
                if node.op_type != "BatchNormalization" or node.domain:
                    continue
                producer = node.inputs[0].producer() if node.inputs[0] is not None else None
                reason = _obstacle(node, producer)
                if reason is not None or producer is None:
                    refusals.append(Refusal(self.name, reason or "", (node.name or "",)))
                    continue
                _fuse(graph, producer, node, names)
                fused += 1
        return PassResult(model, fused > 0, {self.name: fused} if fused else {}, tuple(refusals))


def _channel_axis(producer: ir.Node) -> int | None:
    """Output channel axis of the weight, or None where scaling it does not scale the output channels."""
    if producer.op_type == "ConvTranspose":
        return 1 if ir.attribute(producer, "group", 1) == 1 else None
    if producer.op_type == "Gemm":
        return 0 if ir.attribute(producer, "transB", 0) else 1
    return 0


def _obstacle(node: ir.Node, producer: ir.Node | None) -> str | None:
    """Why a BatchNormalization cannot be folded, or None."""
    if producer is None or producer.domain or producer.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return "its input does not come from a Conv, ConvTranspose or Gemm"
    if ir.attribute(node, "training_mode", 0) or len([o for o in node.outputs if o.uses()]) > 1:
        return "it is in training mode"
    between = producer.outputs[0]
    if len(between.uses()) != 1 or between.is_graph_output():
        return f"{between.name} is used elsewhere too"
    if producer.graph is not node.graph:
        return "it is not in the same graph as its producer"
    if _channel_axis(producer) is None:
        return "the transposed convolution is grouped"
    for value in (*producer.inputs[1:], *node.inputs[1:]):
        tensor = ir.constant_tensor(value) if value is not None else None
        if value is not None and (tensor is None or tensor.dtype is not ir.DataType.FLOAT):
            return f"{value.name} is not a FLOAT constant"
    return _bias_obstacle(producer)


def _bias_obstacle(producer: ir.Node) -> str | None:
    bias = producer.inputs[2] if len(producer.inputs) > 2 else None
    tensor = ir.constant_tensor(bias) if bias is not None else None
    if tensor is not None and producer.op_type == "Gemm" and sum(d != 1 for d in tensor.shape.numpy()) > 1:
        return f"the Gemm's bias has shape {list(tensor.shape)}"
    return None


def _constant(value: ir.Value | None) -> Float64Array:
    tensor = ir.constant_tensor(value) if value is not None else None
    if tensor is None:
        raise ValueError("the caller checks that the operand is a constant")
    return tensor.numpy().astype(np.float64)


def _fuse(graph: ir.Graph, producer: ir.Node, node: ir.Node, names: ir.NameAuthority) -> None:
    gamma, beta, mean, variance = (_constant(value) for value in node.inputs[1:5])
    scale = gamma / np.sqrt(variance + ir.attribute(node, "epsilon", 1e-5))
    weight = _constant(producer.inputs[1])
    shape = [1] * weight.ndim
    shape[_channel_axis(producer) or 0] = -1
    has_bias = len(producer.inputs) > 2 and producer.inputs[2] is not None
    bias = _constant(producer.inputs[2]).ravel() if has_bias else np.zeros_like(mean)
    if producer.op_type == "Gemm":
        bias = bias * ir.attribute(producer, "beta", 1.0)
        producer.attributes.pop("beta", None)  # its default is 1, and the factor is in the bias now
    constants = {
        "weight": weight * scale.reshape(shape),
        "bias": (bias - mean) * scale + beta,
    }
    producer.resize_inputs(3)
    for index, (kind, array) in enumerate(constants.items(), start=1):
        old = producer.inputs[index]
        name = names.value(f"{old.name}_fused" if old is not None else f"{producer.name}_{kind}")
        producer.replace_input_with(index, ir.add_initializer(graph, name, array.astype(np.float32)))
    mark(producer, FuseBatchNorm.name, producer.name, node.name)
    result, between = node.outputs[0], producer.outputs[0]
    result_name = result.name
    ir.replace_all_uses_with(result, between, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    result.name, between.name = None, result_name
