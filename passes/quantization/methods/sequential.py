"""Sequential bias correction: each layer is measured behind layers that are already quantized and corrected.

The empirical bias correction of Nagel et al., 2019 (arXiv:1906.04721, appendix D): for one layer after the other, the
means of its output channels in the float model minus those in the quantized model are added to its bias. Unlike the
correction of a weight's mean error alone, it sees what rounding and clipping of activations do, and what is left of
the errors of all layers before.

The quantized model is run as it will be, except that products are computed in float, with the shifts as inputs: one
session serves all layers, and only sums are kept. It costs one run of the samples a layer.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.measure import Array, Session, SessionOptions
from sardonyx.passes.base import PassContext, Refusal
from sardonyx.passes.quantization.calibration.taps import tapped_model
from sardonyx.passes.quantization.insert import InsertQdq
from sardonyx.passes.quantization.methods.bias import bias_input, shift_output
from sardonyx.passes.quantization.methods.channels import ChannelSums, FloatArray
from sardonyx.passes.quantization.methods.layers import Layer
from sardonyx.passes.quantization.methods.refine import Refined
from sardonyx.passes.quantization.methods.stream import stream
from sardonyx.passes.quantization.plan import QuantPlan

METHOD = "sequential-bias-correction"
SAMPLES = 64
"""Samples that each layer is measured on at most: differences of means on the same samples hardly vary."""


def correct_in_sequence(model: ir.Model, layers: Sequence[Layer], plan: QuantPlan, context: PassContext) -> Refined:
    """Corrects the biases of a model that is about to be quantized.

    Args:
        model: The float model; its biases are changed in place.
        layers: The quantized layers of its main graph, in order.
        plan: What will be quantized, and how.
        context: The target's table, samples, threads and progress.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples.
        BackendError: If the runtime refuses the quantized model.
    """
    found = {layer: bias_input(layer) for layer in layers}
    reasons = {layer: reason for layer, reason in found.items() if isinstance(reason, str)}
    able = [layer for layer in layers if layer not in reasons]
    if able:
        expected = _float_means(model, able, context)
        simulation = _Simulation.of(model, able, plan, context)
        for layer, seen in simulation.run(context):
            reason = _apply(layer, expected[layer] - seen, simulation)
            if reason is not None:
                reasons[layer] = reason
    count = len(layers) - len(reasons)
    refusals = (Refusal(METHOD, reason, (layer.node.name or "",)) for layer, reason in reasons.items())
    return Refined({METHOD: count} if count else {}, tuple(refusals))


def _apply(layer: Layer, shift: FloatArray, simulation: "_Simulation") -> str | None:
    if shift.shape != (layer.outputs,) or not np.isfinite(shift).all():
        return f"the outputs of {layer.node.name} have no finite means on the samples"
    reason = shift_output(layer, shift)
    if reason is None:
        simulation.shift(layer, shift)
    return reason


def _float_means(model: ir.Model, layers: Sequence[Layer], context: PassContext) -> dict[Layer, FloatArray]:
    """Means of the output channels in the float model, each of shape (outputs,)."""
    sums = {layer: ChannelSums(layer.channel_axis) for layer in layers}

    def look(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        for layer, each in sums.items():
            each.add(arrays[layer.node.outputs[0].name or ""])

    stream(model, [layer.node.outputs[0].name or "" for layer in layers], look, context, SAMPLES)
    return {layer: each.stats().mean for layer, each in sums.items()}


@dataclass
class _Simulation:
    """The quantized model, with what is added to each bias as an input.

    Attributes:
        model: The model; its outputs are those of the layers, before they are quantized.
        outputs: Name of each layer's output.
        inputs: Name of the input that shifts each layer's bias.
        shifts: What is fed to these inputs.
    """

    model: ir.Model
    outputs: dict[Layer, str]
    inputs: dict[Layer, str]
    shifts: dict[str, Array]

    @classmethod
    def of(cls, model: ir.Model, layers: Sequence[Layer], plan: QuantPlan, context: PassContext) -> Self:
        """Quantizes a copy of a float model whose biases `bias_input` finds; all shifts are zero."""
        quantized = ir.clone(model)
        InsertQdq(plan).apply(quantized, context)
        nodes = {node.name: node for node in quantized.graph}
        names = ir.NameAuthority(quantized)
        inputs, shifts = {}, {}
        for layer in layers:
            found = bias_input(layer)
            assert not isinstance(found, str), "the caller has checked it"
            node, index = nodes[found[0].name], found[1]
            added = _add_input(quantized.graph, node, index, names)
            inputs[layer] = added.name or ""
            shifts[inputs[layer]] = np.zeros(added.shape.numpy() if added.shape is not None else (), np.float32)
        outputs = {layer: nodes[layer.node.name].outputs[0].name or "" for layer in layers}
        return cls(tapped_model(quantized, list(outputs.values())), outputs, inputs, shifts)

    def shift(self, layer: Layer, shift: FloatArray) -> None:
        """Sets what is added to a layer's bias."""
        name = self.inputs[layer]
        self.shifts[name] = shift.reshape(self.shifts[name].shape).astype(np.float32)

    def run(self, context: PassContext) -> Iterator[tuple[Layer, FloatArray]]:
        """Yields the layers in order, each with the means of its output channels with the shifts as they are by then.

        The means have shape (outputs,).
        """
        with tempfile.TemporaryDirectory(prefix="sardonyx-") as folder:
            path = Path(folder) / "quantized.onnx"
            ir.save(self.model, path)
            with Session(path, options=SessionOptions(threads=context.threads, arena=False)) as session:
                for done, (layer, output) in enumerate(self.outputs.items(), 1):
                    yield layer, self._means(session, layer, output, context)
                    context.progress(done, len(self.outputs), "correct biases")

    def _means(self, session: Session, layer: Layer, output: str, context: PassContext) -> FloatArray:
        assert context.samples is not None, "the float model has been run on them"
        sums = ChannelSums(layer.channel_axis)
        for feed in islice(context.samples, SAMPLES):
            (array,) = session.run({**feed, **self.shifts}, [output])
            sums.add(array)
        return sums.stats().mean


def _add_input(graph: ir.Graph, node: ir.Node, index: int, names: ir.NameAuthority) -> ir.Value:
    """Adds a new input of the graph to what a node takes, and returns it."""
    bias = node.inputs[index]
    assert bias is not None, "the quantized model has the biases of the float model"
    if bias.shape is None or not bias.shape.is_static():
        raise PassError(f"The quantized bias {bias.name} of {node.name} has no known shape.")
    added = ir.Value(name=names.value(f"{node.name}_shift"), shape=bias.shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(added)
    shifted = ir.Node("", "Add", [bias, added], name=names.node(f"{node.name}_shifted"))
    shifted.outputs[0].name = names.value(f"{node.name}_shifted")
    graph.insert_before(node, shifted)
    node.replace_input_with(index, shifted.outputs[0])
    return added
