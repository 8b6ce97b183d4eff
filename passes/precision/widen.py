"""The pass: FP16 to FP32 throughout, for targets that compute in FP32 whatever the model says."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import Capabilities
from sardonyx.passes.base import Pass, PassContext, PassResult, Refusal
from sardonyx.passes.precision.formats import LAZY_BYTES
from sardonyx.passes.provenance import mark

_WIDE, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Attributes that state an element type."""


@dataclass(frozen=True)
class WidenFloat(Pass):
    """Converts all that is FLOAT16 to FLOAT, with its weights; inputs and outputs of the model keep their types.

    A target without FLOAT16 kernels runs such a model in FP32 between Casts of its own, and finds no integer kernels in
    it. Weights keep their values exactly. Activations are no longer rounded to 11 bits, so that results differ by the
    rounding that FLOAT16 had, and what overflowed to infinity is finite. All of the model is converted or nothing.
    """

    name = "widen-float"
    summary = "FP16 models in FP32, where a target computes in FP32 anyway: what integers and fusions need"

    def apply(self, model: ir.Model, context: PassContext) -> PassResult:
        """Decides for the whole model, then writes types, weights and the Casts at its ends."""
        ir.ensure_shapes(model)
        if not computes_in_half(model):
            return PassResult(model, modified=False)
        obstacles = tuple(_obstacles(model, context.capabilities))
        if obstacles:
            return PassResult(model, modified=False, refusals=obstacles)
        casts = _Ends(model).write()
        converted = _convert(model)
        return PassResult(model, modified=True, stats={"values": converted, "casts": casts})


def computes_in_half(model: ir.Model) -> bool:
    """Whether a node other than a Cast reads or gives FLOAT16."""
    return any(_is_half(node) for graph in ir.all_graphs(model) for node in graph if node.op_type != "Cast")


def _is_half(node: ir.Node) -> bool:
    return any(value is not None and value.dtype is _HALF for value in (*node.inputs, *node.outputs))


def _obstacles(model: ir.Model, capabilities: Capabilities | None) -> Iterator[Refusal]:
    """Yields why the model cannot be converted."""
    if model.functions:
        called = ", ".join(sorted(identifier[1] for identifier in model.functions))
        yield Refusal("widen-float", f"types inside functions are not known ({called}): run cleanup first")
    for graph in ir.all_graphs(model):
        for node in graph:
            reason = _why_not(node, capabilities)
            if reason is not None:
                yield Refusal("widen-float", reason, (node.name or node.op_type,))


def _why_not(node: ir.Node, capabilities: Capabilities | None) -> str | None:
    for value in (*node.inputs, *node.outputs):
        if value is None or not value.name:
            continue
        if value.type is None:
            return f"the type of {value.name} is not known"
        if not isinstance(value.type, ir.TensorType) and value.dtype is _HALF:
            return f"{value.name} is not a tensor but holds FLOAT16"
    if not _is_half(node):
        return None
    if node.op_type == "BitCast" and not node.domain:
        return "it looks at the bits of its input"
    return None if not node.domain or _takes_float(node, capabilities) else f"{node.domain}.{node.op_type} is not known"


def _takes_float(node: ir.Node, capabilities: Capabilities | None) -> bool:
    """Whether an operator outside the standard domain is known to compute with FLOAT as it does with FLOAT16."""
    fused = None if capabilities is None else capabilities.fused.get((node.domain, node.op_type))
    return fused is not None and _WIDE in fused.dtypes


class _Ends:
    """Puts Casts behind the FLOAT16 inputs of a model and before its FLOAT16 outputs."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._names = ir.NameAuthority(model)

    def write(self) -> int:
        """Writes the Casts and returns how many there are. Weights and values between are FLOAT16 still."""
        inputs = [value for value in self._graph.inputs if value.dtype is _HALF and value.uses()]
        for value in inputs:
            uses = list(value.uses())
            node = self._cast(value, self._names.value(f"{value.name}_float"), _WIDE)
            for user, index in uses:
                user.replace_input_with(index, node.outputs[0])
            if len(self._graph):
                self._graph.insert_before(self._graph[0], node)
            else:
                self._graph.append(node)
        return len(inputs) + self._outputs()

    def _outputs(self) -> int:
        casts: dict[ir.Value, ir.Value] = {}
        for index, value in enumerate(self._graph.outputs):
            if value.dtype is not _HALF or value.is_graph_input():
                continue
            if value not in casts:
                name = value.name or ""
                if not value.is_initializer():
                    value.name = self._names.value(f"{name}_float")
                    node = self._cast(value, name, _HALF)
                else:
                    node = self._cast(value, self._names.value(f"{name}_half"), _HALF)
                self._graph.append(node)
                casts[value] = node.outputs[0]
            self._graph.outputs[index] = casts[value]
        return len(casts)

    def _cast(self, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Node:
        attributes = [ir.AttrInt64("to", dtype.value)]
        node = ir.Node("", "Cast", [value], attributes, name=self._names.node(f"{name}_Cast"))
        output = node.outputs[0]
        output.name, output.type, output.shape = name, ir.TensorType(dtype), value.shape
        mark(node, "widen-float", value.name)
        return node


def _convert(model: ir.Model) -> int:
    """Makes FLOAT of all that is FLOAT16 between the model's ends; returns the number of values."""
    ends = {value for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype is _HALF}
    tensors: dict[int, tuple[ir.TensorProtocol, ir.TensorProtocol]] = {}  # the source keeps its id taken
    converted = 0
    for graph in ir.all_graphs(model):
        for node in graph:
            if not any(value in ends for value in node.outputs):
                _convert_attributes(node)
        for value in ir.graph_values(graph):
            if value.dtype is not _HALF or value in ends:
                continue
            if value.const_value is not None and value.is_initializer():
                source = value.const_value
                if id(source) not in tensors:
                    tensors[id(source)] = (source, _widened(source))
                value.const_value = tensors[id(source)][1]
            value.dtype = _WIDE
            converted += 1
    return converted


def _convert_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype is _HALF:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
        elif name in _TYPE_ATTRIBUTES and attribute.type is ir.AttributeType.INT and attribute.as_int() == _HALF.value:
            node.attributes[name] = ir.AttrInt64(name, _WIDE.value)


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Returns a FLOAT16 tensor in FLOAT, exactly; a large one is converted each time it is read."""

    def convert() -> ir.TensorProtocol:
        return ir.Tensor(np.asarray(tensor.numpy()).astype(np.float32), dtype=_WIDE, name=tensor.name)

    if tensor.nbytes <= LAZY_BYTES:
        return convert()
    return ir.LazyTensor(convert, _WIDE, ir.Shape(tensor.shape.numpy()), name=tensor.name)
