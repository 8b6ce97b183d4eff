"""Sequential bias correction: each layer is measured behind layers that are already quantized and corrected.

The empirical bias correction of Nagel et al., 2019 (arXiv:1906.04721, appendix D): for one layer after the other, the
mean difference of its output channels between the float and the quantized model is added to its bias. Unlike the
correction of a weight's mean error alone, it sees what rounding and clipping of activations do, and what is left of
the errors of all layers before. Where a Relu or Clip follows, the mean is taken over the numbers that it lets through:
errors of the others go no further, and correcting them would shift those that count.

The quantized model is run as it will be, except that products are computed in float, with the shifts as inputs: one
session of it, and one of the float model, serve all layers, and only sums are kept. It costs one run of the samples in
both models a layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.measure import Array, Session, SessionOptions
from sardonyx.passes.base import PassContext, Refusal
from sardonyx.passes.quantization.calibration.taps import tapped_model
from sardonyx.passes.quantization.insert import InsertQdq, clamp_limits
from sardonyx.passes.quantization.methods.bias import bias_input, shift_output
from sardonyx.passes.quantization.methods.channels import FloatArray
from sardonyx.passes.quantization.methods.layers import Layer
from sardonyx.passes.quantization.methods.refine import Refined
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
    shifts: dict[str, FloatArray] = {}
    if able:
        simulation = _Simulation.of(model, able, plan, context)
        for layer, shift in simulation.run(context):
            reason = _apply(layer, shift, simulation)
            if reason is not None:
                reasons[layer] = reason
            else:
                shifts[layer.node.name or ""] = shift
    count = len(shifts)
    refusals = (Refusal(METHOD, reason, (layer.node.name or "",)) for layer, reason in reasons.items())
    return Refined({METHOD: count} if count else {}, tuple(refusals), shifts)


def _apply(layer: Layer, shift: FloatArray, simulation: "_Simulation") -> str | None:
    if shift.shape != (layer.outputs,) or not np.isfinite(shift).all():
        return f"the outputs of {layer.node.name} have no finite means on the samples"
    reason = shift_output(layer, shift)
    if reason is None:
        simulation.shift(layer, shift)
    return reason


class _Differences:
    """Accumulates the mean difference of a layer's output channels, over numbers that matter."""

    def __init__(self, layer: Layer) -> None:
        self._axis = layer.channel_axis
        self._low, self._high = _passed(layer)
        self._sum, self._count = np.zeros(layer.outputs), np.zeros(layer.outputs)

    def add(self, expected: npt.NDArray[np.floating], actual: npt.NDArray[np.floating]) -> None:
        """Adds one sample of the float and the quantized model, of any one shape."""
        matters = (expected > self._low) & (expected < self._high)
        others = tuple(i for i in range(expected.ndim) if i != self._axis % expected.ndim)
        self._sum += np.sum(expected - actual, axis=others, dtype=np.float64, where=matters)
        self._count += np.count_nonzero(matters, axis=others)

    def mean(self) -> FloatArray:
        """Returns the means, shape (outputs,); 0 where no number mattered."""
        mean: FloatArray = self._sum / np.maximum(self._count, 1)
        return mean


def _passed(layer: Layer) -> tuple[float, float]:
    """The interval in which a layer's outputs matter: that of the clamp which alone takes them."""
    users = list(layer.node.outputs[0].uses())
    clamps = len(users) == 1 and users[0].node.op_type in ("Relu", "Clip") and not users[0].node.domain
    limits = clamp_limits(users[0].node) if clamps else None
    return limits if limits is not None else (-np.inf, np.inf)


@dataclass
class _Simulation:
    """The quantized model, with what is added to each bias as an input.

    Attributes:
        original: The float model; its outputs are those of the layers.
        model: The quantized model; its outputs are those of the layers, before they are quantized.
        outputs: Name of each layer's output in both models.
        inputs: Name of the input that shifts each layer's bias.
        shifts: What is fed to these inputs.
    """

    original: ir.Model
    model: ir.Model
    outputs: dict[Layer, tuple[str, str]]
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
        outputs = {layer: (_output(layer.node), _output(nodes[layer.node.name])) for layer in layers}
        original = tapped_model(model, [name for name, _ in outputs.values()])
        return cls(original, tapped_model(quantized, [name for _, name in outputs.values()]), outputs, inputs, shifts)

    def shift(self, layer: Layer, shift: FloatArray) -> None:
        """Sets what is added to a layer's bias."""
        name = self.inputs[layer]
        self.shifts[name] = shift.reshape(self.shifts[name].shape).astype(np.float32)

    def run(self, context: PassContext) -> Iterator[tuple[Layer, FloatArray]]:
        """Yields the layers in order, each with the shift that its outputs need, with those before as they are by then.

        Shifts have shape (outputs,).
        """
        options = SessionOptions(threads=context.threads, arena=False)
        with ir.TemporaryFolder() as folder:
            paths = folder / "float.onnx", folder / "quantized.onnx"
            ir.save(self.original, paths[0])
            ir.save(self.model, paths[1])
            with Session(paths[0], options=options) as original, Session(paths[1], options=options) as quantized:
                for done, layer in enumerate(self.outputs, 1):
                    yield layer, self._measure(original, quantized, layer, context)
                    context.progress(done, len(self.outputs), "correct biases")

    def _measure(self, original: Session, quantized: Session, layer: Layer, context: PassContext) -> FloatArray:
        if context.samples is None:
            raise PassError(f"{METHOD} needs samples to observe.", remedy="Pass --data, or data=samples.")
        expected_name, actual_name = self.outputs[layer]
        differences = _Differences(layer)
        for feed in islice(context.samples, SAMPLES):
            (expected,) = original.run(feed, [expected_name])
            (actual,) = quantized.run({**feed, **self.shifts}, [actual_name])
            differences.add(expected, actual)
        return differences.mean()


def _output(node: ir.Node) -> str:
    return node.outputs[0].name or ""


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
