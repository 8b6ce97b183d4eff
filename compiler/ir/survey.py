"""What one walk over a model sees: its structure as a number, its nodes, and its tensors."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as oir

from sardonyx.ir.graphs import GRAPH, GRAPHS, attribute_graphs, paused_gc, root_graphs

_TENSOR, _TENSORS = oir.AttributeType.TENSOR, oir.AttributeType.TENSORS


@dataclass(frozen=True)
class Survey:
    """What one walk over all graphs of a model has seen.

    Attributes:
        structure: A number that stays as long as nothing of the model object is changed but names of values and
            metadata. It tells whether facts that were derived from this object still hold, at a fraction of the cost
            of deriving them: nodes, their inputs, outputs and attributes, initializers, and the inputs and outputs of
            graphs with their types and shapes. A copy of the model has another number.
        nodes: Number of nodes, those in subgraphs and functions included.
        tensors: The tensors of all initializers and attributes by `id`, so that a shared one is there once.
    """

    structure: int
    nodes: int
    tensors: Mapping[int, oir.TensorProtocol]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, external ones included."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@paused_gc()
def survey(model: oir.Model) -> Survey:
    """Walks once over all graphs of a model."""
    seen: list[object] = [(domain, version) for domain, version in model.opset_imports.items()]
    nodes = 0
    tensors: dict[int, oir.TensorProtocol] = {}
    pending = deque(root_graphs(model))
    while pending:
        graph = pending.popleft()
        nodes += len(graph)
        held = [value.const_value for value in graph.initializers.values()]
        seen += [(id(v), v.name, v.dtype, None if v.shape is None else tuple(v.shape)) for v in graph.inputs]
        seen += [id(tensor) for tensor in held]
        seen += [(id(v), v.name) for v in graph.outputs]
        tensors.update((id(tensor), tensor) for tensor in held if tensor is not None)
        for node in graph:  # values and nodes are equal to none but themselves, so that hashing them is enough
            seen.append(hash((node.name, node.domain, node.op_type, node.inputs, node.outputs)))
            for attr in node.attributes.data.values():
                seen.append(id(attr))
                kind = attr.type
                if kind is GRAPH or kind is GRAPHS:
                    pending += attribute_graphs(attr)
                elif kind is _TENSOR and not attr.is_ref():
                    tensors[id(attr.value)] = attr.value  # `as_tensor` checks a protocol, which takes longer than this
                elif kind is _TENSORS and not attr.is_ref():
                    tensors.update((id(tensor), tensor) for tensor in attr.value)
    return Survey(hash(tuple(seen)), nodes, tensors)


def structure(model: oir.Model) -> int:
    """Returns `Survey.structure` of a model."""
    return survey(model).structure


def nbytes(model: oir.Model) -> int:
    """Returns `Survey.nbytes` of a model."""
    return survey(model).nbytes
