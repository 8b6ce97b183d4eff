"""Models as protos without their big weights: the form in which ONNX's own C++ tools take them.

Big and external tensors are replaced by stubs (external tensors that name no file), and come back from the
list of `LeanProto.tensors`. The model itself is unchanged afterwards.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as oir

from sardonyx.ir.graphs import all_graphs, paused_gc
from sardonyx.ir.tensors import read_bytes

_STUB_LOCATION = "sardonyx:stub"
_STRING = onnx.TensorProto.STRING


@dataclass(frozen=True)
class LeanProto:
    """A serialised structure and the tensors that were left out of it.

    Attributes:
        proto: The model; stub number k stands where `tensors[k]` belongs.
        tensors: The tensors left out, each once.
    """

    proto: onnx.ModelProto
    tensors: tuple[oir.TensorProtocol, ...]

    def stubs(self) -> Iterator[tuple[onnx.TensorProto, int]]:
        """Yields each initializer that is a stub, in all graphs, with the index of its tensor."""
        for graph in proto_graphs(self.proto.graph):
            for initializer in graph.initializer:
                index = stub_index(initializer)
                if index is not None:
                    yield initializer, index

    def data_nbytes(self) -> int:
        """Returns the bytes that embedding would add to the proto: a shared tensor as often as it is used."""
        return sum(self.tensors[index].nbytes for _, index in self.stubs())

    def embed(self) -> onnx.ModelProto:
        """Puts all tensors into the proto and returns it.

        Raises:
            LoadError: If external data can no longer be read.
        """
        for initializer, index in self.stubs():
            initializer.ClearField("external_data")
            initializer.ClearField("data_location")
            initializer.raw_data = read_bytes(self.tensors[index])
        return self.proto


@paused_gc()
def lean_proto(model: oir.Model, *, threshold: int = 1024, graphs: Iterable[oir.Graph] | None = None) -> LeanProto:
    """Serialises `model` with stubs for external tensors and for those above `threshold` bytes.

    Args:
        model: The model; its initializers are exchanged during the call and put back before it returns.
        threshold: Size in bytes above which an initializer becomes a stub.
        graphs: Graphs whose initializers may become stubs; all of them by default.
    """
    tensors: dict[int, tuple[int, oir.TensorProtocol]] = {}
    replaced: list[tuple[oir.Value, oir.TensorProtocol]] = []
    try:
        for graph in all_graphs(model) if graphs is None else graphs:
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or not _leave_out(tensor, threshold):
                    continue
                index, _ = tensors.setdefault(id(tensor), (len(tensors), tensor))
                replaced.append((value, tensor))
                value.const_value = _stub(value.name or "", tensor, index)
        proto = oir.to_proto(model)
    finally:
        for value, tensor in replaced:
            value.const_value = tensor
    return LeanProto(proto, tuple(tensor for _, tensor in tensors.values()))


def _leave_out(tensor: oir.TensorProtocol, threshold: int) -> bool:
    if tensor.dtype == oir.DataType.STRING:
        return False
    return isinstance(tensor, oir.ExternalTensor) or tensor.nbytes > threshold


def structure_proto(model: onnx.ModelProto, *, threshold: int = 1024) -> onnx.ModelProto:
    """Copies what decides the types and shapes of a model: nodes, interfaces and small constants.

    Declarations of computed values are left out, so that all of them are inferred.

    Args:
        model: The model, which stays as it is.
        threshold: Size in bytes above which an initializer keeps its type and shape only.
    """
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(model.graph.input)
    copy.graph.output.extend(model.graph.output)
    copy.graph.initializer.extend(_without_data(tensor, threshold) for tensor in model.graph.initializer)
    for number, graph in enumerate(proto_graphs(copy.graph)):
        for tensor in graph.initializer if number else ():
            tensor.CopyFrom(_without_data(tensor, threshold))
        computed = {name for node in graph.node for name in node.output}
        del graph.value_info[:]
        for output in graph.output:
            if output.name in computed:
                output.ClearField("type")
    return copy


def _without_data(tensor: onnx.TensorProto, threshold: int) -> onnx.TensorProto:
    """Returns a tensor itself where it is small, else one that says where data would lie."""
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    bits = math.prod(tensor.dims) * oir.DataType(tensor.data_type).bitwidth if tensor.data_type != _STRING else 0
    if not external and bits <= 8 * threshold:
        return tensor
    stub = onnx.TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=onnx.TensorProto.EXTERNAL
    )
    stub.external_data.add(key="location", value=_STUB_LOCATION)
    return stub


def _stub(name: str, tensor: oir.TensorProtocol, index: int) -> oir.ExternalTensor:
    shape = oir.Shape(tensor.shape.numpy())
    return oir.ExternalTensor(_STUB_LOCATION, index, None, tensor.dtype, shape=shape, name=name)


def restore_tensors(model: oir.Model, tensors: tuple[oir.TensorProtocol, ...]) -> None:
    """Replaces the stubs among the initializers of `model` by the tensors they stand for."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            stub = value.const_value
            if isinstance(stub, oir.ExternalTensor) and stub.location == _STUB_LOCATION:
                value.const_value = tensors[stub.offset or 0]


def stub_index(tensor: onnx.TensorProto) -> int | None:
    """Returns the number of a stub, or None where `tensor` is not one."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["offset"]) if entries.get("location") == _STUB_LOCATION else None


def proto_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yields the graphs that are attributes of a node."""
    for attr in node.attribute:
        if attr.type == onnx.AttributeProto.GRAPH:
            yield attr.g
        elif attr.type == onnx.AttributeProto.GRAPHS:
            yield from attr.graphs


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yields a graph and all graphs inside it, outer before inner."""
    yield graph
    for node in graph.node:
        for subgraph in proto_subgraphs(node):
            yield from proto_graphs(subgraph)
