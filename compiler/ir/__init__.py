"""The IR room: models as graphs of onnx_ir, and everything that ONNX itself is needed for.

The only room that imports `onnx` and `onnx_ir`; all others take what they need of them from here.
"""

from onnx_ir import (
    Attr,
    AttrFloat32,
    AttrFloat32s,
    AttrGraph,
    AttrGraphs,
    AttributeType,
    AttrInt64,
    AttrInt64s,
    AttrString,
    AttrStrings,
    AttrTensor,
    AttrTensors,
    DataType,
    ExternalTensor,
    Function,
    Graph,
    LazyTensor,
    Model,
    Node,
    RefAttr,
    SequenceType,
    Shape,
    SymbolicDim,
    Tensor,
    TensorProtocol,
    TensorType,
    Value,
    convenience,
    node,
    tensor,
    val,
)
from onnx_ir.analysis import analyze_implicit_usage
from onnx_ir.convenience import replace_all_uses_with, replace_nodes_and_values
from onnx_ir.passes import InPlacePass, PassBase, PassResult
from onnx_ir.passes import common as common_passes

from sardonyx.ir.defaults import default_attributes
from sardonyx.ir.digest import digest, file_sha256
from sardonyx.ir.evaluate import EvaluationError, evaluate_node
from sardonyx.ir.formal_types import FormalType, NodeTypes, formal_types
from sardonyx.ir.graphs import (
    NameAuthority,
    add_initializer,
    all_graphs,
    attribute,
    clone,
    graph_values,
    name_list,
    node_subgraphs,
    num_nodes,
    operator_counts,
    paused_gc,
    remove_unused,
    remove_unused_initializers,
    remove_unused_nodes,
    with_subgraphs,
)
from sardonyx.ir.lazy import LAZY_BYTES, lazy_initializer, read_array
from sardonyx.ir.liveness import Peak, describe_type, peak_activations, set_dims, value_bytes
from sardonyx.ir.load import DEFAULT_OPSET, LoadedModel, load
from sardonyx.ir.macs import has_macs, node_macs
from sardonyx.ir.opset import ensure_opset, newest_opset
from sardonyx.ir.provenance import mark, sources
from sardonyx.ir.repair import Repair, name_nodes
from sardonyx.ir.save import SavedModel, save, serialize, to_proto
from sardonyx.ir.scratch import ScratchFile
from sardonyx.ir.shapes import ShapeReport, complete_shapes, ensure_shapes, infer_shapes, shapes_kept
from sardonyx.ir.source import node_outputs
from sardonyx.ir.survey import Survey, nbytes, structure, survey
from sardonyx.ir.symbolic import SymbolicValues
from sardonyx.ir.temporary import TemporaryFolder
from sardonyx.ir.tensors import constant_tensor, read_bytes, read_chunks
from sardonyx.ir.text import from_text, to_text
from sardonyx.ir.verify import Violation, require_valid, verify

__all__ = [
    "DEFAULT_OPSET",
    "LAZY_BYTES",
    "Attr",
    "AttrFloat32",
    "AttrFloat32s",
    "AttrGraph",
    "AttrGraphs",
    "AttrInt64",
    "AttrInt64s",
    "AttrString",
    "AttrStrings",
    "AttrTensor",
    "AttrTensors",
    "AttributeType",
    "DataType",
    "EvaluationError",
    "ExternalTensor",
    "FormalType",
    "Function",
    "Graph",
    "InPlacePass",
    "LazyTensor",
    "LoadedModel",
    "Model",
    "NameAuthority",
    "Node",
    "NodeTypes",
    "PassBase",
    "PassResult",
    "Peak",
    "RefAttr",
    "Repair",
    "SavedModel",
    "ScratchFile",
    "SequenceType",
    "Shape",
    "ShapeReport",
    "Survey",
    "SymbolicDim",
    "SymbolicValues",
    "TemporaryFolder",
    "Tensor",
    "TensorProtocol",
    "TensorType",
    "Value",
    "Violation",
    "add_initializer",
    "all_graphs",
    "analyze_implicit_usage",
    "attribute",
    "clone",
    "common_passes",
    "complete_shapes",
    "constant_tensor",
    "convenience",
    "default_attributes",
    "describe_type",
    "digest",
    "ensure_opset",
    "ensure_shapes",
    "evaluate_node",
    "file_sha256",
    "formal_types",
    "from_text",
    "graph_values",
    "has_macs",
    "infer_shapes",
    "lazy_initializer",
    "load",
    "mark",
    "name_list",
    "name_nodes",
    "nbytes",
    "newest_opset",
    "node",
    "node_macs",
    "node_outputs",
    "node_subgraphs",
    "num_nodes",
    "operator_counts",
    "paused_gc",
    "peak_activations",
    "read_array",
    "read_bytes",
    "read_chunks",
    "remove_unused",
    "remove_unused_initializers",
    "remove_unused_nodes",
    "replace_all_uses_with",
    "replace_nodes_and_values",
    "require_valid",
    "save",
    "serialize",
    "set_dims",
    "shapes_kept",
    "sources",
    "structure",
    "survey",
    "tensor",
    "to_proto",
    "to_text",
    "val",
    "value_bytes",
    "verify",
    "with_subgraphs",
]
