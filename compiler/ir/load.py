"""Loading: from whatever an exporter hands over to a sound graph, with the repairs it needed."""

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as oir

from sardonyx.errors import LoadError, UsageError, VerifyError
from sardonyx.ir.external_data import check_extents, map_external_data
from sardonyx.ir.graphs import all_graphs, clone, paused_gc, root_cause
from sardonyx.ir.lean import lean_proto, restore_tensors
from sardonyx.ir.opset import FIRST_PER_CHANNEL_OPSET, needed_ir_version, newest_opset, raise_opset
from sardonyx.ir.proto_repair import rename_duplicates
from sardonyx.ir.repair import Repair, repair_model
from sardonyx.ir.shapes import infer_shapes
from sardonyx.ir.source import check_proto, parse_model, read_model_file

DEFAULT_OPSET = 17

_OF_THE_PROTO = frozenset(("node-name",))
"""Repairs after which the values, nodes and interface of a model are still those of the proto it was made of."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be worked on.

    Attributes:
        model: The graph; it shares nothing that can be changed with the source.
        repairs: What was wrong and what was done about it.
        path: The file it came from, if it came from one.
    """

    model: oir.Model
    repairs: tuple[Repair, ...]
    path: Path | None


@paused_gc()
def load(source: object, *, opset: int | None = DEFAULT_OPSET) -> LoadedModel:
    """Loads a model and repairs what exporters get wrong. The source is not changed.

    External data is mapped and checked, not read.

    Args:
        source: Path of a model file, its bytes, an onnx.ModelProto, an onnx_ir.Model, or an object whose
            `model` is one, as the ONNXProgram of torch.onnx.export.
        opset: Standard opset to which a model below 13 is raised; None to leave every model at its own.

    Raises:
        LoadError: If the source is not a usable ONNX model; the message names the culprit.
        UsageError: If `source` is of another type or `opset` is not between 13 and what onnx knows.
    """
    if opset is not None:
        _check_opset(opset)
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    proto = _proto_of(source, path)
    if proto is not None:
        name = str(path or "the given model")
        check_extents(proto, name)
        repairs = rename_duplicates(proto)
        model = _from_proto(proto, name)
    else:
        repairs = ()
        model = _copy(_model_of(source))
    _require_defined(model, str(path or "the given model"))
    read = map_external_data(model, path)
    repairs += repair_model(model)
    same = not read and all(repair.kind in _OF_THE_PROTO for repair in repairs)
    repairs += _infer(model, proto if same else None)
    if opset is not None:
        model, raised = _raise(model, opset)
        repairs += raised
    model.ir_version = max(model.ir_version, needed_ir_version(model.opset_imports))
    return LoadedModel(model, repairs, path)


def _raise(model: oir.Model, opset: int) -> tuple[oir.Model, tuple[Repair, ...]]:
    """Raises a model that is too old, which wants its shapes: without them the converter writes detours."""
    raised, repair = raise_opset(model, opset)
    if raised is not model:
        infer_shapes(raised)
    return raised, () if repair is None else (repair,)


def _check_opset(opset: int) -> None:
    newest = newest_opset()
    if not FIRST_PER_CHANNEL_OPSET <= opset <= newest:
        raise UsageError(
            f"opset is {opset}, expected {FIRST_PER_CHANNEL_OPSET} to {newest}.",
            remedy="Leave it at its default unless the target runtime is old.",
        )


def _proto_of(source: object, path: Path | None) -> onnx.ModelProto | None:
    """Returns the source as a proto that belongs to us, or None where it is not one."""
    if path is not None:
        return read_model_file(path)
    if isinstance(source, bytes | bytearray | memoryview):
        return parse_model(bytes(source), "the given bytes")
    if isinstance(source, onnx.ModelProto):
        check_proto(source, "the given model")
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    return None


def _model_of(source: object) -> oir.Model:
    model = source if isinstance(source, oir.Model) else getattr(source, "model", None)
    if isinstance(model, oir.Model):
        return model
    raise UsageError(
        f"A model cannot be loaded from {type(source).__name__}.",
        remedy="Pass a path, bytes, an onnx.ModelProto, an onnx_ir.Model or an ONNXProgram.",
    )


def _from_proto(proto: onnx.ModelProto, source: str) -> oir.Model:
    try:
        return oir.from_proto(proto)
    except (oir.serde.SerdeError, ValueError, KeyError) as error:
        raise LoadError(
            f"{source} is not a valid graph: {root_cause(error)}", remedy="Export the model again."
        ) from error


def _require_defined(model: oir.Model, source: str) -> None:
    for node in (node for graph in all_graphs(model) for node in graph):
        for value in node.inputs:
            if value is not None and value.producer() is None and value.graph is None:
                raise LoadError(
                    f"{source}: the node {node.name!r} ({node.op_type}) reads {value.name!r}, which no node computes "
                    "and which is neither an input nor an initializer.",
                    remedy="Export the model again, or add what is missing.",
                )


def _copy(source: oir.Model) -> oir.Model:
    """Copies a graph, also one whose nodes are out of order, which onnx_ir alone cannot copy."""
    try:
        return clone(source)
    except VerifyError:
        lean = lean_proto(source, threshold=-1)
        model = _from_proto(lean.proto, "the given model")
        restore_tensors(model, lean.tensors)
        return model


def _infer(model: oir.Model, proto: onnx.ModelProto | None) -> tuple[Repair, ...]:
    """Infers shapes, and reports declared ones that contradicted their nodes."""
    report = infer_shapes(model, proto=proto)
    if not report.corrected:
        return ()
    message = f"{len(report.corrected)} values were declared with a type or shape that their nodes contradict."
    return (Repair("stale-value-info", message, report.corrected),)
