"""Biases: giving layers one of their own, and taking back the mean error of a rounded weight with it.

A weight error E shifts the mean of a layer's outputs by E times the mean of its columns (Nagel et al., 2019,
arXiv:1906.04721, section 4.2). The bias of a Conv or Gemm takes the shift back, and so does the constant that an Add
puts behind a MatMul.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.errors import SpecError
from sardonyx.passes.quantization.methods.channels import FloatArray
from sardonyx.passes.quantization.methods.layers import Layer, linear_layers
from sardonyx.passes.quantization.placement import Placement
from sardonyx.passes.quantization.plan import QuantPlan


def give_biases(model: ir.Model, placement: Placement, capabilities: Capabilities) -> tuple[Placement, tuple[str, ...]]:
    """Gives each quantized layer that can have a bias one that nobody shares; a missing one is zero.

    Args:
        model: The float model; changed in place.
        placement: What is quantized.
        capabilities: The target's table, which says where a bias goes.

    Returns:
        The placement with the new biases, and the names of the nodes that have one now.
    """
    nodes = [placed.node for placed in placement.weights]
    biases = _given(model, nodes, capabilities)
    as_integers = {
        name: bias.name
        for name, (layer, bias) in biases.items()
        if (row := capabilities.support("", layer.node.op_type)) is None or row.bias_dtype is not ir.DataType.FLOAT
    }
    weights = (replace(each, bias=as_integers.get(each.node, each.bias)) for each in placement.weights)
    return replace(placement, weights=tuple(weights)), tuple(biases)


def _given(model: ir.Model, nodes: Iterable[str], capabilities: Capabilities) -> dict[str, tuple[Layer, ir.Value]]:
    """Gives nodes biases of their own; returns each layer that has one now with it, by the name of its node."""
    names = ir.NameAuthority(model)
    layers = {layer.node.name: layer for layer in linear_layers(model.graph)}
    biases = {}
    for name in nodes:
        layer = layers.get(name)
        row = capabilities.support("", layer.node.op_type) if layer is not None else None
        if layer is not None and row is not None and row.bias is not None:
            bias = _own_bias(model.graph, layer, row.bias, names)
            if bias is not None:
                biases[name] = (layer, bias)
    return biases


def repeat_shifts(model: ir.Model, plan: QuantPlan, capabilities: Capabilities) -> None:
    """Shifts the outputs of layers as a plan says.

    Args:
        model: The float model that the plan was made from, its scales moved; changed in place.
        plan: The plan, perhaps edited.
        capabilities: The target's table, which says where a bias goes.

    Raises:
        SpecError: If the model has no such layer, or its outputs cannot be shifted so.
    """
    _given(model, plan.bias_shifts, capabilities)
    layers = {layer.node.name: layer for layer in linear_layers(model.graph)}
    for name, shift in plan.bias_shifts.items():
        layer = layers.get(name)
        if layer is None:
            problem: str | None = "the model has no such product with a constant weight"
        elif len(shift) != layer.outputs or not np.isfinite(shift).all():
            problem = f"it takes {layer.outputs} finite numbers"
        else:
            problem = shift_output(layer, np.asarray(shift))
        if problem is not None:
            raise SpecError(
                f"The plan's bias_shifts of {name!r} are unusable: {problem}.",
                remedy="Mend or remove them, or make the plan anew with --plan-out.",
            )


def _own_bias(graph: ir.Graph, layer: Layer, index: int, names: ir.NameAuthority) -> ir.Value | None:
    """A layer's bias, given to it alone; None where it is computed, or has another shape than a number an output."""
    bias = layer.bias
    array = np.zeros(layer.outputs, np.float32)
    if bias is not None:
        tensor = ir.constant_tensor(bias)
        if tensor is None or tensor.size != layer.outputs or tensor.shape.numpy()[-1] != layer.outputs:
            return None
        if bias.is_initializer() and len(bias.uses()) == 1:
            return bias
        array = tensor.numpy()
    own = ir.add_initializer(graph, names.value(f"{layer.node.name}_bias"), array)
    layer.node.resize_inputs(max(index + 1, len(layer.node.inputs)))
    layer.node.replace_input_with(index, own)
    return own


def bias_input(layer: Layer) -> tuple[ir.Node, int] | str:
    """Finds the constant that is added to what a layer puts out, one number a channel.

    Args:
        layer: A layer; a Conv or Gemm has a bias of its own, see `give_biases`.

    Returns:
        The node that adds it, with the index of that input; or why there is none.
    """
    node, index = layer.node, 2
    if layer.bias is None:
        users = list(layer.node.outputs[0].uses())
        if len(users) != 1 or users[0].node.op_type != "Add" or layer.node.outputs[0].is_graph_output():
            return f"no Add puts a constant behind {layer.node.name}, which could take its shift back"
        node, index = users[0].node, 1 - users[0].idx
    value = node.inputs[index]
    if value is None or (layer.bias is None and len(value.uses()) != 1):
        return f"what is added behind {layer.node.name} has further users"
    tensor = ir.constant_tensor(value) if value.is_initializer() else None
    if tensor is None or tensor.dtype is not ir.DataType.FLOAT:
        return f"{value.name} is not a constant that could take a shift"
    shape = tensor.shape.numpy()
    if tensor.size != layer.outputs or (shape and shape[-1] != layer.outputs):
        return f"{value.name} has shape {shape}, not one number for each of {layer.outputs} channels"
    return node, index


def shift_output(layer: Layer, shift: FloatArray) -> str | None:
    """Adds one number a channel to what a layer puts out.

    Args:
        layer: A layer; its bias is changed, see `bias_input`.
        shift: The numbers, shape (outputs,).

    Returns:
        Why it was not done, or None.
    """
    found = bias_input(layer)
    if isinstance(found, str):
        return found
    node, index = found
    value = node.inputs[index]
    tensor = None if value is None else ir.constant_tensor(value)
    assert value is not None, "bias_input found it"
    assert tensor is not None, "bias_input found it"
    array = tensor.numpy()
    value.const_value = ir.tensor((array + shift.reshape(array.shape)).astype(np.float32), name=tensor.name)
    return None
