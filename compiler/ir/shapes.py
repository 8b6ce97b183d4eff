"""Shape and type inference with ONNX's own inference, without its weights and without losing its errors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import onnx
import onnx_ir as oir

from sardonyx.ir.dim_rules import typed_like_input
from sardonyx.ir.dims import Dim
from sardonyx.ir.graphs import all_graphs, graph_values, node_subgraphs, own_type, paused_gc, with_subgraphs
from sardonyx.ir.lean import lean_proto, proto_graphs, proto_subgraphs, structure_proto
from sardonyx.ir.survey import structure
from sardonyx.ir.symbolic import SymbolicValues, input_symbol

_CASCADE = "expected to have type but instead is null"
_GENERATED_DIM = "unk__"
_UNKNOWN_DOMAIN = "sardonyx.unknown"
_MISINFERRED = {"Attention": 23}
"""Operators, by the opset that brought them, where ONNX's inference takes unknown sizes for 0 (seen with 1.23).

A rule of `dim_rules` replaces it.
"""


@dataclass(frozen=True)
class ShapeReport:
    """What shape inference did.

    Attributes:
        changed: Whether any value's type or shape changed.
        failures: Why inference failed at a node, one message each; the values behind it may lack shapes.
        corrected: Names of the values whose declared type or shape contradicted their node.
    """

    changed: bool
    failures: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Inferred:
    """Type and shape that inference found for a value; both may be unknown.

    Names that inference invents for sizes are not kept: another run invents the same names for other sizes, and a
    runtime that takes equal names for equal sizes would let values share memory that does not fit.
    """

    type: oir.TypeProtocol | None
    shape: oir.Shape | None

    @classmethod
    def of(cls, info: onnx.TypeProto) -> "_Inferred":
        shape = oir.serde.deserialize_type_proto_for_shape(info)
        dims = None if shape is None else [dim if isinstance(dim, int) else _given_name(dim) for dim in shape]
        return cls(oir.serde.deserialize_type_proto_for_type(info), None if dims is None else oir.Shape(dims))


def _given_name(dim: oir.SymbolicDim) -> oir.SymbolicDim | None:
    return None if str(dim.value).startswith(_GENERATED_DIM) else dim


@dataclass
class _Merge:
    """Collects what merging changed, and what was read: many values have one type and shape."""

    changed: bool = False
    corrected: list[str] = field(default_factory=list)
    read: dict[bytes, _Inferred] = field(default_factory=dict)

    def inferred(self, info: onnx.TypeProto) -> _Inferred:
        """Reads what inference says of a value."""
        key = info.SerializeToString()
        found = self.read.get(key)
        if found is None:
            found = self.read[key] = _Inferred.of(info)
        return found


_FACT = "sardonyx.shapes"


def ensure_shapes(model: oir.Model) -> ShapeReport:
    """Infers shapes as `infer_shapes` does, unless the model's structure is still that of the last inference."""
    now = structure(model)
    return _known(model, now) or _infer_model(model, now)


@contextmanager
def shapes_kept(model: oir.Model) -> Iterator[None]:
    """Says of an edit that no value gets another type or shape by it: if all were known before, they are afterwards."""
    known = _known(model, structure(model))
    yield
    if known is not None:
        model.meta[_FACT] = (structure(model), known)


def _known(model: oir.Model, now: int) -> ShapeReport | None:
    """What the last inference reported, where the model, whose structure is `now`, is still the one that it saw."""
    fact: tuple[int, ShapeReport] | None = model.meta.get(_FACT)
    return fact[1] if fact is not None and fact[0] == now else None


def complete_shapes(model: oir.Model, values: SymbolicValues) -> None:
    """Gives values the sizes that a sweep over the whole model has found since the last inference.

    Where the sweep leaves a type or a size open, or that inference failed at a node, shapes are inferred anew.
    """
    fact: tuple[int, ShapeReport] | None = model.meta.get(_FACT)
    if fact is None or fact[1].failures:
        ensure_shapes(model)
        return
    outputs = [output for graph in all_graphs(model) for node in graph for output in node.outputs if output.name]
    for output in outputs:
        if not _is_known(output):
            _fill(output, values.dims(output))
    if all(_is_known(output) or values.is_expressed(output) for output in outputs):
        model.meta[_FACT] = (structure(model), fact[1])
    else:
        ensure_shapes(model)


def infer_shapes(model: oir.Model, *, proto: onnx.ModelProto | None = None) -> ShapeReport:
    """Infers types and shapes of all values of the main graph and its subgraphs, in place.

    What is known stays: a fixed dimension is not replaced by a symbol, nor a named symbol by another. Only
    what contradicts a node (another type, rank or fixed size than the node computes) is replaced. Values of
    operators that ONNX does not know keep what they have, and inference goes on behind them.

    Weights are not read; integer constants up to 1 KiB take part, as Reshape and others need them.

    Args:
        model: The model.
        proto: The model's nodes, interfaces and constants as a proto, where the caller has one; it stays as it is.
    """
    return _infer_model(model, structure(model), proto)


@paused_gc()
def _infer_model(model: oir.Model, now: int, proto: onnx.ModelProto | None = None) -> ShapeReport:
    """Infers shapes of a model whose structure is `now`, which inference does not change."""
    bare = _without_declarations(model) if proto is None else structure_proto(proto)
    _hide_misinferred(bare)
    merge = _Merge()
    inferred, failures = _infer(bare)
    found = _merge_graph(model.graph, inferred.graph, merge)
    refined = _refine(model)
    if not all(output.name in found for node in model.graph for output in node.outputs if output.name):
        _add_declarations(model.graph, inferred.graph)
        inferred, _ = _infer(inferred)
        _merge_graph(model.graph, inferred.graph, merge)
        refined += _refine(model)
    merge.changed |= bool(refined)
    report = ShapeReport(merge.changed, failures, tuple(dict.fromkeys(merge.corrected)))
    model.meta[_FACT] = (now, report)
    return report


def _hide_misinferred(proto: onnx.ModelProto) -> None:
    """Makes operators unknown to ONNX's inference whose sizes it gets wrong where an input's size is a symbol."""
    dims = [dim for value in proto.graph.input for dim in value.type.tensor_type.shape.dim]
    opset = max((entry.version for entry in proto.opset_import if not entry.domain), default=0)
    misinferred = {op_type for op_type, since in _MISINFERRED.items() if since <= opset}
    if not misinferred or all(dim.HasField("dim_value") for dim in dims):
        return
    hidden = [
        node
        for graph in proto_graphs(proto.graph)
        for node in graph.node
        if node.op_type in misinferred and not node.domain
    ]
    for node in hidden:
        node.domain = _UNKNOWN_DOMAIN
    if hidden:
        proto.opset_import.append(onnx.helper.make_opsetid(_UNKNOWN_DOMAIN, 1))


def _refine(model: oir.Model) -> list[oir.Value]:
    """Fills in what symbolic evaluation knows and ONNX's inference does not; returns the values that it changed."""
    if all(_is_known(output) for graph in all_graphs(model) for node in graph for output in node.outputs):
        return []
    values = SymbolicValues(model.graph)
    changed: list[oir.Value] = []
    _refine_graph(model.graph, values, changed)
    return changed


def _is_known(value: oir.Value) -> bool:
    if not value.name:
        return True
    shape = value.shape
    return (
        shape is not None and value.type is not None and all(isinstance(d, int) or d.value is not None for d in shape)
    )


def _refine_graph(graph: oir.Graph, values: SymbolicValues, changed: list[oir.Value]) -> None:
    for node in graph:
        for subgraph in node_subgraphs(node):
            _refine_graph(subgraph, values, changed)
        unknown = [output for output in node.outputs if not _is_known(output)]
        if any(output.type is None for output in unknown):
            _type_outputs(node)
        values.visit(node)
        changed += [output for output in unknown if _fill(output, values.dims(output))]


def _type_outputs(node: oir.Node) -> None:
    source = node.inputs[0] if node.inputs else None
    if source is not None and source.dtype is not None:
        for output in typed_like_input(node):
            if output.type is None and output.name:
                output.type = oir.TensorType(source.dtype)


def _fill(value: oir.Value, dims: Sequence[Dim] | None) -> bool:
    """Gives a value the sizes that are numbers or named sizes of inputs, where it has none."""
    if dims is None:
        return False
    old = tuple(value.shape) if value.shape is not None and len(value.shape) == len(dims) else (None,) * len(dims)
    named = [dim if isinstance(dim, int) else input_symbol(dim) for dim in dims]
    new = oir.Shape(
        [
            known if isinstance(known, int) or (known is not None and known.value is not None) else found
            for known, found in zip(old, named, strict=True)
        ]
    )
    if value.shape is not None and tuple(new) == tuple(value.shape):
        return False
    value.shape = new
    return True


def _without_declarations(model: oir.Model) -> onnx.ModelProto:
    """Serialises a model without what is declared of computed values, so that all of it is inferred."""
    values = [value for graph in with_subgraphs(model.graph) for node in graph for value in node.outputs]
    declared = [(value.type, value.shape) for value in values]
    try:
        for value in values:
            value.type = value.shape = None
        return lean_proto(model).proto
    finally:
        for value, (type_, shape) in zip(values, declared, strict=True):
            value.type, value.shape = type_, shape


def _add_declarations(graph: oir.Graph, proto: onnx.GraphProto) -> None:
    """Adds what is known of values to the protos of the graphs in which inference found nothing about them."""
    for one, one_proto in zip(with_subgraphs(graph), proto_graphs(proto), strict=True):
        known = {info.name for info in one_proto.value_info if info.HasField("type")}
        for node in one:
            for value in node.outputs:
                if value.type is not None and value.name and value.name not in known:
                    one_proto.value_info.append(oir.to_proto(value))


def _infer(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    from onnx import shape_inference

    refusals = (shape_inference.InferenceError, RuntimeError, ValueError)
    try:
        return shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True), ()
    except refusals as error:
        failures = _messages(str(error))
    try:
        return shape_inference.infer_shapes(proto, data_prop=True), failures
    except refusals as error:
        return proto, (*failures, *_messages(str(error)))


def _messages(text: str) -> tuple[str, ...]:
    """Splits the collected errors of a strict run, leaving out those that only follow from others."""
    lines = [line.strip() for line in text.replace("Inference error(s): ", "\n").splitlines()]
    lines = [line for line in lines if line and line != "[ShapeInferenceError]"]
    causes = [line for line in lines if _CASCADE not in line]
    return tuple(dict.fromkeys(causes or lines))


def _infos(proto: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    return {
        info.name: info.type
        for infos in (proto.value_info, proto.output)
        for info in infos
        if info.HasField("type") and info.type.WhichOneof("value")
    }


def _merge_graph(graph: oir.Graph, proto: onnx.GraphProto, merge: _Merge) -> Mapping[str, onnx.TypeProto]:
    """Merges what was inferred into the values of a graph and those inside it; returns what it was of its own."""
    infos = _infos(proto)
    given = {id(value) for value in graph.inputs} | {id(value) for value in graph.initializers.values()}
    for value in graph_values(graph):
        info = infos.get(value.name or "")
        if info is not None and id(value) not in given:
            _merge_value(value, merge.inferred(info), merge)
    for index, node in enumerate(graph):
        subgraphs = list(node_subgraphs(node))
        protos = proto_subgraphs(proto.node[index]) if subgraphs else ()  # reading a proto takes longer than a node
        for subgraph, subgraph_proto in zip(subgraphs, protos, strict=True):
            _merge_graph(subgraph, subgraph_proto, merge)
    return infos


def _says_nothing_new(value: oir.Value, found: _Inferred) -> bool:
    """Whether type and sizes are those that the value has already: true of most, and quick to see."""
    shape, inferred = value.shape, found.shape
    if shape is None or inferred is None or value.type != found.type or len(shape) != len(inferred):
        return False
    return all(map(_is_old, shape, inferred))


def _is_old(old: int | oir.SymbolicDim, new: int | oir.SymbolicDim) -> bool:
    if isinstance(new, int):
        return isinstance(old, int) and old == new
    return isinstance(old, int) or old.value is not None or new.value is None


def _merge_value(value: oir.Value, found: _Inferred, merge: _Merge) -> None:
    if _says_nothing_new(value, found):
        return
    new_type = found.type
    if new_type is not None and new_type.dtype != oir.DataType.UNDEFINED and value.type != new_type:
        if value.type is not None:
            merge.corrected.append(value.name or "")
        value.type = own_type(new_type) if isinstance(new_type, oir.TensorType) else deepcopy(new_type)
        merge.changed = True
    inferred, declared = found.shape, value.shape
    if inferred is None:
        return
    merged = oir.Shape(inferred) if declared is None else _merge_shapes(declared, inferred)
    if declared is None or tuple(declared) != tuple(merged):
        if declared is not None and _contradicts(declared, inferred):
            merge.corrected.append(value.name or "")
        value.shape = merged
        merge.changed = True


def _contradicts(declared: oir.Shape, inferred: oir.Shape) -> bool:
    return len(declared) != len(inferred) or any(
        isinstance(old, int) and isinstance(new, int) and old != new
        for old, new in zip(declared, inferred, strict=True)
    )


def _merge_shapes(declared: oir.Shape, inferred: oir.Shape) -> oir.Shape:
    """Takes fixed sizes from what was inferred, then fixed sizes and names that were declared."""
    if len(declared) != len(inferred):
        return oir.Shape(inferred)
    return oir.Shape(
        [
            new if isinstance(new, int) or (not isinstance(old, int) and old.value is None) else old
            for old, new in zip(declared, inferred, strict=True)
        ]
    )
