"""Running one node on constants: a kernel where there is one, else ONNX's reference implementation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as oir

from sardonyx.errors import PassError
from sardonyx.ir.graphs import node_subgraphs, root_cause
from sardonyx.ir.kernels import run_kernel
from sardonyx.ir.opset import needed_ir_version

Array = npt.NDArray[Any]


class EvaluationError(PassError):
    """A node that the reference implementation cannot run, or not on these inputs."""


def evaluate_node(node: oir.Node, inputs: Sequence[Array | None], *, opset_imports: Mapping[str, int]) -> list[Array]:
    """Computes the outputs of `node` for constant inputs.

    Args:
        node: The node; it is not changed.
        inputs: One array per input, None for an input left out; dtypes and shapes as the operator wants.
        opset_imports: Opset version by domain, as the model that holds the node imports them.

    Returns:
        One array per output that has a name, in order.

    Raises:
        EvaluationError: If the operator has no reference implementation, has subgraphs, refuses these inputs, or
            computes something else than tensors.
    """
    result = run_kernel(node, inputs)
    return [result] if result is not None else _run_reference(node, inputs, opset_imports)


def _run_reference(node: oir.Node, inputs: Sequence[Array | None], opset_imports: Mapping[str, int]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    where = f"Node {node.name!r} ({node.domain + '::' if node.domain else ''}{node.op_type})"
    if any(True for _ in node_subgraphs(node)):
        raise EvaluationError(f"{where} has subgraphs and is not evaluated.", remedy="Leave it in the graph.")
    proto, feeds = _one_node_model(node, inputs, opset_imports)
    try:
        results = list(ReferenceEvaluator(proto).run(None, feeds))
    except Exception as error:  # the implementations are numpy code that raises whatever numpy raises
        raise EvaluationError(
            f"{where} cannot be evaluated at opset {opset_imports.get(node.domain)}: "
            f"{type(error).__name__}: {root_cause(error)}",
            remedy="Leave it in the graph.",
        ) from error
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        raise EvaluationError(f"{where} computes a sequence or an optional.", remedy="Leave it in the graph.")
    return [np.asarray(result) for result in results]


def _one_node_model(
    node: oir.Node, inputs: Sequence[Array | None], opset_imports: Mapping[str, int]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Wraps a copy of the node, its inputs and outputs renamed by position."""
    node_proto = oir.to_proto(node)
    node_proto.input[:] = ["" if array is None else f"input_{i}" for i, array in enumerate(inputs)]
    node_proto.output[:] = [f"output_{i}" if value.name else "" for i, value in enumerate(node.outputs)]
    feeds = {f"input_{i}": array for i, array in enumerate(inputs) if array is not None}
    graph = onnx.helper.make_graph(
        [node_proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(name, oir.DataType.from_numpy(array.dtype).value, array.shape)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node_proto.output if name],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opset_imports.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=needed_ir_version(opset_imports))
    return model, feeds
